//! Whether an apply stays, by what became of the workload on it.

use crate::window::{FoundState, Ready};

/// What a consumer does with content on which its workload does not become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnUnready {
    /// It puts back what the volumes held before.
    Rollback,
    /// It leaves the content where it is.
    Keep,
}

/// Who decided that a record is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nobody here: it is the head.
    Publisher,
    /// The operator of this node, who named it or went back to it.
    Operator,
}

/// What a trial came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The content stays.
    Stands,
    /// It is not known yet.
    Open,
    /// The content goes.
    Refused { reason: String },
}

/// Whether an apply is on trial. A workload that was not ready before shows nothing about the
/// content, and what the operator chose is not judged.
pub(crate) fn is_tried(rule: OnUnready, found: FoundState, wish: Wish) -> bool {
    match (rule, found, wish) {
        (OnUnready::Rollback, FoundState::Ready, Wish::Publisher) => true,
        (OnUnready::Rollback | OnUnready::Keep, _, _) => false,
    }
}

/// Judges by the workload, none while nothing is known of it. One that is not meant to run has not
/// shown anything yet.
pub(crate) fn verdict(ready: Option<&Ready>) -> Verdict {
    match ready {
        Some(Ready::Ready) => Verdict::Stands,
        Some(Ready::NotReady { reason }) => Verdict::Refused { reason: reason.clone() },
        Some(Ready::NotStarted) | None => Verdict::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_workload_that_was_ready_judges_what_its_publisher_sent() {
        use FoundState as F;
        for (rule, found, wish, tried) in [
            (OnUnready::Rollback, F::Ready, Wish::Publisher, true),
            (OnUnready::Rollback, F::Running, Wish::Publisher, false),
            (OnUnready::Rollback, F::Stopped, Wish::Publisher, false),
            (OnUnready::Rollback, F::Ready, Wish::Operator, false),
            (OnUnready::Keep, F::Ready, Wish::Publisher, false),
        ] {
            assert_eq!(is_tried(rule, found, wish), tried, "{rule:?} {found:?} {wish:?}");
        }
    }

    #[test]
    fn a_workload_that_is_not_meant_to_run_judges_nothing() {
        let reason = || "it exited with 1".to_owned();
        assert_eq!(verdict(Some(&Ready::Ready)), Verdict::Stands);
        let refused = Ready::NotReady { reason: reason() };
        assert_eq!(verdict(Some(&refused)), Verdict::Refused { reason: reason() });
        assert_eq!(verdict(Some(&Ready::NotStarted)), Verdict::Open);
        assert_eq!(verdict(None), Verdict::Open);
    }
}
