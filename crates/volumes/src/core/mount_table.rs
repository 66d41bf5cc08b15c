//! The kernel's table of mounts, as `/proc/<pid>/mountinfo` gives it (see proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Device number of the mounted file system.
    pub(crate) device: DeviceNumber,
    /// Which directory of the file system is mounted; `/` unless it is a bind mount of a part.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) target: PathBuf,
    /// Whether the directory was deleted under the mount.
    pub(crate) target_deleted: bool,
    /// The kernel's name of the file system.
    pub(crate) file_system: String,
    /// What was named as the source when it was mounted.
    pub(crate) source: OsString,
    /// Whether this mount or its file system refuses writes.
    pub(crate) read_only: bool,
}

/// Major and minor number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeviceNumber {
    /// Which driver.
    pub(crate) major: u32,
    /// Which device of the driver.
    pub(crate) minor: u32,
}

impl DeviceNumber {
    /// The major number of the loop driver.
    pub(crate) const LOOP_MAJOR: u32 = 7;

    /// The loop device of this number.
    pub(crate) const fn of_loop(minor: u32) -> Self {
        Self { major: Self::LOOP_MAJOR, minor }
    }
}

impl MountEntry {
    /// The number of the loop device under this mount. Btrfs shows a device number of its own, and
    /// its source is the device.
    pub(crate) fn loop_minor(&self) -> Option<u32> {
        if self.device.major == DeviceNumber::LOOP_MAJOR {
            return Some(self.device.minor);
        }
        if self.file_system != "btrfs" {
            return None;
        }
        self.source.to_str()?.strip_prefix("/dev/loop")?.parse().ok()
    }
}

/// Reads a whole table. Lines that are not mounts are left out: the kernel may add fields, but
/// what identifies a mount stands at the front.
pub(crate) fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&c| c == b'\n').filter_map(parse_line).collect()
}

/// The mounts whose target is exactly this path, the one in force last.
pub(crate) fn mounted_at<'t>(table: &'t [MountEntry], target: &Path) -> Vec<&'t MountEntry> {
    // Comparing components makes a trailing slash of the asked path harmless and cannot take
    // `/a/b` for a prefix of `/a/bc`.
    table.iter().filter(|entry| !entry.target_deleted && entry.target == target).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&c| c == b' ').filter(|field| !field.is_empty());
    let _mount_id: u32 = number(fields.next()?)?;
    let _parent_id: u32 = number(fields.next()?)?;
    let device = device(fields.next()?)?;
    let root = path(fields.next()?);
    let target = unescape(fields.next()?);
    let options = fields.next()?;
    // Optional fields such as `shared:2` end at a lone dash.
    fields.by_ref().find(|field| *field == b"-")?;
    let file_system = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = OsString::from_vec(unescape(fields.next()?));
    let super_options = fields.next()?;
    let (target, target_deleted) = match target.strip_suffix(b"//deleted") {
        Some(path) => (path.to_vec(), true),
        None => (target, false),
    };
    Some(MountEntry {
        device,
        root,
        target: PathBuf::from(OsString::from_vec(target)),
        target_deleted,
        file_system,
        source,
        read_only: refuses_writes(options) || refuses_writes(super_options),
    })
}

/// `emergency_ro` is how kernels from 6.14 on show an ext4 that stopped writing after an error.
fn refuses_writes(options: &[u8]) -> bool {
    options.split(|&c| c == b',').any(|option| option == b"ro" || option == b"emergency_ro")
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<DeviceNumber> {
    let colon = field.iter().position(|&c| c == b':')?;
    Some(DeviceNumber { major: number(&field[..colon])?, minor: number(&field[colon + 1..])? })
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// Undoes the kernel's `\ooo` escapes of blank, tab, newline, backslash and number sign.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if let (b'\\', Some(byte)) = (first, tail.get(..3).and_then(octal)) {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
