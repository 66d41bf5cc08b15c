//! The lifecycle: a deploy beside the same with the engine's own command, an idle node, the status
//! page under churn, containers found again.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use belay_harness::{Client, Node, NodeOptions, binary, until};
use belay_protocol::{EventDetails, VolumeFate, WorkloadPhase, WorkloadStatus};
use tokio::task::JoinSet;

use crate::engine_look::EngineLook;

const PODMAN: &str = "/usr/bin/podman";

/// Deploys that are compared.
const DEPLOYS: usize = 12;
/// Workloads of the idle node.
const IDLE: usize = 20;
/// Workloads of the busy one.
const BUSY: usize = 50;
/// Pages asked for under churn.
const PAGES: usize = 600;
const SOON: Duration = Duration::from_mins(5);
const DAY: f64 = 86_400.0;

/// One figure.
pub(crate) struct Finding {
    what: String,
    value: f64,
    unit: &'static str,
    /// It must be below this, where it is judged.
    limit: Option<f64>,
}

impl Finding {
    /// Whether it keeps to its limit.
    pub(crate) fn holds(&self) -> bool {
        self.limit.is_none_or(|limit| self.value < limit)
    }
}

/// The table.
pub(crate) fn render(findings: &[Finding]) -> String {
    let mut out = String::from("| what | measured | target | holds |\n|---|---|---|---|\n");
    for found in findings {
        let (limit, holds) = match found.limit {
            Some(limit) => {
                (format!("< {limit} {}", found.unit), if found.holds() { "yes" } else { "no" })
            }
            None => ("-".to_owned(), "-"),
        };
        let _infallible = writeln!(
            out,
            "| {} | {:.2} {} | {limit} | {holds} |",
            found.what, found.value, found.unit
        );
    }
    out
}

pub(crate) fn finding(
    what: impl Into<String>,
    value: f64,
    unit: &'static str,
    limit: Option<f64>,
) -> Finding {
    Finding { what: what.into(), value, unit, limit }
}

pub(crate) async fn run(minutes: u64) -> Result<Vec<Finding>> {
    let mut findings = deploys().await?;
    let node = node().await;
    deploy_all(&node, 0..IDLE).await?;
    findings.extend(idle(&node, minutes).await?);
    deploy_all(&node, IDLE..BUSY).await?;
    let (node, found) = found_again(node).await?;
    findings.extend(found);
    findings.extend(pages(&node).await?);
    node.end().await;
    Ok(findings)
}

/// Containers found again, and nothing else.
pub(crate) async fn reattach() -> Result<Vec<Finding>> {
    let node = node().await;
    deploy_all(&node, 0..BUSY).await?;
    let (node, findings) = found_again(node).await?;
    node.end().await;
    Ok(findings)
}

async fn node() -> Node {
    let level = ("BELAYD_LOG_LEVEL".to_owned(), "info".into());
    Node::start(NodeOptions { environment: vec![level], ..NodeOptions::default() }).await
}

/// One look is enough on both sides: the gate's three looks, half a second apart, are chosen and
/// not overhead.
fn spec(name: &str) -> String {
    format!(
        "name = \"{name}\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\nnetwork = \"none\"\n\
         command = [\"/bin/sleep\", \"100000\"]\n[ready]\nconsecutive = 1\ninterval = \"100ms\"\n"
    )
}

