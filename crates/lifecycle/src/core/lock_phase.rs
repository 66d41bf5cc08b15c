//! What is done under a workload's locks, as their record says it.

use std::time::Duration;

use super::machine::Step;
use super::stop::StopLadder;

/// Making or removing one thing in the engine.
const ENGINE: Duration = Duration::from_secs(60);

/// Making, checking and mounting volumes, or finishing an apply: they may be large.
const VOLUMES: Duration = Duration::from_mins(10);

/// What the locks are held for while a step is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockPhase {
    /// The word in the record.
    pub name: &'static str,
    /// How long it should take; `None` where nobody can say, as with a registry far away.
    pub within: Option<Duration>,
}

/// The phase of a step that changes something; `None` for one that only looks. A stop is bounded by
/// its ladder, hook and kill included.
pub fn lock_phase(step: &Step, ladder: &StopLadder) -> Option<LockPhase> {
    let phase = |name, within| Some(LockPhase { name, within });
    match step {
        Step::Wait | Step::Look | Step::Probe { .. } => None,
        Step::Stop { .. } => phase("stopping", Some(ladder.bound() + ENGINE)),
        Step::Remove { .. } => phase("removing", Some(ENGINE)),
        Step::FetchImage => phase("fetching", None),
        Step::ProvideVolumes => phase("providing", Some(VOLUMES)),
        Step::RecoverVolumes => phase("recovering", Some(VOLUMES)),
        Step::ResetVolumes => phase("emptying", Some(VOLUMES)),
        Step::Create => phase("creating", Some(ENGINE)),
        Step::Start { .. } => phase("starting", Some(ENGINE)),
        Step::SettleDeploy => phase("settling", Some(VOLUMES)),
        Step::ReleaseVolumes => phase("releasing", Some(VOLUMES)),
        Step::Forget => phase("forgetting", Some(VOLUMES)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::stop::PreStop;

    #[test]
    fn only_what_changes_something_needs_the_locks() {
        let id = || "c1".to_owned();
        let hook = PreStop { command: vec!["drain".to_owned()], timeout: Duration::from_secs(30) };
        let ladder = StopLadder { pre_stop: Some(hook), grace: Duration::from_secs(10) };
        for looks in [Step::Wait, Step::Look, Step::Probe { id: id() }] {
            assert_eq!(lock_phase(&looks, &ladder), None, "{looks:?}");
        }
        let stopping = lock_phase(&Step::Stop { id: id() }, &ladder).expect("it changes something");
        assert_eq!((stopping.name, stopping.within), ("stopping", Some(Duration::from_secs(110))));
        for acts in [
            Step::Remove { id: id() },
            Step::FetchImage,
            Step::ProvideVolumes,
            Step::RecoverVolumes,
            Step::ResetVolumes,
            Step::Create,
            Step::Start { id: id() },
            Step::SettleDeploy,
            Step::ReleaseVolumes,
            Step::Forget,
        ] {
            let phase = lock_phase(&acts, &ladder).expect("it changes something");
            assert!(phase.name.len() <= 16, "{} fits its record", phase.name);
        }
    }
}
