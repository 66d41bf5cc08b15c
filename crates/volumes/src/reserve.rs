//! Writing into a volume that its container has filled.
//!
//! A share of an ext4 volume is kept for one user id that no process has. A process with
//! `CAP_SYS_RESOURCE` may use it anyhow; one without takes on that id for the write. A file system
//! keeps no files back in the same way, so the system volume holds a few spare ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, renameat};
use nix::libc;
use nix::unistd::{Uid, setfsuid};

/// How many files a system volume keeps for answers that must get through.
const SPARE_FILES: u8 = 8;

/// Puts a file of root's with this content into a directory of a volume, whole or not at all, also
/// when the container has taken every block or every file that it can. An existing file of that
/// name is replaced; a link of that name is replaced and not followed.
///
/// `private` is the volume's own directory of root, where the file is written before it gets its
/// name: the container never sees it half done and cannot swap it. Writers to one volume wait for
/// one another. Blocks the thread.
pub fn place(
    private: &Path,
    directory: BorrowedFd<'_>,
    name: &str,
    content: &[u8],
    mode: u32,
    reserve_uid: u32,
) -> io::Result<()> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file name"));
    }
    // The file's name is the same for all, so that a crash leaves one file and not many.
    let turn = File::open(private)?;
    turn.lock()?;
    let (mut file, path) = blank(private)?;
    let written =
        with_reserve(reserve_uid, || file.write_all(content).and_then(|()| file.sync_all()));
    let placed = written
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| Ok(renameat(AT_FDCWD, &path, directory, name)?));
    if placed.is_err() {
        // Emptied, it is as good as a spare one.
        let _still_there = file.set_len(0);
    }
    placed?;
    fs::File::from(directory.try_clone_to_owned()?).sync_all()?;
    replenish(private);
    Ok(())
}

/// An empty file to write into: a new one, or a spare one when no new one can be made.
fn blank(private: &Path) -> io::Result<(File, PathBuf)> {
    let fresh = private.join("answer");
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&fresh);
    match opened {
        Ok(file) => Ok((file, fresh)),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => spare(private).ok_or(error),
        Err(error) => Err(error),
    }
}

fn spare(private: &Path) -> Option<(File, PathBuf)> {
    (0..SPARE_FILES).map(|number| spare_path(private, number)).find_map(|path| {
        let file = OpenOptions::new()
            .write(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .ok()?;
        Some((file, path))
    })
}

fn spare_path(private: &Path, number: u8) -> PathBuf {
    private.join(format!("spare-{number}"))
}

/// Makes the spare files that are missing, as far as that goes.
pub(crate) fn replenish(private: &Path) {
    for number in 0..SPARE_FILES {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(spare_path(private, number));
        if made.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            return;
        }
    }
}

/// Does work in this thread with access to the reserve. Files that it opens belong to the reserve's
/// user; it is meant for writing to files that are open already.
fn with_reserve<T>(uid: u32, work: impl FnOnce() -> T) -> T {
    struct Back(Uid);
    impl Drop for Back {
        fn drop(&mut self) {
            setfsuid(self.0);
        }
    }
    let _back = Back(setfsuid(Uid::from_raw(uid)));
    work()
}