fn tool(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{} {arguments:?}: {words}", program.display());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Create, start and see it run, with the engine's command.
fn with_podman(name: &str, image: &str) -> Result<f64> {
    let podman = Path::new(PODMAN);
    let began = Instant::now();
    tool(podman, &["create", "--name", name, "--network", "none", image, "/bin/sleep", "100000"])?;
    tool(podman, &["start", name])?;
    let runs = tool(podman, &["inspect", "--format", "{{.State.Running}}", name])?;
    let took = began.elapsed().as_secs_f64();
    tool(podman, &["rm", "--force", "--time", "0", name])?;
    ensure!(runs == "true", "{name} does not run");
    Ok(took)
}

/// How long a workload was in a phase since it was deployed last, by its own account.
async fn time_in(node: &Node, workload: &str, phase: WorkloadPhase) -> Result<f64> {
    let query = format!("workload={workload}&kind=phase-changed&last=12");
    let page = node.client().events(&query).await.map_err(anyhow::Error::msg)?;
    let mut came = None;
    let mut took = 0.0;
    for event in page.events {
        let EventDetails::PhaseChanged { from, to, .. } = event.details else { continue };
        if from == phase
            && let Some(came) = came.take()
        {
            took = event.at.duration_since(came).as_secs_f64();
        }
        if to == phase {
            came = Some(event.at);
        }
    }
    Ok(took)
}

async fn deploys() -> Result<Vec<Finding>> {
    let node = node().await;
    let belay = binary("belay");
    let file = node.directory().join("small.toml");
    std::fs::write(&file, spec("small"))?;
    let socket = node.socket().display().to_string();
    let deploy = ["--socket", &socket, "deploy", &file.display().to_string()].map(str::to_owned);
    let deploy: Vec<_> = deploy.iter().map(String::as_str).collect();
    tool(&belay, &deploy)?;
    let filter = format!("label=io.belay.node={}", node.name());
    let id = tool(Path::new(PODMAN), &["ps", "--quiet", "--filter", &filter])?;
    let image = tool(Path::new(PODMAN), &["inspect", "--format", "{{.Image}}", &id])?;
    let name = format!("{}-floor", node.name());
    let (mut own, mut volumes, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    // In turns, so that both see the same machine.
    for _ in 0..DEPLOYS {
        let removed = node.client().remove("small", VolumeFate::Keep).await;
        removed.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let began = Instant::now();
        tool(&belay, &deploy)?;
        let took = began.elapsed().as_secs_f64();
        let mounting = time_in(&node, "small", WorkloadPhase::ProvidingVolumes).await?;
        own.push(took - mounting);
        volumes.push(mounting);
        floor.push(with_podman(&name, &image)?);
    }
    node.end().await;
    let (own, floor) = (median(&mut own), median(&mut floor));
    Ok(vec![
        finding(
            "deploy, its volumes apart, of podman's create, start and inspect",
            own / floor,
            "times",
            Some(1.15),
        ),
        finding("that deploy", own * 1e3, "ms", None),
        finding("the same with podman", floor * 1e3, "ms", None),
        finding("mounting its volumes", median(&mut volumes) * 1e3, "ms", None),
    ])
}

async fn deploy_all(node: &Node, numbers: std::ops::Range<usize>) -> Result<()> {
    let mut running = JoinSet::new();
    for number in numbers {
        let (client, directory) = (node.client().clone(), node.directory().to_owned());
        running
            .spawn(async move { client.deploy(&spec(&format!("w{number:02}")), &directory).await });
        if running.len() >= 4 {
            joined(&mut running).await?;
        }
    }
    while !running.is_empty() {
        joined(&mut running).await?;
    }
    Ok(())
}

async fn joined<T: 'static>(
    running: &mut JoinSet<Result<T, belay_harness::Refusal>>,
) -> Result<()> {
    let ended = running.join_next().await.context("one runs")??;
    ended.map(drop).map_err(|refusal| anyhow::anyhow!("{refusal:?}"))
}

/// What a process has used of the processor, in seconds.
fn processor(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(") ").context("no name in stat")?;
    let fields: Vec<_> = after.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u32>().ok());
    // User and system time, the 14th and 15th of all, in hundredths of a second on every Linux.
    let (user, system) = (ticks(11).context("no utime")?, ticks(12).context("no stime")?);
    Ok((f64::from(user) + f64::from(system)) / 100.0)
}

