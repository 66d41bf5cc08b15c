//! Listeners: the Unix socket that owner and group may use, and the loopback TCP port.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// How long a socket found in our place has to accept a connection before it counts as in use. A
/// stale one refuses at once; only a live process with a full queue lets us wait.
const ANSWER: Duration = Duration::from_secs(1);

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens on the socket.
    #[error("another process answers on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket lies in its place; it is left alone.
    #[error("{} is there and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The address can be reached from other machines.
    #[error("{address} is not a loopback address, and the API has no guard beyond loopback")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// A step on the socket failed.
    #[error("cannot {step} {}", path.display())]
    Socket {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The address could not be bound.
    #[error("cannot listen on {address}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
}

/// A Unix socket that listens. Its file is removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub struct BoundSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl BoundSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens on `path` with mode 0660, for `group` (a group id) where one is given.
///
/// A socket that a dead process left is replaced; one that answers, and anything that is not a
/// socket, is an error. The socket gets its mode and group under a name of its own and is then
/// renamed into place, so that nobody can connect before they hold. Callers hold their instance
/// lock: two that bind one path at one time may both believe they have it.
pub async fn bind_unix(path: &Path, group: Option<u32>) -> Result<BoundSocket, BindError> {
    let failed = |step: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| BindError::Socket { step, path, source }
    };
    refuse_if_taken(path).await?;
    let draft = draft_name(path);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &draft)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&draft).map_err(failed("listen on", &draft))?;
    let placed = place(&draft, path, group).map_err(|(step, error)| failed(step, path)(error));
    match placed {
        Ok(identity) => Ok(BoundSocket { listener, path: path.to_owned(), identity }),
        Err(error) => {
            let _ = std::fs::remove_file(&draft);
            Err(error)
        }
    }
}

/// Listens on a loopback address and refuses any other.
pub async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| BindError::Address { address, source })
}

async fn refuse_if_taken(path: &Path) -> Result<(), BindError> {
    let in_use = || BindError::InUse { path: path.to_owned() };
    let failed = |source| BindError::Socket { step: "look at", path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::NotASocket { path: path.to_owned() }),
    }
    match tokio::time::timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::WouldBlock => Err(in_use()),
            _ => Err(failed(error)),
        },
        Ok(Ok(_)) | Err(_) => Err(in_use()),
    }
}

fn draft_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    path.with_file_name(name)
}

fn place(
    draft: &Path,
    path: &Path,
    group: Option<u32>,
) -> Result<(u64, u64), (&'static str, io::Error)> {
    let mode = std::fs::Permissions::from_mode(0o660);
    std::os::unix::fs::chown(draft, None, group).map_err(|e| ("set the group of", e))?;
    std::fs::set_permissions(draft, mode).map_err(|e| ("set the mode of", e))?;
    let metadata = std::fs::symlink_metadata(draft).map_err(|e| ("look at", e))?;
    std::fs::rename(draft, path).map_err(|e| ("put in place", e))?;
    Ok((metadata.dev(), metadata.ino()))
}
