//! The loop driver's ioctls that the loopdev crate has no call for. Structures and numbers are
//! those of the kernel's `include/uapi/linux/loop.h`.
#![expect(unsafe_code, reason = "ioctls are foreign calls; each states why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

pub(crate) const READ_ONLY: u32 = 1;
pub(crate) const AUTOCLEAR: u32 = 4;
pub(crate) const DIRECT_IO: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopInfo {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    rdevice: u64,
    pub(crate) offset: u64,
    pub(crate) size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub(crate) flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

impl LoopInfo {
    pub(crate) fn with_flags(flags: u32, name: &[u8]) -> Self {
        let mut file_name = [0; 64];
        let length = name.len().min(63);
        file_name[..length].copy_from_slice(&name[..length]);
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

mod raw {
    use super::{LoopConfig, LoopInfo};

    nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, LoopInfo);
    nix::ioctl_write_int_bad!(loop_set_direct_io, 0x4c08);
    nix::ioctl_write_int_bad!(loop_ctl_remove, 0x4c81);
}

/// Gives the image to the device with all its settings in one call (Linux 5.8).
pub(crate) fn loop_configure(
    device: &impl AsRawFd,
    image: &impl AsRawFd,
    info: LoopInfo,
) -> io::Result<()> {
    let fd = u32::try_from(image.as_raw_fd()).map_err(io::Error::other)?;
    let config = LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: both descriptors are open, and the structure has the layout that the kernel reads.
    unsafe { raw::loop_configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}

/// What the device holds. Fails with `ENXIO` when it holds nothing.
pub(crate) fn loop_status(device: &impl AsFd) -> io::Result<LoopInfo> {
    let mut info = LoopInfo::with_flags(0, b"");
    let fd = device.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel writes no more than this structure.
    unsafe { raw::loop_get_status64(fd, &raw mut info) }?;
    Ok(info)
}

/// Turns direct I/O on. Fails when the image's file system cannot do it.
pub(crate) fn loop_set_direct_io(device: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the argument is a plain number.
    unsafe { raw::loop_set_direct_io(device.as_raw_fd(), 1) }?;
    Ok(())
}

/// Removes the device of this number. Fails with `EBUSY` while it is open or holds a file.
pub(crate) fn loop_remove(control: &impl AsRawFd, minor: u32) -> io::Result<()> {
    let minor = i32::try_from(minor).map_err(io::Error::other)?;
    // SAFETY: the descriptor is that of the loop control, and the argument is a plain number.
    unsafe { raw::loop_ctl_remove(control.as_raw_fd(), minor) }?;
    Ok(())
}

#[repr(C)]
pub(crate) struct TrimRange {
    start: u64,
    length: u64,
    least: u64,
}

mod file_system {
    use super::TrimRange;

    nix::ioctl_readwrite!(fitrim, b'X', 121, TrimRange);
}

/// Gives the free space of a mounted file system back to what is under it, and returns how many
/// bytes that were (`FITRIM`, `include/uapi/linux/fs.h`).
pub(crate) fn trim(root: &impl AsFd) -> io::Result<u64> {
    let mut range = TrimRange { start: 0, length: u64::MAX, least: 0 };
    let fd = root.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel reads and writes no more than this structure.
    unsafe { file_system::fitrim(fd, &raw mut range) }?;
    Ok(range.length)
}

mod journal {
    nix::ioctl_write_ptr!(ext4_checkpoint, b'f', 43, u32);
}

/// Writes everything that is in the journal of an ext4 to its place, so that the journal is empty
/// (`EXT4_IOC_CHECKPOINT`, Linux 5.14, `Documentation/filesystems/ext4/journal.rst`).
pub(crate) fn checkpoint(root: &impl AsFd) -> io::Result<()> {
    let flags = 0;
    let fd = root.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel reads one number.
    unsafe { journal::ext4_checkpoint(fd, &raw const flags) }?;
    Ok(())
}

mod freeze {
    use nix::libc::c_int;

    nix::ioctl_readwrite!(fifreeze, b'X', 119, c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, c_int);
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// Writes everything out and holds back writers of the file system that this directory is on.
pub(crate) fn freeze(root: &impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    let fd = root.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel ignores the argument.
    unsafe { freeze::fifreeze(fd, &raw mut unused) }?;
    Ok(())
}

/// Lets writers go on. Fails with `EINVAL` when the file system is not frozen.
pub(crate) fn thaw(root: &impl AsFd) -> io::Result<()> {
    let mut unused = 0;
    let fd = root.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel ignores the argument.
    unsafe { freeze::fithaw(fd, &raw mut unused) }?;
    Ok(())
}

/// Makes a file share all blocks of another on the same file system.
pub(crate) fn clone_file(to: &impl AsFd, from: &impl AsFd) -> io::Result<()> {
    let source = u64::try_from(from.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open, and the argument is the number of one of them.
    unsafe { freeze::ficlone(to.as_fd().as_raw_fd(), source) }?;
    Ok(())
}

#[repr(C)]
pub(crate) struct ExtentMap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<ExtentMap>() == 32);

mod extents {
    use super::ExtentMap;

    nix::ioctl_readwrite!(fiemap, b'f', 11, ExtentMap);
}

/// In how many extents a file lies (`FS_IOC_FIEMAP`, `include/uapi/linux/fiemap.h`).
pub(crate) fn count_extents(file: &impl AsFd) -> io::Result<u32> {
    let mut map =
        ExtentMap { start: 0, length: u64::MAX, flags: 0, mapped: 0, room: 0, reserved: 0 };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and with no room for extents behind it the kernel reads and
    // writes no more than this structure.
    unsafe { extents::fiemap(fd, &raw mut map) }?;
    Ok(map.mapped)
}

mod inode_flags {
    use nix::libc::{c_int, c_long};

    // The numbers are made with a long, the kernel reads and writes an int.
    nix::ioctl_read_bad!(getflags, nix::request_code_read!(b'f', 1, size_of::<c_long>()), c_int);
    nix::ioctl_write_ptr_bad!(
        setflags,
        nix::request_code_write!(b'f', 2, size_of::<c_long>()),
        c_int
    );
}

/// `FS_NOCOW_FL`.
const NO_COPY_ON_WRITE: i32 = 0x0080_0000;

/// Makes new files of a directory be overwritten in place where the file system would otherwise
/// write every block anew.
pub(crate) fn overwrite_in_place(directory: &impl AsFd) -> io::Result<()> {
    let mut flags = 0;
    let fd = directory.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel writes one int.
    unsafe { inode_flags::getflags(fd, &raw mut flags) }?;
    let flags = flags | NO_COPY_ON_WRITE;
    // SAFETY: the descriptor is open, and the kernel reads one int.
    unsafe { inode_flags::setflags(fd, &raw const flags) }?;
    Ok(())
}
