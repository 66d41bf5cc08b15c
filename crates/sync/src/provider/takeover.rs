//! Who publishes under the key: whether it is this node, and how it becomes this node.

use std::sync::Arc;

use belay_protocol::control::Stage;
use belay_protocol::record::SyncRecord;
use belay_protocol::{ProblemCode, SyncFence};
use belay_store::{BlobStore, RecordError, RecordStore};
use jiff::Timestamp;

use super::storing::RACES_MAX;
use super::{Provider, publish_id};
use crate::command::{Takeover, TakeoverError};
use crate::context::{Failure, Stopped, blocking, version, with_causes};
use crate::core::fencing::{Fence, Publisher, PublisherRule, Right, place_of_takeover};
use crate::core::record::Order;
use crate::failpoint::{Point, reached};
use crate::history::SentRequest;
use crate::layout::SyncLayout;
use crate::state::{StateDir, TakeoverJournal};
use crate::window::OfflineWindow;

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Fails if another node is the one who publishes after this head. That is written down, so
    /// that a store which forgets it changes nothing.
    pub(super) async fn may_publish(
        &self,
        stage: Stage,
        head: Option<&SyncRecord>,
    ) -> Result<(), Stopped> {
        let right = self.right(stage, head).await?;
        let known = self.fence(stage).await?;
        let fence = match right {
            Right::May => None,
            Right::Fenced(fence) => Some(fence),
        };
        if known != fence {
            self.keep_fence(fence.clone(), stage).await?;
        }
        self.show_fence(fence.as_ref());
        match fence {
            None => Ok(()),
            Some(fence) => Err(Stopped::coded(stage, ProblemCode::Fenced, fence.to_string())),
        }
    }

    /// The same before anything is stopped. A store that does not answer now may later.
    pub(super) async fn look_who_publishes(&self) -> Result<(), Stopped> {
        match self.head(Stage::Validation).await {
            Ok(head) => {
                self.may_publish(Stage::Validation, head.as_ref().map(|(_, head)| head)).await
            }
            Err(Stopped::Unreachable(_)) => Ok(()),
            Err(stopped) => Err(stopped),
        }
    }

    /// Makes this node the one who publishes: a record of the same content in a later epoch.
    pub(crate) async fn take_over(
        &mut self,
        layout: &SyncLayout,
    ) -> Result<Takeover, TakeoverError> {
        if self.context.spec.publisher == PublisherRule::Any {
            return Err(TakeoverError::AnyMayPublish);
        }
        if !self.settle(layout).await {
            return Err(TakeoverError::Busy);
        }
        self.settle_takeover().await?;
        let stage = Stage::RecordPublish;
        for _ in 0..RACES_MAX {
            let Some((revision, head)) = self.head(stage).await? else {
                return Err(TakeoverError::NothingPublished);
            };
            if self.right(stage, Some(&head)).await? == Right::May {
                self.may_publish(stage, Some(&head)).await?;
                return Ok(Takeover::Already { epoch: head.epoch, seq: head.seq });
            }
            let record = self.record_of_takeover(&head).await?;
            let bytes = self.signed(&record).await?;
            let journal = TakeoverJournal { record, from: head.node_id.clone() };
            self.journal_takeover(&journal).await?;
            reached(Point::TakeoverJournalled);
            let set = tokio::time::timeout(
                self.context.spec.store_timeout,
                self.context.store.compare_and_set(
                    &self.context.spec.key,
                    Some(revision),
                    bytes.into(),
                ),
            );
            let error = match set.await {
                Ok(Ok(_)) => {
                    reached(Point::TakeoverSet);
                    return Ok(self.conclude_takeover(journal).await?);
                }
                // The one before published meanwhile, or somebody else took over.
                Ok(Err(RecordError::Conflict { .. })) => continue,
                Ok(Err(error)) => with_causes(&error),
                Err(_) => "the store did not answer in time".to_owned(),
            };
            if let Some(done) = self.settle_takeover().await? {
                return Ok(done);
            }
            return Err(TakeoverError::Unknown { reason: error });
        }
        Err(Stopped::because(stage, "others kept publishing under this key").into())
    }

    /// Goes on with a takeover that came to no certain end. One that is not in the store is dropped:
    /// whoever wants it asks again.
    pub(super) async fn settle_takeover(&self) -> Result<Option<Takeover>, Stopped> {
        let stage = Stage::RecordPublish;
        let journal = self.context.stored(StateDir::takeover).await;
        let journal = journal.map_err(|error| Stopped::at(stage, &error))?;
        let Some(journal) = journal else { return Ok(None) };
        if self.published_before(&journal.record.key, &journal.record.publish_id).await?.is_some() {
            return self.conclude_takeover(journal).await.map(Some);
        }
        let dropped = self.context.stored(StateDir::clear_takeover).await;
        dropped.map_err(|error| Stopped::at(stage, &error))?;
        Ok(None)
    }

    async fn record_of_takeover(&self, head: &SyncRecord) -> Result<SyncRecord, Stopped> {
        let stage = Stage::RecordPublish;
        let sent = self.sent_orders(stage).await?;
        let fence = self.fence(stage).await?.map(|fence| fence.order);
        let place = place_of_takeover(sent.into_iter().chain(fence).chain([Order::of(head)]));
        let Some(place) = place else {
            let reason = format!(
                "no record can follow number {} of epoch {}; publish under another key",
                head.seq, head.epoch
            );
            return Err(Stopped::because(stage, reason));
        };
        let now = Timestamp::now();
        Ok(SyncRecord {
            schema: head.capture.record_schema(),
            epoch: place.epoch,
            seq: place.seq,
            parent_cid: Some(head.cid),
            node_id: self.context.node.clone(),
            publish_id: publish_id(&self.context.node, now, head.publish_id.as_bytes()),
            version: version(now),
            timestamp: now,
            signer: Some(self.publisher(stage).await?),
            signature: None,
            ..head.clone()
        })
    }

    async fn journal_takeover(&self, journal: &TakeoverJournal) -> Result<(), Stopped> {
        let journal = journal.clone();
        let written = self.context.stored(move |state| state.set_takeover(&journal)).await;
        written.map_err(|error| {
            let reason = format!("the takeover could not be journalled: {error}");
            Stopped::because(Stage::RecordPublish, reason)
        })
    }

    /// What follows from a confirmed takeover: its object is this node's to retire, and no fence
    /// stands.
    async fn conclude_takeover(&self, journal: TakeoverJournal) -> Result<Takeover, Stopped> {
        let stage = Stage::RecordPublish;
        let TakeoverJournal { record, from } = journal;
        let context = Arc::clone(&self.context);
        let (noted, at) = (record.clone(), record.timestamp);
        let concluded = blocking(stage, move || {
            let request = SentRequest {
                archive_paths: noted.manifest.archive_paths.clone(),
                metadata: noted.metadata.clone(),
                runtime: noted.runtime,
            };
            let fail = |error| Stopped::at(stage, &error);
            context.history.sent(&noted, request, at).map_err(fail)?;
            reached(Point::TakeoverHistoryWritten);
            context.state.clear_fence(&noted.key).map_err(fail)?;
            reached(Point::FenceRemoved);
            context.state.clear_takeover().map_err(fail)
        });
        concluded.await?;
        tracing::info!(workload = %self.context.workload, epoch = record.epoch, %from, "took over");
        // One that was begun under another key says nothing of this one.
        if record.key == self.context.spec.key {
            self.show_fence(None);
            self.context.status.send_modify(|status| {
                status.last_failure = None;
                status.head = Some(record.head());
            });
        }
        Ok(Takeover::Taken { epoch: record.epoch, seq: record.seq, cid: record.cid, from })
    }

    async fn right(&self, stage: Stage, head: Option<&SyncRecord>) -> Result<Right, Stopped> {
        let signer = self.publisher(stage).await?;
        let ours = Publisher { signer, node: self.context.node.clone() };
        let fence = self.fence(stage).await?;
        Ok(ours.right(self.context.spec.publisher, head, fence.as_ref()))
    }

    async fn fence(&self, stage: Stage) -> Result<Option<Fence>, Stopped> {
        let fence = self.context.stored(StateDir::fence).await;
        fence.map_err(|error| {
            let reason = format!("whether another node took over is unknown: {error}");
            Stopped::because(stage, reason)
        })
    }

    async fn keep_fence(&self, fence: Option<Fence>, stage: Stage) -> Result<(), Stopped> {
        let key = self.context.spec.key.clone();
        let kept = self.context.stored(move |state| match fence {
            Some(fence) => state.set_fence(&fence),
            None => state.clear_fence(&key),
        });
        kept.await.map_err(|error| Stopped::at(stage, &error))
    }

    /// Shows what an earlier process was fenced by.
    pub(super) async fn show_known_fence(&self) {
        match self.fence(Stage::Validation).await {
            Ok(fence) => self.show_fence(fence.as_ref()),
            Err(Stopped::Failed(failure)) => self.context.show_failure(&failure),
            Err(Stopped::Later { .. } | Stopped::Unreachable(_) | Stopped::Shutdown) => {}
        }
    }

    fn show_fence(&self, fence: Option<&Fence>) {
        let fence = fence.map(|fence| SyncFence {
            node: fence.node.clone(),
            signer: fence.signer,
            epoch: fence.order.epoch,
            seq: fence.order.seq,
            at: fence.at,
        });
        self.context.status.send_if_modified(|status| {
            let changed = status.fenced != fence;
            status.fenced = fence;
            changed
        });
    }
}

impl From<Stopped> for TakeoverError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed(Failure { stage, code, reason })
            | Stopped::Unreachable(Failure { stage, code, reason }) => {
                Self::Failed { stage, code, reason }
            }
            Stopped::Later { reason } => Self::Unknown { reason },
            Stopped::Shutdown => Self::ShuttingDown,
        }
    }
}
