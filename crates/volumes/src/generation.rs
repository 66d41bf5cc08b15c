//! Generations of a volume: clones by reference where the file system of the images can make them,
//! looked at through a mount of their own, and put in the place of the image in use.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use sys_mount::{Mount, MountFlags, PropagationType, UnmountFlags};
use tracing::info;

use crate::core::file_system::Discard;
use crate::core::generation::{self, GenerationName, Holding};
use crate::core::layout::{DATA, Place};
use crate::core::metadata::Metadata;
use crate::core::plan::{ObservedImage, Refusal, plan_removal};
use crate::core::size::ByteSize;
use crate::core::spec::{FileSystem, VolumeId};
use crate::error::{GenerationError, IoFault, RemoveError};
use crate::failpoint::{self, Moment};
use crate::loop_device::{self, AttachError, AttachedDevice};
use crate::volumes::Inner;
use crate::{image, ioctl, observe};
pub(crate) use keeping::{Writers, keep, prepare};

mod keeping;

/// A kept state of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Of which volume.
    pub id: VolumeId,
    /// Its name.
    pub name: GenerationName,
    /// The file that holds it.
    pub image: PathBuf,
    /// How long the volume's writers were held back for it; zero when it was not mounted.
    pub stall: Duration,
}

/// A generation that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedGeneration {
    /// Where it is mounted, read-only.
    pub mount: PathBuf,
    /// What the container had.
    pub data: PathBuf,
}

/// What the file system under the images can do for a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloning {
    /// It clones by reference: a capture takes milliseconds and stops nobody.
    ByReference,
    /// It does not: captures copy.
    Unsupported,
}

/// Tries whether files in this directory can share blocks.
pub(crate) fn cloning(directory: &Path) -> Result<Cloning, IoFault> {
    let paths = [directory.join(".probe-1"), directory.join(".probe-2")];
    let remove = || {
        for path in &paths {
            // What stays is overwritten by the next probe.
            let _absent = fs::remove_file(path);
        }
    };
    remove();
    let tried = || -> Result<Cloning, IoFault> {
        fs::write(&paths[0], vec![1; 4096]).map_err(IoFault::on("write", &paths[0]))?;
        let from = fs::File::open(&paths[0]).map_err(IoFault::on("open", &paths[0]))?;
        let to = fs::File::create(&paths[1]).map_err(IoFault::on("create", &paths[1]))?;
        Ok(match ioctl::clone_file(&to, &from) {
            Ok(()) => Cloning::ByReference,
            Err(_) => Cloning::Unsupported,
        })
    }();
    remove();
    tried
}

struct Paths {
    directory: PathBuf,
    image: PathBuf,
    generation: PathBuf,
    mount: PathBuf,
}

fn paths(inner: &Inner, id: &VolumeId, name: &GenerationName) -> Paths {
    let directory = inner.layout.volume(id);
    Paths {
        image: inner.layout.image(id),
        generation: directory.join(name.file_name()),
        mount: inner.layout.generation_mount(id, name),
        directory,
    }
}

/// What generations of other volumes may still take from the directory of the images.
pub(crate) fn committed_beside(inner: &Inner, ids: &[VolumeId]) -> Result<ByteSize, IoFault> {
    let mut others = Vec::new();
    for directory in observe::volume_directories(inner.layout.images())? {
        match inner.layout.volume_of(&directory) {
            Some((other, Place::Volume)) if !ids.contains(&other) => {
                let length =
                    fs::metadata(inner.layout.image(&other)).map_or(0, |found| found.len());
                let generations = names_in(&directory)?.len();
                others.push(Holding { size: ByteSize::bytes(length), generations });
            }
            _ => {}
        }
    }
    Ok(generation::committed(others))
}

fn names_in(directory: &Path) -> Result<Vec<GenerationName>, IoFault> {
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(IoFault::new("list", directory, error)),
    };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(IoFault::on("list", directory))?;
        names.extend(entry.file_name().to_str().and_then(GenerationName::of_file));
    }
    names.sort();
    Ok(names)
}

