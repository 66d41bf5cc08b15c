//! What the end of a container means.

use super::record::Interruption;
use super::spec::RestartPolicy;

/// What the end of a container means for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitMeaning {
    /// belayd ended it itself: no failure.
    Planned,
    /// It ended as it should, and is not started again.
    Completed,
    /// It failed: it is started again after a delay.
    Failed,
    /// It failed, and its policy says that this is the end.
    GivenUp,
}

/// Judges an end by its exit code, by who caused it and by the restart policy.
///
/// An exit code of 0 under `always` climbs the same ladder as a crash: a service that ends at once
/// for want of its configuration must not be started a thousand times a minute.
pub fn judge(exit_code: i32, interruption: Interruption, policy: RestartPolicy) -> ExitMeaning {
    match (interruption, policy, exit_code) {
        (Interruption::Planned, _, _) => ExitMeaning::Planned,
        (Interruption::None, RestartPolicy::Always, _)
        | (Interruption::None, RestartPolicy::OnFailure, 1.. | ..=-1) => ExitMeaning::Failed,
        (Interruption::None, RestartPolicy::OnFailure | RestartPolicy::Never, 0) => {
            ExitMeaning::Completed
        }
        (Interruption::None, RestartPolicy::Never, _) => ExitMeaning::GivenUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_judged_by_this_table() {
        use ExitMeaning::{Completed, Failed, GivenUp, Planned};
        use RestartPolicy::{Always, Never, OnFailure};
        let table = [
            (0, Interruption::Planned, Always, Planned),
            (137, Interruption::Planned, Never, Planned),
            (0, Interruption::None, Always, Failed),
            (1, Interruption::None, Always, Failed),
            (0, Interruption::None, OnFailure, Completed),
            (137, Interruption::None, OnFailure, Failed),
            (0, Interruption::None, Never, Completed),
            (1, Interruption::None, Never, GivenUp),
        ];
        for (code, interruption, policy, expect) in table {
            assert_eq!(
                judge(code, interruption, policy),
                expect,
                "{code} {interruption:?} {policy:?}"
            );
        }
    }
}
