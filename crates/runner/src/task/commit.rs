//! A commit that is under way: tried until the disk takes it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use belay_ledger::{Batch, Ledger, LedgerError};

/// Pause before a commit is tried again; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A commit that is under way.
pub(super) struct Commit {
    ends: Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send>>,
}

impl Commit {
    pub(super) fn begin(ledger: &Ledger, batch: Batch) -> Self {
        Self { ends: Box::pin(commit(ledger.clone(), Arc::new(batch))) }
    }

    /// The end of the commit, if one is under way; it fails only when the ledger has ended.
    pub(super) async fn ended(commit: &mut Option<Self>) -> Result<(), LedgerError> {
        match commit {
            Some(commit) => commit.ends.as_mut().await,
            None => std::future::pending().await,
        }
    }
}

/// Nobody is answered while the disk refuses, so a write that fails is tried again and again. What
/// is written is the state itself, so a write that the disk took in spite of its refusal does no
/// harm.
async fn commit(ledger: Ledger, batch: Arc<Batch>) -> Result<(), LedgerError> {
    let mut pause = PAUSE;
    let mut failures = 0_u32;
    loop {
        match ledger.commit(&batch).await {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!(failures, "the ledger takes runs again");
                }
                return Ok(());
            }
            Err(error) if error.is_retryable() => {
                if failures == 0 {
                    tracing::error!(
                        %error,
                        "runs cannot be written down; nothing about them is answered until that is \
                         mended"
                    );
                }
                failures = failures.saturating_add(1);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}
