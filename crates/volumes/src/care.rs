//! What an operator or a timer asks of an existing volume: trim, check, adopt.

use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::info;

use crate::core::metadata::{CheckOutcome, FoundMetadata, LastCheck, Metadata, Schema};
use crate::core::plan::{ObservedImage, Refusal, plan_adoption, plan_removal};
use crate::core::size::ByteSize;
use crate::core::spec::{Allocation, FileSystem, SYSTEM_VOLUME, VolumeId, VolumeRole};
use crate::core::superblock::Superblock;
use crate::error::{CareError, IoFault};
use crate::image::LockedImage;
use crate::tool::{self, Ended, Subject, Tool};
use crate::volumes::Inner;
use crate::{image, ioctl, observe};

/// What a check may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckMode {
    /// It only looks.
    Report,
    /// It repairs all that it can, which may cost damaged files.
    Repair,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// How it ended.
    pub outcome: CheckOutcome,
    /// The last lines that the tool wrote.
    pub report: String,
}

/// Gives the free space of a thin volume back to the host.
pub(crate) fn trim(inner: &Inner, id: &VolumeId) -> Result<ByteSize, CareError> {
    let io = |source| CareError::Io { id: id.clone(), source };
    let metadata = image::read_metadata(&inner.layout.metadata(id)).map_err(io)?;
    if metadata.present().is_none_or(|found| found.allocation == Allocation::Full) {
        return Err(CareError::FullyAllocated { id: id.clone() });
    }
    let sight = observe::volume(&inner.layout, id).map_err(io)?;
    if sight.observed.target.is_empty() {
        return Err(CareError::NotMounted { id: id.clone() });
    }
    let mount = inner.layout.mount(id);
    let root = File::open(&mount).map_err(IoFault::on("open", &mount)).map_err(io)?;
    ioctl::trim(&root).map(ByteSize::bytes).map_err(IoFault::on("trim", mount)).map_err(io)
}

/// An image that is locked and that nothing holds.
struct Idle {
    file: LockedImage,
    superblock: Superblock,
    size: u64,
    metadata: FoundMetadata,
}

fn idle(inner: &Inner, id: &VolumeId) -> Result<Idle, CareError> {
    let io = |source| CareError::Io { id: id.clone(), source };
    let refused = |refusal| CareError::Refused { id: id.clone(), refusal };
    let path = inner.layout.image(id);
    if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file()) {
        return Err(refused(Refusal::NoVolume));
    }
    let file = image::open(&path).map_err(io)?;
    let sight = observe::volume(&inner.layout, id).map_err(io)?;
    plan_removal(&sight.observed).map_err(refused)?;
    match sight.observed.image {
        ObservedImage::Absent | ObservedImage::NotAFile => Err(refused(Refusal::NoVolume)),
        ObservedImage::Present { superblock: None, .. } => Err(refused(Refusal::Unrecognised)),
        ObservedImage::Present { superblock: Some(superblock), size } => {
            Ok(Idle { file, superblock, size, metadata: sight.observed.metadata })
        }
    }
}

/// Checks the file system of a released volume, and keeps the result.
pub(crate) fn check(
    inner: &Inner,
    id: &VolumeId,
    mode: CheckMode,
) -> Result<CheckReport, CareError> {
    let volume = idle(inner, id)?;
    let file_system = volume.superblock.file_system;
    let (tool, flags): (Tool, &[&str]) = match (file_system, mode) {
        (FileSystem::Ext4, CheckMode::Report) => (tool::E2FSCK, &["-f", "-n"]),
        (FileSystem::Ext4, CheckMode::Repair) => (tool::E2FSCK, &["-f", "-y"]),
        (FileSystem::Xfs, CheckMode::Report) => (tool::XFS_REPAIR, &["-f", "-n"]),
        (FileSystem::Xfs, CheckMode::Repair) => (tool::XFS_REPAIR, &["-f"]),
        (FileSystem::Btrfs, CheckMode::Report) => (tool::BTRFS, &["check", "--readonly"]),
        // Its makers advise against `btrfs check --repair` except by hand and as a last resort.
        (FileSystem::Btrfs, CheckMode::Repair) => {
            return Err(CareError::NoRepair { id: id.clone(), file_system });
        }
    };
    let path = inner.layout.image(id);
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let subject = Subject::Image(&path, &volume.file);
    let tool_failed = |source| CareError::Tool { id: id.clone(), source: Box::new(source) };
    let limit = inner.config.check_limit;
    let ended = tool::run(&inner.runtime, tool, &flags, subject, limit).map_err(tool_failed)?;
    let outcome = outcome_of(file_system, mode, &ended)
        .ok_or_else(|| tool_failed(tool.failed(&path, &ended)))?;
    if let FoundMetadata::Present(metadata) = volume.metadata {
        let metadata = Metadata { last_check: Some(checked_now(outcome)), ..metadata };
        image::write_metadata(&inner.layout.volume(id), &metadata)
            .map_err(|source| CareError::Io { id: id.clone(), source })?;
    }
    info!(volume = %id, ?outcome, "file system checked");
    Ok(CheckReport { outcome, report: ended.last_lines() })
}

/// What an exit status says, as the manual pages of the three tools define theirs.
fn outcome_of(file_system: FileSystem, mode: CheckMode, ended: &Ended) -> Option<CheckOutcome> {
    match (file_system, mode, ended.status.code()?) {
        (FileSystem::Ext4, _, 1..=3) => Some(CheckOutcome::Repaired),
        (_, _, 0) => Some(CheckOutcome::Clean),
        (FileSystem::Ext4, _, 4..=7)
        | (FileSystem::Xfs | FileSystem::Btrfs, CheckMode::Report, 1) => {
            Some(CheckOutcome::Damaged)
        }
        _ => None,
    }
}

/// A result of this moment.
pub(crate) fn checked_now(outcome: CheckOutcome) -> LastCheck {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LastCheck { at, outcome }
}

/// Takes the image that lies in a volume's place for the volume's, on the word of an operator. The
/// image is checked and not changed.
pub(crate) fn adopt(inner: &Inner, id: &VolumeId) -> Result<(), CareError> {
    let volume = idle(inner, id)?;
    let size = plan_adoption(volume.size, &volume.superblock)
        .map_err(|refusal| CareError::Refused { id: id.clone(), refusal })?;
    let file_system = volume.superblock.file_system;
    let file_system_id = volume.superblock.id;
    drop(volume);
    let report = check(inner, id, CheckMode::Report)?;
    match report.outcome {
        CheckOutcome::Clean | CheckOutcome::Repaired => {}
        CheckOutcome::Damaged => {
            return Err(CareError::Damaged { id: id.clone(), report: report.report });
        }
    }
    let role =
        if id.volume.as_str() == SYSTEM_VOLUME { VolumeRole::System } else { VolumeRole::Data };
    let metadata = Metadata {
        schema: Schema,
        id: id.clone(),
        file_system_id,
        file_system,
        allocation: Allocation::Full,
        role,
        size: size.as_u64(),
        last_check: Some(checked_now(report.outcome)),
    };
    image::write_metadata(&inner.layout.volume(id), &metadata)
        .map_err(|source| CareError::Io { id: id.clone(), source })?;
    info!(volume = %id, %file_system_id, "image adopted");
    Ok(())
}
