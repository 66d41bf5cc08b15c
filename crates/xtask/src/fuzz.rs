//! Runs one target of the fuzzer, built so that it sees which code an input reaches.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::invocation::FuzzRun;
use crate::process::{Call, CallError};
use crate::workspace::Workspace;

const BUILD_DEADLINE: Duration = Duration::from_mins(40);
/// For what is done beside the search itself.
const SLACK: Duration = Duration::from_mins(5);
/// Counters for each edge and what comparisons compare, as libFuzzer reads them. All of it is stable.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";
/// Longest input: two dozen members of an archive, and more than any other target needs.
const LONGEST: &str = "-max_len=16384";
/// One input may take this long, in seconds, and the whole of it this much memory, in MiB.
const BOUNDS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=1024"];

/// Why a target was not run to its end.
#[derive(Debug)]
pub(crate) enum FuzzError {
    NoHost,
    Call(CallError),
    Folder { path: PathBuf, source: io::Error },
    Found { name: String, folder: PathBuf, source: CallError },
}

impl fmt::Display for FuzzError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => write!(f, "cargo does not say what it builds for"),
            Self::Call(error) => write!(f, "{error}"),
            Self::Folder { path, source } => {
                write!(f, "{} could not be changed: {source}", path.display())
            }
            Self::Found { name, folder, source } => write!(
                f,
                "{source}\n      what {name} did not stand is in {}; once mended, it belongs into \
                 the corpus",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for FuzzError {}

impl From<CallError> for FuzzError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Builds the fuzzer, and searches or tidies up with it.
pub(crate) fn run(workspace: &Workspace, name: &str, what: &FuzzRun) -> Result<(), FuzzError> {
    let fuzzer = build(workspace)?;
    let scratch = workspace.target_dir().join("fuzz");
    let (found, corpus) = (scratch.join("corpus").join(name), corpus(workspace, name));
    make(&found)?;
    match what {
        FuzzRun::Search { seconds } => {
            let failed = scratch.join("failed").join(name);
            make(&failed)?;
            // What it finds goes into the first folder.
            let mut folders = vec![found.clone()];
            folders.extend(corpus.is_dir().then_some(corpus));
            let call = call(workspace, &fuzzer, name, Duration::from_secs(*seconds))
                .env("BELAY_FUZZ_SEEDS", &found)
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-artifact_prefix={}/", failed.display()))
                .args(["-print_final_stats=1", LONGEST])
                .args(BOUNDS)
                .args(folders);
            let name = name.to_owned();
            call.stream().map_err(|source| FuzzError::Found { name, folder: failed, source })
        }
        FuzzRun::Distil => {
            let distilled = scratch.join("distilled").join(name);
            remove(&distilled)?;
            make(&distilled)?;
            make(&corpus)?;
            // By edges alone: how often one is taken tells a search something, and a replay nothing.
            call(workspace, &fuzzer, name, Duration::from_mins(30))
                .args(["-set_cover_merge=1", "-use_counters=0", LONGEST])
                .args([&distilled, &corpus, &found])
                .stream()?;
            replace(&distilled, &corpus)
        }
    }
}

fn build(workspace: &Workspace) -> Result<PathBuf, FuzzError> {
    let version = workspace.cargo(SLACK).arg("-vV").capture()?.stdout;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or(FuzzError::NoHost)?;
    // With a target, what runs while building is built without counters.
    let folder = workspace.target_dir().join("fuzz");
    workspace
        .cargo(BUILD_DEADLINE)
        .args(["build", "--locked", "--package", "belay-fuzz", "--bin", "belay-fuzz"])
        .args(["--features", "libfuzzer", "--profile", "fuzz", "--target", host, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", INSTRUMENTED)
        .stream()?;
    Ok(folder.join(host).join("fuzz").join("belay-fuzz"))
}

fn call(workspace: &Workspace, fuzzer: &Path, name: &str, time: Duration) -> Call {
    workspace.call(fuzzer, time + SLACK).env("BELAY_FUZZ_TARGET", name)
}

fn corpus(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.root().join("tests/fuzz/corpus").join(name)
}

fn make(path: &Path) -> Result<(), FuzzError> {
    fs::create_dir_all(path).map_err(|source| FuzzError::Folder { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), FuzzError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FuzzError::Folder { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Gives a folder the files of another.
fn replace(from: &Path, to: &Path) -> Result<(), FuzzError> {
    let failed = |source| FuzzError::Folder { path: to.to_owned(), source };
    remove(to)?;
    make(to)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(failed)?;
    }
    Ok(())
}
