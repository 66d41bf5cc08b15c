//! What an event body says, and where to go on after a gap.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::state::health_of;
use crate::container::ContainerId;
use crate::event::{Action, EngineEvent, EventMarker};

/// One line of `/events`. Unknown fields are let through: each engine repeats itself differently.
#[derive(Debug, Deserialize)]
pub(crate) struct EventBody {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor")]
    actor: ActorBody,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Deserialize)]
struct ActorBody {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: Option<BTreeMap<String, String>>,
}

impl EventBody {
    /// The event, when it is one of a container.
    pub(crate) fn into_event(self) -> Option<EngineEvent> {
        if self.kind != "container" || self.actor.id.is_empty() {
            return None;
        }
        let at = Timestamp::from_nanosecond(i128::from(self.time_nano)).ok()?;
        let mut labels = self.actor.attributes.unwrap_or_default();
        let exit_code = labels.remove("exitCode").and_then(|code| code.parse().ok());
        let health = labels.remove("health_status");
        let name = labels.remove("name").unwrap_or_default();
        // What the engines mix into the labels on their own.
        for own in ["image", "containerExitCode", "podId", "execID", "execDuration", "signal"] {
            labels.remove(own);
        }
        let action = action(&self.action, exit_code, health.as_deref());
        Some(EngineEvent { at, container: ContainerId::new(self.actor.id), name, labels, action })
    }
}

/// The two engines' names for what happens. Docker appends details: `exec_start: sh -c true`,
/// `health_status: healthy`.
fn action(name: &str, exit_code: Option<i32>, health: Option<&str>) -> Action {
    let (verb, detail) = name.split_once(": ").unwrap_or((name, ""));
    match verb {
        "create" => Action::Created,
        "start" => Action::Started,
        "die" | "died" => Action::Died { exit_code },
        "oom" => Action::Oom,
        "destroy" | "remove" => Action::Removed,
        "pause" => Action::Paused,
        "unpause" => Action::Unpaused,
        "rename" => Action::Renamed,
        "checkpoint" => Action::Checkpointed,
        "restore" => Action::Restored,
        "health_status" => match health_of(detail).or_else(|| health_of(health.unwrap_or(""))) {
            Some(verdict) => Action::Health(verdict),
            None => Action::Other(name.to_owned()),
        },
        _ => Action::Other(name.to_owned()),
    }
}

impl EventMarker {
    /// The second from which to ask the engine.
    pub(crate) fn since(&self) -> i64 {
        self.newest.as_second().saturating_sub(Self::OVERLAP_SECONDS)
    }

    /// Takes an event; gives whether it is new.
    pub(crate) fn admit(&mut self, event: &EngineEvent) -> bool {
        let identity =
            (event.at, event.container.as_str().to_owned(), format!("{:?}", event.action));
        if event.at < self.horizon() || !self.recent.insert(identity) {
            return false;
        }
        if event.at > self.newest {
            self.newest = event.at;
            let horizon = self.horizon();
            self.recent = self.recent.split_off(&(horizon, String::new(), String::new()));
        }
        while self.recent.len() > Self::RECENT_MAX {
            self.recent.pop_first();
        }
        true
    }

    /// What is older than the overlap has been given before, or was before the marker's own time.
    fn horizon(&self) -> Timestamp {
        Timestamp::from_second(self.since()).unwrap_or(self.newest)
    }

    /// Bound on what a marker remembers. A flood of more events than this within the overlap may
    /// show an event twice after a gap, never lose one.
    const RECENT_MAX: usize = 4096;
}

#[cfg(test)]
mod tests;
