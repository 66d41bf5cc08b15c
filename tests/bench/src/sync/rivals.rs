//! What else keeps a tree elsewhere: `tar | gzip`, and restic as Debian has it.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::UsageWho;

use super::{files, spent};

/// What a backup cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backup {
    pub(super) cpu: Duration,
    /// Bytes that are stored now and were not before.
    pub(super) stored: u64,
}

/// The tree as one archive that goes nowhere.
pub(super) fn tar_gzip(data: &Path) -> Result<Backup> {
    let before = spent(UsageWho::RUSAGE_CHILDREN)?;
    let mut tar = Command::new("tar")
        .arg("-cz")
        .arg("-C")
        .arg(data)
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .context("tar and gzip are needed")?;
    let mut stored = 0;
    let mut output = tar.stdout.take().context("tar writes")?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = output.read(&mut piece)?;
        if count == 0 {
            break;
        }
        stored += count as u64;
    }
    ensure!(tar.wait()?.success(), "tar failed");
    Ok(Backup { cpu: spent(UsageWho::RUSAGE_CHILDREN)?.saturating_sub(before), stored })
}

/// A repository of restic in a directory.
#[derive(Debug)]
pub(super) struct Restic {
    root: PathBuf,
}

impl Restic {
    pub(super) fn new(root: &Path) -> Result<Self> {
        let this = Self { root: root.to_owned() };
        this.call(["init".as_ref()])?;
        Ok(this)
    }

    pub(super) fn backup(&self, data: &Path) -> Result<Backup> {
        let (bytes, before) = (self.bytes()?, spent(UsageWho::RUSAGE_CHILDREN)?);
        self.call(["backup".as_ref(), data.as_os_str()])?;
        let cpu = spent(UsageWho::RUSAGE_CHILDREN)?.saturating_sub(before);
        Ok(Backup { cpu, stored: self.bytes()?.saturating_sub(bytes) })
    }

    fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for path in files(&self.root.join("repository"))? {
            bytes += std::fs::metadata(path)?.len();
        }
        Ok(bytes)
    }

    fn call<'a>(&self, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
        let status = Command::new("restic")
            .args(["--quiet", "--repo"])
            .arg(self.root.join("repository"))
            .arg("--cache-dir")
            .arg(self.root.join("cache"))
            .args(arguments)
            // It seals everything in any case.
            .env("RESTIC_PASSWORD", "bench")
            .stdout(Stdio::null())
            .status()
            .context("restic is needed: apt install restic")?;
        ensure!(status.success(), "restic failed");
        Ok(())
    }
}
