//! Runs the checks and the tests, and looks for what they leave behind.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::belongings;
use crate::core::leaks::Territory;
use crate::core::suite::{
    self, COUNTS_VARIABLE, Counts, FULL_BUDGET, GATE_BUDGET, Runner, Step, Tier, Tool,
};
use crate::process::CallError;
use crate::workspace::Workspace;

/// One version, so that one tree passes or fails alike everywhere.
const CARGO_DENY_VERSION: &str = "0.20.2";
const COMPONENT_DEADLINE: Duration = Duration::from_mins(10);
const CARGO_DENY_DEADLINE: Duration = Duration::from_mins(15);
/// On a disk: `/tmp` may be a tmpfs, on which loop devices behave differently.
const SCRATCH_PARENT: &str = "/var/tmp";
const SCRATCH_PREFIX: &str = "belay-test-";

/// Why the run did not pass.
#[derive(Debug)]
pub(crate) enum TestError {
    Scratch { path: PathBuf, source: io::Error },
    Scan(CallError),
    Failed { steps: Vec<&'static str>, leaks: usize },
}

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scratch { path, source } => {
                write!(f, "{} could not be prepared: {source}", path.display())
            }
            Self::Scan(error) => write!(f, "the host could not be searched for leaks: {error}"),
            Self::Failed { steps, leaks } => {
                let mut failed: Vec<_> = steps.iter().map(|&step| step.to_owned()).collect();
                if *leaks > 0 {
                    failed.push(format!("{leaks} left behind"));
                }
                write!(f, "not passed: {}", failed.join(", "))
            }
        }
    }
}

impl std::error::Error for TestError {}

/// Runs the steps of `tiers`, all of them even after one failed, and prints what ran.
pub(crate) fn run(
    workspace: &Workspace,
    tiers: &BTreeSet<Tier>,
    counts: Counts,
) -> Result<(), TestError> {
    let started = Instant::now();
    let budget = match counts {
        Counts::Gate => GATE_BUDGET,
        Counts::Full => FULL_BUDGET,
    };
    let scratch = make_scratch()?;
    let territory = Territory {
        scratch: scratch.display().to_string(),
        target_dir: workspace.target_dir().display().to_string(),
    };
    let before = belongings::scan(&territory).map_err(TestError::Scan)?;

    if tiers.contains(&Tier::Lint)
        && let Err(error) = ensure_components(workspace)
    {
        // The steps that need them fail and say so; the others can still run.
        eprintln!("error: {error}");
    }
    let mut report = Vec::new();
    for step in suite::steps(tiers, counts, runner(workspace)) {
        println!("\n==> {}", step.name);
        let step_started = Instant::now();
        let left = budget.saturating_sub(started.elapsed());
        let result = run_step(workspace, &step, left, counts, &scratch);
        if let Err(error) = &result {
            eprintln!("error: {error}");
        }
        report.push((step.name, step_started.elapsed(), result.is_ok()));
    }

    println!("\n==> leaks");
    // A host that cannot be searched is not known to be clean.
    let leaks = belongings::leaks(&territory, &before).unwrap_or_else(|error| {
        vec![format!("unknown, for the host could not be searched: {error}")]
    });
    for leak in &leaks {
        eprintln!("left behind: {leak}");
    }
    if leaks.is_empty() {
        let _ = fs::remove_dir(&scratch);
    } else {
        eprintln!("what was left is kept for a look; it may be removed by hand");
    }

    println!("\nwhat ran");
    for (name, took, passed) in &report {
        let verdict = if *passed { "ok" } else { "FAILED" };
        println!("  {verdict:<6} {name:<34} {:>5} s", took.as_secs());
    }
    let verdict = if leaks.is_empty() { "ok" } else { "FAILED" };
    println!("  {verdict:<6} {:<34}", "nothing left behind");
    println!("  {:<41} {:>5} s", "all of it", started.elapsed().as_secs());

    let steps: Vec<_> =
        report.into_iter().filter(|(_, _, passed)| !passed).map(|(name, _, _)| name).collect();
    if steps.is_empty() && leaks.is_empty() {
        return Ok(());
    }
    Err(TestError::Failed { steps, leaks: leaks.len() })
}

fn run_step(
    workspace: &Workspace,
    step: &Step,
    left: Duration,
    counts: Counts,
    scratch: &Path,
) -> Result<(), CallError> {
    let deadline = step.deadline.min(left);
    let call = match step.tool {
        Tool::Cargo => workspace.cargo(deadline),
        Tool::CargoDeny => workspace.call(&ensure_cargo_deny(workspace)?, deadline),
    };
    let call = call.args(&step.arguments).env("TMPDIR", scratch);
    let call = match counts {
        Counts::Gate => call,
        Counts::Full => call.env(COUNTS_VARIABLE, "full"),
    };
    println!("$ {}", call.shown());
    call.stream()
}

/// cargo-nextest, which gives each test a deadline of its own, where it is installed.
fn runner(workspace: &Workspace) -> Runner {
    match workspace.cargo(Duration::from_mins(1)).args(["nextest", "--version"]).capture() {
        Ok(_) => Runner::Nextest,
        Err(_) => Runner::CargoTest,
    }
}

/// A minimal toolchain has neither formatter nor lints; rustup can add them.
fn ensure_components(workspace: &Workspace) -> Result<(), CallError> {
    let probe_deadline = Duration::from_mins(1);
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if workspace.cargo(probe_deadline).args([subcommand, "--version"]).capture().is_err() {
            println!("adding the toolchain's {component}");
            workspace
                .call(Path::new("rustup"), COMPONENT_DEADLINE)
                .args(["component", "add", component])
                .stream()?;
        }
    }
    Ok(())
}

/// Builds cargo-deny from its source into the target directory, unless it is there.
fn ensure_cargo_deny(workspace: &Workspace) -> Result<PathBuf, CallError> {
    let root = workspace.target_dir().join("tools").join(format!("deny-{CARGO_DENY_VERSION}"));
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        println!("building cargo-deny {CARGO_DENY_VERSION} (once)");
        workspace
            .cargo(CARGO_DENY_DEADLINE)
            .args(["install", "cargo-deny", "--locked", "--version", CARGO_DENY_VERSION, "--root"])
            .arg(&root)
            // It runs for a second: what counts is how long it takes to build.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64")
            .env("CARGO_TARGET_DIR", root.join("build"))
            .stream()?;
        // Half a gigabyte that is not needed again.
        let _ = fs::remove_dir_all(root.join("build"));
    }
    Ok(program)
}

/// A directory of this run, after those of runs that are over are gone.
fn make_scratch() -> Result<PathBuf, TestError> {
    let parent = Path::new(SCRATCH_PARENT);
    let mounts = crate::probe::mounts();
    for old in crate::probe::entries(parent) {
        let name = old.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(SCRATCH_PREFIX).and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        let used = mounts.iter().any(|mount| Path::new(&mount.point).starts_with(&old));
        if !used && crate::probe::parent_of(pid).is_none() {
            let _ = fs::remove_dir_all(&old);
        }
    }
    let path = parent.join(format!("{SCRATCH_PREFIX}{}", std::process::id()));
    fs::create_dir(&path).map_err(|source| TestError::Scratch { path: path.clone(), source })?;
    Ok(path)
}
