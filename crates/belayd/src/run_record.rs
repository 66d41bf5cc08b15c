//! What the ledger keeps of this run of belayd, so that the next one knows how it ended.

use anyhow::Context as _;
use belay_events::EventSink;
use belay_ledger::{Ledger, Opening};
use belay_protocol::EventDetails;
use belay_protocol::event::LastEnd;
use serde::{Deserialize, Serialize};

/// Table of the ledger that holds the one record of this kind.
const TABLE: &str = "belayd";
const KEY: &str = "run";

/// One run of belayd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunRecord {
    /// The host's boot in which it began.
    boot_id: String,
    stage: Stage,
}

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Running,
    /// It was asked to end.
    Ending,
}

/// How the run that left this record ended, seen from this boot of the host.
fn last_end(last: Option<&RunRecord>, boot_id: &str) -> LastEnd {
    match last {
        None => LastEnd::None,
        Some(RunRecord { stage: Stage::Ending, .. }) => LastEnd::Orderly,
        Some(RunRecord { stage: Stage::Running, boot_id: then }) if then == boot_id => {
            LastEnd::Killed
        }
        Some(RunRecord { stage: Stage::Running, .. }) => LastEnd::HostWentDown,
    }
}

/// Tells that belayd is up and how the one before it ended, and notes that this one runs.
pub(crate) async fn tell_start(
    ledger: &Ledger,
    events: &EventSink,
    boot_id: &str,
    opening: Opening,
) -> anyhow::Result<()> {
    if let Opening::Replaced { kept, reason } = opening {
        let kept = kept.display().to_string();
        events.emit_of_node(
            format!("the ledger could not be used ({reason}) and is kept as {kept}"),
            EventDetails::LedgerReplaced { kept: kept.into(), cause: reason.into() },
        );
    }
    let loaded = ledger.load::<RunRecord>(TABLE).await.context("cannot read the ledger")?;
    let last_end = last_end(loaded.records.get(KEY), boot_id);
    let version = env!("CARGO_PKG_VERSION");
    let after = match last_end {
        LastEnd::None => "",
        LastEnd::Orderly => ", after it was ended",
        LastEnd::Killed => ", after it was killed",
        LastEnd::HostWentDown => ", after the host went down under it",
    };
    events.emit_of_node(
        format!("belayd {version} is up{after}"),
        EventDetails::BelaydStarted { version: version.into(), boot_id: boot_id.into(), last_end },
    );
    // It keeps workloads also where the ledger cannot be written: what is known of this run then is
    // what was known before.
    note(ledger, boot_id, Stage::Running).await;
    Ok(())
}

/// Tells that belayd was asked to end, and notes it.
pub(crate) async fn tell_stop(ledger: &Ledger, events: &EventSink, boot_id: &str) {
    events.emit_of_node("belayd ends; workloads keep running", EventDetails::BelaydStopping {});
    note(ledger, boot_id, Stage::Ending).await;
}

async fn note(ledger: &Ledger, boot_id: &str, stage: Stage) {
    let record = RunRecord { boot_id: boot_id.to_owned(), stage };
    if let Err(error) = ledger.put(TABLE, KEY, &record).await {
        tracing::error!("how belayd ends cannot be noted: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_run_before_is_told_from_its_record_and_the_boot() {
        let record = |boot: &str, stage| RunRecord { boot_id: boot.into(), stage };
        for (last, expected) in [
            (None, LastEnd::None),
            (Some(record("a", Stage::Running)), LastEnd::Killed),
            (Some(record("b", Stage::Running)), LastEnd::HostWentDown),
            (Some(record("a", Stage::Ending)), LastEnd::Orderly),
            (Some(record("b", Stage::Ending)), LastEnd::Orderly),
        ] {
            assert_eq!(last_end(last.as_ref(), "a"), expected, "{last:?}");
        }
    }
}
