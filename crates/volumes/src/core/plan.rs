//! From what is and what should be to the steps that lead from the one to the other, or to the
//! reason why nothing is touched.

use std::path::PathBuf;

use super::file_system::{self, SpecFault};
use super::layout::Place;
use super::metadata::FoundMetadata;
use super::mount_table::MountEntry;
use super::size::ByteSize;
use super::spec::{Allocation, FileSystem, VolumeId, VolumeSpec};
use super::superblock::{FileSystemId, LeftAs, Superblock};

/// What stands where a volume's image should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ObservedImage {
    Absent,
    /// A directory, a link or something else that is no plain file.
    NotAFile,
    Present {
        /// Length in bytes.
        size: u64,
        /// `None` when no known file system was recognised.
        superblock: Option<Superblock>,
    },
}

/// A loop device whose backing file is the image, by device and inode number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObservedDevice {
    pub(crate) minor: u32,
    /// Whether it spans the whole image and can be written.
    pub(crate) usable: bool,
    /// Whether any process sees a mount of it, in any mount namespace.
    pub(crate) mounted_somewhere: bool,
}

/// Everything that is looked at before a volume is provided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) image: ObservedImage,
    pub(crate) metadata: FoundMetadata,
    pub(crate) devices: Vec<ObservedDevice>,
    /// The mounts at exactly the volume's mount point, the one in force last.
    pub(crate) target: Vec<MountEntry>,
    pub(crate) growth: MountedGrowth,
}

/// Whether a mounted ext4 can be grown by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountedGrowth {
    Permitted,
    /// The kernel asks for `CAP_SYS_RESOURCE`, which this process lacks.
    NotPermitted,
}

/// One step of providing a volume. Each can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnsureStep {
    /// An empty directory to build the volume in.
    PrepareBuilding,
    /// The image in it, of this many bytes.
    AllocateImage(ByteSize),
    /// Its file system.
    Format,
    /// Its metadata.
    Mark,
    /// The directory gets its name: from here on the volume exists.
    Publish,
    /// Metadata that was lost is written again from the image itself.
    RepairMetadata,
    /// The image is lengthened to this many bytes.
    Extend(ByteSize),
    /// Every block of the image is allocated, whatever was punched out of it.
    Reserve(ByteSize),
    /// The file system is checked before it is mounted.
    Check,
    /// The file system is grown to the image's length while it is not mounted.
    GrowUnmounted,
    /// A loop device of our own gets the image.
    Attach,
    /// The device just attached, or the one that holds the image already, is mounted.
    Mount,
    /// The device learns the image's new length.
    UpdateCapacity,
    /// The file system is grown to the device's size while it is mounted.
    GrowMounted,
    /// What the volume is now is recorded.
    Record,
    /// The directories at the root of the file system, their owners and modes.
    PrepareRoot(RootState),
}

/// What is known of the root of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootState {
    /// It was mounted by this plan: owners are applied.
    FreshlyMounted,
    /// It was mounted before and may be in use.
    InUse,
}

/// The steps, and the loop device that holds the image already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnsurePlan {
    pub(crate) steps: Vec<EnsureStep>,
    pub(crate) device: Option<u32>,
    /// The size that is promised afterwards.
    pub(crate) size: ByteSize,
}

