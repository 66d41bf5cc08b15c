//! Providing a volume: looks, plans, carries the steps out, and takes back what this call did when
//! one fails.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::minor;
use sys_mount::{Mount, MountFlags, PropagationType, UnmountFlags};
use tracing::{info, warn};

use crate::care::checked_now;
use crate::core::file_system::{self, Discard, Reserve};
use crate::core::layout::{DATA, Layout, PRIVATE};
use crate::core::metadata::{CheckOutcome, Metadata, Schema};
use crate::core::plan::{EnsurePlan, EnsureStep, ObservedImage, plan_ensure};
use crate::core::size::ByteSize;
use crate::core::spec::{Allocation, Execution, FileSystem, MountedVolume, Origin, VolumeSpec};
use crate::core::superblock::{FileSystemId, Superblock};
use crate::error::{EnsureError, IoFault, ToolError};
use crate::failpoint::{self, Moment};
use crate::image::{self, LockedImage};
use crate::loop_device::{self, AttachError, AttachedDevice, DiscardLimits};
use crate::tool::{self, Subject, Tool};
use crate::volumes::Inner;
use crate::{generation, observe, root};

/// A fault before it is told which volume it concerns.
enum Fault {
    Io(IoFault),
    Tool(ToolError),
    HostFull { needed: ByteSize, available: ByteSize },
    Damaged(String),
    NoFreeDevice,
}

impl From<IoFault> for Fault {
    fn from(fault: IoFault) -> Self {
        Self::Io(fault)
    }
}

impl From<ToolError> for Fault {
    fn from(error: ToolError) -> Self {
        Self::Tool(error)
    }
}

/// What is left to do for a volume that is ready for use.
pub(crate) struct Settling {
    spec: VolumeSpec,
    size: ByteSize,
    limits: DiscardLimits,
}

/// Makes the device of a new mount refuse discards, and allocates again what one may have punched
/// out meanwhile.
pub(crate) fn settle(inner: &Inner, settling: Settling) {
    let id = &settling.spec.id;
    let path = inner.layout.image(id);
    let settled = settling.limits.refuse().and_then(|()| {
        let file = image::open_unlocked(&path)?;
        image::reserve(&path, &file, settling.size)
    });
    if let Err(error) = settled {
        // The next call on this volume does it again and fails where it fails; until then status
        // shows what is allocated.
        warn!(volume = %id, %error, "the reservation is not settled");
    }
}

/// Provides the volume.
pub(crate) fn ensure(
    inner: &Inner,
    spec: &VolumeSpec,
) -> Result<(MountedVolume, Option<Settling>), EnsureError> {
    let id = &spec.id;
    let io = |source| EnsureError::Io { id: id.clone(), source };
    let path = inner.layout.image(id);
    // Locked before it is looked at: a tool of a killed daemon may still be at work on it.
    let present = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    let locked = if present { Some(image::open(&path).map_err(io)?) } else { None };
    let sight = observe::volume(&inner.layout, id).map_err(io)?;
    let plan = plan_ensure(spec, &sight.observed)
        .map_err(|refusal| EnsureError::Refused { id: id.clone(), refusal })?;
    let superblock = match sight.observed.image {
        ObservedImage::Present { superblock, .. } => superblock,
        ObservedImage::Absent | ObservedImage::NotAFile => None,
    };
    let mut work = Work {
        inner,
        spec,
        size: plan.size,
        reserve: inner.reserve_of(spec),
        mount: inner.layout.mount(id),
        image: locked,
        image_path: path,
        metadata: sight.observed.metadata.present().cloned(),
        superblock,
        attached: None,
        device: plan.device,
        mounted_now: false,
    };
    let origin =
        if plan.steps.contains(&EnsureStep::Publish) { Origin::Created } else { Origin::Existing };
    match work.carry_out(&plan) {
        Ok(()) => {
            let settling = work.settling();
            Ok((work.done(origin), settling))
        }
        Err(fault) => {
            work.take_back();
            Err(work.explain(fault))
        }
    }
}

