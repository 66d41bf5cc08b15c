//! A directory of volumes for one test, with a range of loop devices of its own. Everything in it
//! goes when it is dropped, also on a panic; what a killed test run left goes before the first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use belay_volumes::{ByteSize, VolumeSpec, Volumes, VolumesConfig};

const HOME: &str = "/var/tmp";
/// Below are the host's own devices, which `losetup -f` hands out.
const FIRST_MINOR: u32 = 10_000;
const PREFIX: &str = "belay-volumes-test-";

/// Ranges of loop devices in use by tests of this process.
static SLOTS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

pub(crate) struct Scratch {
    pub(crate) directory: PathBuf,
    pub(crate) minors: std::ops::Range<u32>,
    slot: u32,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        static SWEEP: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep_leftovers);
        let pid = std::process::id();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let slot = {
            let mut slots = SLOTS.lock().expect("no test panics in here");
            let free = (0..32).find(|slot| !slots.contains(slot)).expect("a range is free");
            slots.push(free);
            free
        };
        let start = FIRST_MINOR + (pid % 500) * 2048 + slot * 64;
        let directory = Path::new(HOME).join(format!("{PREFIX}{pid}-{count}"));
        fs::create_dir(&directory).expect("a new directory for the test");
        Self { directory, minors: start..start + 64, slot }
    }

    pub(crate) fn config(&self) -> VolumesConfig {
        let mut config = VolumesConfig::new(self.root());
        // The rest of the range is for devices that the test makes and the volumes do not own.
        config.minors = self.minors.start..self.minors.end - 16;
        config
    }

    /// Attaches an image to a fresh device that does not belong to the volumes.
    pub(crate) fn attach_foreign(&self, image: &Path) -> PathBuf {
        let number = (self.minors.end - 16..self.minors.end)
            .find(|minor| !Path::new(&format!("/sys/block/loop{minor}")).exists())
            .expect("a device for the test");
        let device = PathBuf::from(format!("/dev/loop{number}"));
        let attached = Command::new("losetup").arg(&device).arg(image).status();
        assert!(attached.expect("losetup").success());
        device
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("volumes")
    }

    pub(crate) async fn open(&self) -> Volumes {
        Volumes::open(self.config()).await.expect("a directory of volumes")
    }

    /// Loop devices whose image lies, or lay, in this scratch directory.
    pub(crate) fn devices(&self) -> Vec<String> {
        loops_under(&self.directory).into_iter().map(|(name, _)| name).collect()
    }

    /// Mounts in this scratch directory.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        mounts_under(&self.directory)
    }

    /// Asserts that the kernel's tables know nothing of this scratch directory any more.
    pub(crate) fn assert_nothing_held(&self) {
        assert_eq!(self.mounts(), Vec::<PathBuf>::new(), "mounts are left");
        assert_eq!(self.devices(), Vec::<String>::new(), "loop devices hold an image");
        // Numbers are removed after the answer.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left: Vec<u32> = self
                .minors
                .clone()
                .filter(|minor| Path::new(&format!("/sys/block/loop{minor}")).exists())
                .collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "loop device numbers are left: {left:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn image(&self, id: &str) -> PathBuf {
        self.root().join("images").join(id).join("volume.img")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        clear(&self.directory);
        for minor in self.minors.clone() {
            if Path::new(&format!("/sys/block/loop{minor}")).exists() {
                remove_minor(minor);
            }
        }
        if let Ok(mut slots) = SLOTS.lock() {
            slots.retain(|taken| *taken != self.slot);
        }
    }
}

pub(crate) fn spec(id: &str, size: ByteSize) -> VolumeSpec {
    VolumeSpec::data(id.parse().expect("a volume id"), size)
}

fn mounts_under(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|target| PathBuf::from(target.trim_end_matches("//deleted")))
        .filter(|target| target.starts_with(directory))
        .collect()
}

fn loops_under(directory: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").expect("block devices").flatten() {
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        let name = entry.file_name().into_string().expect("an ASCII name");
        let Some(minor) = name.strip_prefix("loop").and_then(|number| number.parse().ok()) else {
            continue;
        };
        if Path::new(backing.trim_end()).starts_with(directory) {
            found.push((format!("/dev/{name}"), minor));
        }
    }
    found
}

fn clear(directory: &Path) {
    // Volumes may lie on an image that itself lies here: the innermost goes first. What is still
    // settling keeps its disk busy for a moment.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        for mount in mounts_under(directory).iter().rev() {
            run("umount", &[mount.as_os_str()]);
        }
        for (device, minor) in loops_under(directory) {
            run("losetup", &["-d".as_ref(), device.as_ref()]);
            if minor >= FIRST_MINOR {
                remove_minor(minor);
            }
        }
        let clear = mounts_under(directory).is_empty() && loops_under(directory).is_empty();
        if clear || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _reported_by_the_next_sweep = fs::remove_dir_all(directory);
}

fn remove_minor(minor: u32) {
    // There is no tool for it; losetup grew `--remove` after Debian 12.
    let _gone = belay_volumes::testing::remove_loop_device(minor);
}

fn run(tool: &str, arguments: &[&std::ffi::OsStr]) {
    let _failure_is_seen_by_the_assertions =
        Command::new(tool).args(arguments).stderr(std::process::Stdio::null()).status();
}

fn sweep_leftovers() {
    for entry in fs::read_dir(HOME).expect("the temporary directory").flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let alive = rest.split('-').next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !alive {
            clear(&entry.path());
        }
    }
}