/// Why a volume is not provided, or not released, and nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The specification cannot be carried out anywhere.
    #[error(transparent)]
    Spec(#[from] SpecFault),
    /// Something that is no file stands where the image should be.
    #[error("what stands in the place of the image is not a plain file; move it away")]
    NotAFile,
    /// The image holds nothing known. It is not formatted, because it may be somebody's data.
    #[error(
        "the image holds no file system that is known here and is not formatted; restore it, or \
         reset the volume to begin with an empty one"
    )]
    Unrecognised,
    /// The image holds another file system than specified.
    #[error("the image holds {found}, the specification says {wanted}; a volume is not converted")]
    OtherFileSystem {
        /// What was specified.
        wanted: FileSystem,
        /// What the image holds.
        found: FileSystem,
    },
    /// The image is not the one that was made for this volume.
    #[error(
        "the image carries file system {found}, this volume was made with {expected}; adopt the \
         image if it is meant"
    )]
    OtherImage {
        /// What the metadata names.
        expected: FileSystemId,
        /// What the image carries.
        found: FileSystemId,
    },
    /// There is no metadata, and the image does not carry our mark.
    #[error(
        "the image was not made by this daemon (no metadata, no mark); adopt it if it is meant"
    )]
    Unmarked,
    /// The image is shorter than its file system.
    #[error("the image has {image} but its file system spans {expected}; it was truncated")]
    Truncated {
        /// Length of the image.
        image: ByteSize,
        /// What it should have.
        expected: ByteSize,
    },
    /// The specification asks for less than there is.
    #[error("the volume has {from} and is not shrunk to {to}; copy the data to a new volume")]
    Shrink {
        /// What it has.
        from: ByteSize,
        /// What was asked for.
        to: ByteSize,
    },
    /// Something else is mounted at the volume's mount point.
    #[error("{file_system} from {device} is mounted in the volume's place; unmount it")]
    MountPointTaken {
        /// What is mounted there.
        file_system: String,
        /// From what.
        device: String,
    },
    /// More than one loop device writes to the image.
    #[error("the image is attached to several loop devices ({devices}); detach all but one")]
    SeveralDevices {
        /// Their names, comma-separated.
        devices: String,
    },
    /// The image is attached in a way that this daemon does not use.
    #[error("/dev/loop{minor} holds the image read-only or in part; detach it")]
    OtherUse {
        /// Which loop device.
        minor: u32,
    },
    /// The file system stopped accepting writes.
    #[error(
        "the file system is read-only after an error; release the volume to have it checked and \
         mounted again"
    )]
    ReadOnly,
    /// The volume must be unmounted to be grown here.
    #[error(
        "a mounted ext4 is grown only with CAP_SYS_RESOURCE; stop the workload to grow the volume \
         from {from} to {to}, or give the daemon the capability"
    )]
    GrowthNeedsRelease {
        /// What it has.
        from: ByteSize,
        /// What was asked for.
        to: ByteSize,
    },
    /// There is no volume of this name.
    #[error("the volume does not exist")]
    NoVolume,
    /// The volume is mounted or attached.
    #[error("the volume is in use by {holder}")]
    InUse {
        /// The mount or the device that uses it.
        holder: String,
    },
}

