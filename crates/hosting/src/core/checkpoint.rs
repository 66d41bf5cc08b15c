//! What is written down of a checkpoint, whether there is room for it, and whether it can still be
//! restored.

use std::cmp::Ordering;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{CheckpointStatus, CheckpointVersions, RunId, RunnerId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Shape of [`CheckpointRecord`] that is written.
pub const SCHEMA: u32 = 1;

/// What is written down of a checkpoint that lies beside its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The runner.
    pub runner: RunnerId,
    /// Its workload.
    pub workload: WorkloadName,
    /// The run that it was at.
    pub run: RunId,
    /// Id of its container.
    pub container: String,
    /// Id of the image that the container was made of.
    pub image: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The host's boot in which it was taken.
    pub boot_id: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// BLAKE3 over its files, in hexadecimal digits.
    pub digest: String,
    /// What it was taken with.
    pub versions: Versions,
}

/// What a checkpoint is taken and restored with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The engine: `podman`.
    pub engine: String,
    /// Its version.
    pub engine_version: String,
    /// The program that runs containers: `runc`.
    pub runtime: String,
    /// Version of CRIU; absent where it could not be asked.
    pub criu: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
}

/// Why a checkpoint cannot be restored here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// There is no CRIU any more.
    #[error(
        "it was taken by CRIU {then}, and this host has none now; run cargo xtask setup, or install it"
    )]
    CriuGone {
        /// Version that took it.
        then: String,
    },
    /// CRIU is older than the one that took it.
    #[error("it was taken by CRIU {then}, and this host has {now} now; install {then} or later")]
    CriuOlder {
        /// Version that took it.
        then: String,
        /// Version that is there.
        now: String,
    },
    /// Another program runs containers.
    #[error(
        "it was taken with {then}, and the engine runs containers with {now} now; set its runtime back"
    )]
    Runtime {
        /// The one that took it.
        then: String,
        /// The one that is there.
        now: String,
    },
    /// Its files are not those that were written.
    #[error("its files are not those that were written")]
    Damaged,
}

/// Whether what there is now can restore what was taken then. CRIU restores images of older
/// versions; what else it cannot do, it says itself.
pub fn compare(then: &Versions, now: &Versions) -> Result<(), Incompatible> {
    if then.runtime != now.runtime {
        let (then, now) = (then.runtime.clone(), now.runtime.clone());
        return Err(Incompatible::Runtime { then, now });
    }
    match (&then.criu, &now.criu) {
        (None, _) => Ok(()),
        (Some(then), None) => Err(Incompatible::CriuGone { then: then.clone() }),
        (Some(then), Some(now)) => match order(now, then) {
            Ordering::Less => Err(Incompatible::CriuOlder { then: then.clone(), now: now.clone() }),
            Ordering::Equal | Ordering::Greater => Ok(()),
        },
    }
}

impl CheckpointRecord {
    /// As it is shown, on a node that would restore it with these.
    pub fn shown(self, now: &Versions) -> CheckpointStatus {
        let incompatible = compare(&self.versions, now).err().map(|error| error.to_string());
        let Versions { engine, engine_version, runtime, criu, kernel } = self.versions;
        CheckpointStatus {
            runner: self.runner,
            workload: self.workload,
            run: self.run,
            image: self.image,
            taken_at: self.taken_at,
            bytes: self.bytes,
            digest: self.digest,
            taken_with: CheckpointVersions { engine, engine_version, runtime, criu, kernel },
            incompatible,
            departure: None,
        }
    }
}

/// Order of two versions by their numbers.
fn order(one: &str, other: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit())
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().unwrap_or(u64::MAX))
            .collect()
    };
    numbers(one).cmp(&numbers(other))
}

/// How much the store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Checkpoints.
    pub count: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Bytes that are left free on the file system where they lie.
    pub reserve: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { count: 1000, bytes: 16 << 30, reserve: 1 << 30 }
    }
}

/// What is in the store, or is being put there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Checkpoints.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why there is no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// There are as many as there may be.
    #[error("the checkpoint store is full: it has {count} checkpoints, which is as many as it may")]
    Count {
        /// How many.
        count: usize,
    },
    /// They would take more bytes than they may.
    #[error(
        "the checkpoint store is full: {held} bytes are held, {more} more are needed, {limit} are allowed"
    )]
    Bytes {
        /// Bytes held.
        held: u64,
        /// Bytes needed.
        more: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The disk would have too little left.
    #[error(
        "the disk of the checkpoints is full: {free} bytes are free, {more} are needed and {reserve} are kept free"
    )]
    Disk {
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        more: u64,
        /// Bytes to stay free.
        reserve: u64,
    },
}

