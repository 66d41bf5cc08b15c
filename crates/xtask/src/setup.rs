//! Prepares the host: checks it, installs what is missing, configures the container engine.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::core::engine_config::{self, DropInStep};
use crate::core::host::{self, Blocker};
use crate::core::invocation::Consent;
use crate::core::needs::{self, Need, Purpose};
use crate::criu::{self, CriuError};
use crate::probe;
use crate::process::{Call, CallError};

const APT_UPDATE_DEADLINE: Duration = Duration::from_mins(5);
const APT_INSTALL_DEADLINE: Duration = Duration::from_mins(20);
const ENGINE_DEADLINE: Duration = Duration::from_mins(1);
/// Package lists older than this may name versions the mirror no longer has.
const LISTS_FRESH_FOR: Duration = Duration::from_hours(24);
/// The engine's images and containers, and the volumes of the demo and the tests.
const STATE_BYTES: u64 = 3 << 30;
/// A build of the workspace with its tests.
const BUILD_BYTES: u64 = 5 << 30;

/// Why the host is not ready.
#[derive(Debug)]
pub(crate) enum SetupError {
    Blocked(Vec<Blocker>),
    Unsupported { found: String, missing: Vec<Need> },
    Refused { missing: Vec<String> },
    Apt(CallError),
    StillMissing(Vec<Need>),
    DropIn { action: &'static str, source: io::Error },
    Engine(CallError),
    EngineDiffers { want: String, foreign: bool },
    Criu(CriuError),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked(blockers) => {
                write!(f, "this host is not ready, and nothing was changed")?;
                blockers.iter().try_for_each(|blocker| write!(f, "\n    - {blocker}"))
            }
            Self::Unsupported { found, missing } => write!(
                f,
                "this is {found}; packages can be installed on Debian 12 and 13 only\n      \
                 Install what these Debian packages hold, then run this again: {}",
                needs::packages(missing).join(" ")
            ),
            Self::Refused { missing } => write!(
                f,
                "the host must be changed first, and nobody agreed to it\n      \
                 Run `cargo xtask setup --yes`, or do it by hand: {}",
                missing.join("; ")
            ),
            Self::Apt(error) => write!(
                f,
                "packages could not be installed: {error}\n      \
                 Check the network and the package sources (`apt-get update`), then run this again."
            ),
            Self::StillMissing(missing) => write!(
                f,
                "apt reported success, and these are still not there: {}",
                missing.iter().map(|need| need.package).collect::<Vec<_>>().join(" ")
            ),
            Self::Criu(error) => error.fmt(f),
            Self::DropIn { action, source } => {
                write!(f, "{} could not be {action}: {source}", engine_config::PATH)
            }
            Self::Engine(error) => write!(
                f,
                "Podman does not answer: {error}\n      \
                 Run `podman info` to see why."
            ),
            Self::EngineDiffers { want, foreign } => {
                write!(f, "Podman does not use the settings this host needs:\n{want}")?;
                if *foreign {
                    write!(
                        f,
                        "      {} was not written by this tool and is left alone. Put these \
                         lines there, or move the file away and run this again.",
                        engine_config::PATH
                    )
                } else {
                    write!(
                        f,
                        "      A later file in /etc/containers/containers.conf.d or \
                         CONTAINERS_CONF overrides them: remove it and run this again."
                    )
                }
            }
        }
    }
}

impl std::error::Error for SetupError {}

/// Makes the host ready for `purpose`; a second call changes nothing.
pub(crate) fn ensure(
    purpose: Purpose,
    consent: Consent,
    target_dir: &Path,
) -> Result<(), SetupError> {
    let (release, called) = probe::release();
    let facts = probe::host(&[
        (Path::new("/var/lib/containers"), "what containers and volumes store", STATE_BYTES),
        (target_dir, "the build", build_bytes(target_dir)),
    ]);
    let blockers = host::blockers(&facts);
    if !blockers.is_empty() {
        return Err(SetupError::Blocked(blockers));
    }

    let missing = needs::missing(purpose, release, probe::present);
    if !missing.is_empty() && release.is_none() {
        return Err(SetupError::Unsupported { found: called, missing });
    }
    let packages = needs::packages(&missing);
    let mut changes = Vec::new();
    if !packages.is_empty() {
        changes.push(format!("apt-get install {}", packages.join(" ")));
    }
    // Before the packages are there the engine's needs are foreseen, not known; the step that
    // counts is decided again below.
    if let DropInStep::Write(_) | DropInStep::Remove = drop_in_step() {
        changes.push(format!("write {}", engine_config::PATH));
    }
    changes.extend(criu::changes());
    if changes.is_empty() {
        println!("host: {called}, nothing is missing");
    } else {
        println!("host: {called}");
        for need in &missing {
            println!("  missing: {:<16} {}", need.package, need.why);
        }
        agree(consent, &changes)?;
    }

    if !packages.is_empty() {
        install(&packages)?;
        let missing = needs::missing(purpose, release, probe::present);
        if !missing.is_empty() {
            return Err(SetupError::StillMissing(missing));
        }
    }
    configure_engine()?;
    match release {
        Some(release) => criu::ensure(release).map_err(SetupError::Criu),
        // Packages are not ours to fetch there; `belay doctor` says what is missing.
        None => Ok(()),
    }
}

