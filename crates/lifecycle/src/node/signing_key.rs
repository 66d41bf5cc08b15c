//! The key by which this node signs what it publishes, as whoever lists publishers needs it.

use belay_protocol::{OperationOutcome, Problem, ProblemCode};
use belay_sync::NodeKeyError;

use super::NodeTask;
use crate::problems;
use crate::reporter::Reporter;

impl NodeTask {
    /// Says the public key, and makes a key first if there is none.
    pub(super) fn say_signing_key(&mut self, reporter: Reporter) {
        let key = self.context.signing_key.clone();
        self.acts.spawn(async move {
            let said = tokio::task::spawn_blocking(move || key.publisher()).await;
            reporter.finish(match said {
                Ok(Ok(publisher)) => {
                    Ok(OperationOutcome { summary: publisher.to_string(), publish: None })
                }
                Ok(Err(error)) => Err(unusable(&error)),
                Err(error) => Err(Problem::new(
                    ProblemCode::Internal,
                    format!("the signing key was not read: {error}"),
                    "see belayd's log, and ask again",
                )),
            });
        });
    }
}

fn unusable(error: &NodeKeyError) -> Problem {
    Problem::new(ProblemCode::SigningKeyUnusable, problems::with_causes(error), NEXT)
}

/// What to do about a key that cannot be used.
pub(crate) const NEXT: &str = "make it readable for root alone, or move it away: belayd makes \
                               another, which consumers must then list";
