//! The end of the log of a container that is removed, kept with the workload's state.
//!
//! It is written once, when the container goes, and not while it runs. A crash before leaves the
//! container with its log, one after leaves both, and saving it again gives the same file.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_engine::{Engine, LogOptions};
use belay_protocol::runner::RunnerId;
use belay_protocol::{LogLine, LogStream};
use futures_util::StreamExt as _;

use crate::core::last_lines::{LastLines, container_of, name_for, newest_first};

/// Directory of the saved logs below a workload's state.
const DIRECTORY: &str = "logs";

/// Bytes that are kept of one run.
const BYTES: usize = 1 << 20;

/// Runs that are kept of a workload.
const RUNS: usize = 2;

/// Runners that are kept of a workload that takes runs.
const RUNNERS: usize = 100;

/// Newest lines that the engine is asked for. Podman 4.3 reads backwards, 2000 lines in 0.2 s and
/// ten times as many in 9 s.
const LINES: u32 = 2000;

/// How long reading them may take; what was read by then is kept.
const WITHIN: Duration = Duration::from_secs(10);

/// A line as the API has it.
pub(crate) fn wire(line: &belay_engine::LogLine) -> LogLine {
    let stream = match line.stream {
        belay_engine::LogStream::Stdout => LogStream::Stdout,
        belay_engine::LogStream::Stderr => LogStream::Stderr,
    };
    LogLine { stream, at: line.time, text: line.text().into_owned(), container: None }
}

/// Saves the end of a container's log, and lets go of the oldest that was saved.
pub(crate) async fn save(engine: &Engine, state_dir: &Path, container: &str) -> io::Result<()> {
    let short: String = container.chars().take(12).collect();
    save_as(engine, state_dir, container, short, RUNS).await
}

/// Saves the end of the log of a runner's container under the runner's name, among those of its
/// workload, whose state lies in `state_dir`.
pub async fn keep_last_lines(
    engine: &Engine,
    container: &str,
    state_dir: &Path,
    runner: &RunnerId,
) -> io::Result<()> {
    save_as(engine, state_dir, container, runner.to_string(), RUNNERS).await
}

async fn save_as(
    engine: &Engine,
    state_dir: &Path,
    container: &str,
    called: String,
    keep: usize,
) -> io::Result<()> {
    let options = LogOptions { follow: false, tail: Some(LINES), since: None };
    let mut lines = engine.logs(container, &options);
    let mut last = LastLines::new(BYTES);
    let reading = async {
        while let Some(Ok(line)) = lines.next().await {
            let mut bytes = serde_json::to_vec(&wire(&line)).expect("a line is plain data");
            bytes.push(b'\n');
            last.push(bytes);
        }
    };
    if tokio::time::timeout(WITHIN, reading).await.is_err() {
        tracing::warn!(container, "reading its last lines took too long; some are not kept");
    }
    let bytes = last.into_bytes();
    if bytes.is_empty() {
        return Ok(());
    }
    let directory = state_dir.join(DIRECTORY);
    let write = move || write(&directory, &called, &bytes, keep);
    tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn write(directory: &Path, container: &str, bytes: &[u8], keep: usize) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let existing = names(directory)?;
    let name = name_for(container, &existing);
    let partial = directory.join("partial");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    std::fs::rename(&partial, directory.join(name))?;
    for old in newest_first(names(directory)?).into_iter().skip(keep) {
        std::fs::remove_file(directory.join(old))?;
    }
    Ok(())
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The saved logs of a workload, newest first.
pub(crate) fn list(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = state_dir.join(DIRECTORY);
    let names = newest_first(names(&directory)?);
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

/// The saved log of the container whose id begins so, if it is kept.
pub(crate) fn of(state_dir: &Path, container: &str) -> io::Result<Option<PathBuf>> {
    let directory = state_dir.join(DIRECTORY);
    let mut names = names(&directory)?.into_iter();
    let found = names.find(|name| container_of(name) == Some(container));
    Ok(found.map(|name| directory.join(name)))
}

/// The lines of a saved log; one that cannot be read is left out.
pub(crate) fn read(path: &Path) -> io::Result<Vec<LogLine>> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    // A little more than is ever written: nobody else writes there.
    file.take(2 * BYTES as u64).read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Lets go of all of them.
pub(crate) async fn forget(state_dir: &Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(state_dir.join(DIRECTORY)).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
