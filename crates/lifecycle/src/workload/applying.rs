//! What came of an operator's wish to have the newest record applied now.

use belay_protocol::{OperationOutcome, Problem, ProblemCode, WorkloadName};
use belay_sync::{AppliedNow, ApplyNowError};

/// Words for its end.
pub(super) fn apply_ended(
    name: &WorkloadName,
    done: Result<AppliedNow, ApplyNowError>,
) -> Result<OperationOutcome, Problem> {
    match done {
        Ok(applied) => Ok(OperationOutcome { summary: told(name, applied), publish: None }),
        Err(error) => Err(problem(name, &error)),
    }
}

fn told(name: &WorkloadName, applied: AppliedNow) -> String {
    match applied {
        AppliedNow::Applied { cid, downtime: Some(downtime) } => {
            format!("{name} applied {cid}, down for {} ms", downtime.as_millis())
        }
        AppliedNow::Applied { cid, downtime: None } => format!("{name} applied {cid}"),
        AppliedNow::OnTrial { cid } => format!(
            "{name} applied {cid}, which stays if the workload becomes ready on it; belay sync status \
             shows what comes of it"
        ),
        AppliedNow::Holds { cid } => format!("{name} holds {cid} already, the newest there is"),
    }
}

fn problem(name: &WorkloadName, error: &ApplyNowError) -> Problem {
    let detail = format!("{name}: {error}");
    match error {
        ApplyNowError::NotConsumer => Problem::new(
            ProblemCode::NoSync,
            detail,
            "apply on a node whose workload is a consumer of the key",
        ),
        ApplyNowError::Paused => Problem::new(
            ProblemCode::SyncPaused,
            detail,
            format!("belay sync resume {name} goes on, and does what its spec allows now"),
        ),
        ApplyNowError::Nothing { .. } => Problem::new(
            ProblemCode::NoSuchGeneration,
            detail,
            "publish on the provider's node; belay sync status shows what is refused and why",
        ),
        ApplyNowError::Failed { code, .. } => Problem::new(
            code.unwrap_or(ProblemCode::ApplyFailed),
            detail,
            "belay sync status shows what holds; it is tried again by itself",
        ),
        ApplyNowError::Busy { .. } => {
            Problem::new(ProblemCode::Busy, detail, "wait for what is under way, then try again")
        }
        ApplyNowError::Store { .. } => Problem::new(
            ProblemCode::StoreUnavailable,
            detail,
            "see that the store can be reached and read, then try again",
        ),
        ApplyNowError::NoVolumes => {
            Problem::new(ProblemCode::NotRunning, detail, format!("belay start {name}"))
        }
        ApplyNowError::ShuttingDown => {
            Problem::new(ProblemCode::ShuttingDown, detail, "try again once belayd runs")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use belay_protocol::Cid;
    use belay_protocol::control::Stage;

    use super::*;

    #[test]
    fn an_apply_on_an_operators_word_says_what_came_of_it_and_what_to_do() {
        let name: WorkloadName = "web".parse().expect("a name");
        let cid = Cid::from_digest([7; 32]);
        let summary = |applied| apply_ended(&name, Ok(applied)).expect("applied").summary;
        let downtime = Some(Duration::from_millis(71));
        assert!(summary(AppliedNow::Applied { cid, downtime }).ends_with(", down for 71 ms"));
        let still = summary(AppliedNow::Applied { cid, downtime: None });
        assert_eq!(still, format!("web applied {cid}"));
        assert!(
            summary(AppliedNow::OnTrial { cid }).contains("stays if the workload becomes ready")
        );
        assert!(summary(AppliedNow::Holds { cid }).contains("already, the newest"));
        let reason = || "why".to_owned();
        let (stage, unready) = (Stage::Readiness, ProblemCode::UnreadyAfterApply);
        for (error, code, next) in [
            (ApplyNowError::NotConsumer, ProblemCode::NoSync, "consumer"),
            (ApplyNowError::Paused, ProblemCode::SyncPaused, "belay sync resume web"),
            (
                ApplyNowError::Nothing { reason: reason() },
                ProblemCode::NoSuchGeneration,
                "belay sync status",
            ),
            (
                ApplyNowError::Failed { stage, code: Some(unready), reason: reason() },
                unready,
                "tried again",
            ),
            (
                ApplyNowError::Failed { stage: Stage::Extract, code: None, reason: reason() },
                ProblemCode::ApplyFailed,
                "tried again",
            ),
            (ApplyNowError::Busy { reason: reason() }, ProblemCode::Busy, "try again"),
            (ApplyNowError::Store { reason: reason() }, ProblemCode::StoreUnavailable, "store"),
            (ApplyNowError::NoVolumes, ProblemCode::NotRunning, "belay start web"),
            (ApplyNowError::ShuttingDown, ProblemCode::ShuttingDown, "once belayd runs"),
        ] {
            let problem = apply_ended(&name, Err(error)).expect_err("refused");
            assert_eq!(problem.code, code);
            assert!(problem.next.contains(next), "{}", problem.next);
            assert!(problem.detail.starts_with("web: "), "{}", problem.detail);
        }
    }
}
