//! A publish by schedule that stops nothing where nothing has changed.

use belay_protocol::control::Stage;
use belay_protocol::record::{ArchiveFormat, OWNED_SCHEMA, SyncRecord};
use belay_store::{BlobStore, RecordStore};
use jiff::Timestamp;

use super::Provider;
use super::packing::{Form, TreeForm};
use crate::context::{Stopped, blocking, with_causes};
use crate::core::capturing::CapturePolicy;
use crate::core::path::ContainerPath;
use crate::core::root::StoredRoot;
use crate::core::schedule::IfUnchanged;
use crate::layout::SyncLayout;
use crate::packing::is_unchanged;
use crate::remembered::{MANIFEST, ROOT, SEEN};
use crate::state::{CaptureFacts, Origin, PublishJournal};
use crate::volume::Volumes;
use crate::window::OfflineWindow;

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    /// The record that says already what a publish by schedule would say, found out beside the running
    /// app. None if there is none, or if only a capture can tell.
    pub(super) async fn says_already(
        &self,
        layout: &SyncLayout,
        journal: &PublishJournal,
        roots: &[ContainerPath],
        form: &Form,
    ) -> Result<Option<(CaptureFacts, SyncRecord)>, Stopped> {
        let Form::Tree(form) = form else { return Ok(None) };
        if !self.is_looked_over(journal) {
            return Ok(None);
        }
        let Some(head) = form.remembered_head() else { return Ok(None) };
        let manifest = &head.manifest;
        let says_the_same = head.signer.is_some()
            && manifest.archive_paths == roots.iter().map(ToString::to_string).collect::<Vec<_>>()
            && manifest.archive_format == ArchiveFormat::Tree
            && manifest.encryption == form.encryption
            && head.metadata == journal.request.metadata
            && head.runtime == journal.request.runtime;
        if !says_the_same || !self.is_as_remembered(layout, roots, head, form).await? {
            return Ok(None);
        }
        if !self.has(manifest).await? {
            return Ok(None);
        }
        tracing::debug!(workload = %self.context.workload, "nothing has changed; nothing is stopped");
        Ok(Some((facts_of(head), head.clone())))
    }

    /// Whether a look may take the place of a capture that would stop the workload.
    fn is_looked_over(&self, journal: &PublishJournal) -> bool {
        let spec = &self.context.spec;
        let skips = spec.schedule.as_ref().is_some_and(|s| s.if_unchanged == IfUnchanged::Skip);
        let may_stop = match spec.capture {
            CapturePolicy::Stopped | CapturePolicy::Atomic => true,
            CapturePolicy::Live => false,
        };
        journal.origin == Origin::Schedule && skips && may_stop
    }

    /// Whether the volumes hold what is remembered of this record, sealed for those it would be sealed
    /// for now.
    async fn is_as_remembered(
        &self,
        layout: &SyncLayout,
        roots: &[ContainerPath],
        head: &SyncRecord,
        form: &TreeForm,
    ) -> Result<bool, Stopped> {
        let dir = self.context.state.remembered().dir().to_owned();
        let (layout, roots, cid) = (layout.clone(), roots.to_vec(), head.cid);
        let envelopes = form.seal.envelopes.clone();
        let workload = self.context.workload.clone();
        blocking(Stage::Validation, move || {
            let root = std::fs::read(dir.join(ROOT)).ok();
            let root = root.and_then(|bytes| StoredRoot::decode(&bytes).ok());
            if root.is_none_or(|root| root.envelopes != envelopes) {
                return Ok(false);
            }
            let looked =
                Volumes::open(&layout).map_err(|error| with_causes(&error)).and_then(|volumes| {
                    let remembered = (dir.join(MANIFEST), dir.join(SEEN));
                    let remembered = (&*remembered.0, &*remembered.1);
                    is_unchanged(&volumes, &roots, remembered, cid)
                        .map_err(|error| with_causes(&error))
                });
            // What is wrong is for the capture to find.
            Ok(looked.unwrap_or_else(|reason| {
                tracing::debug!(%workload, %reason, "whether anything has changed is not known");
                false
            }))
        })
        .await
    }
}

/// What a capture of what the head says would have come to.
fn facts_of(head: &SyncRecord) -> CaptureFacts {
    let manifest = &head.manifest;
    CaptureFacts {
        at: Timestamp::now(),
        roots: manifest.archive_paths.clone(),
        cid: head.cid,
        members: manifest.members,
        content_bytes: manifest.content_bytes,
        owned: manifest.schema_version == OWNED_SCHEMA,
        format: manifest.archive_format,
        encryption: manifest.encryption,
        blob: manifest.blob,
        archive_size_bytes: manifest.archive_size_bytes,
        root_bytes: manifest.root_bytes,
        skipped: Vec::new(),
        skipped_count: manifest.skipped_special,
        downtime_ms: None,
        capture: head.capture,
        fallback: None,
    }
}
