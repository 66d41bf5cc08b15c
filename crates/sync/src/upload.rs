//! An archive on its way in.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use belay_protocol::SyncUpload;
use tokio::sync::mpsc;

use crate::capture::CHECK_EVERY;
use crate::layout::SyncLayout;
use crate::spool::{Spool, keep_reserve};

/// Room beyond the content of all volumes: headers take some, and what cannot be compressed grows.
const SLACK: u64 = 64 * 1024 * 1024;

/// Why an archive did not come in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the archive did not arrive whole")]
    CutShort,
    #[error("the archive has more than {limit} bytes, and the volumes hold less")]
    TooLarge { limit: u64 },
    #[error("the archive could not be kept")]
    Io(#[from] io::Error),
}

/// An archive that is here, in a file that has no name.
#[derive(Debug)]
pub(crate) struct Upload(File);

impl Upload {
    pub(crate) fn into_file(self) -> File {
        self.0
    }
}

/// The most bytes that an archive for these volumes may have.
pub(crate) fn limit(layout: &SyncLayout) -> u64 {
    let content = layout.mounts.iter().map(|mount| mount.size).fold(0, u64::saturating_add);
    content.saturating_add(content / 8).saturating_add(SLACK)
}

/// Takes an archive in, piece by piece. Blocks the thread for as long as that takes.
pub(crate) fn take_in(
    spool: &Spool,
    mut pieces: mpsc::Receiver<SyncUpload>,
    limit: u64,
) -> Result<Upload, UploadError> {
    let mut file = spool.create_unnamed()?;
    let mut writer = BufWriter::with_capacity(256 * 1024, &file);
    let (mut size, mut unchecked) = (0_u64, 0);
    loop {
        match pieces.blocking_recv() {
            None => return Err(UploadError::CutShort),
            Some(SyncUpload::End) => break,
            Some(SyncUpload::Bytes(bytes)) => {
                size = size.saturating_add(bytes.len() as u64);
                if size > limit {
                    return Err(UploadError::TooLarge { limit });
                }
                unchecked += bytes.len();
                if unchecked >= CHECK_EVERY {
                    keep_reserve(&file, unchecked)?;
                    unchecked = 0;
                }
                writer.write_all(&bytes)?;
            }
        }
    }
    writer.flush()?;
    drop(writer);
    file.seek(SeekFrom::Start(0))?;
    Ok(Upload(file))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn taken(sent: Vec<SyncUpload>, limit: u64) -> Result<Vec<u8>, UploadError> {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let spool = Spool::open(temp.path()).expect("a spool");
        let (pieces, taken) = mpsc::channel(sent.len());
        for piece in sent {
            pieces.try_send(piece).expect("room");
        }
        drop(pieces);
        let upload = take_in(&spool, taken, limit)?;
        let left = std::fs::read_dir(temp.path().join("sync/spool")).expect("lists").count();
        assert_eq!(left, 0, "it has no name");
        let mut bytes = Vec::new();
        upload.into_file().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn only_what_came_to_its_end_within_the_limit_is_an_archive() {
        let bytes = || SyncUpload::Bytes(b"abcd".to_vec());
        let whole = taken(vec![bytes(), bytes(), SyncUpload::End], 8).expect("whole");
        assert_eq!(whole, b"abcdabcd");
        let cut = taken(vec![bytes(), bytes()], 8);
        assert!(matches!(cut, Err(UploadError::CutShort)), "{cut:?}");
        let large = taken(vec![bytes(), bytes(), SyncUpload::End], 7);
        assert!(matches!(large, Err(UploadError::TooLarge { limit: 7 })), "{large:?}");
    }
}
