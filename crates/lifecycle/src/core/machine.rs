//! The next step of a workload, from what should be and what is.
//!
//! [`next_step`] is level-triggered: it looks at everything each time and remembers nothing, so a
//! crash between any two steps, or a step that did nothing, costs a repetition and no more.

use belay_protocol::VolumeFate;

/// What should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// What the workload is meant to come to.
    pub goal: Goal,
    /// Generation that should run.
    pub target: u64,
    /// Generation that ran before and is kept until the target is ready.
    pub previous: Option<u64>,
    /// Whether the container must be down for a capture or an apply.
    pub window: WindowDemand,
    /// Whether a running container is to be started afresh.
    pub renewal: Renewal,
}

/// What a workload is meant to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The target runs and is ready.
    Running,
    /// Nothing of it is left but its images of volumes.
    Stopped,
    /// Nothing runs; containers and mounts stay as they are for the operator to look at.
    Halted,
    /// Nothing of it is left at all.
    Removed(VolumeFate),
}

/// Whether the container must be down for volume-sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowDemand {
    /// It need not be.
    Closed,
    /// It must be.
    Open,
}

/// Whether a running container is to be started afresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// No.
    None,
    /// Yes: stop it once, then start it.
    Wanted,
}

/// One container of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Generation on its label.
    pub generation: u64,
    /// Its state.
    pub state: MemberState,
    /// Whether it was made with the environment that it should have now.
    pub fit: Fit,
}

/// Whether a container was made with the environment that it should have now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It was, or it cannot be told.
    Current,
    /// It was not: it is made anew before its next start.
    Stale,
}

/// State of a container, as far as it decides what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Made, never started.
    Created,
    /// A process exists.
    Running,
    /// It ran and no process is left.
    Exited,
    /// It cannot be told; it counts as running and nothing is done to it.
    Unknown,
}

/// What is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The workload's containers, as the engine listed them; `None` when it could not say.
    pub members: Option<Vec<Member>>,
    /// The target's image.
    pub image: ImageFact,
    /// The workload's volumes.
    pub volumes: VolumesFact,
    /// Whether volumes are to be emptied before anything runs on them again.
    pub reset: ResetFact,
    /// The workloads that this one depends on.
    pub providers: ProvidersFact,
    /// What volume-sync has to bring before the first start.
    pub content: ContentFact,
    /// Whether the target may be started now.
    pub start: StartFact,
    /// The target's readiness.
    pub gate: GateFact,
}

/// Where the target's image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFact {
    /// On the host.
    Present,
    /// Not on the host, or not looked for yet.
    Missing,
    /// On its way.
    Fetching,
}

/// How the volumes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumesFact {
    /// None is mounted.
    Released,
    /// Not known, or not all are mounted.
    Partial,
    /// All are mounted; an apply that was cut short may still wait to be finished.
    Mounted,
    /// All are mounted and whole.
    Whole,
}

/// Whether volumes are to be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFact {
    /// No.
    None,
    /// Yes: nothing is started before they are.
    Wanted,
}

/// Whether the workloads that this one depends on are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvidersFact {
    /// They are, or there are none.
    There,
    /// A start waits for one of them. What runs is left alone.
    Awaited,
}

/// Whether the volumes of a consumer hold what its spec has it wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFact {
    /// They do, or nothing is waited for.
    There,
    /// A start waits for it. What runs is left alone.
    Awaited,
}

/// Whether the target may be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFact {
    /// It may.
    Allowed,
    /// It failed and its time has not come.
    BackingOff,
    /// It ended as it should and is not started again.
    Completed,
}

/// How far the target's readiness is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateFact {
    /// A process runs that is not asked yet.
    Due,
    /// Not ready yet, and being asked.
    Waiting,
    /// Ready, or the wait is over and its outcome was dealt with.
    Settled,
}

/// What to do next. Each step may be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing before something changes.
    Wait,
    /// Ask the engine again.
    Look,
    /// End a container's processes and confirm it.
    Stop {
        /// Which.
        id: String,
    },
    /// Remove a container that has no process.
    Remove {
        /// Which.
        id: String,
    },
    /// Have the image fetched.
    FetchImage,
    /// Mount every volume.
    ProvideVolumes,
    /// Finish or undo an apply that was cut short.
    RecoverVolumes,
    /// Empty the volumes whose reset was asked for, and answer.
    ResetVolumes,
    /// Make the target's container.
    Create,
    /// Start the target's container.
    Start {
        /// Which.
        id: String,
    },
    /// Begin to ask the target whether it is ready.
    Probe {
        /// Which.
        id: String,
    },
    /// The target is ready: the previous version is not needed any more.
    SettleDeploy,
    /// Unmount every volume.
    ReleaseVolumes,
    /// Let go of the workload.
    Forget,
}

/// The next step towards `desired`.
pub fn next_step(desired: &Desired, facts: &Facts) -> Step {
    let Some(members) = &facts.members else { return Step::Look };
    // While one container cannot be told, any act might hit a process that is still writing.
    if members.iter().any(|member| member.state == MemberState::Unknown) {
        return Step::Look;
    }
    // Sync reads or replaces the volumes: nothing runs on them, and nothing takes them away.
    if desired.window == WindowDemand::Open {
        return stop_any(members).unwrap_or(Step::Wait);
    }
    match desired.goal {
        Goal::Running => towards_running(desired, facts, members),
        Goal::Halted => stop_any(members).unwrap_or_else(|| towards_mounted(facts)),
        Goal::Stopped => towards_nothing(members, facts).unwrap_or(Step::Wait),
        Goal::Removed(_) => towards_nothing(members, facts).unwrap_or(Step::Forget),
    }
}

