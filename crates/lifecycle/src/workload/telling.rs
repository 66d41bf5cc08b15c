//! What a workload's task tells of itself.

use belay_events::EventSink;
use belay_protocol::event::{AskedVerb, HaltCleared};
use belay_protocol::{EventDetails, EventSubject, EventText, Problem, WorkloadPhase};

use super::state::State;
use crate::core::sync_changes;

/// Tells of what an operator did with the volume-sync of a workload, beside the workload's task.
#[derive(Debug)]
pub(crate) struct SyncTeller {
    events: EventSink,
    subject: EventSubject,
}

impl SyncTeller {
    pub(crate) fn tell(&self, message: impl Into<EventText>, details: EventDetails) {
        self.events.emit(self.subject.clone(), message, details);
    }
}

impl State {
    pub(crate) fn sync_teller(&self) -> SyncTeller {
        let sync = self.known.as_ref().and_then(|known| known.spec.sync.as_ref());
        let workload = self.name.clone();
        let subject = match sync {
            Some(sync) => EventSubject::Sync { workload, key: sync.key.clone() },
            None => EventSubject::Workload { workload },
        };
        SyncTeller { events: self.context.events.clone(), subject }
    }

    /// Tells that something happened to this workload.
    pub(crate) fn tell(&self, message: impl Into<EventText>, details: EventDetails) {
        self.context.events.emit(&self.name, message, details);
    }

    /// Tells that an operator asked for something and that it was taken.
    pub(crate) fn tell_asked(&self, verb: AskedVerb) {
        let word = match verb {
            AskedVerb::Deploy => "deploy",
            AskedVerb::Start => "start",
            AskedVerb::Stop => "stop",
            AskedVerb::Restart => "restart",
            AskedVerb::Rm => "rm",
        };
        let message = format!("an operator asked for {word} of {}", self.name);
        self.tell(message, EventDetails::Asked { verb });
    }

    /// Tells that the workload is not held any more.
    pub(crate) fn tell_halt_cleared(&self, by: HaltCleared) {
        let message = format!("{} is not held any more", self.name);
        self.tell(message, EventDetails::HaltCleared { by });
    }

    /// Ends a halt, if there is one, and tells it.
    pub(crate) async fn clear_halt(&mut self, by: HaltCleared) {
        if self.known.as_ref().is_some_and(|known| known.record.halted.is_some()) {
            self.tell_halt_cleared(by);
            self.keep(|record| record.halted = None).await;
        }
    }

    /// Tells that a new version is in force.
    pub(crate) fn tell_deploy_begun(&mut self) {
        let Some(known) = &self.known else { return };
        let generation = known.record.generation;
        let previous = known.record.previous.as_ref().map(|previous| previous.generation);
        let image = known.spec.image.to_string();
        self.coming_up = Some(generation);
        self.tell(
            format!("generation {generation} of {} is in force, image {image}", self.name),
            EventDetails::DeployBegun { generation, previous, image: image.into() },
        );
    }

    /// Tells once that the version which was deployed last is up.
    pub(crate) fn tell_deploy_ready(&mut self) {
        let Some(known) = &self.known else { return };
        let generation = known.record.generation;
        let up = self.is_ready() || self.phase == WorkloadPhase::Completed;
        if self.coming_up == Some(generation) && known.record.previous.is_none() && up {
            self.coming_up = None;
            let message = format!("generation {generation} of {} is up", self.name);
            self.tell(message, EventDetails::DeployReady { generation });
        }
    }

    /// Tells that a deploy was refused and nothing was changed.
    pub(crate) fn tell_deploy_refused(&self, problem: &Problem) {
        self.tell(
            format!("a deploy of {} was refused: {}", self.name, problem.detail),
            EventDetails::DeployRefused {
                code: problem.code.as_str().into(),
                cause: problem.detail.as_str().into(),
            },
        );
    }

    /// Tells what volume-sync has done since this was asked last.
    pub(crate) fn tell_sync(&mut self) {
        let Some(sync) = &mut self.sync else { return };
        let now = sync.status.borrow().clone();
        if now == sync.told {
            return;
        }
        let subject = EventSubject::Sync { workload: self.name.clone(), key: now.key.clone() };
        for (message, details) in sync_changes::changes(&self.name, &sync.told, &now) {
            self.context.events.emit(subject.clone(), message, details);
        }
        sync.told = now;
    }
}
