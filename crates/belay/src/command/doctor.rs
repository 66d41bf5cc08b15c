//! `belay doctor`: belayd looks at the host, so that what it finds is what it will find.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use belay_protocol::{Finding, Verdict};
use tokio::process::Command;

use crate::cli::{Format, Listing};
use crate::core::view;
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

/// Longest that belayd may look; each of its looks has a shorter deadline.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where packages and operators put belayd.
const INSTALLED: [&str; 4] =
    ["/usr/bin/belayd", "/usr/sbin/belayd", "/usr/local/bin/belayd", "/usr/local/sbin/belayd"];

pub(crate) async fn run(
    belayd: Option<&Path>,
    listing: Listing,
    output: &Output,
) -> Result<ExitCode, Ending> {
    let belayd = find_belayd(belayd)?;
    let findings = examine(&belayd).await?;
    match listing.output {
        Format::Json => output.json(&findings)?,
        Format::Table => output.text(&view::doctor::page(&findings, output.style()))?,
    }
    Ok(match view::doctor::worst(&findings) {
        Verdict::Good | Verdict::Limited => ExitCode::SUCCESS,
        Verdict::Faulty => ExitCode::FAILURE,
    })
}

/// What belayd finds on this host.
pub(crate) async fn examine(belayd: &Path) -> Result<Vec<Finding>, Ending> {
    let shown = belayd.display();
    let mut command = Command::new(belayd);
    command.args(["doctor", "--json"]).stdin(Stdio::null()).kill_on_drop(true);
    let ended = match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => {
            let what = format!("cannot run {shown} doctor");
            return Err(Failure::local(what, &error, "name belayd with --belayd PATH").into());
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            let what = format!("{shown} doctor did not end within {seconds} s");
            return Err(Failure::new(failure::SOFTWARE, what, "look into belayd's log").into());
        }
    };
    // The exit code repeats the worst verdict; the findings themselves are the answer.
    serde_json::from_slice(&ended.stdout).map_err(|error| {
        let what = format!("{shown} doctor gave no findings ({}): {error}", ended.status);
        let mut failure =
            Failure::new(failure::PROTOCOL, what, "use the belay and belayd of one version");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        failure.details = stderr.lines().take(20).map(str::to_owned).collect();
        failure.into()
    })
}

/// belayd as named, else beside this program, else where packages put it. The search path is not
/// asked: this runs as root.
pub(crate) fn find_belayd(named: Option<&Path>) -> Result<PathBuf, Ending> {
    let is_program = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if let Some(named) = named {
        if is_program(named) {
            return Ok(std::path::absolute(named).unwrap_or_else(|_| named.to_owned()));
        }
        return Err(Failure::new(
            failure::NO_INPUT,
            format!("{} is not a program", named.display()),
            "name the belayd binary: --belayd PATH",
        )
        .into());
    }
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("belayd"));
    let places = beside.into_iter().chain(INSTALLED.iter().map(PathBuf::from));
    let places: Vec<PathBuf> = places.collect();
    if let Some(found) = places.iter().find(|path| is_program(path)) {
        return Ok(found.clone());
    }
    let mut failure = Failure::new(
        failure::UNAVAILABLE,
        "there is no belayd on this host",
        "install it beside this program, or name it with --belayd PATH",
    );
    failure.details = places.iter().map(|path| format!("looked at {}", path.display())).collect();
    Err(failure.into())
}
