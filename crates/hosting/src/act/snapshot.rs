//! To the disk and back, or frozen and thawed.

use belay_engine::{CheckpointError, Container, ContainerState};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Booking, Doing, Keeping, Measured, Outcome, Seen, Tools, with_causes};
use crate::core::checkpoint::{CheckpointRecord, Incompatible, SCHEMA, compare};
use crate::core::container;
use crate::core::job::{Job, Room};
use crate::grants::Grants;
use crate::measure;
use crate::store::{self, BookError};

impl<G: Grants> Tools<G> {
    pub(super) async fn snapshot(&self, seen: &Seen, doing: &mut Doing) -> Outcome {
        if doing.hurry.is_cancelled() {
            doing.progress.failure = Some("it was aborted before it began".to_owned());
            return Outcome::Carried;
        }
        let Some(found) = &seen.container else { return Outcome::Carried };
        match self.keeping() {
            Keeping::Checkpoint => self.checkpoint(found, doing).await,
            Keeping::Pause { .. } => {
                let began = Instant::now();
                match self.engine.pause(&found.id).await {
                    Ok(()) => doing.measured.push(Measured::Paused { took: began.elapsed() }),
                    Err(error) => failed(doing, with_causes(&error)),
                }
                Outcome::Carried
            }
        }
    }

    async fn checkpoint(&self, found: &Container, doing: &mut Doing) -> Outcome {
        if let Err(full) = self.promise(found, doing) {
            failed(doing, full);
            return Outcome::Carried;
        }
        let began = Instant::now();
        match self.engine.checkpoint(&found.id).await {
            Ok(report) => {
                let (frozen, took) = (report.freezing + report.frozen, began.elapsed());
                doing.measured.push(Measured::Checkpointed { frozen, took });
            }
            Err(CheckpointError::Unsupported { detail, .. }) => {
                self.store.withdraw(&doing.runner);
                tracing::warn!("runners are frozen instead of checkpointed: {detail}");
                self.keep_by(Keeping::Pause { reason: detail });
            }
            // What it came to is seen next.
            Err(error) => {
                self.store.withdraw(&doing.runner);
                failed(doing, with_causes(&error));
            }
        }
        Outcome::Carried
    }

    /// Has the store keep room for what the container uses now.
    fn promise(&self, found: &Container, doing: &Doing) -> Result<(), String> {
        let pid = match found.state {
            ContainerState::Running { pid, .. } | ContainerState::Paused { pid, .. } => Some(pid),
            ContainerState::Created
            | ContainerState::Stopping
            | ContainerState::Exited { .. }
            | ContainerState::Removing
            | ContainerState::Unknown(_) => None,
        };
        let in_use = pid.and_then(measure::memory_in_use).or(found.limits.memory);
        let free = measure::free(&self.engine.info().storage);
        let promised = self.store.promise(&doing.runner, in_use.unwrap_or(0), free);
        promised.map_err(|full| full.to_string())
    }

