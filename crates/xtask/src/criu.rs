//! Installs a CRIU of its own where the host's is too old, and its options.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::criu::{self, CONFIG, CriuFacts, CriuStep, OLDEST, PREFIX, WRAPPER, Wrapper};
use crate::core::engine_config::{self, DropInStep};
use crate::core::needs::Release;
use crate::probe;
use crate::process::{Call, CallError};

const QUICK: Duration = Duration::from_secs(20);
const UPDATE_DEADLINE: Duration = Duration::from_mins(5);
const DOWNLOAD_DEADLINE: Duration = Duration::from_mins(10);
const UNPACK_DEADLINE: Duration = Duration::from_mins(1);

/// Why there is no CRIU.
#[derive(Debug)]
pub(crate) enum CriuError {
    Foreign,
    ForeignConfig,
    NoMirror { release: &'static str },
    Call(CallError),
    File { action: &'static str, path: PathBuf, source: io::Error },
    Incomplete { what: &'static str },
    TooOld,
}

impl fmt::Display for CriuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = OLDEST;
        match self {
            Self::Foreign => write!(
                f,
                "the CRIU of this host is older than {major}.{minor}, and {WRAPPER} is not ours\n      \
                 Replace that file by CRIU {major}.{minor} or later, or move it away, and run this \
                 again."
            ),
            Self::ForeignConfig => write!(
                f,
                "{CONFIG} is not ours and lacks an option that checkpoints need\n      \
                 Put these lines there, or move it away and run this again:\n{}",
                criu::config()
            ),
            Self::NoMirror { release } => write!(
                f,
                "the package sources have no main archive of {release}, from whose mirror CRIU \
                 could be had"
            ),
            Self::Call(error) => write!(f, "CRIU could not be installed: {error}"),
            Self::File { action, path, source } => {
                write!(f, "{} could not be {action}: {source}", path.display())
            }
            Self::Incomplete { what } => write!(f, "the packages of CRIU hold no {what}"),
            Self::TooOld => {
                write!(
                    f,
                    "the CRIU that was installed does not start, or is older than {major}.{minor}"
                )
            }
        }
    }
}

impl std::error::Error for CriuError {}

/// What [`ensure`] would change, for people.
pub(crate) fn changes() -> Vec<String> {
    let mut changes = Vec::new();
    if criu::step(facts()) == CriuStep::Install {
        changes.push(format!("put CRIU and its libraries into {PREFIX}, and write {WRAPPER}"));
    }
    if let DropInStep::Write(_) = config_step() {
        changes.push(format!("write {CONFIG}"));
    }
    changes
}

/// Makes checkpoints possible; a second call changes nothing.
pub(crate) fn ensure(release: Release) -> Result<(), CriuError> {
    match criu::step(facts()) {
        CriuStep::Keep => {}
        CriuStep::LeaveForeign => return Err(CriuError::Foreign),
        CriuStep::Install => {
            println!("installing CRIU into {PREFIX}");
            install(release)?;
            if criu::step(facts()) != CriuStep::Keep {
                return Err(CriuError::TooOld);
            }
        }
    }
    match config_step() {
        DropInStep::Keep | DropInStep::Remove => Ok(()),
        DropInStep::Write(text) => {
            replace(Path::new(CONFIG), &text, 0o644)?;
            println!("wrote {CONFIG}");
            Ok(())
        }
        DropInStep::LeaveForeign(_) => {
            let present = fs::read_to_string(CONFIG).unwrap_or_default();
            if present.lines().any(|line| line.trim() == "tcp-close") {
                return Ok(());
            }
            Err(CriuError::ForeignConfig)
        }
    }
}

fn facts() -> CriuFacts {
    let wrapper = match fs::read_to_string(WRAPPER) {
        Ok(text) if criu::is_ours(&text) => Wrapper::Ours,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && !Path::new(WRAPPER).is_symlink() =>
        {
            Wrapper::Absent
        }
        Ok(_) | Err(_) => Wrapper::Foreign,
    };
    // The wrapper's directory comes first in the path of what runs CRIU.
    let program = match wrapper {
        Wrapper::Absent => probe::program("criu"),
        Wrapper::Ours | Wrapper::Foreign => Some(PathBuf::from(WRAPPER)),
    };
    let version = program.and_then(|program| {
        let said = Call::new(program, QUICK).arg("--version").capture().ok()?;
        criu::version(&said.stdout)
    });
    CriuFacts { version, wrapper }
}

fn config_step() -> DropInStep {
    engine_config::step(&probe::drop_in(Path::new(CONFIG)), Some(criu::config()))
}

/// A directory that goes away with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self, CriuError> {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(failed("made", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn install(release: Release) -> Result<(), CriuError> {
    let staged = Scratch::new(PathBuf::from(format!("{PREFIX}.new")))?;
    let work = Scratch::new(staged.0.join("work"))?;
    let root = staged.0.join("root");
    for package in download(release, &work.0)? {
        let unpack = Call::new("/usr/bin/dpkg-deb", UNPACK_DEADLINE).arg("-x").arg(package);
        unpack.arg(&root).capture().map_err(CriuError::Call)?;
    }
    drop(work);
    // Manuals and character sets, which nothing here reads.
    let _ = fs::remove_dir_all(root.join("usr/share"));
    for folder in probe::entries(&root.join("usr/lib")) {
        let _ = fs::remove_dir_all(folder.join("gconv"));
    }

