//! The Unix socket that containers of runners get.
//!
//! It lies alone in a directory, and it is the directory that a container is given: the socket is a
//! new file after each start of belayd, which a bind mount of the file itself would not show. The
//! directory above is root's alone, so of the host nobody else reaches the socket; who does needs a
//! token.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Name of the socket in its directory.
pub const SOCKET_NAME: &str = "runner.sock";

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct ListenError {
    /// What was tried.
    pub step: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// The directory that containers of runners are given, below belayd's runtime directory.
pub fn socket_directory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("runner").join("socket")
}

/// A socket that listens. Its file is removed when this is dropped; its directory stays.
#[derive(Debug)]
pub struct RunnerSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nobody else makes files there: belayd holds its instance lock.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl RunnerSocket {
    /// Listens below the runtime directory. Callers hold belayd's instance lock, so what lies there
    /// is of a belayd that has ended.
    pub fn bind(runtime_dir: &Path) -> Result<Self, ListenError> {
        let directory = socket_directory(runtime_dir);
        let private = directory.parent().unwrap_or(runtime_dir);
        for (path, mode) in [(private, 0o700), (directory.as_path(), 0o755)] {
            make_directory(path, mode)?;
        }
        let path = directory.join(SOCKET_NAME);
        let draft = private.join(SOCKET_NAME);
        for old in [&path, &draft] {
            remove_socket(old)?;
        }
        // It appears under its name when it has its mode.
        let listener = UnixListener::bind(&draft).map_err(failed("listen on", &draft))?;
        let mode = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&draft, mode).map_err(failed("set the mode of", &draft))?;
        std::fs::rename(&draft, &path).map_err(failed("put in place", &path))?;
        Ok(Self { listener, file: SocketFile { path } })
    }

    /// The listener, and the file to be kept as long as it listens.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError { step, path, source }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), ListenError> {
    let result = std::fs::DirBuilder::new().mode(mode).create(path);
    match result {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("make", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(failed("set the mode of", path))
}

fn remove_socket(path: &Path) -> Result<(), ListenError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path)(error)),
        Ok(metadata) if metadata.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(failed("remove", path))
        }
        Ok(_) => Err(failed("replace", path)(io::Error::other("it is not a socket"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("is there").permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn only_who_is_given_the_directory_reaches_the_socket() {
        let run = tempfile::tempdir().expect("a directory");
        let socket = RunnerSocket::bind(run.path()).expect("binds");
        let directory = socket_directory(run.path());
        assert_eq!(mode(&run.path().join("runner")), 0o700);
        assert_eq!(mode(&directory), 0o755);
        assert_eq!(mode(&directory.join(SOCKET_NAME)), 0o666);
        let entries: Vec<_> = std::fs::read_dir(&directory).expect("reads").collect();
        assert_eq!(entries.len(), 1);
        drop(socket);
        assert!(!directory.join(SOCKET_NAME).exists());
        assert!(directory.exists(), "a container has it mounted");
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_in_the_same_directory() {
        use std::os::unix::fs::MetadataExt as _;
        let run = tempfile::tempdir().expect("a directory");
        let (_listener, file) = RunnerSocket::bind(run.path()).expect("binds").into_parts();
        let inode = |path: &Path| std::fs::metadata(path).expect("is there").ino();
        let before = inode(&socket_directory(run.path()));
        std::mem::forget(file);
        let again = RunnerSocket::bind(run.path()).expect("binds again");
        assert_eq!(inode(&socket_directory(run.path())), before);
        drop(again);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let run = tempfile::tempdir().expect("a directory");
        drop(RunnerSocket::bind(run.path()).expect("binds"));
        let path = socket_directory(run.path()).join(SOCKET_NAME);
        std::fs::write(&path, "mine").expect("writes");
        let refused = RunnerSocket::bind(run.path()).expect_err("is refused");
        assert_eq!(refused.to_string(), format!("cannot replace {}", path.display()));
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "mine");
    }
}