/// A target directory that was built in before needs little more.
fn build_bytes(target_dir: &Path) -> u64 {
    if target_dir.join("debug/belayd").is_file() { BUILD_BYTES / 3 } else { BUILD_BYTES }
}

fn agree(consent: Consent, changes: &[String]) -> Result<(), SetupError> {
    println!("to do:");
    for change in changes {
        println!("  {change}");
    }
    match consent {
        Consent::Given => return Ok(()),
        Consent::Ask if io::stdin().is_terminal() && io::stdout().is_terminal() => {
            print!("Do this now? [y/N] ");
            let _ = io::stdout().flush();
            let mut answer = String::new();
            let read = io::stdin().lock().read_line(&mut answer);
            if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
                return Ok(());
            }
        }
        Consent::Ask => {}
    }
    Err(SetupError::Refused { missing: changes.to_vec() })
}

fn install(packages: &[&str]) -> Result<(), SetupError> {
    let apt = |deadline| {
        Call::new("/usr/bin/apt-get", deadline)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            // Another apt at work, as after boot, is waited for rather than failed on.
            .args(["--quiet=2", "--option=DPkg::Lock::Timeout=120", "--option=Dpkg::Use-Pty=0"])
    };
    let update = || apt(APT_UPDATE_DEADLINE).arg("update").stream().map_err(SetupError::Apt);
    let fresh = lists_are_fresh();
    if !fresh {
        println!("reading package lists");
        update()?;
    }
    println!("installing {}", packages.join(" "));
    let install = || {
        apt(APT_INSTALL_DEADLINE)
            .args(["--yes", "--no-install-recommends", "install"])
            .args(packages)
            .stream()
            .map_err(SetupError::Apt)
    };
    match install() {
        // Lists that looked fresh may lag behind a point release.
        Err(_) if fresh => {
            println!("reading package lists");
            update()?;
            install()
        }
        result => result,
    }
}

/// The lists carry the times of the mirror; the directory itself carries that of the last update.
fn lists_are_fresh() -> bool {
    let dir = Path::new("/var/lib/apt/lists");
    let has_lists = probe::entries(dir).iter().any(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().contains("_dists_"))
    });
    let updated = fs::metadata(dir).and_then(|metadata| metadata.modified());
    let age = updated.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    has_lists && age.is_some_and(|age| age < LISTS_FRESH_FOR)
}

fn drop_in_step() -> DropInStep {
    let present = probe::drop_in(Path::new(engine_config::PATH));
    engine_config::step(&present, engine_config::wanted(&probe::engine()))
}

fn configure_engine() -> Result<(), SetupError> {
    let path = Path::new(engine_config::PATH);
    let foreign = match drop_in_step() {
        DropInStep::Keep => None,
        DropInStep::Write(text) => {
            replace(path, &text)
                .map_err(|source| SetupError::DropIn { action: "written", source })?;
            println!("wrote {}", path.display());
            None
        }
        DropInStep::Remove => {
            fs::remove_file(path)
                .map_err(|source| SetupError::DropIn { action: "removed", source })?;
            println!("removed {}, which is no longer needed", path.display());
            None
        }
        DropInStep::LeaveForeign(text) => {
            println!("{} is not ours and is left alone", path.display());
            Some(text)
        }
    };
    verify_engine(foreign)
}

/// Writes through a new file, so that no reader sees half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().expect("the drop-in's path has a directory");
    fs::create_dir_all(dir)?;
    // Podman reads only names that end in `.conf`.
    let staged = dir.join(".50-belay.new");
    let mut file = File::create(&staged)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    File::open(dir)?.sync_all()
}

/// Asks Podman itself what it uses: a file in the right place may still be overridden.
fn verify_engine(foreign: Option<String>) -> Result<(), SetupError> {
    let Some(wanted) = engine_config::wanted(&probe::engine()) else { return Ok(()) };
    let podman = probe::program("podman").expect("it was installed or found above");
    let info = Call::new(podman, ENGINE_DEADLINE)
        .args([
            "info",
            "--format",
            "runtime = \"{{.Host.OCIRuntime.Name}}\"\n\
             cgroup_manager = \"{{.Host.CgroupManager}}\"\n\
             events_logger = \"{{.Host.EventLogger}}\"",
        ])
        .capture()
        .map_err(SetupError::Engine)?;
    let differs = wanted
        .lines()
        .filter(|line| {
            ["runtime =", "cgroup_manager =", "events_logger ="].iter().any(|k| line.starts_with(k))
        })
        .any(|line| !info.stdout.lines().any(|found| found == line));
    if differs {
        let is_foreign = foreign.is_some();
        return Err(SetupError::EngineDiffers {
            want: foreign.unwrap_or(wanted),
            foreign: is_foreign,
        });
    }
    Ok(())
}