/// Decides how to provide a volume.
pub(crate) fn plan_ensure(spec: &VolumeSpec, observed: &Observed) -> Result<EnsurePlan, Refusal> {
    let wanted = file_system::image_size(spec)?;
    let (image_size, superblock) = match &observed.image {
        ObservedImage::NotAFile => return Err(Refusal::NotAFile),
        ObservedImage::Absent => return plan_creation(wanted, observed),
        ObservedImage::Present { superblock: None, .. } => return Err(Refusal::Unrecognised),
        ObservedImage::Present { size, superblock: Some(superblock) } => (*size, superblock),
    };
    confirm_identity(spec, observed, superblock)?;
    let image = ByteSize::bytes(image_size);
    // What was promised is what is recorded. The file, and the file system, may be larger after a
    // growth that was cut off; that is completed when it is wanted, and else does no harm.
    let promised = observed.metadata.present().map_or(superblock.size, |found| found.size);
    let least = ByteSize::bytes(promised.max(superblock.size));
    if image < least {
        return Err(Refusal::Truncated { image, expected: least });
    }
    let promised = ByteSize::bytes(promised);
    if wanted < promised {
        return Err(Refusal::Shrink { from: promised, to: wanted });
    }
    let device = the_device(&observed.devices)?;
    let mounted = mounted_here(observed)?;
    let growing = wanted > promised;
    let grown_mounted =
        spec.file_system != FileSystem::Ext4 || observed.growth == MountedGrowth::Permitted;
    let live = mounted || device.is_some_and(|device| device.mounted_somewhere);

    let mut steps = Vec::new();
    if observed.metadata.present().is_none() {
        steps.push(EnsureStep::RepairMetadata);
    }
    if growing && live && !grown_mounted {
        return Err(Refusal::GrowthNeedsRelease { from: promised, to: wanted });
    }
    if wanted > image {
        steps.push(EnsureStep::Extend(wanted));
    }
    if spec.allocation == Allocation::Full {
        steps.push(EnsureStep::Reserve(wanted.max(image)));
    }
    if !live && superblock.left_as != LeftAs::Clean {
        steps.push(EnsureStep::Check);
    }
    if growing && !live && !grown_mounted {
        steps.push(EnsureStep::GrowUnmounted);
    }
    if !mounted {
        if device.is_none() {
            steps.push(EnsureStep::Attach);
        }
        steps.push(EnsureStep::Mount);
    }
    if growing && grown_mounted {
        steps.extend([EnsureStep::UpdateCapacity, EnsureStep::GrowMounted]);
    }
    let told_otherwise =
        observed.metadata.present().is_some_and(|found| found.allocation != spec.allocation);
    if growing || told_otherwise {
        steps.push(EnsureStep::Record);
    }
    let root = if live { RootState::InUse } else { RootState::FreshlyMounted };
    steps.push(EnsureStep::PrepareRoot(root));
    Ok(EnsurePlan { steps, device: device.map(|device| device.minor), size: wanted })
}

fn plan_creation(size: ByteSize, observed: &Observed) -> Result<EnsurePlan, Refusal> {
    if let Some(entry) = observed.target.last() {
        return Err(taken(entry));
    }
    // Only an image that was deleted while attached is held without being there.
    if let Some(device) = observed.devices.first() {
        return Err(Refusal::InUse { holder: format!("/dev/loop{}", device.minor) });
    }
    let steps = vec![
        EnsureStep::PrepareBuilding,
        EnsureStep::AllocateImage(size),
        EnsureStep::Format,
        EnsureStep::Mark,
        EnsureStep::Publish,
        EnsureStep::Attach,
        EnsureStep::Mount,
        EnsureStep::PrepareRoot(RootState::FreshlyMounted),
    ];
    Ok(EnsurePlan { steps, device: None, size })
}

fn confirm_identity(
    spec: &VolumeSpec,
    observed: &Observed,
    superblock: &Superblock,
) -> Result<(), Refusal> {
    if superblock.file_system != spec.file_system {
        return Err(Refusal::OtherFileSystem {
            wanted: spec.file_system,
            found: superblock.file_system,
        });
    }
    match observed.metadata.present() {
        Some(metadata) if metadata.file_system_id != superblock.id => {
            Err(Refusal::OtherImage { expected: metadata.file_system_id, found: superblock.id })
        }
        None if !superblock.labelled_ours => Err(Refusal::Unmarked),
        Some(_) | None => Ok(()),
    }
}

fn the_device(devices: &[ObservedDevice]) -> Result<Option<&ObservedDevice>, Refusal> {
    match devices {
        [] => Ok(None),
        [device] if !device.usable => Err(Refusal::OtherUse { minor: device.minor }),
        [device] => Ok(Some(device)),
        several => {
            let names: Vec<_> =
                several.iter().map(|device| format!("/dev/loop{}", device.minor)).collect();
            Err(Refusal::SeveralDevices { devices: names.join(", ") })
        }
    }
}

/// Whether the volume is mounted in its place; anything else there is a refusal.
fn mounted_here(observed: &Observed) -> Result<bool, Refusal> {
    let Some(entry) = observed.target.last() else { return Ok(false) };
    if !is_ours(entry, &observed.devices) {
        return Err(taken(entry));
    }
    if entry.read_only {
        return Err(Refusal::ReadOnly);
    }
    Ok(true)
}

