//! `belay volume`: looking at volumes and acting on one.

use belay_protocol::{CheckMode, CheckRequest, GrowRequest, RollbackRequest, VolumeStatus};
use jiff::Timestamp;
use reqwest::Method;

use super::{operate, show};
use crate::cli::{Format, Listing, VolumePath, VolumeVerb};
use crate::client::{Client, Document};
use crate::core::view;
use crate::failure::Ending;
use crate::output::Output;

pub(crate) async fn run(client: &Client, verb: VolumeVerb, output: &Output) -> Result<(), Ending> {
    let (volume, page, body, wait) = match verb {
        VolumeVerb::Ls(listing) => return show::volumes(client, listing, output).await,
        VolumeVerb::Show { volume, listing } => return one(client, &volume, listing, output).await,
        VolumeVerb::Rm { volume, wait } => {
            let path = format!("/v1/volumes/{volume}{}", wait.query());
            return operate::act(client, Method::DELETE, &path, Document::none(), output).await;
        }
        VolumeVerb::Grow { volume, size, wait } => {
            (volume, "grow", Document::of(&GrowRequest { size }), wait)
        }
        VolumeVerb::Check { volume, repair, wait } => {
            let mode = if repair { CheckMode::Repair } else { CheckMode::Report };
            (volume, "check", Document::of(&CheckRequest { mode }), wait)
        }
        VolumeVerb::Rollback { volume, generation, wait } => {
            (volume, "rollback", Document::of(&RollbackRequest { generation }), wait)
        }
        VolumeVerb::Reset { volume, wait } => (volume, "reset", Document::none(), wait),
        VolumeVerb::Adopt { volume, wait } => (volume, "adopt", Document::none(), wait),
        VolumeVerb::Trim { volume, wait } => (volume, "trim", Document::none(), wait),
    };
    let path = format!("/v1/volumes/{volume}/{page}{}", wait.query());
    operate::act(client, Method::POST, &path, body, output).await
}

async fn one(
    client: &Client,
    volume: &VolumePath,
    listing: Listing,
    output: &Output,
) -> Result<(), Ending> {
    let volume: VolumeStatus = client.get(&format!("/v1/volumes/{volume}")).await?;
    match listing.output {
        Format::Json => output.json(&volume),
        Format::Table => {
            output.text(&view::volumes::page(&volume, Timestamp::now(), output.style()))
        }
    }
}
