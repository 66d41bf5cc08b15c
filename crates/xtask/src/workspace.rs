//! Where the workspace is, and how its cargo is called.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Call, CallError};

const METADATA_DEADLINE: Duration = Duration::from_mins(1);

/// The workspace of this program.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target_dir: PathBuf,
    cargo: OsString,
}

/// Why the workspace was not found.
#[derive(Debug)]
pub(crate) enum WorkspaceError {
    NotUnderCargo,
    Metadata(CallError),
    NoTargetDirectory,
}

impl fmt::Display for WorkspaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUnderCargo => write!(f, "start this as `cargo xtask`"),
            Self::Metadata(error) => write!(f, "the workspace could not be read: {error}"),
            Self::NoTargetDirectory => {
                write!(f, "`cargo metadata` did not say where cargo builds")
            }
        }
    }
}

impl std::error::Error for WorkspaceError {}

impl Workspace {
    pub(crate) fn find() -> Result<Self, WorkspaceError> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").ok_or(WorkspaceError::NotUnderCargo)?;
        let cargo = env::var_os("CARGO").ok_or(WorkspaceError::NotUnderCargo)?;
        let root = Path::new(&manifest).ancestors().nth(2).ok_or(WorkspaceError::NotUnderCargo)?;
        let metadata = Call::new(&cargo, METADATA_DEADLINE)
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(root)
            .capture()
            .map_err(WorkspaceError::Metadata)?;
        let target_dir =
            target_directory(&metadata.stdout).ok_or(WorkspaceError::NoTargetDirectory)?;
        Ok(Self { root: root.to_owned(), target_dir: target_dir.into(), cargo })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// A call of `program` in the workspace's root.
    pub(crate) fn call(&self, program: &Path, deadline: Duration) -> Call {
        Call::new(program, deadline).current_dir(&self.root)
    }

    /// A call of cargo in the workspace's root.
    pub(crate) fn cargo(&self, deadline: Duration) -> Call {
        self.call(Path::new(&self.cargo), deadline)
    }
}

/// The one field that is needed of cargo's metadata; a JSON reader would be the only dependency.
fn target_directory(metadata: &str) -> Option<String> {
    let (_, rest) = metadata.split_once("\"target_directory\":\"")?;
    let mut path = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return Some(path),
            // Cargo escapes only quotes and backslashes in a path of printable characters.
            '\\' => path.push(characters.next()?),
            character => path.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_is_read_with_its_escapes() {
        let metadata = r#"{"version":1,"target_directory":"/a \"b\"/c\\d","x":"y"}"#;
        assert_eq!(target_directory(metadata).as_deref(), Some(r#"/a "b"/c\d"#));
        assert_eq!(target_directory("{}"), None);
        assert_eq!(target_directory(r#"{"target_directory":"/a"#), None);
    }
}
