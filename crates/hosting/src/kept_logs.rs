//! What runs wrote, kept with them: a file for each stint, cut out of the log of its runner when the
//! container goes or its log is about to be begun anew.
//!
//! A file is written once and whole. A kill of belayd before that leaves the container with its log;
//! a power cut may cost what was written in the last seconds.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use belay_lifecycle::core::last_lines::LastLines;
use belay_protocol::LogLine;
use belay_protocol::runner::{Epoch, RunId};

/// Bytes that are kept of a stint, the newest.
const OF_A_STINT: usize = 256 << 10;
/// Bytes that are kept of all runs; the oldest go.
const OF_ALL: u64 = 256 << 20;
const PARTIAL: &str = "partial";

/// What is kept of the runs' output. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct KeptLogs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    most: u64,
    /// Bytes that lie there, about.
    bytes: AtomicU64,
}

/// The newest lines of a stint.
#[derive(Debug)]
pub(crate) struct StintLines(LastLines);

impl Default for StintLines {
    fn default() -> Self {
        Self(LastLines::new(OF_A_STINT))
    }
}

impl StintLines {
    pub(crate) fn push(&mut self, line: &LogLine) {
        let mut bytes = serde_json::to_vec(line).expect("a line is plain data");
        bytes.push(b'\n');
        self.0.push(bytes);
    }
}

impl KeptLogs {
    /// What is kept in a directory, which is made when there is something to keep. Blocks.
    pub(crate) fn open(directory: &Path) -> Self {
        Self::bounded(directory, OF_ALL)
    }

    fn bounded(directory: &Path, most: u64) -> Self {
        let kept = Self(Arc::new(Shared {
            directory: directory.to_owned(),
            most,
            bytes: AtomicU64::new(0),
        }));
        kept.measure();
        kept
    }

    /// Keeps what was written in a stint, unless that is kept already: the log it is cut out of may
    /// have lost its beginning since. Blocks.
    pub(crate) fn keep(&self, run: RunId, epoch: Epoch, lines: StintLines) -> io::Result<()> {
        let bytes = lines.0.into_bytes();
        let file = self.file(run, epoch);
        if bytes.is_empty() || file.try_exists()? {
            return Ok(());
        }
        let directory = self.0.directory.join(run.to_string());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let partial = directory.join(PARTIAL);
        let mut options = std::fs::OpenOptions::new();
        let mut written =
            options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        written.write_all(&bytes)?;
        std::fs::rename(&partial, file)?;
        let size = bytes.len() as u64;
        if self.0.bytes.fetch_add(size, Ordering::Relaxed) + size > self.0.most {
            self.bound()?;
        }
        Ok(())
    }

    /// What is kept of a stint; none if nothing is. Blocks.
    pub(crate) fn read(&self, run: RunId, epoch: Epoch) -> io::Result<Option<Vec<LogLine>>> {
        let file = match std::fs::File::open(self.file(run, epoch)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        // A little more than is ever written: nobody else writes there.
        file.take(2 * OF_A_STINT as u64).read_to_string(&mut text)?;
        Ok(Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
    }

    /// The runs of which something is kept, the oldest first. Blocks.
    pub(crate) fn runs(&self) -> io::Result<Vec<RunId>> {
        let entries = match std::fs::read_dir(&self.0.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut runs = Vec::new();
        for entry in entries {
            let run = entry?.file_name().to_str().and_then(|name| name.parse::<RunId>().ok());
            runs.extend(run);
        }
        // Their ids sort by their creation.
        runs.sort_unstable();
        Ok(runs)
    }

    /// Lets go of what is kept of these runs. Blocks.
    pub(crate) fn forget(&self, runs: &[RunId]) -> io::Result<()> {
        for run in runs {
            match std::fs::remove_dir_all(self.0.directory.join(run.to_string())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.measure();
        Ok(())
    }

    /// Lets go of the oldest, down to nine tenths of what may be kept.
    fn bound(&self) -> io::Result<()> {
        let mut bytes = self.measure();
        for run in self.runs()? {
            if bytes <= self.0.most / 10 * 9 {
                break;
            }
            let directory = self.0.directory.join(run.to_string());
            bytes = bytes.saturating_sub(size_of(&directory));
            std::fs::remove_dir_all(&directory)?;
        }
        self.0.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn measure(&self) -> u64 {
        let runs = self.runs().unwrap_or_default();
        let sizes = runs.iter().map(|run| size_of(&self.0.directory.join(run.to_string())));
        let bytes = sizes.sum();
        self.0.bytes.store(bytes, Ordering::Relaxed);
        bytes
    }

    fn file(&self, run: RunId, epoch: Epoch) -> PathBuf {
        self.0.directory.join(run.to_string()).join(format!("{epoch}.ndjson"))
    }
}

/// Bytes of the files in a directory; what cannot be looked at has none.
fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum()
}

#[cfg(test)]
mod tests {
    use belay_protocol::LogStream;

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { stream: LogStream::Stdout, at: None, text: text.to_owned(), container: None }
    }

    fn lines(texts: &[&str]) -> StintLines {
        let mut lines = StintLines::default();
        for text in texts {
            lines.push(&line(text));
        }
        lines
    }

    fn run(n: u64) -> RunId {
        RunId::after(None, n, n)
    }

    #[test]
    fn what_is_kept_of_a_stint_is_read_back_and_not_replaced() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("run-logs");
        let kept = KeptLogs::open(&directory);
        let epoch = Epoch::new(1);
        assert_eq!(kept.read(run(1), epoch).expect("reads"), None);
        assert!(kept.runs().expect("lists").is_empty());
        kept.keep(run(1), epoch, lines(&["a", "b"])).expect("kept");
        kept.keep(run(1), epoch, lines(&["b"])).expect("not kept again");
        kept.keep(run(1), Epoch::new(2), lines(&[])).expect("nothing to keep");
        let again = KeptLogs::open(&directory);
        assert_eq!(again.read(run(1), epoch).expect("reads"), Some(vec![line("a"), line("b")]));
        assert_eq!(again.read(run(1), Epoch::new(2)).expect("reads"), None);
        assert_eq!(again.runs().expect("lists"), [run(1)]);
        again.forget(&[run(1), run(2)]).expect("forgotten");
        assert!(again.runs().expect("lists").is_empty());
    }

    #[test]
    fn the_newest_of_a_stint_and_the_newest_runs_are_kept() {
        let place = tempfile::tempdir().expect("a directory");
        let kept = KeptLogs::bounded(place.path(), 1 << 20);
        let long = "x".repeat(60_000);
        for n in 1..=8 {
            let mut stint = StintLines::default();
            for number in 0..10 {
                stint.push(&line(&format!("{number} {long}")));
            }
            kept.keep(run(n), Epoch::new(1), stint).expect("kept");
        }
        let runs = kept.runs().expect("lists");
        assert_eq!(runs.last(), Some(&run(8)));
        assert!(!runs.contains(&run(1)) && runs.len() >= 3, "{runs:?}");
        let of_last = kept.read(run(8), Epoch::new(1)).expect("reads").expect("is kept");
        assert_eq!(of_last.len(), 4, "the newest 256 KiB");
        assert!(of_last[3].text.starts_with("9 "));
        assert!(kept.measure() <= 1 << 20);
    }
}