/// Whether there is room for one more of this size beside what is held; `free` is what the disk
/// has, where that is known.
pub fn admit(bounds: Bounds, held: Held, more: u64, free: Option<u64>) -> Result<(), Full> {
    if held.count >= bounds.count {
        return Err(Full::Count { count: held.count });
    }
    if held.bytes.saturating_add(more) > bounds.bytes {
        return Err(Full::Bytes { held: held.bytes, more, limit: bounds.bytes });
    }
    match free {
        Some(free) if free < more.saturating_add(bounds.reserve) => {
            Err(Full::Disk { free, more, reserve: bounds.reserve })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(criu: Option<&str>) -> Versions {
        Versions {
            engine: "podman".into(),
            engine_version: "4.3.1".into(),
            runtime: "runc".into(),
            criu: criu.map(str::to_owned),
            kernel: "6.1.0".into(),
        }
    }

    #[test]
    fn a_newer_criu_restores_and_an_older_does_not() {
        let compare = |then, now| compare(&versions(then), &versions(now));
        assert_eq!(compare(Some("4.2.1"), Some("4.2.1")), Ok(()));
        assert_eq!(compare(Some("4.2.1"), Some("4.10")), Ok(()));
        assert_eq!(compare(None, None), Ok(()));
        let older = compare(Some("4.2.1"), Some("4.1.9")).expect_err("it is older");
        assert_eq!(
            older.to_string(),
            "it was taken by CRIU 4.2.1, and this host has 4.1.9 now; install 4.2.1 or later"
        );
        let gone = compare(Some("4.2.1"), None).expect_err("it is gone");
        assert!(gone.to_string().contains("this host has none now"), "{gone}");
    }

    #[test]
    fn another_kernel_or_engine_is_no_reason_and_another_runtime_is() {
        let then = versions(Some("4.2.1"));
        let kernel =
            Versions { kernel: "6.18".into(), engine_version: "5.4".into(), ..then.clone() };
        assert_eq!(compare(&then, &kernel), Ok(()));
        let crun = Versions { runtime: "crun".into(), ..then.clone() };
        let refused = compare(&then, &crun).expect_err("another runtime");
        assert!(refused.to_string().contains("with runc, and the engine runs"), "{refused}");
    }

    #[test]
    fn a_full_store_says_what_is_full() {
        let bounds = Bounds { count: 2, bytes: 100, reserve: 10 };
        let held = Held { count: 1, bytes: 60 };
        assert_eq!(admit(bounds, held, 40, Some(50)), Ok(()));
        assert_eq!(admit(bounds, held, 40, None), Ok(()));
        let says = |result: Result<(), Full>| result.expect_err("it is full").to_string();
        assert!(says(admit(bounds, held, 41, None)).contains("60 bytes are held, 41 more"));
        assert!(
            says(admit(bounds, held, 40, Some(49))).contains("49 bytes are free, 40 are needed")
        );
        let held = Held { count: 2, bytes: 0 };
        assert!(says(admit(bounds, held, 1, None)).contains("it has 2 checkpoints"));
        assert!(admit(bounds, Held::default(), u64::MAX, Some(u64::MAX)).is_err());
    }

    #[test]
    fn the_shape_on_disk_is_this() {
        let record = CheckpointRecord {
            schema: SCHEMA,
            runner: "r1".parse().expect("a name"),
            workload: "work".parse().expect("a name"),
            run: RunId::after(None, 1, 2),
            container: "c1".into(),
            image: "sha256:1".into(),
            taken_at: Timestamp::UNIX_EPOCH,
            boot_id: "b1".into(),
            bytes: 3,
            digest: "d1".into(),
            versions: versions(Some("4.2.1")),
        };
        let text = serde_json::to_string(&record).expect("plain data");
        assert_eq!(
            text,
            r#"{"schema":1,"runner":"r1","workload":"work","run":"run_00000000040000000000000008","container":"c1","image":"sha256:1","taken_at":"1970-01-01T00:00:00Z","boot_id":"b1","bytes":3,"digest":"d1","versions":{"engine":"podman","engine_version":"4.3.1","runtime":"runc","criu":"4.2.1","kernel":"6.1.0"}}"#
        );
        assert_eq!(serde_json::from_str::<CheckpointRecord>(&text).expect("reads"), record);
    }
}
