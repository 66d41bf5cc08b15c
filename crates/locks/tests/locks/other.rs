//! The other process: this very program, started again to hold a lock or to fight for one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use belay_locks::core::record::{Found, Record};
use belay_locks::{Claim, LockName, LockSet, Locks, Places, Role};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for anything that another process does, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

const PLACE: &str = "BELAY_LOCKS_PLACE";
const DEED: &str = "BELAY_LOCKS_DEED";

/// A runtime and a state directory of a test's own.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("run")).expect("a directory");
        std::fs::create_dir(directory.path().join("state")).expect("a directory");
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The file of the workload's lock.
    pub(crate) fn file(&self) -> PathBuf {
        self.run().join("locks/w/web")
    }

    /// What the holder of the workload's lock has written of itself.
    pub(crate) fn written(&self) -> Box<Record> {
        match Record::parse(&std::fs::read(self.file()).expect("reads")) {
            Found::Record(written) => written,
            other => panic!("the holder has written who it is, and not {other:?}"),
        }
    }

    /// The locks, as a process that has just come sees them.
    pub(crate) fn locks(&self) -> Locks {
        locks_in(self.path())
    }
}

fn locks_in(place: &Path) -> Locks {
    Locks::new(Places { run: place.join("run"), state: place.join("state") })
}

pub(crate) fn web() -> LockSet {
    LockSet::one(LockName::workload("web"))
}

pub(crate) fn claim(operation: &str) -> Claim {
    let mut claim = Claim::new(Role::Daemon, operation);
    claim.deadline = Some(Duration::from_secs(300));
    claim
}

/// Another process. It is killed when this is dropped.
pub(crate) struct Other {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start(place: &Place, deed: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a test has a path"))
            .args(["--exact", "other::the_other_process", "--ignored", "--nocapture"])
            .env(PLACE, place.path())
            .env(DEED, deed)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("it can be started");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// One that holds the lock of workload web.
    pub(crate) fn holding(place: &Place, deed: &str) -> Self {
        let mut other = Self::start(place, deed);
        other.hear("held");
        other
    }

    /// Reads what it says up to this word.
    pub(crate) fn hear(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.stdout.read_line(&mut line).expect("it can be heard");
            assert_ne!(read, 0, "it ended before it said {word}");
            // The test program says things of its own, on the same line at times.
            if let Some(at) = line.find(word) {
                return line[at + word.len()..].trim().to_owned();
            }
        }
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it listens");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("it is ours");
    }

    /// Waits until it has ended by itself or by a signal.
    pub(crate) fn reap(&mut self) {
        let end = Instant::now() + SOON;
        while self.child.try_wait().expect("it is ours").is_none() {
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody listens");
}

fn told() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).expect("can be read");
    (read > 0).then(|| line.trim().to_owned())
}

#[test]
#[ignore = "the other process of the tests in here"]
fn the_other_process() {
    let place = PathBuf::from(std::env::var_os(PLACE).expect("started by a test"));
    let deed = std::env::var(DEED).expect("started by a test");
    let locks = locks_in(&place);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    match deed.split_once(' ').unwrap_or((&deed, "")) {
        ("hold", phases) => {
            let mut guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
            say("held");
            for phase in phases.split(' ').filter(|phase| !phase.is_empty()) {
                guard.phase(phase, Some(Duration::from_secs(300)));
            }
            say("phased");
            // Until it is told to do something else, or its stdin closes with the test.
            match told().as_deref() {
                Some("panic") => panic!("as it was told to"),
                Some("exit") => std::process::exit(3),
                Some("finish") => guard.finish(),
                Some("let go") => drop(guard),
                Some(_) | None => {}
            }
            say("done");
        }
        ("hold-past", _) => {
            let mut past = claim("deploy");
            past.deadline = Some(Duration::ZERO);
            let _guard = locks.try_acquire(&web(), &past).expect("free");
            say("held");
            told();
        }
        ("stubborn", _) => {
            // SAFETY: ignoring a signal runs no code of ours.
            #[expect(unsafe_code, reason = "a holder that does not end when asked")]
            unsafe {
                nix::sys::signal::signal(Signal::SIGTERM, nix::sys::signal::SigHandler::SigIgn)
            }
            .expect("can be ignored");
            let _guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
            say("held");
            told();
        }
        ("fork", _) => {
            let _guard = locks.try_acquire(&web(), &claim("deploy")).expect("free");
            // SAFETY: the child only waits; it allocates nothing and takes no lock.
            #[expect(unsafe_code, reason = "a child that is not another program")]
            let forked = unsafe { nix::unistd::fork() }.expect("forks");
            if let nix::unistd::ForkResult::Parent { child } = forked {
                say(&format!("child {child}"));
                say("held");
                told();
            } else {
                loop {
                    nix::unistd::pause();
                }
            }
        }
        ("fight", rounds) => {
            let rounds: u32 = rounds.parse().expect("a number");
            runtime.block_on(fight(&locks, &place, rounds));
        }
        other => panic!("no such deed: {other:?}"),
    }
}

/// Takes the lock again and again; what is inside shows two that are there at once.
async fn fight(locks: &Locks, place: &Path, rounds: u32) {
    let inside = place.join("inside");
    let mut waits = Vec::new();
    let mut overlaps = 0;
    for _ in 0..rounds {
        let began = Instant::now();
        let guard = locks.acquire(&web(), &claim("fight"), SOON * 4, |_| {}).await;
        let guard = guard.expect("comes to its turn");
        waits.push(began.elapsed());
        let entered = std::fs::File::options().write(true).create_new(true).open(&inside);
        overlaps += u32::from(entered.is_err());
        tokio::task::yield_now().await;
        overlaps += u32::from(std::fs::remove_file(&inside).is_err());
        guard.finish();
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    waits.sort();
    let p99 = waits[waits.len() * 99 / 100];
    say(&format!("fought {overlaps} {} {}", p99.as_millis(), waits[waits.len() - 1].as_millis()));
}