fn number_after(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

fn written(pid: u32) -> Result<f64> {
    number_after(&std::fs::read_to_string(format!("/proc/{pid}/io"))?, "write_bytes:")
}

/// The Podman service that belayd started.
fn service_of(pid: u32) -> Result<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let mut found =
        children.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // The service is the child of the thread that watches it.
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().map(str::to_owned));
    }
    let is_service = |pid: &&String| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains("podman") && line.contains("service"))
    };
    Ok(found.iter().find(is_service).context("belayd runs no podman service")?.parse()?)
}

async fn idle(node: &Node, minutes: u64) -> Result<Vec<Finding>> {
    let pid = node.pid();
    let service = service_of(pid)?;
    // What the deploys have left to do is over by then.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let (used, used_by_service, bytes) = (processor(pid)?, processor(service)?, written(pid)?);
    let began = Instant::now();
    // What is measured is what a while without any event costs.
    tokio::time::sleep(Duration::from_mins(minutes)).await;
    let seconds = began.elapsed().as_secs_f64();
    let share = |now: f64, before: f64| (now - before) / seconds * 100.0;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let per_day = (written(pid)? - bytes) / seconds * DAY / 1024.0 / 1024.0;
    let who = format!("{IDLE} idle workloads over {minutes} min: ");
    Ok(vec![
        finding(
            format!("{who}processor"),
            share(processor(pid)?, used),
            "% of one core",
            Some(0.3),
        ),
        finding(
            format!("{who}memory"),
            number_after(&status, "VmRSS:")? / 1024.0,
            "MiB",
            Some(30.0),
        ),
        finding(format!("{who}written to disk, per day"), per_day, "MiB", Some(1.0)),
        finding(
            format!("{who}processor of the Podman service"),
            share(processor(service)?, used_by_service),
            "% of one core",
            None,
        ),
    ])
}

async fn found_again(mut node: Node) -> Result<(Node, Vec<Finding>)> {
    let engine = EngineLook::at(&node.directory().join("run/podman.sock"))?;
    let label = format!("io.belay.node={}", node.name());
    let (mut took, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        node.kill();
        let began = Instant::now();
        node.spawn();
        until("all of them to be ready", SOON, || async {
            let status = node.client().status().await?;
            let ready = |w: &&WorkloadStatus| w.phase == WorkloadPhase::Ready;
            let count = status.workloads.iter().filter(ready).count();
            if count == BUSY { Ok(()) } else { Err(format!("{count} are")) }
        })
        .await;
        took.push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        engine.look(&label, BUSY).await?;
        floor.push(began.elapsed().as_secs_f64());
    }
    let what = format!("{BUSY} containers found again and ready, from belayd's start");
    let findings = vec![
        finding(what, median(&mut took), "s", Some(2.0)),
        finding("the engine's own list and inspects of them", median(&mut floor), "s", None),
    ];
    Ok((node, findings))
}

async fn churn(client: Client, name: String) -> Result<()> {
    loop {
        for verb in ["stop", "start"] {
            let done = client.act(verb, &name).await;
            done.map_err(|refusal| anyhow::anyhow!("{verb} of {name}: {refusal:?}"))?;
        }
    }
}

async fn pages(node: &Node) -> Result<Vec<Finding>> {
    let mut churning = JoinSet::new();
    for number in 0..BUSY {
        churning.spawn(churn(node.client().clone(), format!("w{number:02}")));
    }
    // The churn is under way by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut took = Vec::new();
    for _ in 0..PAGES {
        let began = Instant::now();
        node.client().status().await.map_err(anyhow::Error::msg)?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        // At a steady pace, as dashboards ask.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Some(ended) = churning.try_join_next() {
        ended??;
    }
    churning.shutdown().await;
    took.sort_by(f64::total_cmp);
    let share = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or(f64::NAN);
    let what = |which| format!("status page while {BUSY} workloads churn, {which}");
    Ok(vec![
        finding(what("median"), share(50), "ms", None),
        finding(what("99th percentile"), share(99), "ms", Some(50.0)),
    ])
}
