//! What a consumer tells providers, and the lease that it takes before it fetches.

use std::time::{Duration, Instant};

use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_protocol::{ACK_SCHEMA, AckPlace, AckState, ConsumerId, SyncAck};
use belay_store::{BlobStore, RecordError, RecordStore, Revision};
use jiff::Timestamp;

use super::Consumer;
use crate::context::{Stopped, blocking, with_causes};
use crate::core::ack::{self, Standing};
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::node_key::NodeKeyError;
use crate::volume::Volumes;
use crate::window::OfflineWindow;

/// What is told is told again after this long, so that it is known to be so still. Providers keep what
/// is needed for a day after it was told.
const RENEWED_AFTER: Duration = Duration::from_hours(6);
/// A store that took no acknowledgement is offered none for this long; it may be read-only.
const REFUSED_REST: Duration = Duration::from_mins(5);

/// Longest wait for a store that is offered one; applies wait for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was told last.
pub(super) struct Told {
    standing: Standing,
    holds: Option<AckPlace>,
    at: Instant,
}

/// Whether a record may be fetched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease {
    /// What it needs stays, or nobody can say so.
    Given,
    /// Another record came before it was written down that this one is fetched.
    Overtaken,
}

/// Why an acknowledgement was not written.
#[derive(Debug, thiserror::Error)]
enum AckError {
    #[error("it could not be signed")]
    Key(#[from] NodeKeyError),
    #[error("it could not be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Store(#[from] RecordError),
    #[error("it took too long")]
    Late,
}

/// A record as it is acknowledged.
pub(super) fn place(record: &SyncRecord) -> AckPlace {
    AckPlace { epoch: record.epoch, seq: record.seq, cid: record.cid }
}

/// The same of bytes that may be no record, or none that is taken.
pub(super) fn place_in(bytes: &[u8]) -> Option<AckPlace> {
    serde_json::from_slice::<SyncRecord>(bytes).ok().map(|record| place(&record))
}

impl<S, W> Consumer<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Tells that a record is about to be fetched, and then whether it is still the newest. From then
    /// on whoever retires it sees that it is needed: what is newer is published after this was told,
    /// and what it retires is chosen after that.
    pub(super) async fn lease(
        &mut self,
        layout: &SyncLayout,
        record: &SyncRecord,
        head: Revision,
    ) -> Result<Lease, Stopped> {
        let fetching = Standing { state: AckState::Fetching, record: Some(place(record)) };
        if !self.acknowledge(layout, fetching).await {
            return Ok(Lease::Given);
        }
        reached(Point::Leased);
        let key = &self.context.spec.key;
        let found = self
            .context
            .exchange(Stage::Download, RecordError::is_retryable, || self.context.store.head(key))
            .await?;
        match found {
            Ok(Some(found)) if found.revision != head => Ok(Lease::Overtaken),
            // If the store does not answer, the transfer says so.
            Ok(_) | Err(_) => Ok(Lease::Given),
        }
    }

    /// Tells how the consumer stands to the head by the last look, if that was ever known.
    pub(crate) async fn tell(&mut self, layout: &SyncLayout) {
        if let Some(standing) = self.standing.clone() {
            self.acknowledge(layout, standing).await;
        }
    }

    /// Notes for the next telling what became of a record.
    pub(super) fn stands(&mut self, state: AckState, record: &SyncRecord) {
        self.standing = Some(Standing { state, record: Some(place(record)) });
    }

    /// Writes to the store how this consumer stands, if that is new or was told long ago. True if it
    /// was written now. A store that does not take it changes nothing else: it may be read-only.
    pub(super) async fn acknowledge(&mut self, layout: &SyncLayout, standing: Standing) -> bool {
        let holds = self.holds(layout).await;
        let is_told = self.acknowledged.as_ref().is_some_and(|told| {
            (&told.standing, &told.holds) == (&standing, &holds)
                && told.at.elapsed() < RENEWED_AFTER
        });
        if is_told || self.unacknowledged.is_some_and(|at| at.elapsed() < REFUSED_REST) {
            return false;
        }
        let written = tokio::select! {
            biased;
            () = self.context.shutdown.cancelled() => return false,
            written = self.write_ack(&standing, holds) => written,
        };
        match written {
            Ok(()) => {
                self.unacknowledged = None;
                self.acknowledged = Some(Told { standing, holds, at: Instant::now() });
                true
            }
            Err(error) => {
                tracing::info!(workload = %self.context.workload, error = with_causes(&error),
                    "providers cannot be told what this consumer needs");
                self.unacknowledged = Some(Instant::now());
                false
            }
        }
    }

    async fn write_ack(
        &self,
        standing: &Standing,
        holds: Option<AckPlace>,
    ) -> Result<(), AckError> {
        let context = &self.context;
        let consumer =
            ConsumerId { node: context.node.clone(), workload: context.workload.clone() };
        let signer = self.key.clone();
        let loaded = tokio::task::spawn_blocking(move || signer.load()).await;
        let key = loaded.map_err(|_| AckError::Late)??;
        let ack = SyncAck {
            schema: ACK_SCHEMA,
            key: context.spec.key.clone(),
            consumer: consumer.clone(),
            state: standing.state,
            record: standing.record,
            holds,
            at: Timestamp::now(),
            signer: crate::core::signature::publisher(&key),
            signature: None,
        };
        let bytes = ack::signed(&ack, &key)?;
        let written = context.store.acknowledge(&context.spec.key, &consumer, bytes.into());
        let within = context.spec.store_timeout.min(PATIENCE);
        let written = tokio::time::timeout(within, written).await;
        Ok(written.map_err(|_| AckError::Late)??)
    }

    /// What the volumes hold by their marks, if they hold one thing.
    async fn holds(&self, layout: &SyncLayout) -> Option<AckPlace> {
        let (layout, key) = (layout.clone(), self.context.spec.key.clone());
        let held = blocking(Stage::Validation, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(Stage::Validation, error);
            let volumes = Volumes::open(&layout).map_err(|error| fail(&error))?;
            let mut held: Option<AckPlace> = None;
            for volume in &volumes.all {
                let mark = volume.mark().map_err(|error| fail(&error))?;
                let Some(mark) = mark.filter(|mark| mark.key == key) else { continue };
                let (epoch, seq) = (mark.order.epoch, mark.order.seq);
                let place = AckPlace { epoch, seq, cid: mark.cid };
                if held.is_some_and(|held| held != place) {
                    return Ok(None);
                }
                held = Some(place);
            }
            Ok(held)
        });
        // Marks that cannot be read hold nothing.
        held.await.unwrap_or_default()
    }
}
