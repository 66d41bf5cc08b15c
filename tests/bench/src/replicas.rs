//! From the request of an app to its replica on a second node, with real containers, and how long
//! either container was away, beside the engine's own stop and start of the same containers.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use belay_harness::{Node, NodeOptions, sync_spec, until};
use belay_protocol::WorkloadPhase;
use serde_json::{Value, json};

use crate::lifecycle::{Finding, finding, median};
use crate::sync::{MIB, fill, noise, overwrite};

const PODMAN: &str = "/usr/bin/podman";
const SOON: Duration = Duration::from_mins(5);
/// Room for the volumes of a node, in MiB: the tree, its changes, and a clone that is written over.
const DISK: u64 = 5_000;
const VOLUME: &str = "1800M";

/// Milliseconds that the rounds took.
#[derive(Default)]
struct Times {
    provider_away: Vec<f64>,
    consumer_away: Vec<f64>,
    to_replica: Vec<f64>,
}

/// What the engine takes for a stop and a start.
struct Floor {
    /// From the end of the process to the begin of the next, in milliseconds.
    away: f64,
    /// From the stop that is asked for to the begin of the next process, in milliseconds.
    whole: f64,
}

/// So many publishes each, of volumes that can be cloned and of volumes that cannot.
pub(crate) async fn run(rounds: u64) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (way, cloning, limit) in [("clones", Some(DISK), 50.0), ("two walks", None, 150.0)] {
        let store = tempfile::Builder::new().prefix("belay-bench-").tempdir_in("/var/tmp")?;
        let options = |cloning| NodeOptions {
            store: Some(store.path().to_owned()),
            cloning,
            ..NodeOptions::default()
        };
        let (mut provider, mut consumer) =
            (Node::start(options(cloning)).await, Node::start(options(None)).await);
        let measured = measure(&provider, &consumer, rounds).await;
        let floors = match &measured {
            Ok(_) => {
                Some((floor(&mut provider, rounds).await?, floor(&mut consumer, rounds).await?))
            }
            Err(_) => None,
        };
        provider.end().await;
        consumer.end().await;
        let (mut times, Some((provider, consumer))) = (measured?, floors) else { continue };
        let stops = provider.whole + consumer.whole;
        let mut tell = |what: &str, measured: &mut [f64], floor: f64, limit: f64| {
            let measured = median(measured);
            findings.push(finding(
                format!("{way}: {what}, beyond the engine's own"),
                measured - floor,
                "ms",
                Some(limit),
            ));
            findings.push(finding(format!("{way}: {what}"), measured, "ms", None));
            findings.push(finding(format!("{way}: {what}, engine alone"), floor, "ms", None));
        };
        tell("provider away", &mut times.provider_away, provider.away, limit);
        tell("consumer away, 1,000 files changed", &mut times.consumer_away, consumer.away, 100.0);
        tell("request to replica that runs", &mut times.to_replica, stops, 1_000.0);
    }
    Ok(findings)
}

