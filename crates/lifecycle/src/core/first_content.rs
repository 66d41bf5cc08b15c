//! Whether a consumer is started before its volumes hold content of its key.
//!
//! The wait is about volumes, and so it outlives deploys. It ends with content, without it when its
//! time is over or an operator says so, and with a stop.

use std::time::Duration;

use belay_protocol::event::ContentWaitEnd;
use belay_protocol::{SyncKey, SyncStatus};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::machine::ContentFact;

/// What a spec says of a consumer whose volumes hold nothing of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirstContent {
    /// It is started all the same.
    #[default]
    NotAwaited,
    /// It is not started before they hold some.
    Awaited {
        /// So long at most; without it, for as long as it takes.
        within: Option<Duration>,
    },
}

/// A wait, as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentWait {
    /// The key of which nothing was there.
    pub key: SyncKey,
    /// Since when it is waited for.
    pub since: Timestamp,
    /// What ended the wait without content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<ContentWaitEnd>,
}

/// What a look at the volumes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Content of the key.
    Content,
    /// None, or not all of it, or it could not be told.
    Nothing,
}

/// The wait after a look at volumes on which nothing runs.
pub fn after_look(
    rule: FirstContent,
    key: &SyncKey,
    known: Option<&ContentWait>,
    held: Held,
    now: Timestamp,
) -> Option<ContentWait> {
    let FirstContent::Awaited { .. } = rule else { return None };
    match held {
        Held::Content => None,
        Held::Nothing => {
            let begun = ContentWait { key: key.clone(), since: now, ended: None };
            // A clock that was set back behind the begin would only make the wait longer.
            let known = known.filter(|known| known.key == *key && known.since <= now);
            let wait = known.cloned().unwrap_or(begun);
            let over = wait.ended.is_none() && until(rule, &wait).is_some_and(|until| until <= now);
            Some(if over {
                ContentWait { ended: Some(ContentWaitEnd::Time), ..wait }
            } else {
                wait
            })
        }
    }
}

/// The wait once an operator has said that the workload is started as it is.
pub fn ignored(
    rule: FirstContent,
    key: &SyncKey,
    known: Option<&ContentWait>,
    now: Timestamp,
) -> Option<ContentWait> {
    let FirstContent::Awaited { .. } = rule else { return None };
    let known = known.filter(|known| known.key == *key);
    let wait = known.cloned().unwrap_or(ContentWait { key: key.clone(), since: now, ended: None });
    Some(ContentWait { ended: wait.ended.or(Some(ContentWaitEnd::Operator)), ..wait })
}

/// Whether a start has to wait.
pub fn fact(wait: Option<&ContentWait>) -> ContentFact {
    match wait {
        Some(ContentWait { ended: None, .. }) => ContentFact::Awaited,
        Some(ContentWait { ended: Some(_), .. }) | None => ContentFact::There,
    }
}

/// When a wait ends without content; none if it goes on for as long as it takes, or has ended.
pub fn until(rule: FirstContent, wait: &ContentWait) -> Option<Timestamp> {
    let FirstContent::Awaited { within: Some(within) } = rule else { return None };
    let within = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
    let until = wait.since.checked_add(within).unwrap_or(Timestamp::MAX);
    wait.ended.is_none().then_some(until)
}

/// How long a wait has lasted.
pub fn waited(wait: &ContentWait, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(wait.since)).unwrap_or_default()
}

/// Why the volumes hold nothing yet, as volume-sync shows it; none while its task does not run.
pub fn why(key: &SyncKey, sync: Option<&SyncStatus>) -> String {
    let Some(sync) = sync else { return "volume-sync of the workload has not begun".to_owned() };
    if sync.paused.is_some() {
        return "an operator paused volume-sync".to_owned();
    }
    match (sync.stage.as_str(), &sync.unapplied) {
        ("idle", Some(why)) => why.clone(),
        ("idle" | "waiting-for-volumes", _) => format!("{key} was not looked at yet"),
        (stage, _) => match &sync.head {
            Some(head) => {
                format!("record {} of epoch {} is on its way ({stage})", head.seq, head.epoch)
            }
            None => format!("volume-sync is at work ({stage})"),
        },
    }
}

/// One line on a wait.
pub fn sentence(key: &SyncKey, sync: Option<&SyncStatus>) -> String {
    format!("waiting-for the first content of {key}: {}", why(key, sync))
}

#[cfg(test)]
mod tests;