fn is_ours(entry: &MountEntry, devices: &[ObservedDevice]) -> bool {
    devices.iter().any(|device| entry.loop_minor() == Some(device.minor))
}

fn taken(entry: &MountEntry) -> Refusal {
    Refusal::MountPointTaken {
        file_system: entry.file_system.clone(),
        device: entry.source.to_string_lossy().into_owned(),
    }
}

/// One step of releasing a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseStep {
    /// Unmounts what is in force at the mount point.
    Unmount,
    /// Takes the image from a device that does not do so by itself.
    Detach(u32),
    /// Waits until the kernel's tables no longer hold the image.
    ConfirmGone,
    /// Removes the device's number.
    RemoveMinor(u32),
}

/// Decides how to release a volume. What is mounted in its place from another source stays.
pub(crate) fn plan_release(observed: &Observed) -> Result<Vec<ReleaseStep>, Refusal> {
    if let Some(foreign) = observed.target.iter().find(|entry| !is_ours(entry, &observed.devices)) {
        return Err(taken(foreign));
    }
    let mut steps = vec![ReleaseStep::Unmount; observed.target.len()];
    for device in &observed.devices {
        steps.push(ReleaseStep::Detach(device.minor));
    }
    steps.push(ReleaseStep::ConfirmGone);
    for device in &observed.devices {
        steps.push(ReleaseStep::RemoveMinor(device.minor));
    }
    Ok(steps)
}

/// Decides whether a volume may be deleted.
pub(crate) fn plan_removal(observed: &Observed) -> Result<(), Refusal> {
    if let Some(entry) = observed.target.last() {
        return Err(Refusal::InUse { holder: entry.target.display().to_string() });
    }
    match observed.devices.first() {
        Some(device) => Err(Refusal::InUse { holder: format!("/dev/loop{}", device.minor) }),
        None => Ok(()),
    }
}

/// Decides whether an image of this length can be taken for a volume, and its settled size.
pub(crate) fn plan_adoption(image: u64, superblock: &Superblock) -> Result<ByteSize, Refusal> {
    if image < superblock.size {
        let expected = ByteSize::bytes(superblock.size);
        return Err(Refusal::Truncated { image: ByteSize::bytes(image), expected });
    }
    Ok(ByteSize::bytes(superblock.size))
}

/// How the pool comes to be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolPlan {
    /// There is none: it is made with this size and mounted.
    Create(ByteSize),
    /// It exists, and this device may hold it already.
    Mount {
        /// The device that holds it.
        device: Option<u32>,
    },
    /// It is mounted.
    Adopt {
        /// From this device.
        device: u32,
    },
}

/// Decides how to provide the pool. An image that is not a pool of ours is not touched.
pub(crate) fn plan_pool(
    size: ByteSize,
    image: &ObservedImage,
    devices: &[ObservedDevice],
    target: &[MountEntry],
) -> Result<PoolPlan, Refusal> {
    let minimum = file_system::minimum(FileSystem::Xfs);
    let rounded = size.round_up(file_system::BLOCK).unwrap_or(size);
    let volume = || "of the pool".to_owned();
    if rounded < minimum {
        let file_system = FileSystem::Xfs;
        return Err(SpecFault::TooSmall { volume: volume(), size, file_system, minimum }.into());
    }
    if rounded > file_system::LARGEST {
        return Err(SpecFault::TooLarge { volume: volume(), size }.into());
    }
    let foreign = target.iter().find(|entry| !is_ours(entry, devices));
    if let Some(entry) = foreign {
        return Err(taken(entry));
    }
    let (length, superblock) = match image {
        ObservedImage::Absent => return Ok(PoolPlan::Create(rounded)),
        ObservedImage::NotAFile => return Err(Refusal::NotAFile),
        ObservedImage::Present { superblock: None, .. } => return Err(Refusal::Unrecognised),
        ObservedImage::Present { size, superblock: Some(superblock) } => (*size, superblock),
    };
    if superblock.file_system != FileSystem::Xfs {
        let (wanted, found) = (FileSystem::Xfs, superblock.file_system);
        return Err(Refusal::OtherFileSystem { wanted, found });
    }
    if !superblock.labelled_ours {
        return Err(Refusal::Unmarked);
    }
    if length < superblock.size {
        let expected = ByteSize::bytes(superblock.size);
        return Err(Refusal::Truncated { image: ByteSize::bytes(length), expected });
    }
    let device = the_device(devices)?.map(|device| device.minor);
    match (target.last().and_then(MountEntry::loop_minor), device) {
        (Some(device), _) => Ok(PoolPlan::Adopt { device }),
        (None, device) => Ok(PoolPlan::Mount { device }),
    }
}

