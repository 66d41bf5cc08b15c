//! Deletes what nothing needs, without a lock.
//!
//! Others publish meanwhile, and may rely on an object because they found it in the store. So each
//! is set aside first, then everything is looked at once more, and only then it goes or is put back.
//! Who names an object looks for it after its record was set: if that was before the second look,
//! the object is put back; if it was after, the object was found missing and stored anew. Both cannot
//! be missed, whatever stops in between and for how long.

use std::collections::{BTreeMap, BTreeSet};

use belay_protocol::Cid;
use belay_protocol::control::Stage;
use belay_store::{Aside, BlobError, BlobStore, RecordStore};

use super::Provider;
use super::retirement::Asking;
use crate::context::{Stopped, with_causes};
use crate::failpoint::{Point, reached};
use crate::window::OfflineWindow;

/// What is set aside at one time.
const ASIDES_MAX: usize = 1_024;

/// The packs of roots that were read already. What an id names does not change.
pub(super) type Roots = BTreeMap<Cid, Vec<Cid>>;

/// What became of an object, and of what only it needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deleted {
    Gone,
    /// Somebody came to need it meanwhile.
    Needed,
    Failed(String),
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// Deletes these objects, and of those that are roots the packs, but for what was found to be
    /// `named` before or is at the second look.
    pub(super) async fn delete_all(
        &self,
        blobs: &[Cid],
        named: &BTreeSet<Cid>,
        asking: Asking,
        roots: &mut Roots,
    ) -> Result<Vec<Deleted>, Stopped> {
        let mut outcomes = vec![Deleted::Gone; blobs.len()];
        let mut asides = Vec::new();
        for (&blob, outcome) in blobs.iter().zip(&mut outcomes) {
            let parts = match asking {
                Asking::Retirement | Asking::Orphans => self.parts(blob, named).await,
                // Each object of a sweep has been unnamed for long enough by itself.
                Asking::Sweep => Ok(vec![blob]),
            };
            let set_aside = match parts {
                Ok(parts) => self.set_aside_all(&parts, &mut asides).await,
                Err(stopped) => Err(said(&stopped)),
            };
            if let Err(error) = set_aside {
                *outcome = Deleted::Failed(error);
            }
        }
        if asides.is_empty() {
            return Ok(outcomes);
        }
        reached(Point::ObjectsSetAside);
        let needed = match self.needed(asking, roots).await {
            Ok(needed) => needed,
            // They are read where they are, and the next process looks at them.
            Err(Stopped::Shutdown) => return Err(Stopped::Shutdown),
            Err(stopped) => {
                self.end_asides(&asides, |_| true).await;
                return Err(stopped);
            }
        };
        reached(Point::LookedAgain);
        self.end_asides(&asides, |aside| needed.contains(&aside.id())).await;
        reached(Point::AsidesEnded);
        for (blob, outcome) in blobs.iter().zip(&mut outcomes) {
            if needed.contains(blob) {
                *outcome = Deleted::Needed;
            }
        }
        Ok(outcomes)
    }

    /// Decides over what was set aside and left so by a process that ended.
    pub(super) async fn end_left_asides(&self, roots: &mut Roots) -> Result<(), Stopped> {
        let stage = Stage::RecordPublish;
        let asides = self
            .context
            .exchange(stage, BlobError::is_retryable, || self.context.store.asides(ASIDES_MAX))
            .await?
            .map_err(|error| Stopped::at(stage, &error))?;
        if asides.is_empty() {
            return Ok(());
        }
        let needed = self.needed(Asking::Sweep, roots).await?;
        self.end_asides(&asides, |aside| needed.contains(&aside.id())).await;
        Ok(())
    }

    /// An object, and if it is the root of a tree the packs that only it names before it: while the
    /// root is in its place, what is left of its packs can be found.
    async fn parts(&self, blob: Cid, named: &BTreeSet<Cid>) -> Result<Vec<Cid>, Stopped> {
        let root = self.context.find_root(blob, Stage::RecordPublish).await?.into_root();
        let packs = root.iter().flat_map(|root| root.packs.values()).map(|pack| pack.id);
        Ok(packs.filter(|id| !named.contains(id)).chain([blob]).collect())
    }

    async fn set_aside_all(&self, parts: &[Cid], asides: &mut Vec<Aside>) -> Result<(), String> {
        for &id in parts {
            if asides.len() >= ASIDES_MAX {
                return Err("as much as is deleted at one time is being deleted".to_owned());
            }
            let call = self.context.store.set_aside(id);
            match tokio::time::timeout(self.context.spec.store_timeout, call).await {
                Ok(Ok(aside)) => {
                    asides.extend(aside);
                    reached(Point::FirstSetAside);
                }
                Ok(Err(error)) => return Err(with_causes(&error)),
                Err(_) => return Err("the store did not answer in time".to_owned()),
            }
        }
        Ok(())
    }

    async fn end_asides(&self, asides: &[Aside], is_needed: impl Fn(&Aside) -> bool) {
        let within = self.context.spec.store_timeout;
        for aside in asides {
            let ended = async {
                if is_needed(aside) {
                    self.context.store.put_back(aside).await
                } else {
                    self.context.store.remove_aside(aside).await
                }
            };
            // It is readable where it is, and is looked at again with the next sweep.
            match tokio::time::timeout(within, ended).await {
                Ok(Ok(())) => reached(Point::FirstAsideEnded),
                Ok(Err(error)) => tracing::warn!(workload = %self.context.workload,
                    object = %aside.id(), error = %with_causes(&error),
                    "an object stays set aside"),
                Err(_) => {
                    tracing::warn!(workload = %self.context.workload,
                        "the store does not answer; objects stay set aside");
                    return;
                }
            }
        }
    }
}

/// What stopped it, in words.
fn said(stopped: &Stopped) -> String {
    match stopped {
        Stopped::Failed(failure) | Stopped::Unreachable(failure) => failure.reason.clone(),
        Stopped::Later { reason } => reason.clone(),
        Stopped::Shutdown => "belayd is shutting down".to_owned(),
    }
}
