//! The secrets of a workload: copies in memory of files of the host, seen by its container alone.
//!
//! They lie in `secrets/<workload>` of the runtime directory, which is on a tmpfs: they are gone with
//! the boot, and are written again before every start. A name in that directory is replaced by
//! rename, so a container never reads half of one.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use belay_protocol::WorkloadName;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::{Uid, fchown};

use crate::core::spec::secrets::{Reader, SIZE_MAX};

/// Directory below the runtime directory.
const DIRECTORY: &str = "secrets";

/// Everything that speaks against these secrets on this host.
pub(crate) async fn faults(secrets: &BTreeMap<String, PathBuf>, runtime_dir: &Path) -> Vec<String> {
    if secrets.is_empty() {
        return Vec::new();
    }
    let (secrets, runtime_dir) = (secrets.clone(), runtime_dir.to_owned());
    let look = move || {
        let mut found: Vec<_> = not_in_memory(&runtime_dir).into_iter().collect();
        found.extend(secrets.iter().filter_map(|(name, path)| read(name, path).err()));
        found
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.unwrap_or_else(|error| vec![format!("its secrets could not be looked at: {error}")])
}

/// Writes a workload's secrets, each whole, removes others, and names their directory.
pub(crate) async fn place(
    runtime_dir: &Path,
    workload: &WorkloadName,
    secrets: BTreeMap<String, PathBuf>,
    reader: Reader,
) -> Result<PathBuf, String> {
    let (runtime_dir, workload) = (runtime_dir.to_owned(), workload.clone());
    let write = move || {
        if let Some(wrong) = not_in_memory(&runtime_dir) {
            return Err(wrong);
        }
        // Nothing is replaced before all can be read.
        let mut contents = Vec::new();
        for (name, path) in &secrets {
            contents.push((name, read(name, path)?));
        }
        let directory = runtime_dir.join(DIRECTORY).join(workload.as_str());
        write_all(&runtime_dir, &directory, &contents, reader)
            .map_err(|error| format!("cannot write below {}: {error}", directory.display()))?;
        Ok(directory)
    };
    let written = tokio::task::spawn_blocking(write).await;
    written.unwrap_or_else(|error| Err(format!("its secrets could not be written: {error}")))
}

/// Removes a workload's secrets, if it has any.
pub(crate) async fn clear(runtime_dir: &Path, workload: &WorkloadName) -> io::Result<()> {
    let directory = runtime_dir.join(DIRECTORY).join(workload.as_str());
    match tokio::fs::remove_dir_all(directory).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the secrets of workloads that this node does not have any more.
pub(crate) async fn sweep(runtime_dir: &Path, is_known: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut entries = match tokio::fs::read_dir(runtime_dir.join(DIRECTORY)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    while let Some(entry) = entries.next_entry().await? {
        if !entry.file_name().to_str().is_some_and(&is_known) {
            tokio::fs::remove_dir_all(entry.path()).await?;
        }
    }
    Ok(())
}

fn not_in_memory(runtime_dir: &Path) -> Option<String> {
    let kind = match statfs(runtime_dir) {
        Ok(found) => found.filesystem_type(),
        Err(error) => return Some(format!("cannot look at {}: {error}", runtime_dir.display())),
    };
    (kind != TMPFS_MAGIC).then(|| {
        format!(
            "secrets are kept in memory only, and the runtime directory {} is on a disk; \
             set runtime_dir to one below /run",
            runtime_dir.display()
        )
    })
}

/// The content of a secret's file. A link is followed: whoever may write a spec chooses the file.
fn read(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |what: String| format!("secret {name}: {} {what}", path.display());
    // Not blocking, for a FIFO has no end until somebody writes.
    let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| wrong(format!("cannot be opened: {error}")))?;
    let found = file.metadata().map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if !found.is_file() {
        return Err(wrong("is no regular file".to_owned()));
    }
    if found.mode() & 0o007 != 0 {
        let mode = found.mode() & 0o7777;
        return Err(wrong(format!(
            "has mode {mode:04o}: everybody on this host can open it; chmod 0600"
        )));
    }
    let mut content = Vec::new();
    file.take(SIZE_MAX + 1)
        .read_to_end(&mut content)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if content.len() as u64 > SIZE_MAX {
        return Err(wrong(format!("is larger than {} KiB", SIZE_MAX >> 10)));
    }
    Ok(content)
}

fn write_all(
    runtime_dir: &Path,
    directory: &Path,
    contents: &[(&String, Vec<u8>)],
    reader: Reader,
) -> io::Result<()> {
    let above = runtime_dir.join(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o700).create(&above)?;
    std::fs::set_permissions(&above, Permissions::from_mode(0o700))?;
    DirBuilder::new().recursive(true).create(directory)?;
    // The container's user passes through it; nobody else of the host gets this far.
    std::fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    for (name, content) in contents {
        let partial = directory.join(".partial");
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o400).open(&partial)?;
        file.write_all(content)?;
        hand_over(&file, reader)?;
        std::fs::rename(&partial, directory.join(name))?;
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !contents.iter().any(|(kept, _)| name == kept.as_str()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn hand_over(file: &File, reader: Reader) -> io::Result<()> {
    match reader {
        Reader::User(uid) => Ok(fchown(file, Some(Uid::from_raw(uid)), None)?),
        Reader::Everyone => file.set_permissions(Permissions::from_mode(0o444)),
    }
}
