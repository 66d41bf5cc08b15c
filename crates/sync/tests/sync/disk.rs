//! Disks that a test can cut the power of.
//!
//! Each is a file system in an image. The image is copied the moment the process that wrote is dead,
//! still mounted: the copy holds what was written through and nothing of what the kernel still meant to
//! write. It takes the place of the original, as a host finds its disks after a power cut.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const MIB: u64 = 1024 * 1024;

/// A disk of a node or a store. A host keeps 64 MiB to itself.
pub(crate) const HOST: u64 = 96 * MIB;

/// What ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    PowerCut,
}

impl End {
    /// The disks on which that is lost which goes with the power: none where nothing is. Who ends so
    /// syncs them before and cuts them after it.
    pub(crate) fn disks(self, mounts: &[&Path]) -> Vec<Disk> {
        match self {
            Self::Kill => Vec::new(),
            Self::PowerCut => mounts.iter().map(|mount| Disk::new(mount, HOST)).collect(),
        }
    }
}

/// A file system in a file, mounted while this lives.
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    options: &'static str,
}

fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

impl Disk {
    /// A new one, with what its mount point holds.
    pub(crate) fn new(mount: &Path, size: u64) -> Self {
        Self::made_with(mount, size, &[])
    }

    /// A new one for this many files and no more.
    pub(crate) fn with_inodes(mount: &Path, size: u64, inodes: u32) -> Self {
        Self::made_with(mount, size, &["-N", &inodes.to_string()])
    }

    fn made_with(mount: &Path, size: u64, options: &[&str]) -> Self {
        fs::create_dir_all(mount).expect("creates");
        let image = mount.with_extension("disk");
        fs::File::create(&image).and_then(|file| file.set_len(size)).expect("an image");
        let plain = ["-q", "-F", "-m", "0"].into_iter().chain(options.iter().copied());
        let arguments: Vec<&OsStr> = plain.map(OsStr::new).chain([image.as_ref()]).collect();
        run("mkfs.ext4", &arguments);
        // The kernel writes only when it is told to, or after minutes.
        let disk = Self { image, mount: mount.to_owned(), options: "loop,commit=600" };
        disk.attach();
        disk
    }

    /// A new one whose file system clones files.
    pub(crate) fn cloning(mount: &Path) -> Self {
        fs::create_dir_all(mount).expect("creates");
        let image = mount.with_extension("disk");
        fs::File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("an image");
        run("mkfs.xfs", &["-q".as_ref(), image.as_ref()]);
        let disk = Self { image, mount: mount.to_owned(), options: "loop" };
        disk.attach();
        disk
    }

    fn attach(&self) {
        let options = self.options.as_ref();
        run("mount", &["-o".as_ref(), options, self.image.as_ref(), self.mount.as_ref()]);
    }

    fn detach(&self) -> bool {
        let unmounted = Command::new("umount").arg(&self.mount).status();
        unmounted.is_ok_and(|status| status.success())
    }

    /// Writes everything through.
    pub(crate) fn sync(&self) {
        let mount = fs::File::open(&self.mount).expect("opens");
        rustix::fs::syncfs(&mount).expect("syncs");
    }

    /// The power goes, for all of these at one time.
    pub(crate) fn cut(disks: &[Disk]) -> Cut<'_> {
        for disk in disks {
            copy(&disk.image, &disk.image.with_extension("told"));
        }
        for disk in disks {
            // What was still to be written is written by this.
            disk.release();
            fs::rename(&disk.image, disk.image.with_extension("whole")).expect("renames");
        }
        let cut = Cut { disks };
        cut.attach(0);
        cut
    }

    fn release(&self) {
        assert!(self.detach(), "{} is still in use", self.mount.display());
    }
}

fn copy(from: &Path, to: &Path) {
    run("cp", &["--sparse=always".as_ref(), from.as_ref(), to.as_ref()]);
}

/// What disks may hold after a power cut.
pub(crate) struct Cut<'d> {
    disks: &'d [Disk],
}

impl Cut<'_> {
    /// The host finds its disks. Of those whose bit is set the kernel had just written everything,
    /// of the others nothing but what it was told to.
    pub(crate) fn found(&self, written: u32) {
        self.disks.iter().for_each(Disk::release);
        self.attach(written);
    }

    fn attach(&self, written: u32) {
        for (number, disk) in self.disks.iter().enumerate() {
            let held = if written & (1 << number) == 0 { "told" } else { "whole" };
            copy(&disk.image.with_extension(held), &disk.image);
            disk.attach();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.detach() {
            // A test that failed may have left a task that holds it.
            let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_cut_keeps_what_was_synced_and_nothing_else() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let disks = [Disk::new(&temp.path().join("disk"), 16 * MIB)];
    let path = |name: &str| disks[0].mount.join(name);
    fs::write(path("kept"), "kept").expect("writes");
    disks[0].sync();
    fs::write(path("lost"), "lost").expect("writes");
    fs::write(path("kept"), "changed").expect("writes");
    let cut = Disk::cut(&disks);
    assert!(!path("lost").exists(), "the kernel had not been told to write it");
    let kept = || fs::read_to_string(path("kept")).expect("reads");
    assert_ne!(kept(), "changed", "nor this");
    cut.found(1);
    assert!(path("lost").exists(), "it may have written it nevertheless");
    assert_eq!(kept(), "changed");
    cut.found(0);
    assert!(!path("lost").exists(), "each look is at what the cut left");
}
