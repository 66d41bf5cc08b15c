//! Releasing and deleting a volume.

use std::fs;
use std::io;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sys_mount::UnmountFlags;
use tracing::info;

use crate::core::mount_table::DeviceNumber;
use crate::core::plan::{ReleaseStep, plan_release, plan_removal};
use crate::core::spec::VolumeId;
use crate::error::{IoFault, ReleaseError, RemoveError};
use crate::failpoint::{self, Moment};
use crate::observe::Sight;
use crate::volumes::Inner;
use crate::{generation, holders, image, loop_device, observe};

/// A process that is being started holds copies of its parent's descriptors until it runs its own
/// program: such a hold is over in a moment and is nobody's.
const BUSY_PATIENCE: Duration = Duration::from_millis(250);

/// Unmounts the volume and confirms that the kernel has let go of the image. Returns the numbers of
/// the devices that are free now.
pub(crate) fn release(inner: &Inner, id: &VolumeId) -> Result<Vec<u32>, ReleaseError> {
    let io = |source| ReleaseError::Io { id: id.clone(), source };
    let sight = observe::volume(&inner.layout, id).map_err(io)?;
    let steps = plan_release(&sight.observed)
        .map_err(|refusal| ReleaseError::Refused { id: id.clone(), refusal })?;
    let mut idle = Vec::new();
    for step in &steps {
        failpoint::reach("release", step, Moment::Before).map_err(io)?;
        match step {
            ReleaseStep::Unmount => unmount(inner, id, &sight)?,
            ReleaseStep::Detach(minor) => {
                loop_device::detach(*minor, sight.image.as_ref()).map_err(io)?;
            }
            ReleaseStep::ConfirmGone => confirm_gone(inner, id, &sight)?,
            ReleaseStep::RemoveMinor(minor) => idle.push(*minor),
        }
        failpoint::reach("release", step, Moment::After).map_err(io)?;
    }
    // The mount point stays for as long as the volume does: a full host could not make it again.
    if !sight.observed.target.is_empty() {
        info!(volume = %id, "volume released");
    }
    Ok(idle)
}

/// Removes the numbers of devices that hold nothing any more: 40 ms each that nobody waits for.
pub(crate) fn settle(inner: &Inner, mut idle: Vec<u32>) {
    {
        let mut lingering = inner.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(lingering.extract_if(.., |minor| loop_device::backing_file(*minor).is_none()));
    }
    for minor in idle {
        loop_device::remove_minor(&inner.minors, minor);
    }
}

fn unmount(inner: &Inner, id: &VolumeId, sight: &Sight) -> Result<(), ReleaseError> {
    let target = inner.layout.mount(id);
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match sys_mount::unmount(&target, UnmountFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                if Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                let mounts = &sight.observed.target;
                let devices: Vec<_> = mounts.iter().map(|entry| entry.device).collect();
                let holders = holders::find(&devices, Some(&target));
                return Err(ReleaseError::Busy { id: id.clone(), holders });
            }
            Err(error) => {
                let source = IoFault::new("unmount", target, error);
                return Err(ReleaseError::Io { id: id.clone(), source });
            }
        }
    }
}

fn confirm_gone(inner: &Inner, id: &VolumeId, sight: &Sight) -> Result<(), ReleaseError> {
    for device in &sight.observed.devices {
        let minor = device.minor;
        if !loop_device::wait_until_detached(minor, sight.image.as_ref()) {
            let holders = holders::find(&[DeviceNumber::of_loop(minor)], None);
            // It detaches by itself with its last holder; its number is removed by a later release.
            inner.lingering.lock().unwrap_or_else(PoisonError::into_inner).insert(minor);
            return Err(ReleaseError::StillAttached { id: id.clone(), minor, holders });
        }
    }
    Ok(())
}

/// A directory that something is still in stays.
fn remove_empty_directories(inner: &Inner, id: &VolumeId) {
    let mount = inner.layout.mount(id);
    let _in_use = fs::remove_dir(&mount);
    if let Some(workload) = mount.parent() {
        let _in_use = fs::remove_dir(workload);
    }
}

#[derive(Debug)]
enum RemovalStep {
    Rename,
    Delete,
}

/// Deletes the volume: it loses its name first, so that half of it is never found.
pub(crate) fn remove(inner: &Inner, id: &VolumeId) -> Result<(), RemoveError> {
    let io = |source| RemoveError::Io { id: id.clone(), source };
    let sight = observe::volume(&inner.layout, id).map_err(io)?;
    plan_removal(&sight.observed)
        .map_err(|refusal| RemoveError::Refused { id: id.clone(), refusal })?;
    generation::refuse_while_read(inner, id)?;
    let (volume, removing) = (inner.layout.volume(id), inner.layout.removing(id));
    let workload = inner.layout.workload(id);
    image::delete_directory(&removing).map_err(io)?;
    failpoint::reach("remove", &RemovalStep::Rename, Moment::Before).map_err(io)?;
    match fs::rename(&volume, &removing) {
        Ok(()) => image::sync_directory(&workload).map_err(io)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(IoFault::new("rename", volume, error))),
    }
    failpoint::reach("remove", &RemovalStep::Delete, Moment::Before).map_err(io)?;
    image::delete_directory(&removing).map_err(io)?;
    failpoint::reach("remove", &RemovalStep::Delete, Moment::After).map_err(io)?;
    remove_empty_directories(inner, id);
    let _holds_other_volumes = fs::remove_dir(workload);
    info!(volume = %id, "volume deleted");
    Ok(())
}
