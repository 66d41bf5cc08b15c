//! `belay lock`: who holds what, and freeing it.

use belay_protocol::{BreakMode, BreakRequest};
use reqwest::Method;

use super::{operate, show};
use crate::cli::LockVerb;
use crate::client::{Client, Document};
use crate::failure::Ending;
use crate::output::Output;

pub(crate) async fn run(client: &Client, verb: LockVerb, output: &Output) -> Result<(), Ending> {
    match verb {
        LockVerb::Ls(listing) => show::locks(client, listing, output).await,
        LockVerb::Break { workload, force } => {
            let mode = if force { BreakMode::Force } else { BreakMode::Explain };
            let path = format!("/v1/workloads/{workload}/lock/break");
            let body = Document::of(&BreakRequest { mode });
            operate::act(client, Method::POST, &path, body, output).await
        }
    }
}