    /// Writes down a checkpoint that was taken, once the disk has all of it.
    pub(super) async fn book(&self, seen: &Seen, room: Room, doing: &mut Doing) -> Outcome {
        let (Job::Take(ticket) | Job::Find(ticket)) = &doing.job else { return Outcome::Carried };
        let Some(found) = &seen.container else { return Outcome::Carried };
        let known = self.store.get(&doing.runner);
        if known.is_some_and(|record| record.container == found.id.as_str()) {
            doing.progress.booking = Booking::Booked;
            return Outcome::Carried;
        }
        let image = match self.engine.checkpoint_image(&found.id).await {
            Ok(Some(image)) => image,
            Ok(None) => return Outcome::Later("its image is not there".to_owned()),
            Err(error) => return Outcome::Later(with_causes(&error)),
        };
        let Some(identity) = container::identity(found, &self.host) else {
            return Outcome::Later("its labels cannot be read".to_owned());
        };
        let (store, versions) = (self.store.clone(), self.versions.clone());
        let (run, boot_id) = (ticket.run, self.boot_id.clone());
        let (container, made_of) = (found.id.to_string(), found.image_id.clone());
        let booked = tokio::task::spawn_blocking(move || {
            let print = store::print(&image).map_err(|error| error.to_string())?;
            let record = CheckpointRecord {
                schema: SCHEMA,
                runner: identity.runner,
                workload: identity.workload,
                run,
                container,
                image: made_of,
                taken_at: Timestamp::now(),
                boot_id,
                bytes: print.bytes,
                digest: print.digest,
                versions,
            };
            match store.book(record, room) {
                Ok(()) => Ok(print.bytes),
                Err(BookError::Full(full)) => Err(full.to_string()),
                Err(BookError::Store(error)) => Err(with_causes(&error)),
            }
        });
        let booked = booked.await.unwrap_or_else(|error| Err(error.to_string()));
        doing.progress.booking = match (booked, room) {
            (Ok(bytes), _) => {
                doing.measured.push(Measured::Booked { bytes });
                Booking::Booked
            }
            (Err(reason), Room::Asked) => {
                doing.measured.push(Measured::NotSnapshotted { reason: reason.clone() });
                Booking::NoRoom(reason)
            }
            // The engine has it, and says so as long as the host runs.
            (Err(reason), Room::Forced) => {
                tracing::warn!(runner = %doing.runner, "its checkpoint is not in the books: {reason}");
                Booking::Booked
            }
        };
        Outcome::Carried
    }

    pub(super) async fn restore(&self, doing: &mut Doing) -> Outcome {
        if let Err(reason) = self.may_restore(doing).await {
            not_restored(doing, reason);
            return Outcome::Carried;
        }
        let _place = self.starts.acquire().await;
        let began = Instant::now();
        match self.engine.restore(self.name(&doing.runner)).await {
            Ok(_) => {
                doing.progress.started = true;
                doing.measured.push(Measured::Restored { took: began.elapsed() });
                self.forget(&doing.runner).await;
            }
            Err(CheckpointError::Engine(error)) if error.is_retryable() => {
                return Outcome::Later(with_causes(&error));
            }
            Err(error) => not_restored(doing, with_causes(&error)),
        }
        Outcome::Carried
    }

    /// Whether what is written down of a checkpoint speaks against its restore here and now.
    async fn may_restore(&self, doing: &Doing) -> Result<(), String> {
        let Some(record) = self.store.get(&doing.runner) else { return Ok(()) };
        compare(&record.versions, &self.versions).map_err(|error| error.to_string())?;
        // What a start of the host in between has done to the files is not seen by CRIU.
        if record.boot_id == self.boot_id {
            return Ok(());
        }
        let image = self.engine.checkpoint_image(self.name(&doing.runner)).await;
        let Ok(Some(image)) = image else { return Ok(()) };
        let print = tokio::task::spawn_blocking(move || store::print(&image)).await;
        match print {
            Ok(Ok(print)) if print.digest == record.digest => Ok(()),
            Ok(_) | Err(_) => Err(Incompatible::Damaged.to_string()),
        }
    }

    pub(super) async fn thaw(&self, doing: &mut Doing) -> Outcome {
        let began = Instant::now();
        match self.engine.unpause(self.name(&doing.runner)).await {
            Ok(()) => {
                doing.progress.started = true;
                doing.measured.push(Measured::Thawed { took: began.elapsed() });
                Outcome::Carried
            }
            Err(error) => Outcome::Later(with_causes(&error)),
        }
    }
}

/// The snapshot does not come about.
fn failed(doing: &mut Doing, reason: String) {
    doing.measured.push(Measured::NotSnapshotted { reason: reason.clone() });
    doing.progress.failure = Some(reason);
}

/// The process does not come back.
fn not_restored(doing: &mut Doing, reason: String) {
    doing.measured.push(Measured::NotRestored { reason: reason.clone() });
    match doing.progress.booking {
        // It was to come back for want of room.
        Booking::NoRoom(_) => doing.progress.booking = Booking::Stranded,
        Booking::Open | Booking::Booked | Booking::Stranded => {
            doing.progress.failure = Some(reason);
        }
    }
}
