//! Loop devices: attaching an image to a device of our own range, and finding who holds an image.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use loopdev::{LoopControl, LoopDevice};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{major, minor};

use crate::core::file_system::Discard;
use crate::core::plan::ObservedDevice;
use crate::error::IoFault;
use crate::ioctl::{self, LoopInfo};

const CONTROL: &str = "/dev/loop-control";

/// How long to wait for the kernel to let go of a device that was just closed.
const SETTLE: Duration = Duration::from_secs(2);

/// The numbers of the loop devices that this daemon adds and removes. Two daemons may share a
/// range: adding a number fails for all but one.
#[derive(Debug)]
pub(crate) struct Minors {
    range: Range<u32>,
    next: AtomicU32,
}

impl Minors {
    pub(crate) fn new(range: Range<u32>) -> Self {
        let next = AtomicU32::new(range.start);
        Self { range, next }
    }

    pub(crate) fn len(&self) -> u32 {
        self.range.end - self.range.start
    }

    pub(crate) fn contains(&self, minor: u32) -> bool {
        self.range.contains(&minor)
    }

    /// Every number once, beginning after the one handed out last.
    fn candidates(&self) -> impl Iterator<Item = u32> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let (first, count) = (self.range.start, self.len());
        (0..count).map(move |step| first + (start.wrapping_sub(first).wrapping_add(step)) % count)
    }
}

/// A device that holds an image. Dropping it before the mount lets the kernel detach the image.
#[derive(Debug)]
pub(crate) struct AttachedDevice {
    pub(crate) minor: u32,
    pub(crate) device: LoopDevice,
    /// What is still to be refused when discards are.
    pub(crate) limits: Option<DiscardLimits>,
}

/// Why an image was not attached.
#[derive(Debug)]
pub(crate) enum AttachError {
    NoFreeDevice,
    Io(IoFault),
}

impl From<IoFault> for AttachError {
    fn from(fault: IoFault) -> Self {
        Self::Io(fault)
    }
}

/// The path of the device of this number.
pub(crate) fn device_path(minor: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{minor}"))
}

fn sysfs(minor: u32) -> PathBuf {
    PathBuf::from(format!("/sys/block/loop{minor}"))
}

/// Opens the loop control, which shows that the driver is there.
pub(crate) fn open_control() -> Result<LoopControl, IoFault> {
    LoopControl::open().map_err(IoFault::on("open", CONTROL))
}

/// Attaches the image to the first device of our range that nobody has.
pub(crate) fn attach(
    minors: &Minors,
    image: &File,
    path: &Path,
    discard: Discard,
) -> Result<AttachedDevice, AttachError> {
    let control = open_control()?;
    for minor in minors.candidates() {
        if sysfs(minor).exists() {
            continue;
        }
        let device = match control.add(minor) {
            Ok(device) => device,
            // Somebody has this number, or removed it between its appearance and our opening it.
            Err(error) if is(&error, &[Errno::EEXIST, Errno::ENOENT, Errno::ENXIO]) => continue,
            Err(error) => return Err(IoFault::new("add", device_path(minor), error).into()),
        };
        match configure(&device, image, path) {
            Ok(()) => match discard {
                Discard::Passed => return Ok(AttachedDevice { minor, device, limits: None }),
                Discard::Refused => match DiscardLimits::open(minor) {
                    Ok(limits) => {
                        return Ok(AttachedDevice { minor, device, limits: Some(limits) });
                    }
                    Err(fault) => {
                        drop(device);
                        remove_minor(minors, minor);
                        return Err(fault.into());
                    }
                },
            },
            // `losetup -f` may take a free device of any number.
            Err(error) if is(&error, &[Errno::EBUSY]) => {}
            Err(error) => {
                drop(device);
                remove_minor(minors, minor);
                return Err(IoFault::new("attach", path, error).into());
            }
        }
    }
    Err(AttachError::NoFreeDevice)
}

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|raw| errnos.contains(&Errno::from_raw(raw)))
}