/// The clones of this directory that end with the process that made them, and what is left of a
/// clone that was not finished.
pub(crate) fn passing_in(directory: &Path) -> Result<Vec<PathBuf>, IoFault> {
    let names = names_in(directory)?.into_iter().filter(GenerationName::is_passing);
    let mut found: Vec<_> = names.map(|name| directory.join(name.file_name())).collect();
    found.extend(Some(directory.join(BUILDING)).filter(|path| path.exists()));
    Ok(found)
}

/// A clone before it gets its name.
const BUILDING: &str = ".generation.new";

/// The generations kept of a volume.
pub(crate) fn list(inner: &Inner, id: &VolumeId) -> Result<Vec<GenerationName>, GenerationError> {
    names_in(&inner.layout.volume(id))
        .map_err(|source| GenerationError::Io { id: id.clone(), source })
}

/// Mounts a generation read-only, without replaying its journal: it is not changed by being read.
pub(crate) fn mount(
    inner: &Inner,
    id: &VolumeId,
    name: &GenerationName,
) -> Result<MountedGeneration, GenerationError> {
    let io = |source| GenerationError::Io { id: id.clone(), source };
    let paths = paths(inner, id, name);
    let done = MountedGeneration { data: paths.mount.join(DATA), mount: paths.mount.clone() };
    if is_mounted(&paths.mount).map_err(io)? {
        return Ok(done);
    }
    let file = match image::open_unlocked(&paths.generation) {
        Ok(file) => file,
        Err(fault) if fault.source.kind() == io::ErrorKind::NotFound => {
            return Err(GenerationError::NoGeneration { id: id.clone(), name: name.clone() });
        }
        Err(fault) => return Err(io(fault)),
    };
    let (ObservedImage::Present { superblock: Some(superblock), .. }, _) =
        image::observe(&paths.generation).map_err(io)?
    else {
        return Err(GenerationError::Refused { id: id.clone(), refusal: Refusal::Unrecognised });
    };
    image::make_directory(&paths.mount, 0o700).map_err(io)?;
    // A file system that is mounted read-only discards nothing.
    let discard = Discard::Passed;
    let attached =
        loop_device::attach(&inner.minors, &file, &paths.generation, discard).map_err(|error| {
            match error {
                AttachError::NoFreeDevice => io(IoFault::new(
                    "attach",
                    &paths.generation,
                    io::Error::other("all loop devices of the range are taken"),
                )),
                AttachError::Io(fault) => io(fault),
            }
        })?;
    let data = match superblock.file_system {
        FileSystem::Ext4 => "noload",
        FileSystem::Xfs => "norecovery,nouuid",
        FileSystem::Btrfs => "rescue=nologreplay",
    };
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounted = Mount::builder()
        .fstype(superblock.file_system.name())
        .flags(flags)
        .data(data)
        .mount(loop_device::device_path(attached.minor), &paths.mount)
        .and_then(|mut mounted| mounted.set_propagation_type(PropagationType::PRIVATE));
    let AttachedDevice { minor, device, .. } = attached;
    drop(device);
    if let Err(error) = mounted {
        loop_device::remove_minor(&inner.minors, minor);
        return Err(io(IoFault::new("mount", &paths.mount, error)));
    }
    Ok(done)
}

/// Unmounts a generation. One that is not mounted is fine.
pub(crate) fn unmount(
    inner: &Inner,
    id: &VolumeId,
    name: &GenerationName,
) -> Result<(), GenerationError> {
    let io = |source| GenerationError::Io { id: id.clone(), source };
    let paths = paths(inner, id, name);
    let table = observe::mounts().map_err(io)?;
    let mounts = crate::core::mount_table::mounted_at(&table, &paths.mount);
    for entry in mounts {
        sys_mount::unmount(&paths.mount, UnmountFlags::empty())
            .map_err(IoFault::on("unmount", &paths.mount))
            .map_err(io)?;
        if let Some(minor) = entry.loop_minor() {
            loop_device::remove_minor(&inner.minors, minor);
        }
    }
    let _absent = fs::remove_dir(&paths.mount);
    Ok(())
}

