//! The demo for real: two belayd, an engine, loop volumes; to its end, interrupted, and killed.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DIRECTORY: &str = "/var/lib/belay-demo";

/// Longest that one demo may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// Removes what a failed test left, before it and after it.
struct Clean;

impl Clean {
    fn now() -> Self {
        let cleaned = demo().arg("--clean").output().expect("belay runs");
        let stderr = String::from_utf8_lossy(&cleaned.stderr);
        assert!(cleaned.status.success(), "{stderr}");
        Self
    }
}

impl Drop for Clean {
    fn drop(&mut self) {
        let _ = demo().arg("--clean").output();
    }
}

fn belayd() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_belay")).with_file_name("belayd");
    assert!(beside.is_file(), "build it first: cargo build --package belayd");
    beside
}

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_belay"));
    command.arg("demo").stdin(Stdio::null());
    command
}

/// A demo under way, ended with its test.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    said: String,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = demo();
        command.args(arguments).arg("--belayd").arg(belayd());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("belay runs");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, output, said: String::new() }
    }

    /// Reads until a line holds `words`.
    fn until(&mut self, words: &str) {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("it writes text");
            assert!(read > 0, "it ended before {words:?}:\n{}", self.said);
            self.said += &line;
            if line.contains(words) {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// Its exit code, or the signal that ended it, and all it said.
    fn end(mut self) -> (Option<i32>, Option<i32>, String) {
        self.output.read_to_string(&mut self.said).expect("it writes text");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return (status.code(), status.signal(), std::mem::take(&mut self.said));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the demo does not end:\n{}", self.said);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What the demo is about to say is looked at from outside as well.
fn assert_nothing_is_left() {
    assert!(!Path::new(DIRECTORY).exists(), "{DIRECTORY} is left");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("a Linux host");
    assert!(!mounts.contains(DIRECTORY), "{mounts}");
    for device in std::fs::read_dir("/sys/block").expect("a Linux host").flatten() {
        let backing = device.path().join("loop/backing_file");
        let backing = std::fs::read_to_string(backing).unwrap_or_default();
        assert!(!backing.starts_with(DIRECTORY), "{device:?} holds {backing}");
    }
    for process in std::fs::read_dir("/proc").expect("a Linux host").flatten() {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        assert!(!arguments.contains(DIRECTORY), "{process:?} runs {arguments}");
    }
    let list = ["ps", "--all", "--quiet", "--filter", "label=io.belay.node"];
    let listed = Command::new("podman").args(list).output().expect("podman runs");
    let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
    for id in ids.lines() {
        let inspect = ["inspect", "--format", "{{index .Config.Labels \"io.belay.node\"}}", id];
        let node = Command::new("podman").args(inspect).output().expect("podman runs");
        let node = String::from_utf8_lossy(&node.stdout).into_owned();
        assert!(!node.starts_with("belay-demo-"), "container {id} of {node} is left");
    }
}

// One test, for there is one place for a demo on a machine.
#[test]
fn the_demo_proves_its_replica_and_leaves_nothing_however_it_ends() {
    let _clean = Clean::now();

    let (code, _, said) = Running::start(&["--once"]).end();
    assert_eq!(code, Some(0), "{said}");
    for words in [
        "response.json says ok: cid bafkr4i",
        "3 files, 3 MiB, equal through both containers",
        "2 files, 3 MiB, equal through both containers",
        "<h1>Edition 2</h1>",
        "deletions are replicated",
        "64 MiB promised",
        "the snapshot was cancelled, none was taken",
        "waits, its runner holds",
        "checkpointed to the disk in",
        "its runner holds 0 B of memory now",
        "the same process, its 48 MiB whole, in its first attempt",
        "no container, mount, loop device or process of the demo is left",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    assert_nothing_is_left();

    for (words, signal) in
        [("fetch image", Signal::SIGINT), ("writes request.json", Signal::SIGTERM)]
    {
        let mut demo = Running::start(&[]);
        demo.until(words);
        demo.signal(signal);
        let (code, _, said) = demo.end();
        assert_eq!(code, Some(130), "{said}");
        assert_nothing_is_left();
    }

    let mut staying = Running::start(&[]);
    staying.until("With --once it ends by itself.");
    staying.signal(Signal::SIGINT);
    let (code, _, said) = staying.end();
    assert_eq!(code, Some(0), "a demo that was told to its end is a success:\n{said}");
    assert_nothing_is_left();

    let mut killed = Running::start(&[]);
    killed.until("equal through both containers");
    killed.signal(Signal::SIGKILL);
    let (_, signal, _) = killed.end();
    assert_eq!(signal, Some(9));
    assert!(Path::new(DIRECTORY).exists(), "a killed demo cannot clean up");
    let (code, _, said) = Running::start(&["--once"]).end();
    assert_eq!(code, Some(0), "{said}");
    // Two belayd, and the engine's services that they started, if they did.
    let found = "processes, 2 containers, 4 mounts and 4 loop devices";
    assert!(said.contains(found), "{said}");
    assert_nothing_is_left();
}
