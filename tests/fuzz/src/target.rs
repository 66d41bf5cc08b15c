//! The table of the targets.

use std::path::{Path, PathBuf};
use std::{fs, io};

use belay_sync::fuzzing::{self, Verdict};

use crate::pack;

/// A parser with what must hold of it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes any bytes; panics where a promise is broken.
    pub run: fn(&[u8]) -> Verdict,
    /// Inputs that are accepted, made by the writers of today.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target { name: "request", run: fuzzing::request, seeds: fuzzing::request_seeds },
    Target { name: "record", run: fuzzing::record, seeds: fuzzing::record_seeds },
    Target { name: "ack", run: fuzzing::ack, seeds: fuzzing::ack_seeds },
    Target { name: "root", run: fuzzing::root, seeds: fuzzing::root_seeds },
    Target { name: "manifest", run: fuzzing::manifest, seeds: fuzzing::manifest_seeds },
    Target { name: "pack", run: pack::run, seeds: pack::seeds },
    Target { name: "archive", run: fuzzing::archive, seeds: fuzzing::archive_seeds },
    Target { name: "import", run: fuzzing::foreign, seeds: fuzzing::foreign_seeds },
];

impl Target {
    /// The target of this name.
    pub fn find(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Where its corpus lies.
    pub fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// Writes the seeds into a folder.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_seeds(&self, folder: &Path) -> io::Result<()> {
        for (number, seed) in (self.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
        Ok(())
    }
}
