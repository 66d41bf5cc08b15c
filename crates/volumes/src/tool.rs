//! The child processes: tools that make, check and grow file systems, by absolute path, in an
//! empty environment, with a time limit.

use std::fs::File;
use std::path::Path;
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

/// What a tool works on.
///
/// It gets a descriptor of the locked image as its standard input, which it does not read: the lock
/// lives as long as any copy of the descriptor, so that a tool which outlives a killed daemon keeps
/// the next one from touching the image.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// The image itself. The tool is told to open its standard input, because the image of another
    /// volume may bear the name by the time that a tool of a killed daemon comes to open it.
    Image(&'a Path, &'a File),
    /// The device, or the mount, of the image.
    Live(&'a Path, &'a File),
    /// Nothing.
    None,
}

impl<'a> Subject<'a> {
    fn argument(self) -> Option<&'a Path> {
        match self {
            Self::Image(..) => Some(Path::new("/proc/self/fd/0")),
            Self::Live(path, _) => Some(path),
            Self::None => None,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Image(path, _) | Self::Live(path, _) => path.display().to_string(),
            Self::None => String::new(),
        }
    }

    fn image(self) -> Option<&'a File> {
        match self {
            Self::Image(_, file) | Self::Live(_, file) => Some(file),
            Self::None => None,
        }
    }
}

/// Runs a tool and waits for its end, on a thread that may block.
pub(crate) fn run(
    runtime: &Handle,
    tool: Tool,
    arguments: &[String],
    subject: Subject<'_>,
    limit: Duration,
) -> Result<Ended, ToolError> {
    tool.require()?;
    let failure = |source| ToolError::Run { tool: tool.path().to_owned(), source };
    let stdin = match subject.image() {
        Some(file) => Stdio::from(file.try_clone().map_err(failure)?),
        None => Stdio::null(),
    };
    let mut command = Command::new(tool.path());
    command
        .args(arguments)
        .args(subject.argument())
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
                subject: subject.name(),
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

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Tool = Tool { path: "/usr/sbin/mkfs.absent", package: "absent-tools" };
    const SH: Tool = Tool { path: "/bin/sh", package: "dash" };
    const SECOND: Duration = Duration::from_secs(1);

    fn sh(script: &str, limit: Duration) -> Result<Ended, ToolError> {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        run(runtime.handle(), SH, &["-c".to_owned(), script.to_owned()], Subject::None, limit)
    }

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        let text = ABSENT.require().expect_err("it is absent").to_string();
        assert_eq!(
            text,
            "/usr/sbin/mkfs.absent is not installed; install the package absent-tools"
        );
    }

    #[test]
    fn a_failure_carries_the_status_and_the_last_lines() {
        let ended = sh("for i in 1 2 3 4 5 6 7 8; do echo line $i >&2; done; exit 3", SECOND)
            .expect("it ran");
        let text = SH.failed(Path::new("/an/image"), &ended).to_string();
        assert!(text.contains("/an/image") && text.contains("exit status: 3"), "{text}");
        assert!(text.ends_with("line 7; line 8") && !text.contains("line 2;"), "{text}");
    }

    #[test]
    fn a_tool_that_hangs_is_killed_and_its_children_do_not_hold_us() {
        let began = std::time::Instant::now();
        let error = sh("exec sleep 60", Duration::from_millis(100)).expect_err("it hangs");
        assert!(matches!(error, ToolError::TimedOut { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn much_output_neither_blocks_the_tool_nor_is_kept() {
        let ended = sh("head -c 5000000 /dev/zero | tr '\\0' x; exit 0", 20 * SECOND)
            .expect("it ran to its end");
        assert!(ended.status.success());
        assert_eq!(ended.output.len() as u64, OUTPUT_LIMIT);
    }

    #[test]
    fn the_lock_of_an_image_lives_as_long_as_a_tool_that_works_on_it() {
        let path = std::env::temp_dir().join(format!("belay-lock-test-{}", std::process::id()));
        let image = File::create(&path).expect("an image");
        image.try_lock().expect("nobody has it");
        // What outlives the call here is what outlives a killed daemon there.
        let script = "exec 3<&0; sleep 0.5 >/dev/null 2>&1 &".to_owned();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let arguments = ["-c".to_owned(), script];
        run(runtime.handle(), SH, &arguments, Subject::Image(&path, &image), SECOND)
            .expect("it ran");
        drop(image);
        let again = File::open(&path).expect("the image");
        again.try_lock().expect_err("the tool still has it");
        again.lock().expect("until it ends");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_tool_opens_the_image_it_was_given_whatever_bears_its_name_by_then() {
        let path = std::env::temp_dir().join(format!("belay-name-test-{}", std::process::id()));
        std::fs::write(&path, "the image").expect("an image");
        let image = File::open(&path).expect("the image");
        std::fs::remove_file(&path).expect("its name is free");
        std::fs::write(&path, "another").expect("and taken by another");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let arguments = ["-c".to_owned(), "cat \"$0\"".to_owned()];
        let ended = run(runtime.handle(), SH, &arguments, Subject::Image(&path, &image), SECOND);
        assert_eq!(ended.expect("it ran").output, "the image");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_tool_sees_nothing_of_our_environment() {
        let ended = sh("env | cut -d= -f1 | sort | tr '\\n' ' '", SECOND).expect("it ran");
        assert_eq!(ended.output.trim(), "LC_ALL PATH PWD");
    }
}
