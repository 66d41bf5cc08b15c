//! A stored tree, opened and verified as far as its manifest goes.

use belay_packs::Keys;
use belay_protocol::control::Stage;
use belay_store::{BlobStore, RecordStore};

use super::{AskError, SyncReader};
use crate::assembly::examine_each;
use crate::context::{Stopped, blocking};
use crate::core::record::AcceptedRecord;
use crate::core::root::Root;
use crate::sealing::keys_of;
use crate::spool::Spooled;

/// The parts of a stored tree that say what it holds. The manifest is that of the tree which the
/// record names, and refers to the packs of the root alone.
pub(crate) struct OpenedTree {
    pub(crate) root: Root,
    pub(crate) keys: Keys,
    pub(crate) manifest: Spooled,
}

impl<S: BlobStore + RecordStore> SyncReader<S> {
    /// Fetches root and manifest of a tree, and verifies them against its record.
    pub(crate) async fn open_tree(
        &self,
        accepted: &AcceptedRecord,
    ) -> Result<OpenedTree, AskError> {
        let stage = Stage::Download;
        let facts = &accepted.record.manifest;
        let root = self.context.fetch_root(facts.blob, facts.blob_bytes(), stage).await?;
        let sealing = self.context.spec.sealing.clone();
        let keys = if root.envelopes.is_empty() {
            // Who only looks may look at what anyone with the store can read.
            Keys::plain()
        } else {
            let sealed = root.clone();
            let keys = tokio::task::spawn_blocking(move || keys_of(sealing.as_ref(), &sealed));
            let keys = keys.await.map_err(|error| unavailable(&error))?;
            keys.map_err(|error| AskError::Sealed { reason: crate::context::with_causes(&error) })?
        };
        let root = root.open(&keys).map_err(|fault| AskError::Damaged {
            reason: format!("the root {} is refused: {fault}", facts.blob),
        })?;
        let manifest = self.context.fetch_manifest(&root, &keys, stage).await?;
        let (known, judged) = (root.clone(), accepted.clone());
        let manifest = blocking(stage, move || {
            let fail = |error: &dyn std::error::Error| Stopped::at(stage, error);
            let file = manifest.file.try_clone().map_err(|error| fail(&error))?;
            examine_each(file, &known, &judged, &mut |_| {}).map_err(|error| fail(&error))?;
            Ok(manifest)
        });
        Ok(OpenedTree { root, keys, manifest: manifest.await? })
    }
}

pub(super) fn unavailable(error: &dyn std::error::Error) -> AskError {
    AskError::Unavailable { reason: crate::context::with_causes(error) }
}
