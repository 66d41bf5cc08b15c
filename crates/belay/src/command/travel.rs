//! `belay checkpoint export`, `import` and `reclaim`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use belay_protocol::NodeId;
use belay_protocol::runner::{ImportedCheckpoint, ReclaimedCheckpoint, RunnerId};
use bytes::Bytes;
use futures_util::stream;
use reqwest::Method;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::client::{Client, Document};
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

/// Bytes of an archive that are read at a time.
const PIECE: usize = 256 << 10;

pub(crate) async fn export(
    client: &Client,
    runner: &RunnerId,
    to: &NodeId,
    file: Option<&Path>,
    output: &Output,
) -> Result<(), Ending> {
    let mut target = match file {
        Some(path) => Target::File(NewFile::create(path)?),
        None if output.is_terminal() => {
            let next = format!("belay checkpoint export {runner} --to {to} > trip");
            let what = "an archive is not for a terminal";
            return Err(Failure::new(failure::USAGE, what, next).into());
        }
        None => Target::Output(output),
    };
    let path = format!("/v1/checkpoints/{runner}/export?to={to}");
    let mut begun = false;
    let written = client.download(Method::POST, &path, |bytes| {
        begun = true;
        target.write(bytes)
    });
    match written.await {
        Ok(()) => {
            target.finish()?;
            output.notice(&format!(
                "the run of {runner} is {to}'s now; belay checkpoint import takes it there"
            ));
            Ok(())
        }
        Err(Ending::Failed(failed)) if begun => {
            let what = format!("the archive is not whole, and no node takes it: {}", failed.what);
            let next = format!(
                "belay checkpoint ls says whether {runner} stayed; export it again either way"
            );
            Err(Failure::new(failed.exit_code, what, next).into())
        }
        Err(ending) => Err(ending),
    }
}

pub(crate) async fn import(
    client: &Client,
    file: &Path,
    check: bool,
) -> Result<ImportedCheckpoint, Ending> {
    let path = if check { "/v1/checkpoints?check=true" } else { "/v1/checkpoints" };
    let body = if file == Path::new("-") {
        body_of(tokio::io::stdin())
    } else {
        let opened = tokio::fs::File::open(file).await;
        let opened = opened.map_err(|error| {
            let what = format!("cannot read {}: {error}", file.display());
            Failure::new(
                failure::NO_INPUT,
                what,
                "name the file that belay checkpoint export wrote",
            )
        })?;
        body_of(opened)
    };
    client.upload(path, body).await
}

pub(crate) async fn reclaim(
    client: &Client,
    runner: &RunnerId,
    yes: bool,
    output: &Output,
) -> Result<(), Ending> {
    if !yes {
        let what = "a run that is taken back while another node has it, or gets it later, executes \
                    twice";
        let next = format!(
            "make certain that its archive was not imported, and destroy it; then belay checkpoint \
             reclaim {runner} --yes"
        );
        return Err(Failure::new(failure::USAGE, what, next).into());
    }
    let path = format!("/v1/checkpoints/{runner}/reclaim");
    let reclaimed: ReclaimedCheckpoint = client.send(Method::POST, &path, Document::none()).await?;
    output.text(&format!("{} is suspended here again\n", reclaimed.run))
}

fn body_of(reader: impl AsyncRead + Send + Unpin + 'static) -> reqwest::Body {
    let pieces = stream::try_unfold(reader, |mut reader| async move {
        let mut piece = Vec::with_capacity(PIECE);
        let read = (&mut reader).take(PIECE as u64).read_to_end(&mut piece).await?;
        Ok::<_, io::Error>((read > 0).then(|| (Bytes::from(piece), reader)))
    });
    reqwest::Body::wrap_stream(pieces)
}

/// Where an archive is written.
enum Target<'a> {
    Output(&'a Output),
    File(NewFile),
}

impl Target<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        match self {
            Self::Output(output) => output.bytes(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn finish(self) -> Result<(), Ending> {
        match self {
            Self::Output(_) => Ok(()),
            Self::File(file) => file.finish(),
        }
    }
}

/// A file that is there under its name only once all of it is on the disk.
struct NewFile {
    file: File,
    path: PathBuf,
    partial: PathBuf,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, Ending> {
        if path.symlink_metadata().is_ok() {
            let what = format!("{} is there already", path.display());
            return Err(Failure::new(failure::USAGE, what, "name another file").into());
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let file = file.map_err(|error| failed("write", &partial, &error))?;
        Ok(Self { file, path: path.to_owned(), partial })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        self.file.write_all(bytes).map_err(|error| failed("write", &self.partial, &error).into())
    }

    fn finish(self) -> Result<(), Ending> {
        let kept = self.file.sync_all().and_then(|()| std::fs::rename(&self.partial, &self.path));
        kept.map_err(|error| failed("write", &self.path, &error).into())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // What was finished has another name by now.
        let _ = std::fs::remove_file(&self.partial);
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::local(format!("cannot {what} {}", path.display()), error, "export it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_once_it_is_whole_and_nothing_stays_of_one_that_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("trip");
        let mut cut = NewFile::create(&path).expect("made");
        cut.write(b"half").expect("written");
        assert!(!path.exists());
        drop(cut);
        assert_eq!(std::fs::read_dir(place.path()).expect("lists").count(), 0);
        let mut whole = NewFile::create(&path).expect("made");
        whole.write(b"all").expect("written");
        whole.finish().expect("finished");
        assert_eq!(std::fs::read(&path).expect("reads"), b"all");
        assert_eq!(std::fs::read_dir(place.path()).expect("lists").count(), 1);
        assert!(NewFile::create(&path).is_err(), "what is there is not written over");
    }
}
