//! Decisions about a workload that takes runs: it has no container of its own, and its runners are
//! made and ended by whoever hosts them.

use super::machine::{
    Desired, Facts, Goal, ImageFact, Member, MemberState, StartFact, Step, VolumesFact,
};

/// Containers of runners that there are, as their host counted them last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunnersSeen {
    /// Those with a process that runs or is frozen.
    pub alive: usize,
    /// All of them, those that are checkpointed included.
    pub all: usize,
}

/// Whether a template takes runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// New runners are made of it.
    Taking,
    /// None are made; what is there goes on.
    Resting,
    /// None are made, and those that run are ended.
    Stopped,
    /// Nothing of it is to be left.
    Removed,
}

/// How a template stands towards its host.
pub fn standing(goal: Goal, image: ImageFact) -> Standing {
    match (goal, image) {
        (Goal::Running, ImageFact::Present) => Standing::Taking,
        (Goal::Running | Goal::Halted, _) => Standing::Resting,
        (Goal::Stopped, _) => Standing::Stopped,
        (Goal::Removed(_), _) => Standing::Removed,
    }
}

/// The next step towards `desired`. `runners` is `None` while their host has not looked.
pub fn next_step(desired: &Desired, facts: &Facts, runners: Option<RunnersSeen>) -> Step {
    // Containers of a version that took no runs.
    let Some(members) = &facts.members else { return Step::Look };
    if members.iter().any(|member| member.state == MemberState::Unknown) {
        return Step::Look;
    }
    match desired.goal {
        Goal::Running if facts.image != ImageFact::Present => match (facts.image, facts.start) {
            (ImageFact::Missing, StartFact::Allowed) => Step::FetchImage,
            (ImageFact::Missing | ImageFact::Fetching | ImageFact::Present, _) => Step::Wait,
        },
        Goal::Running => match clear(members, facts) {
            Some(step) => step,
            None if desired.previous.is_some() => Step::SettleDeploy,
            None => Step::Wait,
        },
        Goal::Halted => Step::Wait,
        Goal::Stopped => clear(members, facts).unwrap_or(Step::Wait),
        Goal::Removed(_) => clear(members, facts).unwrap_or(match runners {
            Some(RunnersSeen { all: 0, .. }) => Step::Forget,
            Some(_) | None => Step::Wait,
        }),
    }
}

/// What an ordinary version has left behind goes first.
fn clear(members: &[Member], facts: &Facts) -> Option<Step> {
    if let Some(running) = members.iter().find(|member| member.state == MemberState::Running) {
        return Some(Step::Stop { id: running.id.clone() });
    }
    if let Some(member) = members.first() {
        return Some(Step::Remove { id: member.id.clone() });
    }
    (facts.volumes != VolumesFact::Released).then_some(Step::ReleaseVolumes)
}

#[cfg(test)]
mod tests {
    use belay_protocol::VolumeFate;

    use super::super::machine::{
        ContentFact, Fit, GateFact, ProvidersFact, Renewal, ResetFact, WindowDemand,
    };
    use super::*;

    fn wanted(goal: Goal) -> Desired {
        Desired {
            goal,
            target: 2,
            previous: None,
            window: WindowDemand::Closed,
            renewal: Renewal::None,
        }
    }

    fn facts() -> Facts {
        Facts {
            members: Some(Vec::new()),
            image: ImageFact::Present,
            volumes: VolumesFact::Released,
            reset: ResetFact::None,
            providers: ProvidersFact::There,
            content: ContentFact::There,
            start: StartFact::Allowed,
            gate: GateFact::Settled,
        }
    }

    fn member(state: MemberState) -> Member {
        Member { id: "old".into(), generation: 1, state, fit: Fit::Current }
    }

    const REMOVED: Goal = Goal::Removed(VolumeFate::Keep);

    #[test]
    fn the_image_comes_first_then_what_was_before_goes() {
        let running = wanted(Goal::Running);
        let old = Some(vec![member(MemberState::Running)]);
        let step = |facts: Facts| next_step(&running, &facts, None);
        let missing = Facts { image: ImageFact::Missing, members: old.clone(), ..facts() };
        assert_eq!(step(missing.clone()), Step::FetchImage);
        assert_eq!(step(Facts { start: StartFact::BackingOff, ..missing.clone() }), Step::Wait);
        assert_eq!(step(Facts { image: ImageFact::Fetching, ..missing }), Step::Wait);
        assert_eq!(step(Facts { members: old, ..facts() }), Step::Stop { id: "old".into() });
        let exited = Some(vec![member(MemberState::Exited)]);
        assert_eq!(step(Facts { members: exited, ..facts() }), Step::Remove { id: "old".into() });
        let mounted = Facts { volumes: VolumesFact::Whole, ..facts() };
        assert_eq!(step(mounted), Step::ReleaseVolumes);
        assert_eq!(step(facts()), Step::Wait);
        let deployed = Desired { previous: Some(1), ..running };
        assert_eq!(next_step(&deployed, &facts(), None), Step::SettleDeploy);
    }

    #[test]
    fn it_is_let_go_of_when_no_runner_is_left() {
        let step = |runners| next_step(&wanted(REMOVED), &facts(), runners);
        assert_eq!(step(None), Step::Wait);
        assert_eq!(step(Some(RunnersSeen { alive: 0, all: 1 })), Step::Wait);
        assert_eq!(step(Some(RunnersSeen::default())), Step::Forget);
        let stopped = next_step(&wanted(Goal::Stopped), &facts(), Some(RunnersSeen::default()));
        assert_eq!(stopped, Step::Wait);
    }

    #[test]
    fn while_something_is_unknown_nothing_is_done() {
        for members in [None, Some(vec![member(MemberState::Unknown)])] {
            let facts = Facts { members, ..facts() };
            for goal in [Goal::Running, Goal::Stopped, REMOVED] {
                assert_eq!(next_step(&wanted(goal), &facts, None), Step::Look, "{goal:?}");
            }
        }
    }

    #[test]
    fn it_takes_runs_only_with_its_image() {
        assert_eq!(standing(Goal::Running, ImageFact::Present), Standing::Taking);
        assert_eq!(standing(Goal::Running, ImageFact::Fetching), Standing::Resting);
        assert_eq!(standing(Goal::Halted, ImageFact::Present), Standing::Resting);
        assert_eq!(standing(Goal::Stopped, ImageFact::Present), Standing::Stopped);
        assert_eq!(standing(REMOVED, ImageFact::Missing), Standing::Removed);
    }
}