fn configure(device: &LoopDevice, image: &File, path: &Path) -> io::Result<()> {
    let name = path.as_os_str().as_bytes();
    let both = LoopInfo::with_flags(ioctl::AUTOCLEAR | ioctl::DIRECT_IO, name);
    match ioctl::loop_configure(device, image, both) {
        // Before 5.8 there is no such call, and some image file systems refuse direct I/O.
        Err(error) if is(&error, &[Errno::EINVAL, Errno::ENOTTY]) => {}
        done => return done,
    }
    device.with().autoclear(true).attach_fd(image.as_raw_fd())?;
    // Without direct I/O the volume works, at the price of a second page cache; status shows it.
    let _slower = ioctl::loop_set_direct_io(device);
    Ok(())
}

/// The limits that let a device pass discards, and zeroing by punching holes, on to its image. The
/// second exists from Linux 6.17 on.
const DISCARD_LIMITS: [&str; 2] = ["discard_max_bytes", "write_zeroes_unmap_max_bytes"];

/// A device's limits of discarding, open for being set to nothing. Setting one halts the device for
/// an RCU grace period, about 15 ms, so it is done when nobody waits; opening them shows in time
/// that it can be done.
#[derive(Debug)]
pub(crate) struct DiscardLimits(Vec<(PathBuf, File)>);

impl DiscardLimits {
    /// Those limits of a device that are not zero yet.
    pub(crate) fn open(minor: u32) -> Result<Self, IoFault> {
        let mut limits = Vec::new();
        for path in DISCARD_LIMITS.map(|name| sysfs(minor).join("queue").join(name)) {
            match fs::read_to_string(&path) {
                Ok(text) if text.trim() == "0" => {}
                Ok(_) => {
                    let limit = OpenOptions::new().write(true).open(&path);
                    limits.push((path.clone(), limit.map_err(IoFault::on("open", path))?));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(IoFault::new("read", path, error)),
            }
        }
        Ok(Self(limits))
    }

    /// Makes the device refuse discards, so that neither a trim nor the file system empties the
    /// image.
    pub(crate) fn refuse(self) -> Result<(), IoFault> {
        for (path, mut limit) in self.0 {
            limit.write_all(b"0").map_err(IoFault::on("set", path))?;
        }
        Ok(())
    }
}

/// Tells the device that its image has grown.
pub(crate) fn update_capacity(minor: u32) -> Result<(), IoFault> {
    let path = device_path(minor);
    LoopDevice::open(&path)
        .and_then(|device| device.set_capacity())
        .map_err(IoFault::on("grow", path))
}

/// Takes the image from a device. While the device is mounted, the kernel does so at its last
/// close instead.
pub(crate) fn detach(minor: u32, image: Option<&fs::Metadata>) -> Result<(), IoFault> {
    let path = device_path(minor);
    let device = match open(minor, 0) {
        Ok(device) => device,
        Err(error) if is(&error, &[Errno::ENOENT, Errno::ENXIO]) => return Ok(()),
        Err(error) => return Err(IoFault::new("open", path, error)),
    };
    // The number may belong to somebody else by now.
    match ioctl::loop_status(&device) {
        Ok(info) if image.is_none_or(|image| holds(&info, image)) => {}
        Ok(_) => return Ok(()),
        Err(error) if is(&error, &[Errno::ENXIO]) => return Ok(()),
        Err(error) => return Err(IoFault::new("query", path, error)),
    }
    drop(device);
    match LoopDevice::open(&path).and_then(|device| device.detach()) {
        Err(error) if !is(&error, &[Errno::ENXIO, Errno::ENOENT]) => {
            Err(IoFault::new("detach", path, error))
        }
        _ => Ok(()),
    }
}

fn open(minor: u32, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags).open(device_path(minor))
}

