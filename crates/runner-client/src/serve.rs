//! A runner whose work is one function.

use belay_protocol::runner::{Again, AttemptOutcome};
use serde_json::Value;

use crate::config::RunnerConfig;
use crate::runner::{Run, RunError, Runner, RunnerEnd};

/// Why an attempt failed, as its function says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    error: String,
    again: Again,
}

impl Failure {
    /// Another attempt may succeed.
    pub fn passing(error: impl Into<String>) -> Self {
        Self { error: error.into(), again: Again::Retry }
    }

    /// None will.
    pub fn for_good(error: impl Into<String>) -> Self {
        Self { error: error.into(), again: Again::GiveUp }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::passing(error.to_string())
    }
}

/// Takes runs one after the other, hands each to `work`, and tells belayd the result. It ends with
/// `Ok` when belayd ends this runner.
///
/// When a run is lost, because it was cancelled for instance, `work` is dropped where it stands,
/// like any future that nobody polls any more; what it began must survive that. A result that
/// belayd refuses, because it is too large, fails the attempt for good.
///
/// To end the runner earlier, drop the future: the run that it holds is given up.
pub async fn serve<W>(config: RunnerConfig, mut work: W) -> Result<(), RunnerEnd>
where
    W: AsyncFnMut(&mut Run) -> Result<Value, Failure>,
{
    let mut runner = Runner::start(config);
    while let Some(mut run) = runner.next().await? {
        let lost = run.lost();
        let outcome = tokio::select! {
            // A result that is there counts, though the run may be lost in the same instant.
            biased;
            outcome = work(&mut run) => outcome,
            _ = lost => continue,
        };
        // That the run is lost now is nobody's fault, and the next one is not concerned.
        let outcome = match outcome {
            Ok(output) => AttemptOutcome::Succeeded { output },
            Err(Failure { error, again }) => AttemptOutcome::Failed { error, again },
        };
        if let Err(error @ (RunError::Refused(_) | RunError::TooLarge { .. })) =
            run.end(outcome).await
        {
            let error = format!("the result is refused: {error}");
            let _ = run.fail(error, Again::GiveUp).await;
        }
    }
    runner.shut_down().await;
    Ok(())
}
