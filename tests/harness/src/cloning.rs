//! A disk under a node's volumes that clones by reference.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// An xfs in a sparse image, mounted.
#[derive(Debug)]
pub(crate) struct CloningDisk {
    mount: PathBuf,
}

impl CloningDisk {
    /// Makes one of this many MiB in `directory`, and mounts it at `mount`.
    ///
    /// Needs xfsprogs.
    pub(crate) fn mount(directory: &Path, mib: u64, mount: PathBuf) -> anyhow::Result<Self> {
        let image = directory.join("disk.img");
        File::create(&image)?.set_len(mib << 20)?;
        run(Command::new("/usr/sbin/mkfs.xfs").args(["-q", "-K"]).arg(&image))?;
        std::fs::create_dir_all(&mount)?;
        run(Command::new("/usr/bin/mount").args(["-o", "loop"]).args([&image, &mount]))?;
        Ok(Self { mount })
    }

    /// Unmounts it; its device goes with that.
    pub(crate) fn unmount(self) -> anyhow::Result<()> {
        run(Command::new("/usr/bin/umount").arg(&self.mount))
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
