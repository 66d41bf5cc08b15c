//! The runner server beside a bare echo server: what a connection costs, how long a message takes,
//! what becomes of ten thousand runners that vanish at once, and how many runs a second are executed.
//!
//! Servers and clients are processes of their own, so that each one's memory is its own. They are
//! this program again, told what to do line by line on standard input.

mod clients;
mod echo;
mod server;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::lifecycle::{Finding, finding};

/// The first argument of this program when it is one of the others.
pub(crate) const PART: &str = "runner-part";

/// Messages a second, of all connections together.
const RATE: u32 = 1000;
/// For so many seconds.
const SECONDS: u32 = 20;
/// Runs that are executed, and by how many runners.
const RUNS: u32 = 1000;
const WARM: u32 = 50;

/// Runs one of the other processes.
pub(crate) fn part(words: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match words {
        ["server", directory] => runtime.block_on(server::run(directory.as_ref())),
        ["echo"] => runtime.block_on(echo::run()),
        ["clients", address] => runtime.block_on(clients::run(address)),
        _ => bail!("there is no such part: {words:?}"),
    }
}

/// All of it, with so many connections.
pub(crate) fn run(connections: u32) -> Result<Vec<Finding>> {
    let echo = echo_costs(connections)?;
    let mut found = idle_runners(connections, &echo)?;
    found.extend(vanishing_runners(connections)?);
    found.extend(executed_runs()?);
    Ok(found)
}

/// What one connection costs, and what a message takes.
struct Costs {
    kib: f64,
    latencies: Latencies,
}

struct Latencies {
    p50: f64,
    p99: f64,
    max: f64,
}

fn echo_costs(connections: u32) -> Result<Costs> {
    let mut server = Part::start(&["echo"])?;
    let address = server.line()?;
    let before = server.resident()?;
    let mut clients = Part::start(&["clients", &address])?;
    clients.say(&format!("echo {connections}"))?;
    clients.expect("connected")?;
    let kib = per_connection(before, server.resident()?, connections);
    let latencies = measure(&mut clients)?;
    Ok(Costs { kib, latencies })
}

fn idle_runners(connections: u32, echo: &Costs) -> Result<Vec<Finding>> {
    let scratch = scratch()?;
    let mut server = server(&scratch)?;
    let address = server.line()?;
    server.say(&format!("foreign {connections}"))?;
    let tokens = server.lines_to_blank()?;
    let before = server.resident()?;
    let mut clients = Part::start(&["clients", &address])?;
    let began = Instant::now();
    clients.say("ready")?;
    clients.say_all(&tokens)?;
    clients.expect("connected")?;
    let took = began.elapsed();
    let kib = per_connection(before, server.resident()?, connections);
    let latencies = measure(&mut clients)?;
    let gone = vanish(&mut server, clients)?;
    Ok(vec![
        finding(format!("{connections} runners connected after"), seconds(took), "s", None),
        finding("memory of a connected runner", kib, "KiB", Some(12.0)),
        finding("memory of a connection of the echo server", echo.kib, "KiB", None),
        finding("the one beside the other", kib / echo.kib, "times", Some(1.5)),
        finding(format!("round trip at {RATE} a second, median"), latencies.p50, "ms", None),
        finding("the same, 99th percentile", latencies.p99, "ms", Some(5.0)),
        finding("the same, longest", latencies.max, "ms", None),
        finding("echo, median", echo.latencies.p50, "ms", None),
        finding("echo, 99th percentile", echo.latencies.p99, "ms", None),
        finding("echo, longest", echo.latencies.max, "ms", None),
        finding("all idle runners killed: none left after", seconds(gone), "s", Some(1.0)),
    ])
}

/// Runners of containers, each with a run that waits and a snapshot that is armed.
fn vanishing_runners(connections: u32) -> Result<Vec<Finding>> {
    let scratch = scratch()?;
    let mut server = server(&scratch)?;
    let address = server.line()?;
    server.say(&format!("hosted {connections}"))?;
    let tokens = server.lines_to_blank()?;
    let mut clients = Part::start(&["clients", &address])?;
    clients.say("suspend")?;
    clients.say_all(&tokens)?;
    clients.expect("connected")?;
    server.say(&format!("pending {connections}"))?;
    server.expect("pending")?;
    let gone = vanish(&mut server, clients)?;
    let what = format!("{connections} killed with a snapshot pending: none of either after");
    Ok(vec![finding(what, seconds(gone), "s", Some(1.0))])
}

