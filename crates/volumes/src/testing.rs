//! What tests and benchmarks need and the daemon does not: removing a loop device, and the floor
//! under provisioning, which is the system calls and the mkfs and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, fallocate};
use sys_mount::{Mount, MountFlags, UnmountFlags};

use crate::core::file_system::{Ext4Tools, Reserve, mkfs_arguments};
use crate::core::size::ByteSize;
use crate::core::spec::FileSystem;
use crate::ioctl::{self, LoopInfo};
use crate::loop_device::{device_path, open_control};

/// Removes a loop device that holds nothing.
pub fn remove_loop_device(minor: u32) -> io::Result<()> {
    let control = open_control().map_err(|fault| fault.source)?;
    ioctl::loop_remove(&control, minor)
}

/// A mounted file system, made with nothing but what the kernel and mkfs cost.
#[derive(Debug)]
pub struct Floor {
    minor: u32,
    image: PathBuf,
    mount: PathBuf,
    /// How long making and mounting it took.
    pub provision: Duration,
    /// The part of that which attached the image.
    pub attach: Duration,
}

impl Floor {
    /// Makes an ext4 of this size in a directory, on the loop device of this number, and mounts it.
    pub fn provision(directory: &Path, minor: u32, size: ByteSize) -> io::Result<Self> {
        let image = directory.join(format!("floor-{minor}.img"));
        let mount = directory.join(format!("floor-{minor}"));
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let id = id.trim().parse().map_err(io::Error::other)?;
        let reserve = Reserve { percent: 5, uid: 4_200_000_000 };
        let tools = Ext4Tools::AssumesZeroes;
        let arguments = mkfs_arguments(FileSystem::Ext4, size, id, reserve, tools);
        let length = i64::try_from(size.as_u64()).map_err(io::Error::other)?;

        let began = Instant::now();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&image)?;
        fallocate(&file, FallocateFlags::empty(), 0, length)?;
        let made = Command::new("/usr/sbin/mkfs.ext4").args(&arguments).arg(&image).output()?;
        if !made.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()));
        }
        let attaching = Instant::now();
        let device = attach(minor, &file)?;
        let attach = attaching.elapsed();
        fs::create_dir(&mount)?;
        Mount::builder()
            .fstype("ext4")
            .flags(MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME)
            .mount(device_path(minor), &mount)?;
        drop(device);
        Ok(Self { minor, image, mount, provision: began.elapsed(), attach })
    }

    /// Unmounts it and removes the device; returns how long that took.
    pub fn release(self) -> io::Result<Duration> {
        let began = Instant::now();
        sys_mount::unmount(&self.mount, UnmountFlags::empty())?;
        remove_loop_device(self.minor)?;
        let took = began.elapsed();
        fs::remove_dir(&self.mount)?;
        fs::remove_file(&self.image)?;
        Ok(took)
    }
}

fn attach(minor: u32, image: &File) -> io::Result<loopdev::LoopDevice> {
    let control = open_control().map_err(|fault| fault.source)?;
    let device = control.add(minor)?;
    let flags = ioctl::AUTOCLEAR | ioctl::DIRECT_IO;
    ioctl::loop_configure(&device, image, LoopInfo::with_flags(flags, b"floor"))?;
    Ok(device)
}
