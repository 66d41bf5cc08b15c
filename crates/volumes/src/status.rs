//! Looking at every volume for what is shown of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use nix::errno::Errno;
use nix::sys::statvfs::{Statvfs, statvfs};

use crate::core::layout::{self, Place};
use crate::core::metadata::FoundMetadata;
use crate::core::mount_table::{self, MountEntry};
use crate::core::size::ByteSize;
use crate::core::spec::VolumeId;
use crate::core::status::{HostStatus, MountStatus, VolumeStatus};
use crate::error::IoFault;
use crate::volumes::Inner;
use crate::{image, loop_device, observe};

/// Adds the promises up.
pub(crate) fn host(inner: &Inner) -> Result<HostStatus, IoFault> {
    let available = image::available(inner.layout.images())?;
    let mut host = HostStatus { available, promised: ByteSize::ZERO, missing: ByteSize::ZERO };
    for volume in list(inner)? {
        host.promised = host.promised.saturating_add(volume.size);
        let missing = volume.size.saturating_sub(volume.allocated);
        host.missing = host.missing.saturating_add(missing);
    }
    Ok(host)
}

/// Every volume that exists, mounted or not.
pub(crate) fn list(inner: &Inner) -> Result<Vec<VolumeStatus>, IoFault> {
    let configured = inner.configured.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mounts = observe::mounts()?;
    let mut found = Vec::new();
    for directory in observe::volume_directories(inner.layout.images())? {
        if let Some((id, Place::Volume)) = inner.layout.volume_of(&directory) {
            let configured = configured.contains(&id);
            found.push(one(inner, id, configured, &mounts)?);
        }
    }
    // What was unmounted meanwhile told of the host's file system and not of its own.
    let still = observe::mounts()?;
    for volume in &mut found {
        let target = inner.layout.mount(&volume.id);
        let number = |table: &[MountEntry]| {
            mount_table::mounted_at(table, &target).last().map(|entry| entry.device)
        };
        if number(&mounts) != number(&still) {
            volume.mounted = None;
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// The volumes that were listed before, with what changes by itself in those that are mounted; `None`
/// when something was mounted or unmounted since.
pub(crate) fn again(
    inner: &Inner,
    before: Vec<VolumeStatus>,
) -> Result<Option<Vec<VolumeStatus>>, IoFault> {
    let mounts = observe::mounts()?;
    let root = inner.layout.mounts();
    let there = mounts.iter().filter(|entry| entry.target.starts_with(&root)).count();
    if there != before.iter().filter(|volume| volume.mounted.is_some()).count() {
        return Ok(None);
    }
    let mut found = before;
    for volume in &mut found {
        let Some(known) = &volume.mounted else { continue };
        let on_table = mount_table::mounted_at(&mounts, &inner.layout.mount(&volume.id));
        let Some(entry) = on_table.last().filter(|entry| *entry.source == *known.device) else {
            return Ok(None);
        };
        match mount_status(entry, known.direct_io)? {
            Some(status) => volume.mounted = Some(status),
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

fn one(
    inner: &Inner,
    id: VolumeId,
    configured: bool,
    mounts: &[MountEntry],
) -> Result<VolumeStatus, IoFault> {
    let path = inner.layout.image(&id);
    let image = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file);
    let metadata = image::read_metadata(&inner.layout.metadata(&id))?;
    let fault = match (&image, &metadata) {
        (None, _) => Some("there is no image".to_owned()),
        (Some(_), FoundMetadata::Absent) => Some("there is no metadata".to_owned()),
        (Some(_), FoundMetadata::Corrupt(reason)) => Some(format!("metadata: {reason}")),
        (Some(_), FoundMetadata::Present(_)) => None,
    };
    let metadata = metadata.present();
    let mounted = match mount_table::mounted_at(mounts, &inner.layout.mount(&id)).last() {
        Some(entry) => {
            let direct_io = entry.loop_minor().is_some_and(loop_device::uses_direct_io);
            mount_status(entry, direct_io)?
        }
        None => None,
    };
    Ok(VolumeStatus {
        configured,
        role: metadata.map(|found| found.role),
        file_system: metadata.map(|found| found.file_system),
        allocation: metadata.map(|found| found.allocation),
        size: ByteSize::bytes(image.as_ref().map_or(0, fs::Metadata::len)),
        allocated: ByteSize::bytes(image.as_ref().map_or(0, |found| found.blocks() * 512)),
        mounted,
        last_check: metadata.and_then(|found| found.last_check.clone()),
        fault,
        id,
    })
}

/// `None` when the mount point went away since the table was read.
fn mount_status(entry: &MountEntry, direct_io: bool) -> Result<Option<MountStatus>, IoFault> {
    let found = match statvfs(&entry.target) {
        Ok(found) => Some(found),
        Err(Errno::ENOENT) => return Ok(None),
        // A file system that shut itself down may answer nothing at all.
        Err(Errno::EIO) => None,
        Err(errno) => return Err(IoFault::new("query", &entry.target, errno)),
    };
    let unit = found.map_or(0, |found| found.fragment_size());
    let count = |field: fn(&Statvfs) -> u64| found.as_ref().map_or(0, field);
    let bytes = |blocks: u64| ByteSize::bytes(blocks.saturating_mul(unit));
    let blocks = count(Statvfs::blocks);
    Ok(Some(MountStatus {
        target: entry.target.clone(),
        device: PathBuf::from(&entry.source),
        read_only: entry.read_only,
        direct_io,
        total: bytes(blocks),
        used: bytes(blocks.saturating_sub(count(Statvfs::blocks_free))),
        available: bytes(count(Statvfs::blocks_available)),
        inodes: count(Statvfs::files),
        inodes_available: count(Statvfs::files_available),
        errors: entry.loop_minor().map_or(0, counted_errors),
        failed: found.is_none() || answers_with_an_error(&entry.target),
    }))
}

/// Ext4 counts the errors that it met; the others do not.
fn counted_errors(minor: u32) -> u64 {
    fs::read_to_string(format!("/sys/fs/ext4/loop{minor}/errors_count"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// A file system that shut itself down after an error, as XFS does, fails every lookup.
fn answers_with_an_error(mount: &Path) -> bool {
    fs::symlink_metadata(mount.join(layout::PRIVATE))
        .is_err_and(|error| error.raw_os_error() == Some(Errno::EIO as i32))
}
