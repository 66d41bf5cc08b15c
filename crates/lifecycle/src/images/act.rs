//! What an operator asks of the images.

use std::path::Path;

use belay_engine::Image;
use belay_protocol::event::ImageRemoved;
use belay_protocol::{ImageAct, ImageRequest, OperationOutcome, Problem, ProblemCode};
use belay_volumes::ByteSize;

use super::ImagesTask;
use super::collect::{called, short};
use super::flight::Waiter;
use super::port::ImageStore;
use super::show::because;
use crate::core::images::collection::{Demand, Goes, Stays, Unknown};
use crate::problems;
use crate::reporter::Reporter;

impl<S: ImageStore> ImagesTask<S> {
    pub(super) async fn act(&mut self, act: ImageAct, reporter: Reporter) {
        let done = match act {
            ImageAct::Load(request) => {
                let path = Path::new(&request.file);
                if !path.is_absolute() {
                    let detail = format!("{:?} is no absolute path", request.file);
                    let next = "give the file's path from the root of the node's file system";
                    let problem = Problem::new(ProblemCode::InvalidRequest, detail, next);
                    reporter.finish(Err(problem));
                    return;
                }
                reporter.progress("load image", request.file.clone());
                self.load(path.to_owned(), Waiter::Operator { reporter });
                return;
            }
            ImageAct::Prune(request) if request.dry_run => self.would_prune(&reporter).await,
            ImageAct::Prune(_) => self.prune(&reporter).await,
            ImageAct::Pin(request) => self.pin(&request, Keep::Yes).await,
            ImageAct::Unpin(request) => self.pin(&request, Keep::No).await,
            ImageAct::Remove(request) => self.remove_one(&request).await,
        };
        self.show().await;
        reporter.finish(done.map(|summary| OperationOutcome { summary, publish: None }));
    }

    /// Ends an operator's load: what was loaded on purpose is kept.
    pub(super) async fn loaded(&mut self, image: &Image, reporter: Reporter) {
        let name = image.tags.first().cloned().unwrap_or_else(|| short(&image.id));
        let kept = match self.records.get_mut(&image.id) {
            Some(record) => {
                record.pinned = true;
                let record = record.clone();
                self.write(&image.id, &record).await;
                "and pinned"
            }
            None => "and was on this host before, so that belayd never removes it",
        };
        self.show().await;
        reporter.done(format!("loaded as {name} (image {}) {kept}", short(&image.id)));
    }

    async fn would_prune(&mut self, reporter: &Reporter) -> Result<String, Problem> {
        let plan = self.plan(Demand::Prune).await.map_err(undecided)?;
        for goes in &plan.goes {
            reporter.progress("would remove", called(goes));
        }
        Ok(format!("{} would be removed; nothing was changed", counted(&plan.goes)))
    }

    async fn prune(&mut self, reporter: &Reporter) -> Result<String, Problem> {
        let progress = reporter.progress_end();
        let collected = self.collect(Demand::Prune, Some(&progress)).await;
        for (id, why) in &collected.refused {
            reporter.progress("not removed", format!("{}: {why}", short(id)));
        }
        match collected.unknown {
            Some(unknown) if collected.removed.is_empty() => Err(undecided(unknown)),
            Some(_) | None => Ok(format!("{} removed", counted(&collected.removed))),
        }
    }

    async fn pin(&mut self, request: &ImageRequest, keep: Keep) -> Result<String, Problem> {
        let id = self.find(&request.image).await?;
        let Some(record) = self.records.get_mut(&id) else { return Err(absent(&request.image)) };
        record.pinned = keep == Keep::Yes;
        let record = record.clone();
        let written = self.ledger.put(super::IMAGES, &id, &record).await;
        written.map_err(|error| problems::ledger(&error))?;
        let word = if record.pinned { "pinned" } else { "not pinned any more" };
        Ok(format!("{} (image {}) is {word}", request.image, short(&id)))
    }

    async fn remove_one(&mut self, request: &ImageRequest) -> Result<String, Problem> {
        let id = self.find(&request.image).await?;
        let plan = self.plan(Demand::Prune).await.map_err(undecided)?;
        match plan.stays.get(&id) {
            // What is only kept to go back to is an operator's to give up.
            None | Some(Stays::Previous(_) | Stays::Unasked) => {}
            Some(stays) => {
                let next = match stays {
                    Stays::Pinned => format!("belay image unpin {}", request.image),
                    Stays::Foreign
                    | Stays::Named(_)
                    | Stays::Container
                    | Stays::Needed(_)
                    | Stays::Previous(_)
                    | Stays::Leased
                    | Stays::Unasked => "belay image ls shows who uses which".to_owned(),
                };
                let detail = format!("{} is not removed: {}", request.image, because(stays));
                return Err(Problem::new(ProblemCode::ImageInUse, detail, next));
            }
        }
        let names = self.store.images().await.ok().into_iter().flatten();
        let names = names.filter(|image| image.id == id).flat_map(|image| image.tags).collect();
        let bytes = self.records.get(&id).map_or(0, |record| record.bytes);
        let goes = Goes { id, names, bytes };
        self.remove(&goes).await.map_err(|why| {
            Problem::new(
                ProblemCode::ImageInUse,
                format!("{} is not removed: {why}", request.image),
                "belay image ls shows who uses which",
            )
        })?;
        self.tell_removed(&goes, ImageRemoved::Operator);
        Ok(format!("{} is removed", called(&goes)))
    }

    /// The id of an image that belayd brought, by a name, an id or the beginning of one.
    async fn find(&self, text: &str) -> Result<String, Problem> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() >= 12 && hex.bytes().all(|c| c.is_ascii_hexdigit()) {
            let begins = |id: &&String| id.strip_prefix("sha256:").unwrap_or(id).starts_with(hex);
            let mut found = self.records.keys().filter(begins);
            if let (Some(id), None) = (found.next(), found.next()) {
                return Ok(id.clone());
            }
        }
        let by_source = self.records.iter().filter(|(_, record)| record.sources.contains(text));
        let by_source = by_source.max_by_key(|(_, record)| record.fetched).map(|(id, _)| id);
        let found = self.store.image(text).await.ok().flatten().map(|image| image.id);
        let id = found.filter(|id| self.records.contains_key(id)).or(by_source.cloned());
        id.ok_or_else(|| absent(text))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

fn absent(text: &str) -> Problem {
    Problem::new(
        ProblemCode::NoSuchImage,
        format!("belayd brought no image {text} to this host; others it never removes"),
        "belay image ls lists those that it brought",
    )
}

fn undecided(unknown: Unknown) -> Problem {
    Problem::new(
        ProblemCode::NodeNotReady,
        format!("nothing is removed: {unknown}"),
        "belay status shows the node; try again once it says ready",
    )
}

fn counted(goes: &[Goes]) -> String {
    let bytes = goes.iter().map(|goes| goes.bytes).fold(0, u64::saturating_add);
    let count = match goes.len() {
        1 => "1 image".to_owned(),
        count => format!("{count} images"),
    };
    format!("{count} of {} with the layers that they share", ByteSize::bytes(bytes))
}
