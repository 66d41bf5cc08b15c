//! What is looked at after each event: the hub's own counts, and the order of what it orders.

use std::collections::BTreeSet;

use belay_protocol::runner::Notice;

use super::{About, World};
use crate::core::event::{Effect, HostOrder};
use crate::core::run::Phase;

impl World {
    /// What the hub keeps count of is what there is.
    pub(super) fn audit(&self) {
        for (workload, policy) in &self.workloads {
            let of = self.hub.runs().filter(|run| run.submission.workload == *workload);
            let active = of.filter(|run| run.holds_place()).count();
            assert_eq!(self.hub.admission.active(workload), u32::try_from(active).expect("few"));
            assert!(active <= 3 + policy.max_concurrent as usize, "{active} of {workload}");
        }
        let mut held = BTreeSet::new();
        for run in self.hub.runs() {
            let bound = !matches!(run.phase, Phase::Queued { .. } | Phase::Ended { .. });
            let holder = self.hub.holder(run.id);
            assert_eq!(holder.is_some(), bound, "{} is {}", run.id, run.state());
            assert!(
                holder.is_none_or(|holder| held.insert(holder.clone())),
                "one runner, two runs"
            );
        }
    }
}

/// Within what one event leads to, a snapshot is aborted before anything else is said of its run,
/// and nothing is said or ordered of a run before it is saved if it is saved at all.
pub(super) fn order(effects: &[Effect], about: About) {
    let run_of = |effect: &Effect| match effect {
        Effect::Reply { .. } | Effect::Answer { .. } => about.run,
        Effect::Tell { notice: Notice::State(state), .. } => Some(state.run),
        Effect::Tell { notice: Notice::Released(released), .. } => Some(released.run),
        Effect::Save(record) => Some(record.run.id),
        Effect::Tell { .. }
        | Effect::Close { .. }
        | Effect::Forget(_)
        | Effect::Remember(..)
        | Effect::ForgetTravel(_)
        | Effect::Happened(_)
        | Effect::Host(HostOrder::StartRunner { .. } | HostOrder::StopRunner { .. }) => None,
        Effect::Host(
            HostOrder::TakeSnapshot(ticket)
            | HostOrder::AbortSnapshot(ticket)
            | HostOrder::FindSnapshot(ticket)
            | HostOrder::PutBack(ticket)
            | HostOrder::Drop(ticket)
            | HostOrder::Restore(ticket),
        ) => Some(ticket.run),
    };
    for (at, effect) in effects.iter().enumerate() {
        let run = run_of(effect);
        let before =
            || effects[..at].iter().filter(|earlier| run.is_some() && run_of(earlier) == run);
        match effect {
            Effect::Host(HostOrder::AbortSnapshot(ticket)) => {
                assert_eq!(before().count(), 0, "{ticket:?} is aborted late: {effects:#?}");
            }
            Effect::Save(_) => {
                let early = before().find(|effect| {
                    !matches!(effect, Effect::Save(_) | Effect::Host(HostOrder::AbortSnapshot(_)))
                });
                let first = !before().any(|effect| matches!(effect, Effect::Save(_)));
                assert!(!first || early.is_none(), "said before it is saved: {effects:#?}");
            }
            Effect::Forget(_)
            | Effect::Remember(..)
            | Effect::ForgetTravel(_)
            | Effect::Reply { .. }
            | Effect::Tell { .. }
            | Effect::Close { .. }
            | Effect::Answer { .. }
            | Effect::Host(_)
            | Effect::Happened(_) => {}
        }
    }
}
