//! The child processes: tools that make, check and grow file systems, by absolute path, in an
//! empty environment, with a time limit.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::runtime::Handle;

use crate::core::spec::FileSystem;
use crate::error::ToolError;

/// What is kept of a tool's output; the rest is read and dropped.
const OUTPUT_LIMIT: u64 = 16 * 1024;

/// Lines of output that an error carries.
const OUTPUT_LINES: usize = 6;

/// A tool by its path, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tool {
    path: &'static str,
    package: &'static str,
}

pub(crate) const MKFS_EXT4: Tool = Tool { path: "/usr/sbin/mkfs.ext4", package: "e2fsprogs" };
pub(crate) const E2FSCK: Tool = Tool { path: "/usr/sbin/e2fsck", package: "e2fsprogs" };
pub(crate) const RESIZE2FS: Tool = Tool { path: "/usr/sbin/resize2fs", package: "e2fsprogs" };
const MKFS_XFS: Tool = Tool { path: "/usr/sbin/mkfs.xfs", package: "xfsprogs" };
const MKFS_BTRFS: Tool = Tool { path: "/usr/sbin/mkfs.btrfs", package: "btrfs-progs" };

pub(crate) const XFS_GROWFS: Tool = Tool { path: "/usr/sbin/xfs_growfs", package: "xfsprogs" };
pub(crate) const XFS_REPAIR: Tool = Tool { path: "/usr/sbin/xfs_repair", package: "xfsprogs" };
pub(crate) const BTRFS: Tool = Tool { path: "/usr/bin/btrfs", package: "btrfs-progs" };

/// The tool that makes this file system.
pub(crate) const fn mkfs(file_system: FileSystem) -> Tool {
    match file_system {
        FileSystem::Ext4 => MKFS_EXT4,
        FileSystem::Xfs => MKFS_XFS,
        FileSystem::Btrfs => MKFS_BTRFS,
    }
}

impl Tool {
    /// Its path.
    pub(crate) fn path(self) -> &'static Path {
        Path::new(self.path)
    }

    /// Fails when it is not installed.
    pub(crate) fn require(self) -> Result<(), ToolError> {
        if self.path().is_file() {
            return Ok(());
        }
        Err(ToolError::Missing { tool: self.path().to_owned(), package: self.package })
    }

    /// What went wrong when it ended with this status and output.
    pub(crate) fn failed(self, subject: &Path, ended: &Ended) -> ToolError {
        ToolError::Failed {
            tool: self.path().to_owned(),
            subject: subject.display().to_string(),
            status: ended.status.to_string(),
            output: ended.last_lines(),
        }
    }
}

/// How a tool ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

impl Ended {
    /// The last lines of what it wrote, in one.
    pub(crate) fn last_lines(&self) -> String {
        let lines: Vec<&str> =
            self.output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(OUTPUT_LINES)..].join("; ")
    }
}

/// Runs a tool on an image and waits for its end, on a thread that may block.
///
/// The tool gets a descriptor of the locked image as its standard input, which it does not read:
/// the lock lives as long as any copy of the descriptor, so that a tool which outlives a killed
/// daemon keeps the next one from touching the image.
pub(crate) fn run(
    runtime: &Handle,
    tool: Tool,
    arguments: &[String],
    image: Option<(&Path, &File)>,
    limit: Duration,
) -> Result<Ended, ToolError> {
    tool.require()?;
    let failure = |source| ToolError::Run { tool: tool.path().to_owned(), source };
    let stdin = match image {
        Some((_, file)) => Stdio::from(file.try_clone().map_err(failure)?),
        None => Stdio::null(),
    };
    let mut command = Command::new(tool.path());
    command
        .args(arguments)
        .args(image.map(|(path, _)| PathBuf::from(path)))
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    runtime.block_on(async {
        let mut child = command.spawn().map_err(failure)?;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let work = async { tokio::join!(child.wait(), drain(stdout), drain(stderr)) };
        let Ok((status, stdout, stderr)) = tokio::time::timeout(limit, work).await else {
            // A tool in uninterruptible io dies late; the lock it holds protects the image.
            let _ends_later = child.start_kill();
            let _reaped = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
            return Err(ToolError::TimedOut {
                tool: tool.path().to_owned(),
                subject: image.map(|(path, _)| path.display().to_string()).unwrap_or_default(),
                limit,
            });
        };
        Ok(Ended { status: status.map_err(failure)?, output: stdout + &stderr })
    })
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut kept = Vec::new();
    // What cannot be read only makes an error message shorter.
    let _partial = (&mut pipe).take(OUTPUT_LIMIT).read_to_end(&mut kept).await;
    let _rest = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}