fn executed_runs() -> Result<Vec<Finding>> {
    let scratch = scratch()?;
    let mut server = server(&scratch)?;
    let address = server.line()?;
    server.say(&format!("foreign {WARM}"))?;
    let tokens = server.lines_to_blank()?;
    let mut clients = Part::start(&["clients", &address])?;
    clients.say("work")?;
    clients.say_all(&tokens)?;
    clients.expect("connected")?;
    server.say(&format!("execute {RUNS}"))?;
    let line = server.line()?;
    let words: Vec<&str> = line.split(' ').collect();
    let ["executed", finished, submitted_ms, executed_ms, commit_ms] = words[..] else {
        bail!("the server said {line:?}");
    };
    let lost = RUNS - finished.parse::<u32>()?;
    let (submitted, executed): (f64, f64) = (submitted_ms.parse()?, executed_ms.parse()?);
    let per_second = |ms: f64| f64::from(RUNS) / (ms / 1000.0);
    Ok(vec![
        finding("one durable commit alone, median", commit_ms.parse()?, "ms", None),
        finding(format!("{RUNS} runs accepted"), per_second(submitted), "a second", None),
        finding(format!("executed by {WARM} runners"), per_second(executed), "a second", None),
        finding("runs lost", f64::from(lost), "runs", Some(0.5)),
    ])
}

/// Where a server keeps its ledger. It outlives the server, which is killed and removes nothing.
fn scratch() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("belay-bench-").tempdir_in("/var/tmp")?)
}

fn server(scratch: &TempDir) -> Result<Part> {
    let directory = scratch.path().to_str().context("the directory has a plain name")?;
    Part::start(&["server", directory])
}

fn measure(clients: &mut Part) -> Result<Latencies> {
    clients.say(&format!("rate {RATE} {SECONDS}"))?;
    let line = clients.line()?;
    let words: Vec<&str> = line.split(' ').collect();
    let ["latency", p50, p99, max] = words[..] else { bail!("the clients said {line:?}") };
    Ok(Latencies { p50: p50.parse()?, p99: p99.parse()?, max: max.parse()? })
}

/// Kills the clients, and says how long it takes until the server has let go of all of them.
fn vanish(server: &mut Part, clients: Part) -> Result<Duration> {
    server.say("gone")?;
    let began = Instant::now();
    clients.kill()?;
    server.expect("gone")?;
    Ok(began.elapsed())
}

fn per_connection(before: u32, after: u32, connections: u32) -> f64 {
    f64::from(after.saturating_sub(before)) / f64::from(connections)
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// One of the other processes. It is killed when it is dropped.
struct Part {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Part {
    fn start(words: &[&str]) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(PART)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {words:?}"))?;
        let to = child.stdin.take().context("it was piped")?;
        let from = BufReader::new(child.stdout.take().context("it was piped")?).lines();
        Ok(Self { child, to, from })
    }

    fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.to, "{line}").context("it has ended")
    }

    fn say_all(&mut self, lines: &[String]) -> Result<()> {
        for line in lines {
            self.say(line)?;
        }
        self.say("")
    }

    fn line(&mut self) -> Result<String> {
        self.from.next().context("it has ended")?.context("it cannot be read")
    }

    fn lines_to_blank(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.line()? {
                line if line.is_empty() => return Ok(lines),
                line => lines.push(line),
            }
        }
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        let line = self.line()?;
        if line == word { Ok(()) } else { bail!("expected {word:?}, heard {line:?}") }
    }

    /// KiB of memory that it holds.
    fn resident(&self) -> Result<u32> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context(path)?;
        Ok(kib.trim().parse()?)
    }

    fn kill(mut self) -> Result<()> {
        self.child.kill().context("it cannot be killed")
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