async fn measure(provider: &Node, consumer: &Node, rounds: u64) -> Result<Times> {
    for (node, role) in [(provider, "provider"), (consumer, "consumer")] {
        // What did not change is shared on ext4 if it need not come back.
        let policy = if role == "consumer" { "on_unready = \"keep\"\npoll" } else { "poll" };
        let spec = sync_spec(role).replace("\"32M\"", &format!("{VOLUME:?}"));
        let spec = spec.replace("poll", policy);
        let deployed = node.client().deploy(&spec, node.directory()).await;
        deployed.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    let data = provider.volume("app", "data").await;
    let control = provider.volume("app", "system").await.join("volume-sync");
    fill(&data)?;
    let mut times = Times::default();
    // The first one carries everything, and the second looks at files that were new to it.
    for round in 0..rounds + 2 {
        if round > 1 {
            for number in 0..1_000_u64 {
                let path = data.join(format!("small/{}/{number}", number % 100));
                fs::write(path, noise(round * 10_000 + number, 2_000))?;
            }
        }
        overwrite(&data.join("random"), (round % 30) * MIB + 123, &noise(70 + round, MIB))?;
        nix::unistd::sync();
        // Requests that follow one another sooner wait for that.
        tokio::time::sleep(Duration::from_secs(11)).await;
        let begun = SystemTime::now();
        let cid = publish(&control, round).await?;
        applied(consumer, &cid).await;
        if round > 1 {
            times.provider_away.push(engine_times(&container(provider).await?)?.away());
            let there = engine_times(&container(consumer).await?)?;
            times.consumer_away.push(there.away());
            times.to_replica.push(there.started - epoch_millis(begun)?);
        }
    }
    Ok(times)
}

/// Asks as an app does, and says what was published.
async fn publish(control: &Path, round: u64) -> Result<String> {
    let request = format!("r{round}");
    let body = json!({"archive_paths": ["/data"], "request_id": request}).to_string();
    fs::write(control.join("next"), body)?;
    fs::rename(control.join("next"), control.join("request.json"))?;
    let answer = until("the answer", SOON, || {
        let text = fs::read(control.join("response.json")).map_err(|error| error.to_string());
        let answer = text.and_then(|text| {
            serde_json::from_slice::<Value>(&text).map_err(|error| error.to_string())
        });
        std::future::ready(match answer {
            Ok(answer) if answer["request_id"] == request => Ok(answer),
            other => Err(format!("{other:?}")),
        })
    })
    .await;
    let cid = answer["cid"].as_str().filter(|_| answer["status"] == "ok");
    Ok(cid.with_context(|| answer.to_string())?.to_owned())
}

async fn applied(consumer: &Node, cid: &str) {
    until("the consumer to run on it", SOON, || async {
        let found = consumer.client().workload("app").await?;
        let last = found.sync.as_ref().and_then(|sync| sync.last_apply.as_ref());
        let is_there = last.is_some_and(|apply| apply.cid.to_string() == cid);
        if is_there && found.phase == WorkloadPhase::Ready { Ok(()) } else { Err(found.reason) }
    })
    .await;
}

async fn container(node: &Node) -> Result<String> {
    let found = node.client().workload("app").await.map_err(anyhow::Error::msg)?;
    Ok(found.container.context("a container")?.id)
}

/// When a container began and when it had ended before, in milliseconds since the epoch.
struct EngineTimes {
    started: f64,
    finished: f64,
}

impl EngineTimes {
    fn away(&self) -> f64 {
        self.started - self.finished
    }
}

fn engine_times(container: &str) -> Result<EngineTimes> {
    let format = "{{.State.StartedAt.UnixNano}} {{.State.FinishedAt.UnixNano}}";
    let output = Command::new(PODMAN).args(["inspect", "--format", format, container]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let (started, finished) = text.trim().split_once(' ').with_context(|| text.clone())?;
    let millis = |nanos: &str| -> Result<f64> { Ok(nanos.parse::<f64>()? / 1e6) };
    Ok(EngineTimes { started: millis(started)?, finished: millis(finished)? })
}

fn epoch_millis(time: SystemTime) -> Result<f64> {
    Ok(time.duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e3)
}

/// The engine's own stop and start of the node's container, by the same API, while nobody else acts.
async fn floor(node: &mut Node, rounds: u64) -> Result<Floor> {
    let container = container(node).await?;
    node.kill();
    let measured = stops_and_starts(&container, rounds).await;
    node.launch().await;
    let (mut away, mut whole) = measured?;
    Ok(Floor { away: median(&mut away), whole: median(&mut whole) })
}

async fn stops_and_starts(container: &str, rounds: u64) -> Result<(Vec<f64>, Vec<f64>)> {
    let directory = tempfile::tempdir()?;
    let service = Service::start(&directory.path().join("podman.sock")).await?;
    let (mut away, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(3) {
        let begun = SystemTime::now();
        service.act(container, "stop?t=0").await?;
        service.act(container, "start").await?;
        let times = engine_times(container)?;
        away.push(times.away());
        whole.push(times.started - epoch_millis(begun)?);
    }
    Ok((away, whole))
}

/// An engine's service that ends with this.
struct Service {
    child: Child,
    http: reqwest::Client,
}

impl Service {
    async fn start(socket: &Path) -> Result<Self> {
        let address = format!("unix://{}", socket.display());
        let child =
            Command::new(PODMAN).args(["system", "service", "--time=0", &address]).spawn()?;
        let http = reqwest::Client::builder().unix_socket(socket.to_owned()).no_proxy().build()?;
        let service = Self { child, http };
        until("the service to answer", SOON, || async {
            let answer = service.http.get("http://engine/_ping").send().await;
            answer.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Ok(service)
    }

    async fn act(&self, container: &str, verb: &str) -> Result<()> {
        let url = format!("http://engine/containers/{container}/{verb}");
        let answer = self.http.post(url).send().await?;
        ensure!(answer.status().is_success(), "{verb}: {}", answer.text().await?);
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It ends at its own pace otherwise, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
