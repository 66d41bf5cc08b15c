//! `belay image`: looking at images and acting on them.

use std::fmt::Write as _;
use std::path::Path;

use belay_protocol::{ImageRequest, ImagesStatus, LoadRequest, PruneRequest};
use jiff::Timestamp;
use reqwest::Method;

use super::operate;
use crate::cli::{Format, ImageVerb, Listing};
use crate::client::{Client, Document};
use crate::core::table::one_line;
use crate::core::view;
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

pub(crate) async fn run(client: &Client, verb: ImageVerb, output: &Output) -> Result<(), Ending> {
    let named = |image| Document::of(&ImageRequest { image });
    let (page, body) = match verb {
        ImageVerb::Ls(listing) => return list(client, listing, output).await,
        ImageVerb::Prune { dry_run } => return prune(client, dry_run, output).await,
        ImageVerb::Load { file } => ("load", load_request(&file)?),
        ImageVerb::Pin { image } => ("pin", named(image)),
        ImageVerb::Unpin { image } => ("unpin", named(image)),
        ImageVerb::Rm { image } => ("rm", named(image)),
    };
    operate::act(client, Method::POST, &format!("/v1/images/{page}"), body, output).await
}

async fn list(client: &Client, listing: Listing, output: &Output) -> Result<(), Ending> {
    let images: ImagesStatus = client.get("/v1/images").await?;
    match listing.output {
        Format::Json => output.json(&images),
        Format::Table => {
            output.text(&view::images::table(&images, Timestamp::now(), output.style()))
        }
    }
}

/// What went, or would go, is the answer itself, one line an image.
async fn prune(client: &Client, dry_run: bool, output: &Output) -> Result<(), Ending> {
    let mut text = String::new();
    let request = Document::of(&PruneRequest { dry_run });
    let outcome = client
        .operate(Method::POST, "/v1/images/prune", request, |progress| {
            let _ = writeln!(text, "{}: {}", one_line(&progress.step), one_line(&progress.detail));
        })
        .await?;
    output.text(&format!("{text}{}\n", outcome.summary))
}

/// belayd reads the file itself, so that it gets the path as it is on this host.
fn load_request(file: &Path) -> Result<Document, Ending> {
    let absolute = std::fs::canonicalize(file).map_err(|error| {
        Failure::new(
            failure::NO_INPUT,
            format!("cannot read {}: {error}", file.display()),
            "name an image saved by podman or docker, or a tar of a root file system",
        )
    })?;
    Ok(Document::of(&LoadRequest { file: absolute.display().to_string() }))
}