struct Work<'a> {
    inner: &'a Inner,
    spec: &'a VolumeSpec,
    size: ByteSize,
    reserve: Reserve,
    mount: PathBuf,
    image: Option<LockedImage>,
    image_path: PathBuf,
    metadata: Option<Metadata>,
    superblock: Option<Superblock>,
    /// Kept open until the mount holds the device.
    attached: Option<AttachedDevice>,
    device: Option<u32>,
    mounted_now: bool,
}

impl Work<'_> {
    fn carry_out(&mut self, plan: &EnsurePlan) -> Result<(), Fault> {
        for step in &plan.steps {
            failpoint::reach("ensure", step, Moment::Before)?;
            self.step(*step)?;
            failpoint::reach("ensure", step, Moment::After)?;
        }
        Ok(())
    }

    fn step(&mut self, step: EnsureStep) -> Result<(), Fault> {
        match step {
            EnsureStep::PrepareBuilding => self.prepare_building(),
            EnsureStep::AllocateImage(size) => self.allocate_image(size),
            EnsureStep::Format => self.format(),
            EnsureStep::Mark => self.mark(),
            EnsureStep::Publish => self.publish(),
            EnsureStep::RepairMetadata => self.repair_metadata(),
            EnsureStep::Extend(size) => self.extend(size),
            EnsureStep::Reserve(size) => self.keep_reserved(size),
            EnsureStep::Check => self.check(),
            EnsureStep::GrowUnmounted => self.grow_unmounted(),
            EnsureStep::Attach => self.attach(),
            EnsureStep::Mount => self.mount(),
            EnsureStep::UpdateCapacity => Ok(loop_device::update_capacity(self.device()?)?),
            EnsureStep::GrowMounted => self.grow_mounted(),
            EnsureStep::Record => self.record(),
            EnsureStep::PrepareRoot(state) => Ok(root::prepare(&self.mount, self.spec, state)?),
        }
    }

    fn building(&self) -> PathBuf {
        self.inner.layout.building(&self.spec.id)
    }

    fn directory(&self) -> PathBuf {
        self.inner.layout.volume(&self.spec.id)
    }

    fn prepare_building(&mut self) -> Result<(), Fault> {
        image::make_directory(&self.inner.layout.workload(&self.spec.id), 0o700)?;
        image::delete_directory(&self.building())?;
        image::make_image_directory(&self.building())?;
        self.image_path = Layout::image_in(&self.building());
        Ok(())
    }

    fn allocate_image(&mut self, size: ByteSize) -> Result<(), Fault> {
        self.require_space(size)?;
        let file = image::create(&self.image_path)?;
        self.lengthen(&file, size)?;
        self.image = Some(file);
        Ok(())
    }

    /// Checks that the host has this much to give for an image.
    fn require_space(&self, needed: ByteSize) -> Result<(), Fault> {
        let available = self.available()?;
        if self.spec.allocation == Allocation::Full && needed > available {
            return Err(Fault::HostFull { needed, available });
        }
        if available == ByteSize::ZERO {
            return Err(Fault::HostFull { needed, available });
        }
        Ok(())
    }

    fn available(&self) -> Result<ByteSize, IoFault> {
        let free = image::available(self.inner.layout.images())?;
        let committed =
            generation::committed_beside(self.inner, std::slice::from_ref(&self.spec.id))?;
        Ok(free.saturating_sub(self.inner.config.keep_free).saturating_sub(committed))
    }

    fn lengthen(&self, file: &LockedImage, size: ByteSize) -> Result<(), Fault> {
        let done = image::extend(&self.image_path, file, size, self.spec.allocation);
        self.explain_full(done, size)
    }

    fn explain_full(&self, done: Result<(), IoFault>, needed: ByteSize) -> Result<(), Fault> {
        match done {
            Err(fault) if fault.is_full() => {
                Err(Fault::HostFull { needed, available: self.available()? })
            }
            done => Ok(done?),
        }
    }

    fn format(&mut self) -> Result<(), Fault> {
        let id = image::new_file_system_id()?;
        let FileSystemSettings { tool, arguments } = self.settings(id);
        let limit = self.inner.config.make_limit;
        self.run(tool, &arguments, limit)?;
        let file = self.image()?;
        if self.spec.allocation == Allocation::Full {
            let done = image::reserve(&self.image_path, file, self.size);
            self.explain_full(done, self.size)?;
        }
        file.sync_all().map_err(IoFault::on("sync", &self.image_path))?;
        self.metadata = Some(self.describe(id, self.size));
        Ok(())
    }

    fn settings(&self, id: FileSystemId) -> FileSystemSettings {
        let file_system = self.spec.file_system;
        let tools = self.inner.ext4_tools;
        let arguments =
            file_system::mkfs_arguments(file_system, self.size, id, self.reserve, tools);
        FileSystemSettings { tool: tool::mkfs(file_system), arguments }
    }

    fn describe(&self, id: FileSystemId, size: ByteSize) -> Metadata {
        Metadata {
            schema: Schema,
            id: self.spec.id.clone(),
            file_system_id: id,
            file_system: self.spec.file_system,
            allocation: self.spec.allocation,
            role: self.spec.role,
            size: size.as_u64(),
            last_check: None,
        }
    }

    fn mark(&mut self) -> Result<(), Fault> {
        Ok(image::write_metadata(&self.building(), self.known()?)?)
    }

    fn publish(&mut self) -> Result<(), Fault> {
        let workload = self.inner.layout.workload(&self.spec.id);
        image::publish(&self.building(), &self.directory(), &workload)?;
        self.image_path = self.inner.layout.image(&self.spec.id);
        info!(volume = %self.spec.id, size = %self.size, "volume created");
        Ok(())
    }

    fn repair_metadata(&mut self) -> Result<(), Fault> {
        let Some(superblock) = &self.superblock else {
            return Err(missing("the superblock", &self.image_path).into());
        };
        warn!(volume = %self.spec.id, "metadata was lost and is written again from the image");
        let size = ByteSize::bytes(superblock.size);
        self.metadata = Some(self.describe(superblock.id, size));
        self.inform()
    }

    fn extend(&mut self, size: ByteSize) -> Result<(), Fault> {
        let file = self.image()?;
        let length = file.metadata().map_err(IoFault::on("query", &self.image_path))?.len();
        self.require_space(size.saturating_sub(ByteSize::bytes(length)))?;
        self.lengthen(file, size)
    }

    fn keep_reserved(&mut self, size: ByteSize) -> Result<(), Fault> {
        let done = image::reserve(&self.image_path, self.image()?, size);
        self.explain_full(done, size)?;
        // The limit outlives the attachment, so it is set on devices of our own only: those are
        // removed afterwards.
        match self.device.filter(|minor| self.inner.minors.contains(*minor)) {
            Some(minor) => Ok(DiscardLimits::open(minor)?.refuse()?),
            None => Ok(()),
        }
    }

    fn check(&mut self) -> Result<(), Fault> {
        let arguments = ["-p".to_owned()];
        let outcome = self.run_check(&arguments)?;
        self.note_check(outcome)
    }

    /// Runs e2fsck. Its exit status is a set of bits: 1 and 2 say that it repaired something, 4
    /// that something is left to repair (e2fsck(8)).
    fn run_check(&self, arguments: &[String]) -> Result<CheckOutcome, Fault> {
        let limit = self.inner.config.check_limit;
        let image = Subject::Image(&self.image_path, self.image()?);
        let ended = tool::run(&self.inner.runtime, tool::E2FSCK, arguments, image, limit)?;
        match ended.status.code() {
            Some(0) => Ok(CheckOutcome::Clean),
            Some(1..=3) => Ok(CheckOutcome::Repaired),
            Some(4..=7) => {
                // The verdict outlives the failure if it can be written.
                let _kept = self
                    .clone_with_check(CheckOutcome::Damaged)
                    .map(|metadata| image::write_metadata(&self.directory(), &metadata));
                Err(Fault::Damaged(ended.last_lines()))
            }
            _ => Err(tool::E2FSCK.failed(&self.image_path, &ended).into()),
        }
    }

    fn clone_with_check(&self, outcome: CheckOutcome) -> Option<Metadata> {
        Some(Metadata { last_check: Some(checked_now(outcome)), ..self.metadata.clone()? })
    }

    fn note_check(&mut self, outcome: CheckOutcome) -> Result<(), Fault> {
        info!(volume = %self.spec.id, ?outcome, "file system checked");
        self.metadata = self.clone_with_check(outcome);
        self.inform()
    }

    /// Writes metadata that only informs. A full host does not keep a volume from being mounted.
    fn inform(&self) -> Result<(), Fault> {
        match image::write_metadata(&self.directory(), self.known()?) {
            Err(fault) if fault.is_full() => {
                warn!(volume = %self.spec.id, error = %fault, "metadata is not written: no space");
                Ok(())
            }
            done => Ok(done?),
        }
    }

    fn grow_unmounted(&mut self) -> Result<(), Fault> {
        // resize2fs insists on a full check first.
        let outcome = self.run_check(&["-f".to_owned(), "-p".to_owned()])?;
        self.note_check(outcome)?;
        let limit = self.inner.config.check_limit;
        self.run(tool::RESIZE2FS, &[], limit)
    }

    fn attach(&mut self) -> Result<(), Fault> {
        let discard = Discard::from(self.spec.allocation);
        // Its own descriptor: the device keeps the one it is given, and with it would keep the lock.
        let file = image::open_unlocked(&self.image_path)?;
        let attached = loop_device::attach(&self.inner.minors, &file, &self.image_path, discard)
            .map_err(|error| match error {
                AttachError::NoFreeDevice => Fault::NoFreeDevice,
                AttachError::Io(fault) => Fault::Io(fault),
            })?;
        self.device = Some(attached.minor);
        self.attached = Some(attached);
        Ok(())
    }

    fn mount(&mut self) -> Result<(), Fault> {
        let device = self.device()?;
        let source = loop_device::device_path(device);
        image::make_directory(&self.mount, 0o711)?;
        let options = file_system::mount_options(self.spec, self.reserve);
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        if options.execution == Execution::Denied {
            flags |= MountFlags::NOEXEC;
        }
        let mounted = Mount::builder()
            .fstype(options.file_system.name())
            .flags(flags)
            .data(&options.data)
            .mount(&source, &self.mount);
        let mut mounted = match mounted {
            Ok(mounted) => mounted,
            Err(error) if error.raw_os_error() == Some(Errno::EUCLEAN as i32) => {
                return Err(Fault::Damaged("the kernel refuses to mount it".to_owned()));
            }
            Err(error) => return Err(IoFault::new("mount", &self.mount, error).into()),
        };
        self.mounted_now = true;
        // Mounts that appear or go elsewhere must not follow this one around.
        mounted
            .set_propagation_type(PropagationType::PRIVATE)
            .map_err(IoFault::on("make private", &self.mount))?;
        let on = std::fs::metadata(&self.mount).map_err(IoFault::on("query", &self.mount))?.dev();
        if self.spec.file_system != FileSystem::Btrfs && minor(on) != u64::from(device) {
            return Err(missing("the new mount", &self.mount).into());
        }
        Ok(())
    }

    fn grow_mounted(&mut self) -> Result<(), Fault> {
        let device = loop_device::device_path(self.device()?);
        let limit = self.inner.config.check_limit;
        let (tool, arguments, subject) = match self.spec.file_system {
            FileSystem::Ext4 => (tool::RESIZE2FS, vec![], &device),
            FileSystem::Xfs => (tool::XFS_GROWFS, vec!["-d".to_owned()], &self.mount),
            FileSystem::Btrfs => {
                let words = ["filesystem", "resize", "max"].map(str::to_owned);
                (tool::BTRFS, words.to_vec(), &self.mount)
            }
        };
        self.run_on(tool, &arguments, Subject::Live(subject, self.image()?), limit)?;
        // New metadata blocks are zeroed by discarding, where the kernel does not let us forbid it.
        if self.spec.allocation == Allocation::Full {
            self.keep_reserved(self.size)?;
        }
        Ok(())
    }

    fn record(&mut self) -> Result<(), Fault> {
        let size = self.size.as_u64();
        let allocation = self.spec.allocation;
        self.metadata = Some(Metadata { allocation, size, ..self.known()?.clone() });
        Ok(image::write_metadata(&self.directory(), self.known()?)?)
    }

    fn run(&self, tool: Tool, arguments: &[String], limit: Duration) -> Result<(), Fault> {
        self.run_on(tool, arguments, Subject::Image(&self.image_path, self.image()?), limit)
    }

    fn run_on(
        &self,
        tool: Tool,
        arguments: &[String],
        subject: Subject<'_>,
        limit: Duration,
    ) -> Result<(), Fault> {
        let ended = tool::run(&self.inner.runtime, tool, arguments, subject, limit)?;
        if ended.status.success() {
            return Ok(());
        }
        Err(tool.failed(&self.image_path, &ended).into())
    }

    fn image(&self) -> Result<&LockedImage, IoFault> {
        self.image.as_ref().ok_or_else(|| missing("the image", &self.image_path))
    }

    fn device(&self) -> Result<u32, IoFault> {
        self.device.ok_or_else(|| missing("the loop device", &self.image_path))
    }

    fn known(&self) -> Result<&Metadata, IoFault> {
        self.metadata.as_ref().ok_or_else(|| missing("the metadata", &self.image_path))
    }

    /// Undoes the mount and the attachment of this call, and what was never published.
    fn take_back(&mut self) {
        if self.mounted_now
            && let Err(error) = sys_mount::unmount(&self.mount, UnmountFlags::empty())
        {
            warn!(volume = %self.spec.id, %error, "cannot take the mount back; the next call adopts it");
        }
        if let Some(AttachedDevice { minor, device, .. }) = self.attached.take() {
            drop(device);
            loop_device::remove_minor(&self.inner.minors, minor);
        }
        self.image = None;
        if let Err(error) = image::delete_directory(&self.building()) {
            warn!(volume = %self.spec.id, %error, "cannot delete what was built; the next call does");
        }
    }

    fn settling(&mut self) -> Option<Settling> {
        let limits = self.attached.as_mut()?.limits.take()?;
        Some(Settling { spec: self.spec.clone(), size: self.size, limits })
    }

    fn explain(&self, fault: Fault) -> EnsureError {
        let id = self.spec.id.clone();
        match fault {
            Fault::Io(source) => EnsureError::Io { id, source },
            Fault::Tool(source) => EnsureError::Tool { id, source: Box::new(source) },
            Fault::Damaged(report) => EnsureError::Damaged { id, report },
            Fault::NoFreeDevice => EnsureError::NoFreeDevice { id, count: self.inner.minors.len() },
            Fault::HostFull { needed, available } => {
                let directory = self.inner.layout.images().to_owned();
                EnsureError::HostFull { id, needed, available, directory }
            }
        }
    }

    fn done(self, origin: Origin) -> MountedVolume {
        MountedVolume {
            id: self.spec.id.clone(),
            data: self.mount.join(DATA),
            private: self.mount.join(PRIVATE),
            mount: self.mount,
            device: self.device.map(loop_device::device_path).unwrap_or_default(),
            size: self.size,
            origin,
        }
    }
}

struct FileSystemSettings {
    tool: Tool,
    arguments: Vec<String>,
}

fn missing(what: &str, subject: &Path) -> IoFault {
    IoFault::new("find", subject, io::Error::new(io::ErrorKind::NotFound, what.to_owned()))
}
