//! Small JSON files in belayd's own directories that are whole and durable, or as they were.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Nothing written here comes near this; a larger file is not ours.
const SIZE_MAX: u64 = 4 * 1024 * 1024;

/// Replaces the file. When this returns the new content survives a power cut; if it fails, or the
/// power is cut before, the old content is still there, whole.
pub(crate) fn write_json<T: Serialize>(path: &Path, mode: u32, value: &T) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    if text.len() as u64 > SIZE_MAX {
        // It could not be read again.
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large to be kept"));
    }
    // One writer per file, so one name for its successor; a leftover is from before a crash.
    let next = path.with_extension("next");
    match fs::remove_file(&next) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&next, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&next);
    }
    written?;
    sync_parent(path)
}

/// Reads a file; none if it is absent. A file that is not of this shape is an error.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(SIZE_MAX).read_to_end(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Removes a file durably; an absent one is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates a directory and those above it, open to their owner alone.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("memory.json");
        write_json(&path, 0o600, &"old").expect("writes");
        let large = "x".repeat(usize::try_from(SIZE_MAX).expect("fits"));
        write_json(&path, 0o600, &large).expect_err("too large");
        assert_eq!(read_json::<String>(&path).expect("reads").as_deref(), Some("old"));
    }
}
