//! Which runner holds which run, and through which session.

use std::collections::HashMap;

use belay_protocol::WorkloadName;
use belay_protocol::runner::{Epoch, RunId, RunnerErrorCode, RunnerId};

/// A socket, numbered by whoever accepts it; no number is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Who holds a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) runner: RunnerId,
    pub(crate) epoch: Epoch,
}

/// A session that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) runner: RunnerId,
    pub(crate) workload: WorkloadName,
}

/// A runner that already holds a run, or a run that is already held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("already bound")]
pub(crate) struct AlreadyBound;

/// Sessions, runners and runs. A runner has at most one session and one run; a run has one runner.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    sessions: HashMap<SessionId, Session>,
    newest: HashMap<RunnerId, SessionId>,
    held: HashMap<RunId, Binding>,
    holding: HashMap<RunnerId, RunId>,
}

impl Bindings {
    /// Takes in a session; returns the one of the same runner whose place it takes.
    pub(crate) fn open(&mut self, id: SessionId, session: Session) -> Option<SessionId> {
        let older = self.newest.insert(session.runner.clone(), id);
        if let Some(older) = older {
            self.sessions.remove(&older);
        }
        self.sessions.insert(id, session);
        older
    }

    /// Forgets a session and says whose it was; one that was replaced is not there any more.
    pub(crate) fn close(&mut self, id: SessionId) -> Option<Session> {
        let session = self.sessions.remove(&id)?;
        self.newest.remove(&session.runner);
        Some(session)
    }

    pub(crate) fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(crate) fn sessions(&self) -> impl ExactSizeIterator<Item = &Session> {
        self.sessions.values()
    }

    pub(crate) fn session_of(&self, runner: &RunnerId) -> Option<SessionId> {
        self.newest.get(runner).copied()
    }

    /// The session through which a run is held.
    pub(crate) fn session_of_run(&self, run: RunId) -> Option<SessionId> {
        self.session_of(&self.held.get(&run)?.runner)
    }

    /// Binds a run that nobody holds to a runner that holds none.
    pub(crate) fn bind(&mut self, run: RunId, binding: Binding) -> Result<(), AlreadyBound> {
        if self.held.contains_key(&run) || self.holding.contains_key(&binding.runner) {
            return Err(AlreadyBound);
        }
        self.holding.insert(binding.runner.clone(), run);
        self.held.insert(run, binding);
        Ok(())
    }

    /// Moves a binding to a new epoch, for a new session of its runner.
    pub(crate) fn rebind(&mut self, run: RunId, epoch: Epoch) {
        if let Some(binding) = self.held.get_mut(&run) {
            binding.epoch = epoch;
        }
    }

    pub(crate) fn release(&mut self, run: RunId) -> Option<Binding> {
        let binding = self.held.remove(&run)?;
        self.holding.remove(&binding.runner);
        Some(binding)
    }

    pub(crate) fn holder(&self, run: RunId) -> Option<&Binding> {
        self.held.get(&run)
    }

    pub(crate) fn run_of(&self, runner: &RunnerId) -> Option<RunId> {
        self.holding.get(runner).copied()
    }

    /// Whether a message from `session` about `run` in `epoch` may have an effect; if so, from whom
    /// it is.
    pub(crate) fn authorise(
        &self,
        session: SessionId,
        run: RunId,
        epoch: Epoch,
    ) -> Result<RunnerId, RunnerErrorCode> {
        let Some(session) = self.sessions.get(&session) else {
            return Err(RunnerErrorCode::SessionReplaced);
        };
        let Some(binding) = self.held.get(&run) else { return Err(RunnerErrorCode::NotBound) };
        if binding.runner != session.runner {
            return Err(RunnerErrorCode::BoundElsewhere);
        }
        if binding.epoch != epoch {
            return Err(RunnerErrorCode::StaleEpoch);
        }
        Ok(session.runner.clone())
    }
}

#[cfg(test)]
mod tests;
