//! One belayd per state directory.
//!
//! The lock is `flock` on a file in the state directory itself, so that the same directory under
//! another name (a symlink, a bind mount) is the same lock. The kernel frees it when its holder
//! dies. The file is never deleted: a deleted one would let two holders in. What is written in it is
//! for people, and never decides anything.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Exit code of a second belayd on one state directory. systemd must not restart on it.
pub(crate) const EXIT_HELD: u8 = 73;

/// How long the belayd before is given to end: a restart overlaps a little.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(100);

/// Longest record that is read back.
const RECORD_MAX: u64 = 4096;

/// Why the instance lock was not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another belayd has it.
    #[error(
        "another belayd uses {directory}: {holder}; stop that one, or give this one a node.name, \
         a node.state_dir and a node.runtime_dir of its own"
    )]
    Held {
        /// The state directory.
        directory: String,
        /// What the holder says of itself.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What a holder says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    role: String,
    pid: u32,
    node: String,
    version: String,
    since: jiff::Timestamp,
}

/// The lock. It is let go of when this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    _file: Flock<File>,
}

/// Takes the lock of a state directory, waiting a moment for a belayd that is ending.
pub(crate) async fn lock(state_dir: &Path, node: &str) -> Result<InstanceLock, LockError> {
    let path = state_dir.join("instance.lock");
    let end = tokio::time::Instant::now() + HAND_OVER;
    loop {
        match try_lock(&path, node)
            .map_err(|source| LockError::Io { path: path.clone(), source })?
        {
            Ok(lock) => return Ok(lock),
            Err(holder) if tokio::time::Instant::now() >= end => {
                let directory = state_dir.display().to_string();
                return Err(LockError::Held { directory, holder });
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

fn try_lock(path: &Path, node: &str) -> std::io::Result<Result<InstanceLock, String>> {
    // Not truncated: whoever only tries must not erase the holder's record.
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut locked) => {
            let holder = Holder {
                role: "belayd".into(),
                pid: std::process::id(),
                node: node.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                since: jiff::Timestamp::now(),
            };
            locked.set_len(0)?;
            locked.rewind()?;
            locked.write_all(serde_json::to_string(&holder)?.as_bytes())?;
            Ok(Ok(InstanceLock { _file: locked }))
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            // A record that is torn or not there yet does not matter: the lock decided.
            let _ = (&mut file).take(RECORD_MAX).read_to_string(&mut text);
            Ok(Err(describe(&text)))
        }
        Err((_, errno)) => Err(errno.into()),
    }
}

fn describe(record: &str) -> String {
    match serde_json::from_str::<Holder>(record) {
        Ok(holder) => format!(
            "{} of node {}, pid {}, since {}",
            holder.role, holder.node, holder.pid, holder.since
        ),
        Err(_) => "its holder has not said who it is".to_owned(),
    }
}

/// The random id of this installation, made at its first start and kept in its state directory.
pub(crate) fn id(state_dir: &Path) -> anyhow::Result<String> {
    let path = state_dir.join("instance-id");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
                .context("the kernel gives no random id")?;
            write_durably(state_dir, &path, uuid.trim())
                .with_context(|| format!("cannot write {}", path.display()))?;
            uuid
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    let id = text.trim();
    let plausible = !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    anyhow::ensure!(
        plausible,
        "{} does not hold an id; write the value of the label io.belay.instance of this node's \
         containers into it, or remove it if there are none",
        path.display()
    );
    Ok(id.to_owned())
}

/// The id of the host's present boot.
pub(crate) fn boot_id() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("the kernel does not name its boot")?;
    Ok(text.trim().to_owned())
}

fn write_durably(directory: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_is_told_who_the_first_is_and_a_third_gets_it_after_the_first() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let link = dir.path().with_extension("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("links");
        let first = lock(dir.path(), "shop-7").await.expect("free");
        let refused = lock(&link, "other").await.expect_err("held, also by another name");
        let text = refused.to_string();
        assert!(text.contains("belayd of node shop-7, pid"), "{text}");
        drop(first);
        lock(dir.path(), "shop-7").await.expect("free again");
        std::fs::remove_file(link).expect("removes the link");
    }

    #[test]
    fn the_id_is_made_once_and_an_empty_one_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = id(dir.path()).expect("makes one");
        assert_eq!(id(dir.path()).expect("reads it back"), made);
        std::fs::write(dir.path().join("instance-id"), "").expect("empties it");
        let refused = id(dir.path()).expect_err("is refused").to_string();
        assert!(refused.contains("io.belay.instance"), "{refused}");
    }

    #[test]
    fn garbage_in_the_file_decides_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("instance.lock");
        std::fs::write(&path, b"\xff{\"pid\":1").expect("writes garbage");
        assert!(try_lock(&path, "n").expect("can be locked").is_ok());
    }
}
