//! Containers found again by a belayd that was killed, beside what the engine takes to list and
//! inspect them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use belay_harness::{Client, Node, NodeOptions, until};
use belay_protocol::WorkloadPhase;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::report::{Row, Target};

const COUNT: usize = 50;

/// Deploys that run at once: each has its own patience.
const DEPLOYS: usize = 4;

/// Inspects that run at once, as many as belayd has.
const INSPECTS: usize = 4;

const SOON: Duration = Duration::from_mins(5);

pub(crate) async fn run(rounds: usize) -> Result<Vec<Row>> {
    let environment = vec![("BELAYD_LOG_LEVEL".to_owned(), "info".into())];
    let mut node = Node::start(NodeOptions { environment, ..NodeOptions::default() }).await;
    deploy(node.client(), node.directory()).await?;
    let filter = format!("io.belay.node={}", node.name());
    let engine = reqwest::Client::builder()
        .unix_socket(node.directory().join("run/podman.sock"))
        .no_proxy()
        .build()?;
    let (mut samples, mut answered, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        node.kill();
        let began = Instant::now();
        node.spawn();
        until("the status", SOON, || node.client().status()).await;
        answered.push(began.elapsed());
        until("all of them to be ready", SOON, || all_ready(node.client())).await;
        samples.push(began.elapsed());
        let began = Instant::now();
        look(&engine, &filter).await?;
        floor.push(began.elapsed());
    }
    node.end().await;
    let found = format!("{COUNT} containers found again and ready, from belayd's start");
    let limit = Target::Limit(Duration::from_secs(2));
    Ok(vec![
        Row { name: found, samples, floor: floor.clone(), target: limit },
        Row {
            name: "of which until the status answers".to_owned(),
            samples: answered,
            floor,
            target: Target::None,
        },
    ])
}

async fn all_ready(client: &Client) -> Result<(), String> {
    let status = client.status().await?;
    let ready = status.workloads.iter().filter(|found| found.phase == WorkloadPhase::Ready);
    match ready.count() {
        COUNT => Ok(()),
        count => Err(format!("{count} are")),
    }
}

async fn deploy(client: &Client, directory: &Path) -> Result<()> {
    let mut running = JoinSet::new();
    for number in 0..COUNT {
        let spec = format!(
            "name = \"w{number:02}\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
             network = \"none\"\ncommand = [\"/bin/sleep\", \"100000\"]\n\
             [ready]\ninterval = \"100ms\"\n"
        );
        let (client, directory) = (client.clone(), directory.to_owned());
        running.spawn(async move { client.deploy(&spec, &directory).await });
        if running.len() >= DEPLOYS {
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

/// One list and an inspect of each, by the engine's own API and nothing else.
async fn look(engine: &reqwest::Client, label: &str) -> Result<()> {
    let filters = json!({ "label": [label] }).to_string();
    let list = engine.get("http://engine/containers/json").query(&[("filters", filters)]);
    let rows: Vec<Value> = list.send().await?.error_for_status()?.json().await?;
    ensure!(rows.len() == COUNT, "{} containers are listed", rows.len());
    let mut inspects = JoinSet::new();
    for row in rows {
        let id = row.get("Id").and_then(Value::as_str).context("a row has an id")?;
        let inspect = engine.get(format!("http://engine/containers/{id}/json")).send();
        inspects.spawn(async move { inspect.await?.error_for_status()?.bytes().await });
        if inspects.len() >= INSPECTS {
            let ended = inspects.join_next().await.context("one runs")?;
            ended??;
        }
    }
    while let Some(ended) = inspects.join_next().await {
        ended??;
    }
    Ok(())
}