/// Removes a number of our own range once it is free. One that stays busy is left for the next
/// start to remove.
pub(crate) fn remove_minor(minors: &Minors, minor: u32) {
    if !minors.contains(minor) {
        return;
    }
    let Ok(control) = open_control() else { return };
    let deadline = Instant::now() + SETTLE;
    let mut pause = Duration::from_micros(50);
    while Instant::now() < deadline {
        match ioctl::loop_remove(&control, minor) {
            Err(error) if is(&error, &[Errno::EBUSY]) && backing_file(minor).is_none() => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

/// Removes a number of our own range if nobody uses it.
pub(crate) fn remove_idle_minor(minor: u32) {
    if let Ok(control) = open_control() {
        // Another daemon may have just added it: then it is busy, and stays.
        let _busy = ioctl::loop_remove(&control, minor);
    }
}

/// Waits until the device no longer holds the image. Returns whether it let go.
pub(crate) fn wait_until_detached(minor: u32, image: Option<&fs::Metadata>) -> bool {
    let deadline = Instant::now() + SETTLE;
    let mut pause = Duration::from_micros(50);
    while still_holds(minor, image) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    true
}

fn still_holds(minor: u32, image: Option<&fs::Metadata>) -> bool {
    if backing_file(minor).is_none() {
        return false;
    }
    let Ok(device) = open(minor, 0) else { return false };
    ioctl::loop_status(&device).is_ok_and(|info| image.is_none_or(|image| holds(&info, image)))
}

fn holds(info: &LoopInfo, image: &fs::Metadata) -> bool {
    let same_device =
        major(info.device) == major(image.dev()) && minor(info.device) == minor(image.dev());
    same_device && info.inode == image.ino()
}

/// The backing file of a device as the kernel names it, and whether it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackingFile {
    pub(crate) path: PathBuf,
    pub(crate) deleted: bool,
}

/// The file that the device holds, if it holds one.
pub(crate) fn backing_file(minor: u32) -> Option<BackingFile> {
    let mut text = fs::read(sysfs(minor).join("loop/backing_file")).ok()?;
    while text.last() == Some(&b'\n') {
        text.pop();
    }
    let (path, deleted) = match text.strip_suffix(b" (deleted)") {
        Some(path) => (path.to_vec(), true),
        None => (text, false),
    };
    Some(BackingFile { path: PathBuf::from(std::ffi::OsString::from_vec(path)), deleted })
}

/// The numbers of all loop devices.
pub(crate) fn all() -> Result<Vec<u32>, IoFault> {
    let directory = Path::new("/sys/block");
    let mut minors = Vec::new();
    for entry in fs::read_dir(directory).map_err(IoFault::on("list", directory))? {
        let entry = entry.map_err(IoFault::on("list", directory))?;
        let number: Option<u32> =
            entry.file_name().to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        minors.extend(number);
    }
    minors.sort_unstable();
    Ok(minors)
}

/// The devices that hold this image, found by its device and inode number. `siblings` is the
/// directory in which every path names its own image: devices of those are told apart by path.
pub(crate) fn holding(
    path: &Path,
    image: &fs::Metadata,
    siblings: &Path,
) -> Result<Vec<ObservedDevice>, IoFault> {
    let mut found = Vec::new();
    for minor in all()? {
        let Some(backing) = backing_file(minor) else { continue };
        if backing.path != path && backing.path.starts_with(siblings) {
            continue;
        }
        let mounted_somewhere = is_mounted(minor);
        // Closing the last descriptor of an automatic device detaches it, so look afterwards.
        let Ok(device) = open(minor, 0) else { continue };
        let Ok(info) = ioctl::loop_status(&device) else { continue };
        if !holds(&info, image) {
            continue;
        }
        let whole = info.offset == 0 && info.size_limit == 0;
        let usable = whole && info.flags & ioctl::READ_ONLY == 0;
        found.push(ObservedDevice { minor, usable, mounted_somewhere });
    }
    Ok(found)
}

/// Whether a file system on the device is mounted, in whatever namespace: an exclusive open of a
/// mounted device fails.
pub(crate) fn is_mounted(minor: u32) -> bool {
    match open(minor, libc::O_EXCL) {
        Ok(_) => false,
        Err(error) => is(&error, &[Errno::EBUSY]),
    }
}

/// Whether the device reads and writes its image past the page cache.
pub(crate) fn uses_direct_io(minor: u32) -> bool {
    fs::read_to_string(sysfs(minor).join("loop/dio")).is_ok_and(|text| text.trim() == "1")
}