fn stop_any(members: &[Member]) -> Option<Step> {
    let running = members.iter().find(|member| member.state == MemberState::Running)?;
    Some(Step::Stop { id: running.id.clone() })
}

/// What a halted workload still gets: its volumes, so that a later apply can mend them.
fn towards_mounted(facts: &Facts) -> Step {
    match facts.volumes {
        VolumesFact::Released | VolumesFact::Partial => backed_off(facts, Step::ProvideVolumes),
        VolumesFact::Mounted => backed_off(facts, Step::RecoverVolumes),
        VolumesFact::Whole => Step::Wait,
    }
}

fn towards_nothing(members: &[Member], facts: &Facts) -> Option<Step> {
    if let Some(stop) = stop_any(members) {
        return Some(stop);
    }
    if let Some(member) = members.first() {
        return Some(Step::Remove { id: member.id.clone() });
    }
    (facts.volumes != VolumesFact::Released).then_some(Step::ReleaseVolumes)
}

fn towards_running(desired: &Desired, facts: &Facts, members: &[Member]) -> Step {
    // Leftovers of given-up deploys go first: they may hold ports and they must not write. So does a
    // second container of one generation, which belayd does not make: somebody renamed the first.
    let kept = |index: usize, member: &Member| {
        let generation = member.generation;
        let wanted = generation == desired.target || Some(generation) == desired.previous;
        wanted && members.iter().position(|other| other.generation == generation) == Some(index)
    };
    let mut numbered = members.iter().enumerate();
    if let Some((_, stray)) = numbered.find(|(index, member)| !kept(*index, member)) {
        let id = stray.id.clone();
        return if stray.state == MemberState::Running {
            Step::Stop { id }
        } else {
            Step::Remove { id }
        };
    }
    let target = members.iter().find(|member| member.generation == desired.target);
    // The image comes before the volumes: its user owns those that name no owner.
    if target.is_none() && facts.image != ImageFact::Present {
        return match facts.image {
            ImageFact::Missing => backed_off(facts, Step::FetchImage),
            ImageFact::Present | ImageFact::Fetching => Step::Wait,
        };
    }
    match facts.volumes {
        VolumesFact::Released | VolumesFact::Partial => {
            return backed_off(facts, Step::ProvideVolumes);
        }
        // An apply that was cut short left its container stopped, so this never meets a writer;
        // if an operator started one by hand, it is stopped first.
        VolumesFact::Mounted => {
            return stop_any(members).unwrap_or_else(|| backed_off(facts, Step::RecoverVolumes));
        }
        VolumesFact::Whole => {}
    }
    if facts.reset == ResetFact::Wanted {
        return stop_any(members).unwrap_or_else(|| backed_off(facts, Step::ResetVolumes));
    }
    let Some(target) = target else {
        // Its environment carries values of the providers, so it is made when they are there.
        return match (facts.providers, facts.content) {
            (ProvidersFact::Awaited, _) => Step::Wait,
            (ProvidersFact::There, ContentFact::Awaited) => without_content(desired, members),
            (ProvidersFact::There, ContentFact::There) => backed_off(facts, Step::Create),
        };
    };
    let id = target.id.clone();
    if target.state == MemberState::Running {
        if desired.renewal == Renewal::Wanted {
            return Step::Stop { id };
        }
        return match facts.gate {
            GateFact::Due => Step::Probe { id },
            GateFact::Settled if desired.previous.is_some() => Step::SettleDeploy,
            GateFact::Waiting | GateFact::Settled => Step::Wait,
        };
    }
    if facts.start == StartFact::Completed && desired.previous.is_some() {
        // A one-shot that ran to its end is as good as one that is ready.
        return Step::SettleDeploy;
    }
    if facts.providers == ProvidersFact::Awaited {
        return Step::Wait;
    }
    if facts.content == ContentFact::Awaited {
        return without_content(desired, members);
    }
    if target.fit == Fit::Stale {
        return backed_off(facts, Step::Remove { id });
    }
    // The previous version gives way only now, when all that the target needs is at hand.
    let start = backed_off(facts, Step::Start { id });
    if matches!(start, Step::Start { .. })
        && let Some(stop) = stop_any(members)
    {
        return stop;
    }
    start
}

/// While content is awaited the version before serves on. One that serves no more is given up: it
/// would be started on what the target does not start on.
fn without_content(desired: &Desired, members: &[Member]) -> Step {
    let serves = members.iter().any(|member| member.state == MemberState::Running);
    if desired.previous.is_some() && !serves { Step::SettleDeploy } else { Step::Wait }
}

fn backed_off(facts: &Facts, step: Step) -> Step {
    match facts.start {
        StartFact::Allowed => step,
        StartFact::BackingOff | StartFact::Completed => Step::Wait,
    }
}

#[cfg(test)]
mod tests;
