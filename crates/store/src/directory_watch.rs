//! Notice of new names in a directory.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Tells that something in a directory was created, renamed into it, or closed after writing.
///
/// It tells no more than that, and may tell too little: whoever holds one also polls.
#[derive(Debug)]
pub struct DirectoryWatch(AsyncFd<OwnedFd>);

impl DirectoryWatch {
    /// Watches the directory at `path`. Must be called within a tokio runtime.
    pub fn new(path: &Path) -> io::Result<Self> {
        let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&descriptor, path, events)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe only for types whose descriptor may change; an \
                      OwnedFd keeps one open for as long as it lives"
        )]
        AsyncFd::new(descriptor).map(Self)
    }

    /// Waits for the next change. None means that the directory is gone or cannot be watched any
    /// longer.
    pub async fn changed(&mut self) -> Option<()> {
        loop {
            let mut ready = self.0.readable().await.ok()?;
            match ready.try_io(|fd| drain(fd.get_ref())) {
                Ok(Ok(())) => return Some(()),
                Ok(Err(_)) => return None,
                Err(_would_block) => {}
            }
        }
    }
}

/// Reads what is there. An error other than "nothing there" ends the watch.
fn drain(descriptor: &OwnedFd) -> io::Result<()> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(descriptor, &mut buffer);
    let mut event = reader.next()?;
    loop {
        if event.events().intersects(ReadFlags::IGNORED | ReadFlags::MOVE_SELF) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // A busy writer must not keep this loop alive: one buffer is enough to say "changed".
        if reader.is_buffer_empty() {
            return Ok(());
        }
        event = reader.next()?;
    }
}
