//! Verbs about the volume-sync of one workload.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;

use belay_protocol::{
    CidPrefix, DiffAgainst, OperationProgress, ProblemCode, SyncGeneration, SyncLine,
    SyncRollbackRequest, VerifyDepth, VerifyProgress, WorkloadName,
};
use reqwest::Method;
use serde_json::Value;

use super::operate;
use crate::cli::{Format, Listing, Succession};
use crate::client::{Client, Document};
use crate::core::{human, view};
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

/// `pause`, `resume` or `apply`.
pub(crate) async fn act(
    client: &Client,
    workload: &WorkloadName,
    verb: &str,
    output: &Output,
) -> Result<(), Ending> {
    let path = format!("/v1/workloads/{workload}/sync/{verb}");
    operate::act(client, Method::POST, &path, Document::none(), output).await
}

pub(crate) async fn roll_back(
    client: &Client,
    workload: &WorkloadName,
    cid: Option<CidPrefix>,
    output: &Output,
) -> Result<(), Ending> {
    let path = format!("/v1/workloads/{workload}/sync/rollback");
    let request = Document::of(&SyncRollbackRequest { cid });
    operate::act(client, Method::POST, &path, request, output).await
}

pub(crate) async fn take_over(
    client: &Client,
    who: &Succession,
    output: &Output,
) -> Result<(), Ending> {
    let Succession { workload, yes } = who;
    if !yes {
        let what = "what another node published since its last record is lost to consumers, and it \
                    publishes no more; see that it is dead or stopped first";
        let next = format!("belay sync takeover {workload} --yes");
        return Err(Failure::new(failure::USAGE, what, next).into());
    }
    act(client, workload, "takeover", output).await
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

pub(crate) async fn export(
    client: &Client,
    workload: &WorkloadName,
    cid: Option<&CidPrefix>,
    output: &Output,
) -> Result<(), Ending> {
    if output.is_terminal() {
        let next = format!("belay sync export {workload} > {workload}.tar.gz");
        return Err(Failure::new(failure::USAGE, "an archive is not for a terminal", next).into());
    }
    let query = cid.map_or_else(String::new, |cid| format!("?cid={cid}"));
    let path = format!("/v1/workloads/{workload}/sync/export{query}");
    let mut begun = false;
    let written = client.download(Method::GET, &path, |bytes| {
        begun = true;
        output.bytes(bytes)
    });
    match written.await {
        Err(Ending::Failed(failed)) if begun => {
            let what = format!("the archive is not whole and must not be used: {}", failed.what);
            let next = "look into belayd's log, which says what is wrong";
            Err(Failure::new(failed.exit_code, what, next).into())
        }
        ended => ended,
    }
}

pub(crate) async fn import(
    client: &Client,
    workload: &WorkloadName,
    file: &Path,
    output: &Output,
) -> Result<(), Ending> {
    let archive = if file == Path::new("-") {
        if std::io::stdin().is_terminal() {
            let next = format!("belay sync import {workload} {workload}.tar.gz");
            let what = "standard input is a terminal, which types no archive";
            return Err(Failure::new(failure::USAGE, what, next).into());
        }
        Document::archive(tokio::io::stdin())
    } else {
        let opened = async {
            let opened = tokio::fs::File::open(file).await?;
            if opened.metadata().await?.is_dir() {
                return Err(std::io::ErrorKind::IsADirectory.into());
            }
            Ok::<_, std::io::Error>(opened)
        };
        Document::archive(opened.await.map_err(|error| {
            Failure::new(
                failure::NO_INPUT,
                format!("cannot read {}: {error}", file.display()),
                "name a tar.gz of container paths, as belay sync export writes it",
            )
        })?)
    };
    let path = format!("/v1/workloads/{workload}/sync/import");
    operate::act(client, Method::POST, &path, archive, output).await
}

pub(crate) async fn diff(
    client: &Client,
    workload: &WorkloadName,
    from: &CidPrefix,
    to: &DiffAgainst,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let to = match to {
        DiffAgainst::Generation(None) => String::new(),
        DiffAgainst::Generation(Some(cid)) => format!("&to={cid}"),
        DiffAgainst::Live => "&to=live".to_owned(),
    };
    let path = format!("/v1/workloads/{workload}/sync/diff?from={from}{to}");
    let mut lines = client.long_lines(&path).await?;
    loop {
        match lines.next::<SyncLine>().await? {
            Some(SyncLine::Failed(problem)) => return Err((*problem).into()),
            None => return Err(client.cut_short()),
            Some(line) => {
                let last = matches!(line, SyncLine::Compared(_));
                match listing.output {
                    Format::Json => output.json_line(&line)?,
                    Format::Table => output.text(&view::generation::line(&line))?,
                }
                if last {
                    return Ok(());
                }
            }
        }
    }
}

pub(crate) async fn verify(
    client: &Client,
    workload: &WorkloadName,
    depth: VerifyDepth,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let query = match depth {
        VerifyDepth::Marks => "",
        VerifyDepth::Content => "?content=true",
    };
    let path = format!("/v1/workloads/{workload}/sync/verify{query}");
    let mut lines = client.long_lines(&path).await?;
    let mut progress = output.progress();
    let damaged = loop {
        let line = match lines.next::<SyncLine>().await? {
            Some(SyncLine::Failed(problem)) => return Err((*problem).into()),
            None => return Err(client.cut_short()),
            Some(line) => line,
        };
        match (&line, listing.output) {
            (_, Format::Json) => output.json_line(&line)?,
            (SyncLine::Verifying(VerifyProgress { done_bytes, total_bytes }), Format::Table) => {
                progress.show(&OperationProgress {
                    step: "verify".to_owned(),
                    detail: "what the store keeps".to_owned(),
                    done_bytes: Some(*done_bytes),
                    total_bytes: Some(*total_bytes),
                });
            }
            (_, Format::Table) => output.text(&view::generation::line(&line))?,
        }
        if let SyncLine::Verified(sum) = line {
            break sum.damaged;
        }
    };
    drop(progress);
    if damaged == 0 {
        return Ok(());
    }
    let places = human::count(usize::try_from(damaged).unwrap_or(usize::MAX), "place");
    let what = format!("what is kept of {workload} is damaged in {places}");
    let next = "publish again on the provider's node: what is damaged in the store is stored again";
    Err(Failure::new(ProblemCode::GenerationDamaged.exit_code(), what, next).into())
}