/// A loop device found at start, with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundDevice {
    pub(crate) minor: u32,
    /// The volume whose directory the backing file lies, or lay, in.
    pub(crate) volume: Option<(VolumeId, Place)>,
    pub(crate) mounted_somewhere: bool,
    /// Whether the backing file was deleted.
    pub(crate) deleted: bool,
}

/// Everything that is looked at when the daemon starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FoundAtStart {
    /// Loop devices with a backing file.
    pub(crate) devices: Vec<FoundDevice>,
    /// Loop devices of our own range without one.
    pub(crate) idle_minors: Vec<u32>,
    /// Directories in which a volume was being built or removed.
    pub(crate) half_done: Vec<(VolumeId, Place, PathBuf)>,
    /// Clones that ended with the process that made them, and unfinished ones.
    pub(crate) passing: Vec<PathBuf>,
}

/// What is done about one thing found at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecoveryStep {
    /// It is in use on this device and stays as it is.
    Adopt(VolumeId, u32),
    /// Its image was deleted while it was mounted: it stays until it is released.
    ReportDeleted(VolumeId, u32),
    /// A generation that the earlier run was reading.
    ReleaseGeneration(u32),
    /// Nothing uses it.
    Detach(u32),
    /// An unused number of our own range.
    RemoveMinor(u32),
    /// A volume that never got its name, or lost it.
    DeleteDirectory(PathBuf),
    /// A clone that nobody reads any more.
    DeleteClone(PathBuf),
}

/// Decides what to do with what an earlier run left.
pub(crate) fn plan_recovery(found: &FoundAtStart) -> Vec<RecoveryStep> {
    let mut steps = Vec::new();
    for device in &found.devices {
        let Some((id, place)) = &device.volume else { continue };
        match (device.mounted_somewhere, device.deleted) {
            (true, _) if *place == Place::Generation => {
                steps.push(RecoveryStep::ReleaseGeneration(device.minor));
            }
            (true, false) => steps.push(RecoveryStep::Adopt(id.clone(), device.minor)),
            (true, true) => steps.push(RecoveryStep::ReportDeleted(id.clone(), device.minor)),
            (false, _) => {
                steps.push(RecoveryStep::Detach(device.minor));
                steps.push(RecoveryStep::RemoveMinor(device.minor));
            }
        }
    }
    steps.extend(found.idle_minors.iter().map(|&minor| RecoveryStep::RemoveMinor(minor)));
    for (id, place, path) in &found.half_done {
        let held = found.devices.iter().any(|device| {
            device.mounted_somewhere
                && device.volume.as_ref().is_some_and(|(of, at)| of == id && at == place)
        });
        if !held {
            steps.push(RecoveryStep::DeleteDirectory(path.clone()));
        }
    }
    // Their mounts were released above. One that another namespace still sees only loses its name.
    steps.extend(found.passing.iter().cloned().map(RecoveryStep::DeleteClone));
    steps
}

#[cfg(test)]
mod tests;
