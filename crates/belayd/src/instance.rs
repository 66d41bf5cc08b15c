//! One belayd per state directory, and the id of the installation that it keeps there.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use belay_locks::{AcquireError, Claim, Guard, LockName, LockSet, Locks, Role};

/// Exit code of a second belayd on one state directory. systemd must not restart on it.
pub(crate) const EXIT_HELD: u8 = 73;

/// How long the belayd before is given to end: a restart overlaps a little.
const HAND_OVER: Duration = Duration::from_secs(5);

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
    /// The lock cannot be used.
    #[error("cannot lock {directory}")]
    Unusable {
        /// The state directory.
        directory: String,
        /// Why.
        source: AcquireError,
    },
}

/// Takes the lock of a state directory, waiting a moment for a belayd that is ending. It is held
/// until the guard is dropped or the process ends.
pub(crate) async fn lock(locks: &Locks, state_dir: &Path, node: &str) -> Result<Guard, LockError> {
    let mut claim = Claim::new(Role::Daemon, "supervise");
    claim.hint = format!("node {node}");
    let set = LockSet::one(LockName::Instance);
    let directory = || state_dir.display().to_string();
    match locks.acquire(&set, &claim, HAND_OVER, |_| {}).await {
        Ok(guard) => {
            for before in guard.interrupted() {
                tracing::info!("the belayd before did not end in order: {}", before.line());
            }
            Ok(guard)
        }
        Err(AcquireError::Held(held)) => {
            Err(LockError::Held { directory: directory(), holder: held.line })
        }
        Err(source @ (AcquireError::Unusable(_) | AcquireError::OutOfOrder(_))) => {
            Err(LockError::Unusable { directory: directory(), source })
        }
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

    fn locks(state_dir: &Path) -> Locks {
        let (run, state) = (state_dir.join("run"), state_dir.to_owned());
        Locks::new(belay_locks::Places { run, state })
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_is_told_who_the_first_is_and_a_third_gets_it_after_the_first() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let link = dir.path().with_extension("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("links");
        let first = lock(&locks(dir.path()), dir.path(), "shop-7").await.expect("free");
        let refused = lock(&locks(&link), &link, "other").await;
        let text = refused.expect_err("held, also by another name").to_string();
        let told = format!("supervise (daemon, pid {}, node shop-7) for ", std::process::id());
        assert!(text.contains(&told), "{text}");
        drop(first);
        lock(&locks(dir.path()), dir.path(), "shop-7").await.expect("free again");
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
}
