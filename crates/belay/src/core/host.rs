//! What Linux says of mounts and processes, read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Mount points at or below `directory`, in the order of `mountinfo`: a later one may lie in an
/// earlier one, so they are unmounted from the end.
pub(crate) fn mounts_below(mountinfo: &[u8], directory: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|&byte| byte == b'\n');
    let points = lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    points.map(unescape).filter(|point| point.starts_with(directory)).collect()
}

/// The path as the kernel escapes it: `\040` for a space, likewise tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0_u16, |value, digit| match digit {
                b'0'..=b'7' => Some(value * 8 + u16::from(digit - b'0')),
                _ => None,
            })
        };
        let escaped = tail.get(..3).filter(|_| first == b'\\').and_then(octal);
        if let Some(byte) = escaped.and_then(|value| u8::try_from(value).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// The start time of a process in clock ticks since boot, from `/proc/PID/stat`. With the boot it
/// tells a process from a later one of the same number. A process that ended and was not reaped
/// has none.
pub(crate) fn start_ticks(stat: &str) -> Option<u64> {
    // The command's name comes second, in parentheses, and may hold anything, parentheses too.
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether a process runs `belayd` or the engine's service for a node in `directory`: one of its
/// arguments names something below it.
pub(crate) fn serves(cmdline: &[u8], directory: &Path) -> bool {
    let mut arguments = cmdline.split(|&byte| byte == 0);
    let Some(program) = arguments.next() else { return false };
    let name = Path::new(OsStr::from_bytes(program)).file_name();
    let known = name.is_some_and(|name| name == "belayd" || name == "podman");
    let directory = directory.as_os_str().as_bytes();
    let below = |argument: &[u8]| {
        let at = argument.windows(directory.len()).position(|window| window == directory);
        at.is_some_and(|at| argument.get(at + directory.len()) == Some(&b'/'))
    };
    known && arguments.any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_directory_are_taken() {
        let mountinfo = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 21 7:0 / /var/lib/belay-demo/a\\040b/mount rw shared:1 - ext4 /dev/loop0 rw\n\
            31 21 7:1 / /var/lib/belay-demo-other rw - ext4 /dev/loop1 rw\n\
            32 30 7:2 / /var/lib/belay-demo/a\\040b/mount/x rw - ext4 /dev/loop2 rw\n";
        assert_eq!(
            mounts_below(mountinfo, Path::new("/var/lib/belay-demo")),
            [
                Path::new("/var/lib/belay-demo/a b/mount"),
                Path::new("/var/lib/belay-demo/a b/mount/x")
            ]
        );
    }

    #[test]
    fn a_start_time_is_read_past_any_name() {
        let stat = |state: &str| {
            format!("42 (a) b (c) {state} 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9876 1 2")
        };
        assert_eq!(start_ticks(&stat("S")), Some(9876));
        assert_eq!(start_ticks(&stat("Z")), None);
        assert_eq!(start_ticks("42 (cut"), None);
    }

    #[test]
    fn this_process_has_a_start_time() {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("a Linux host");
        assert!(start_ticks(&stat).is_some());
    }

    #[test]
    fn a_process_is_ours_by_program_and_argument() {
        let directory = Path::new("/var/lib/belay-demo");
        for ours in [
            &b"/usr/bin/belayd\0--config\0/var/lib/belay-demo/provider/belayd.toml\0"[..],
            b"podman\0system\0service\0unix:///var/lib/belay-demo/consumer/run/podman.sock\0",
        ] {
            assert!(serves(ours, directory));
        }
        for foreign in [
            &b"/usr/bin/belayd\0--config\0/etc/belay/belayd.toml\0"[..],
            b"belayd\0--config\0/var/lib/belay-demo-2/belayd.toml\0",
            b"vim\0/var/lib/belay-demo/provider/belayd.toml\0",
            b"",
        ] {
            assert!(!serves(foreign, directory));
        }
    }
}
