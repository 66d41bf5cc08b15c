//! The root of a volume's file system: the directory for the container, the one for ourselves, and
//! the control directories of the system volume. Nothing here follows a link or trusts a name
//! twice.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::core::layout::{CONTROL_DIRECTORIES, DATA, PRIVATE};
use crate::core::plan::RootState;
use crate::core::spec::{Owner, VolumeRole, VolumeSpec};
use crate::error::IoFault;
use crate::reserve;

const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// How often a name that changes under our hands is tried again.
const ATTEMPTS: u8 = 3;

/// Brings the root of a mounted file system into its shape.
pub(crate) fn prepare(mount: &Path, spec: &VolumeSpec, state: RootState) -> Result<(), IoFault> {
    let root = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(mount)
        .map_err(IoFault::on("open", mount))?;
    // Others must pass through to what the container is given, and see nothing else.
    set(&root, mount, ROOT, 0o711)?;
    let private = directory(&root, mount, PRIVATE, 0o700)?;
    set(&private.fd, &mount.join(PRIVATE), ROOT, 0o700)?;
    let path = mount.join(DATA);
    let data = directory(&root, mount, DATA, 0o755)?;
    match spec.role {
        VolumeRole::Data => {
            if data.made == Made::Now {
                set(&data.fd, &path, spec.owner.unwrap_or(ROOT), 0o755)?;
            } else if let (RootState::FreshlyMounted, Some(owner)) = (state, spec.owner) {
                own(&data.fd, &path, owner)?;
            }
        }
        VolumeRole::System => {
            set(&data.fd, &path, ROOT, 0o755)?;
            for name in CONTROL_DIRECTORIES {
                let control = directory(&data.fd, &path, name, 0o700)?;
                set(&control.fd, &path.join(name), ROOT, 0o1777)?;
            }
            reserve::replenish(&mount.join(PRIVATE));
        }
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Made {
    Now,
    Before,
}

struct Directory {
    fd: OwnedFd,
    made: Made,
}

/// Opens the directory of this name, making it when it is absent and replacing anything else that
/// bears the name.
fn directory(
    parent: &impl AsFd,
    path: &Path,
    name: &str,
    creation: libc::mode_t,
) -> Result<Directory, IoFault> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    let mut origin = Made::Before;
    for _ in 0..ATTEMPTS {
        match openat2(parent, name, how) {
            Ok(fd) => return Ok(Directory { fd, made: origin }),
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(IoFault::new("remove", path.join(name), errno)),
                }
            }
            Err(errno) => return Err(IoFault::new("open", path.join(name), errno)),
        }
        match mkdirat(parent, name, Mode::from_bits_truncate(creation)) {
            Ok(()) => origin = Made::Now,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(IoFault::new("create", path.join(name), errno)),
        }
    }
    Err(IoFault::new("create", path.join(name), io::Error::other("it keeps being replaced")))
}

fn set(fd: &impl AsFd, path: &Path, owner: Owner, mode: libc::mode_t) -> Result<(), IoFault> {
    own(fd, path, owner)?;
    let found = fstat(fd).map_err(IoFault::on("query", path))?;
    if found.st_mode & 0o7777 != mode {
        fchmod(fd, Mode::from_bits_truncate(mode)).map_err(IoFault::on("change mode of", path))?;
    }
    Ok(())
}

/// Changes the owner only where it differs: a change of owner clears mode bits and is a write.
fn own(fd: &impl AsFd, path: &Path, owner: Owner) -> Result<(), IoFault> {
    let found = fstat(fd).map_err(IoFault::on("query", path))?;
    if (found.st_uid, found.st_gid) != (owner.uid, owner.gid) {
        fchown(fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
            .map_err(IoFault::on("change owner of", path))?;
    }
    Ok(())
}