/// Deletes a generation. One that does not exist is fine.
pub(crate) fn delete(
    inner: &Inner,
    id: &VolumeId,
    name: &GenerationName,
) -> Result<(), GenerationError> {
    let paths = paths(inner, id, name);
    refuse_mounted(id, &paths.mount)?;
    match fs::remove_file(&paths.generation) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let source = IoFault::new("delete", paths.generation, error);
            Err(GenerationError::Io { id: id.clone(), source })
        }
        _ => Ok(()),
    }
}

/// Refuses what would take away a generation that is being read.
pub(crate) fn refuse_while_read(inner: &Inner, id: &VolumeId) -> Result<(), RemoveError> {
    let io = |source| RemoveError::Io { id: id.clone(), source };
    for name in names_in(&inner.layout.volume(id)).map_err(io)? {
        let mount = inner.layout.generation_mount(id, &name);
        if is_mounted(&mount).map_err(io)? {
            let holder = mount.display().to_string();
            let refusal = Refusal::InUse { holder };
            return Err(RemoveError::Refused { id: id.clone(), refusal });
        }
    }
    Ok(())
}

#[derive(Debug)]
enum SwapStep {
    RecordSmaller,
    Exchange,
    RecordSize,
}

/// Puts a generation in the place of the image in use; that one is the generation from then on.
/// Doing it twice changes nothing, which is how it is taken back.
pub(crate) fn swap(
    inner: &Inner,
    id: &VolumeId,
    name: &GenerationName,
) -> Result<(), GenerationError> {
    let io = |source| GenerationError::Io { id: id.clone(), source };
    let refused = |refusal| GenerationError::Refused { id: id.clone(), refusal };
    let paths = paths(inner, id, name);
    refuse_mounted(id, &paths.mount)?;
    let sight = observe::volume(&inner.layout, id).map_err(io)?;
    plan_removal(&sight.observed).map_err(refused)?;
    let metadata = sight.observed.metadata.present().ok_or_else(|| refused(Refusal::NoVolume))?;
    let (found, _) = image::observe(&paths.generation).map_err(io)?;
    let (length, superblock) = match found {
        ObservedImage::Present { size, superblock } => (size, superblock),
        ObservedImage::Absent | ObservedImage::NotAFile => {
            return Err(GenerationError::NoGeneration { id: id.clone(), name: name.clone() });
        }
    };
    let plan = generation::plan_swap(metadata, superblock.as_ref(), length).map_err(refused)?;
    let record = |size| {
        image::write_metadata(&paths.directory, &Metadata { size, ..metadata.clone() }).map_err(io)
    };
    failpoint::reach("swap", &SwapStep::RecordSmaller, Moment::Before).map_err(io)?;
    if plan.before != metadata.size {
        record(plan.before)?;
    }
    failpoint::reach("swap", &SwapStep::Exchange, Moment::Before).map_err(io)?;
    let exchange = RenameFlags::RENAME_EXCHANGE;
    renameat2(AT_FDCWD, &paths.generation, AT_FDCWD, &paths.image, exchange)
        .map_err(IoFault::on("exchange", &paths.image))
        .map_err(io)?;
    image::sync_directory(&paths.directory).map_err(io)?;
    failpoint::reach("swap", &SwapStep::Exchange, Moment::After).map_err(io)?;
    if plan.after != plan.before {
        record(plan.after)?;
    }
    failpoint::reach("swap", &SwapStep::RecordSize, Moment::After).map_err(io)?;
    info!(volume = %id, generation = %name, "generation put in place");
    Ok(())
}

fn is_mounted(mount: &Path) -> Result<bool, IoFault> {
    Ok(!crate::core::mount_table::mounted_at(&observe::mounts()?, mount).is_empty())
}

fn refuse_mounted(id: &VolumeId, mount: &Path) -> Result<(), GenerationError> {
    match is_mounted(mount) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let holder = mount.display().to_string();
            Err(GenerationError::Refused { id: id.clone(), refusal: Refusal::InUse { holder } })
        }
        Err(source) => Err(GenerationError::Io { id: id.clone(), source }),
    }
}
