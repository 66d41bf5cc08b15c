//! Programs of the host that the demo calls, by fixed path: it runs as root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::failure::{Ending, Failure};

/// Longest that a tool may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The tool's path, if the host has it.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];
    places.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

/// Runs it to its end and gives what it wrote.
pub(crate) async fn run<A: AsRef<OsStr>>(tool: &Path, arguments: &[A]) -> Result<String, Ending> {
    let mut command = Command::new(tool);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let words: Vec<_> =
        arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    let line = format!("{} {}", tool.display(), words.join(" "));
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(ended)) if ended.status.success() => {
            Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
        }
        Ok(Ok(ended)) => {
            let stderr = String::from_utf8_lossy(&ended.stderr);
            let last = stderr.lines().last().unwrap_or("it says nothing").to_owned();
            let what = format!("{line} failed ({}): {last}", ended.status);
            Err(Failure::new(crate::failure::SOFTWARE, what, "").into())
        }
        Ok(Err(error)) => Err(Failure::local(format!("cannot run {line}"), &error, "").into()),
        Err(_) => {
            let what = format!("{line} did not end within {} s", PATIENCE.as_secs());
            Err(Failure::new(crate::failure::SOFTWARE, what, "").into())
        }
    }
}
