//! A pool: one fully allocated xfs image that holds all other images, for hosts whose own file
//! system cannot clone by reference.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sys_mount::{Mount, MountFlags, PropagationType, UnmountFlags};
use tokio::runtime::Handle;
use tracing::info;

use crate::core::file_system::{Discard, Ext4Tools, Reserve, mkfs_arguments};
use crate::core::layout::Layout;
use crate::core::mount_table;
use crate::core::plan::{PoolPlan, plan_pool};
use crate::core::size::ByteSize;
use crate::core::spec::{Allocation, FileSystem};
use crate::error::{IoFault, OpenError};
use crate::failpoint::{self, Moment};
use crate::loop_device::{self, AttachError, Minors};
use crate::tool::{self, Subject, Tool};
use crate::volumes::VolumesConfig;
use crate::{image, observe};

/// What is needed to provide the pool before there is a handle.
pub(crate) struct Provider<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) config: &'a VolumesConfig,
    pub(crate) minors: &'a Minors,
    pub(crate) runtime: &'a Handle,
}

#[derive(Debug)]
enum PoolStep {
    Allocate,
    Format,
    Publish,
    Attach,
    Mount,
}

impl Provider<'_> {
    /// Makes the pool, or mounts it, or finds it mounted; a larger size grows it.
    pub(crate) fn provide(&self, size: ByteSize) -> Result<(), OpenError> {
        let (path, mount) = (self.layout.pool_image(), self.layout.pool_mount());
        let (found, identity) = image::observe(&path)?;
        let target: Vec<_> =
            mount_table::mounted_at(&observe::mounts()?, &mount).into_iter().cloned().collect();
        let devices = match &identity {
            Some(identity) => loop_device::holding(&path, identity, self.layout.images())?,
            None => Vec::new(),
        };
        let plan = plan_pool(size, &found, &devices, &target).map_err(OpenError::Pool)?;
        let device = match plan {
            PoolPlan::Create(size) => {
                self.create(&path, size)?;
                self.mount(&path, &mount, None)?
            }
            PoolPlan::Mount { device } => self.mount(&path, &mount, device)?,
            PoolPlan::Adopt { device } => device,
        };
        self.grow(&path, &mount, device, size)?;
        image::make_directory(self.layout.images(), 0o700)?;
        Ok(())
    }

    fn create(&self, path: &Path, size: ByteSize) -> Result<(), OpenError> {
        let building = self.layout.pool_building();
        let directory = path.parent().unwrap_or(Path::new("/"));
        match fs::remove_file(&building) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(IoFault::new("delete", building, error).into());
            }
            _ => {}
        }
        self.require_space(directory, size)?;
        reach(&PoolStep::Allocate, Moment::Before)?;
        let file = image::create(&building)?;
        image::extend(&building, &file, size, Allocation::Full)?;
        reach(&PoolStep::Format, Moment::Before)?;
        let id = image::new_file_system_id()?;
        let no_reserve = Reserve { percent: 0, uid: 0 };
        let unused = Ext4Tools::AssumesZeroes;
        let arguments = mkfs_arguments(FileSystem::Xfs, size, id, no_reserve, unused);
        let image = Subject::Image(&building, &file);
        self.run(tool::mkfs(FileSystem::Xfs), &arguments, image)?;
        image::reserve(&building, &file, size)?;
        file.sync_all().map_err(IoFault::on("sync", &building))?;
        reach(&PoolStep::Publish, Moment::Before)?;
        fs::rename(&building, path).map_err(IoFault::on("rename", &building))?;
        image::sync_directory(directory)?;
        info!(%size, "pool created");
        Ok(())
    }

    fn require_space(&self, directory: &Path, needed: ByteSize) -> Result<(), OpenError> {
        let available = image::available(directory)?.saturating_sub(self.config.keep_free);
        if needed > available {
            return Err(OpenError::PoolTooLarge { needed, available });
        }
        Ok(())
    }

    fn mount(&self, path: &Path, mount: &Path, device: Option<u32>) -> Result<u32, OpenError> {
        image::make_directory(mount, 0o711)?;
        let file = image::open_unlocked(path)?;
        reach(&PoolStep::Attach, Moment::Before)?;
        let attached = match device {
            Some(_) => None,
            None => Some(loop_device::attach(self.minors, &file, path, Discard::Refused).map_err(
                |error| match error {
                    AttachError::Io(fault) => OpenError::Io(fault),
                    AttachError::NoFreeDevice => OpenError::NoMinors,
                },
            )?),
        };
        let device = device
            .or_else(|| attached.as_ref().map(|attached| attached.minor))
            .ok_or(OpenError::NoMinors)?;
        reach(&PoolStep::Mount, Moment::Before)?;
        let mounted = Mount::builder()
            .fstype("xfs")
            .flags(MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME)
            .mount(loop_device::device_path(device), mount)
            .and_then(|mut mounted| mounted.set_propagation_type(PropagationType::PRIVATE));
        reach(&PoolStep::Mount, Moment::After)?;
        let limits = attached.and_then(|attached| attached.limits);
        if let Err(error) = mounted {
            loop_device::remove_minor(self.minors, device);
            return Err(IoFault::new("mount", mount, error).into());
        }
        if let Some(limits) = limits {
            limits.refuse()?;
        }
        Ok(device)
    }

    fn grow(
        &self,
        path: &Path,
        mount: &Path,
        device: u32,
        size: ByteSize,
    ) -> Result<(), OpenError> {
        let file = image::open(path)?;
        let length = file.metadata().map_err(IoFault::on("query", path))?.len();
        if size.as_u64() > length {
            let more = size.saturating_sub(ByteSize::bytes(length));
            self.require_space(path.parent().unwrap_or(Path::new("/")), more)?;
            image::extend(path, &file, size, Allocation::Full)?;
            loop_device::update_capacity(device)?;
            let live = Subject::Live(mount, &file);
            self.run(tool::XFS_GROWFS, &["-d".to_owned()], live)?;
        }
        Ok(image::reserve(path, &file, ByteSize::bytes(length.max(size.as_u64())))?)
    }

    fn run(&self, tool: Tool, arguments: &[String], subject: Subject<'_>) -> Result<(), OpenError> {
        let limit = self.config.make_limit;
        let ended = tool::run(self.runtime, tool, arguments, subject, limit)?;
        if ended.status.success() {
            return Ok(());
        }
        Err(tool.failed(&self.layout.pool_image(), &ended).into())
    }
}

fn reach(step: &PoolStep, moment: Moment) -> Result<(), IoFault> {
    failpoint::reach("pool", step, moment)
}

/// Unmounts the pool. Fails while any volume in it is attached.
pub(crate) fn release(layout: &Layout, minors: &Minors) -> Result<(), IoFault> {
    let mount: PathBuf = layout.pool_mount();
    for entry in mount_table::mounted_at(&observe::mounts()?, &mount) {
        sys_mount::unmount(&mount, UnmountFlags::empty())
            .map_err(IoFault::on("unmount", &mount))?;
        if let Some(minor) = entry.loop_minor() {
            loop_device::remove_minor(minors, minor);
        }
    }
    Ok(())
}
