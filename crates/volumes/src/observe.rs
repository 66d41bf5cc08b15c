//! Looking at what is, and clearing away what an interrupted run left.

use std::fs;
use std::io;
use std::path::Path;

use sys_mount::UnmountFlags;
use tracing::{info, warn};

use crate::core::layout::{Layout, Place};
use crate::core::mount_table::{self, MountEntry};
use crate::core::plan::{
    FoundAtStart, FoundDevice, MountedGrowth, Observed, ObservedDevice, RecoveryStep, plan_recovery,
};
use crate::core::spec::VolumeId;
use crate::error::IoFault;
use crate::failpoint::{self, Moment};
use crate::freeze;
use crate::generation;
use crate::image;
use crate::loop_device::{self, Minors};
use crate::volumes::Recovered;

/// `CAP_SYS_RESOURCE`, as `include/uapi/linux/capability.h` numbers it.
const SYS_RESOURCE: u32 = 24;

/// What is known of one volume, and the identity of its image.
#[derive(Debug)]
pub(crate) struct Sight {
    pub(crate) observed: Observed,
    pub(crate) image: Option<fs::Metadata>,
}

/// Looks at everything that concerns one volume.
pub(crate) fn volume(layout: &Layout, id: &VolumeId) -> Result<Sight, IoFault> {
    let path = layout.image(id);
    let (image, identity) = image::observe(&path)?;
    let mut devices = match &identity {
        Some(identity) => loop_device::holding(&path, identity, layout.images())?,
        None => Vec::new(),
    };
    let target: Vec<MountEntry> =
        mount_table::mounted_at(&mounts()?, &layout.mount(id)).into_iter().cloned().collect();
    let deleted: Vec<_> =
        target.iter().filter_map(|entry| deleted_image(layout, id, entry, &devices)).collect();
    devices.extend(deleted);
    let metadata = image::read_metadata(&layout.metadata(id))?;
    let growth = mounted_growth();
    let observed = Observed { image, metadata, devices, target, growth };
    Ok(Sight { observed, image: identity })
}

/// The device under this mount, when it holds an image of this volume that was since deleted.
fn deleted_image(
    layout: &Layout,
    id: &VolumeId,
    entry: &MountEntry,
    known: &[ObservedDevice],
) -> Option<ObservedDevice> {
    let minor = entry.loop_minor()?;
    if known.iter().any(|device| device.minor == minor) {
        return None;
    }
    let backing = loop_device::backing_file(minor)?;
    let (of, _) = layout.volume_of(&backing.path)?;
    (backing.deleted && of == *id).then_some(ObservedDevice {
        minor,
        usable: false,
        mounted_somewhere: true,
    })
}

/// The mounts that this process sees.
pub(crate) fn mounts() -> Result<Vec<MountEntry>, IoFault> {
    let path = "/proc/self/mountinfo";
    fs::read(path).map(|table| mount_table::parse(&table)).map_err(IoFault::on("read", path))
}

fn mounted_growth() -> MountedGrowth {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    match effective {
        Some(set) if set & (1 << SYS_RESOURCE) != 0 => MountedGrowth::Permitted,
        Some(_) | None => MountedGrowth::NotPermitted,
    }
}

/// Finds what an earlier run left and deals with it. What is mounted stays.
pub(crate) fn recover(layout: &Layout, minors: &Minors) -> Result<Recovered, IoFault> {
    let found = at_start(layout, minors)?;
    let mut recovered = Recovered::default();
    for step in plan_recovery(&found) {
        failpoint::reach("recover", &step, Moment::Before)?;
        match &step {
            RecoveryStep::Adopt(id, minor) => {
                if freeze::thaw_leftover(&layout.mount(id), *minor) {
                    warn!(volume = %id, "a volume was left frozen and goes on");
                    recovered.thawed.push(id.clone());
                }
                recovered.mounted.push(id.clone());
            }
            RecoveryStep::ReportDeleted(id, minor) => {
                warn!(volume = %id, device = minor, "the image of a mounted volume was deleted");
                recovered.deleted.push(id.clone());
            }
            RecoveryStep::ReleaseGeneration(minor) => {
                release_generation(*minor)?;
                loop_device::remove_minor(minors, *minor);
            }
            RecoveryStep::Detach(minor) => {
                info!(device = minor, "detaching a loop device that nothing uses");
                loop_device::detach(*minor, None)?;
                recovered.detached.push(loop_device::device_path(*minor));
            }
            RecoveryStep::RemoveMinor(minor) => {
                if minors.contains(*minor) {
                    loop_device::remove_idle_minor(*minor);
                }
            }
            RecoveryStep::DeleteDirectory(path) => {
                info!(path = %path.display(), "deleting a volume that was never finished");
                image::delete_directory(path)?;
                recovered.discarded.push(path.clone());
            }
            RecoveryStep::DeleteClone(path) => {
                info!(path = %path.display(), "deleting a clone that an earlier run was reading");
                fs::remove_file(path).map_err(IoFault::on("delete", path))?;
                recovered.discarded.push(path.clone());
            }
        }
        failpoint::reach("recover", &step, Moment::After)?;
    }
    Ok(recovered)
}

/// Nobody but an earlier run of this daemon reads a generation through its mount.
fn release_generation(minor: u32) -> Result<(), IoFault> {
    for entry in mounts()?.iter().filter(|entry| entry.loop_minor() == Some(minor)) {
        sys_mount::unmount(&entry.target, UnmountFlags::empty())
            .map_err(IoFault::on("unmount", &entry.target))?;
        let _absent = fs::remove_dir(&entry.target);
    }
    Ok(())
}

fn at_start(layout: &Layout, minors: &Minors) -> Result<FoundAtStart, IoFault> {
    let mut found = FoundAtStart::default();
    for minor in loop_device::all()? {
        match loop_device::backing_file(minor) {
            Some(backing) => {
                let Some(volume) = layout.volume_of(&backing.path) else { continue };
                let mounted_somewhere = loop_device::is_mounted(minor);
                // Looking detaches an automatic device that nothing uses.
                if loop_device::backing_file(minor).is_none() {
                    found.idle_minors.push(minor);
                    continue;
                }
                found.devices.push(FoundDevice {
                    minor,
                    volume: Some(volume),
                    mounted_somewhere,
                    deleted: backing.deleted,
                });
            }
            None if minors.contains(minor) => found.idle_minors.push(minor),
            None => {}
        }
    }
    for directory in volume_directories(layout.images())? {
        match layout.volume_of(&directory) {
            Some((id, place @ (Place::Building | Place::Removing))) => {
                found.half_done.push((id, place, directory));
            }
            Some((_, Place::Volume)) => {
                found.passing.extend(generation::passing_in(&directory)?);
            }
            Some((_, Place::Generation)) | None => {}
        }
    }
    Ok(found)
}

/// Everything on the level of volumes below the directory of images.
pub(crate) fn volume_directories(images: &Path) -> Result<Vec<std::path::PathBuf>, IoFault> {
    let mut found = Vec::new();
    for workload in entries(images)? {
        if workload.is_dir() {
            found.extend(entries(&workload)?);
        }
    }
    found.sort();
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<std::path::PathBuf>, IoFault> {
    match fs::read_dir(directory) {
        Ok(listing) => listing
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(IoFault::on("list", directory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(IoFault::new("list", directory, error)),
    }
}
