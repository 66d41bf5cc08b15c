//! Verbs about the volume-sync of one workload.

use std::collections::BTreeMap;

use belay_protocol::{CidPrefix, ProblemCode, SyncGeneration, WorkloadName};
use reqwest::Method;
use serde_json::Value;

use super::operate;
use crate::cli::{Format, Listing};
use crate::client::{Client, Document};
use crate::core::view;
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

/// `pause` or `resume`.
pub(crate) async fn act(
    client: &Client,
    workload: &WorkloadName,
    verb: &str,
    output: &Output,
) -> Result<(), Ending> {
    let path = format!("/v1/workloads/{workload}/sync/{verb}");
    operate::act(client, Method::POST, &path, Document::none(), output).await
}

pub(crate) async fn show(
    client: &Client,
    about: &str,
    cid: Option<CidPrefix>,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let generation = match (about.parse::<CidPrefix>(), cid) {
        (Ok(content), None) => anywhere(client, &content).await?,
        (_, cid) => {
            let workload = about.parse().map_err(|error| {
                let next = "name a workload, a content id, or both: belay sync show web";
                Failure::new(failure::USAGE, format!("{error}"), next)
            })?;
            generation(client, &workload, cid.as_ref()).await?
        }
    };
    match listing.output {
        Format::Json => output.json(&generation),
        Format::Table => output.text(&view::generation::page(&generation)),
    }
}

async fn generation(
    client: &Client,
    workload: &WorkloadName,
    cid: Option<&CidPrefix>,
) -> Result<SyncGeneration, Ending> {
    let query = cid.map_or_else(String::new, |cid| format!("?cid={cid}"));
    client.get(&format!("/v1/workloads/{workload}/sync/generation{query}")).await
}

/// A content is asked for under the key of each workload in turn.
async fn anywhere(client: &Client, cid: &CidPrefix) -> Result<SyncGeneration, Ending> {
    let all: BTreeMap<WorkloadName, Value> = client.get("/v1/sync").await?;
    for workload in all.keys() {
        match generation(client, workload, Some(cid)).await {
            Err(Ending::Failed(failed))
                if failed.exit_code == ProblemCode::NoSuchGeneration.exit_code() => {}
            answered => return answered,
        }
    }
    let what = format!("no key of a workload of this node has a generation {cid}");
    let next = "belay sync history WORKLOAD shows what was published and applied";
    Err(Failure::new(ProblemCode::NoSuchGeneration.exit_code(), what, next).into())
}