    let prefix = Path::new(PREFIX);
    let final_path = |found: PathBuf| {
        let below = found.strip_prefix(&staged.0).expect("it was found below").to_owned();
        prefix.join(below).display().to_string()
    };
    let find = |what, matches: &dyn Fn(&Path) -> bool| {
        let mut found = Vec::new();
        search(&root, matches, &mut found);
        found.sort();
        found.into_iter().next().ok_or(CriuError::Incomplete { what })
    };
    let named = |path: &Path, start: &str| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
    };
    let loader = find("loader", &|path| named(path, "ld-linux"))?;
    let library = find("libraries", &|path| named(path, "libc.so."))?;
    let program =
        find("program", &|path| path.ends_with("sbin/criu") || path.ends_with("bin/criu"))?;
    let mut folders = Vec::new();
    let mut libraries = Vec::new();
    let is_library =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so."));
    search(&root, &is_library, &mut folders);
    for folder in library.parent().into_iter().chain(folders.iter().filter_map(|it| it.parent())) {
        let folder = final_path(folder.to_owned());
        if !libraries.contains(&folder) {
            libraries.push(folder);
        }
    }
    let libraries: Vec<&str> = libraries.iter().map(String::as_str).collect();
    let text = criu::wrapper(&final_path(loader), &libraries, &final_path(program));

    let _ = fs::remove_dir_all(prefix);
    fs::rename(&staged.0, prefix).map_err(failed("put in place", prefix))?;
    replace(Path::new(WRAPPER), &text, 0o755)
}

/// Fetches CRIU's packages and all that they depend on, as if nothing were installed.
fn download(release: Release, work: &Path) -> Result<Vec<PathBuf>, CriuError> {
    let capture = |call: Call| call.capture().map_err(CriuError::Call);
    let dpkg = Call::new("/usr/bin/dpkg", QUICK).arg("--print-architecture");
    let architecture = capture(dpkg)?.stdout;
    let codename = criu::codename(release);
    let targets = Call::new("/usr/bin/apt-get", QUICK)
        .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
        .arg(format!("Codename: {codename}"));
    let targets = capture(targets)?.stdout;
    let mirror = targets.lines().next().ok_or(CriuError::NoMirror { release: codename })?;

    for folder in ["lists/partial", "cache/archives/partial"] {
        let folder = work.join(folder);
        fs::create_dir_all(&folder).map_err(failed("made", &folder))?;
    }
    for (file, text) in [("status", String::new()), ("sources.list", criu::sources(mirror))] {
        let path = work.join(file);
        fs::write(&path, text).map_err(failed("written", &path))?;
    }
    let options = criu::apt_options(&work.display().to_string(), architecture.trim());
    let apt = |deadline| {
        Call::new("/usr/bin/apt-get", deadline)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .args(&options)
            .arg("--quiet=2")
    };
    capture(apt(UPDATE_DEADLINE).arg("update"))?;
    let fetch = ["--yes", "--no-install-recommends", "--download-only", "install", "criu"];
    capture(apt(DOWNLOAD_DEADLINE).args(fetch))?;
    let packages = probe::entries(&work.join("cache/archives"));
    Ok(packages.into_iter().filter(|it| it.extension().is_some_and(|it| it == "deb")).collect())
}

/// The files below `directory` that match; links to directories are not followed.
fn search(directory: &Path, matches: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for path in probe::entries(directory) {
        if path.is_dir() && !path.is_symlink() {
            search(&path, matches, found);
        } else if matches(&path) {
            found.push(path);
        }
    }
}

/// Writes through a new file, so that no reader sees half of it.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CriuError> {
    let write = || {
        let dir = path.parent().expect("the path has a directory");
        fs::create_dir_all(dir)?;
        let name = path.file_name().expect("the path has a name").to_string_lossy();
        let staged = dir.join(format!(".{name}.new"));
        let mut file = File::create(&staged)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(failed("written", path))
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> CriuError + use<> {
    let path = path.to_owned();
    move |source| CriuError::File { action, path: path.clone(), source }
}
