//! Builds the two programs and hands over to the demonstration.

use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use crate::process::CallError;
use crate::workspace::Workspace;

const BUILD_DEADLINE: Duration = Duration::from_mins(45);

/// Why the demonstration did not begin.
#[derive(Debug)]
pub(crate) enum DemoError {
    Build(CallError),
    Start(io::Error),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(error) => write!(f, "{error}"),
            Self::Start(error) => write!(f, "`belay demo` could not be started: {error}"),
        }
    }
}

impl std::error::Error for DemoError {}

/// Builds, then becomes `belay demo`: it gets the terminal and Ctrl-C without anything between.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), DemoError> {
    println!("building belayd and belay (some minutes the first time)");
    workspace
        .cargo(BUILD_DEADLINE)
        // Hashing and compression are optimised in this profile too, and the rest shows nothing
        // here that is worth twice the build.
        .args(["build", "--locked", "--package", "belayd", "--package", "belay"])
        .stream()
        .map_err(DemoError::Build)?;
    let programs = workspace.target_dir().join("debug");
    let error = Command::new(programs.join("belay"))
        .arg("demo")
        .arg("--belayd")
        .arg(programs.join("belayd"))
        .args(arguments)
        .exec();
    Err(DemoError::Start(error))
}
