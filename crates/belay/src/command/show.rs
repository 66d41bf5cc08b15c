//! Verbs that only look.

use belay_protocol::{
    HistoryEntry, LockStatus, NodeStatus, VolumeStatus, WorkloadName, WorkloadStatus,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{Format, Listing};
use crate::client::Client;
use crate::core::table::Style;
use crate::core::view;
use crate::failure::Ending;
use crate::output::Output;

/// Transitions that an explanation shows.
const TRANSITIONS: usize = 20;

/// Shows an answer as it came, or as a page for people.
fn shown<T: Serialize>(
    answer: &T,
    listing: Listing,
    output: &Output,
    page: impl FnOnce(&T, Style) -> String,
) -> Result<(), Ending> {
    match listing.output {
        Format::Json => output.json(answer),
        Format::Table => output.text(&page(answer, output.style())),
    }
}

pub(crate) async fn workloads(
    client: &Client,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let workloads: Vec<WorkloadStatus> = client.get("/v1/workloads").await?;
    shown(&workloads, listing, output, |all, style| {
        view::workloads::table(all, Timestamp::now(), style)
    })
}

pub(crate) async fn node(client: &Client, listing: Listing, output: &Output) -> Result<(), Ending> {
    let status: NodeStatus = client.get("/v1/status").await?;
    shown(&status, listing, output, |node, style| view::node::page(node, Timestamp::now(), style))
}

pub(crate) async fn workload(
    client: &Client,
    name: &WorkloadName,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let workload: WorkloadStatus = client.get(&format!("/v1/workloads/{name}")).await?;
    match listing.output {
        Format::Json => output.json(&workload),
        Format::Table => {
            let node: NodeStatus = client.get("/v1/status").await?;
            let mut text = view::node::workload(&node, &workload, Timestamp::now(), output.style());
            text += &locks_about(client, name, output.style()).await?;
            output.text(&text)
        }
    }
}

pub(crate) async fn explain(
    client: &Client,
    name: &WorkloadName,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let workload: WorkloadStatus = client.get(&format!("/v1/workloads/{name}")).await?;
    let path = format!("/v1/events?last={TRANSITIONS}&kind=phase-changed&workload={name}");
    let transitions = client.get::<view::events::EventPage>(&path).await?.events;
    match listing.output {
        Format::Json => output.json(&json!({"workload": workload, "transitions": transitions})),
        Format::Table => {
            let node: NodeStatus = client.get("/v1/status").await?;
            let (now, style) = (Timestamp::now(), output.style());
            let mut text = view::explain::page(&node, &workload, &transitions, now, style);
            text += &locks_about(client, name, style).await?;
            output.text(&text)
        }
    }
}

/// Names of the environment that the workload has overridden; values are in its container only.
pub(crate) async fn overrides(
    client: &Client,
    name: &WorkloadName,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let workload: WorkloadStatus = client.get(&format!("/v1/workloads/{name}")).await?;
    match listing.output {
        Format::Json => output.json(&workload.overrides),
        Format::Table => output.text(&view::node::overrides(&workload)),
    }
}

pub(crate) async fn volumes(
    client: &Client,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let volumes: Vec<VolumeStatus> = client.get("/v1/volumes").await?;
    shown(&volumes, listing, output, |all, style| view::volumes::table(all, style))
}

pub(crate) async fn locks(
    client: &Client,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let locks: Vec<LockStatus> = client.get("/v1/locks").await?;
    shown(&locks, listing, output, |all, style| view::locks::table(all, style))
}

/// Who has the locks of a workload. Its page stands without them: where they cannot be looked at,
/// it says so.
async fn locks_about(client: &Client, name: &WorkloadName, style: Style) -> Result<String, Ending> {
    match client.get::<Vec<LockStatus>>("/v1/locks").await {
        Ok(locks) => Ok(view::locks::about(&locks, name, style)),
        Err(Ending::Failed(failure)) => {
            Ok(format!("\nits locks are not known: {}\n", failure.what))
        }
        Err(ending @ Ending::PipeClosed) => Err(ending),
    }
}

pub(crate) async fn sync(client: &Client, listing: Listing, output: &Output) -> Result<(), Ending> {
    match listing.output {
        Format::Json => {
            let sync: Value = client.get("/v1/sync").await?;
            output.json(&sync)
        }
        Format::Table => {
            let status: NodeStatus = client.get("/v1/status").await?;
            output.text(&view::sync::table(&status, Timestamp::now(), output.style()))
        }
    }
}

pub(crate) async fn history(
    client: &Client,
    name: &WorkloadName,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let path = format!("/v1/workloads/{name}/sync/history");
    let entries: Vec<HistoryEntry> = client.get(&path).await?;
    match listing.output {
        Format::Json => output.json(&entries),
        Format::Table => output.text(&view::sync::history(&entries, output.style())),
    }
}
