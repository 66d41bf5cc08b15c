//! What a workload answers when it is asked whether it serves.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One question that a workload's process is asked again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// How it is asked, as in `http 8080/healthz`; `process` when nothing is asked and the process
    /// being there is the answer.
    pub probe: String,
    /// What is known of the process that runs.
    pub verdict: ProbeVerdict,
    /// Answers in a row like the last one, as far as they count towards the verdict.
    pub in_a_row: u32,
    /// Answers since belayd began to look after the workload, of every process that it had.
    pub counts: ProbeCounts,
    /// What was seen last of the process that runs.
    pub last: Option<ProbeSeen>,
}

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeVerdict {
    /// Nothing yet.
    Waiting,
    /// It is ready, or alive.
    Good,
    /// It is not ready, or unhealthy.
    Failing,
    /// For a minute it could not be told.
    Unknown,
}

impl ProbeVerdict {
    /// The word used in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Good => "good",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }
}

/// How often each kind of answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProbeCounts {
    /// It serves.
    pub good: u64,
    /// A definite no.
    pub failing: u64,
    /// It could not be told.
    pub inconclusive: u64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeSeen {
    /// What was seen, in a few words.
    pub text: String,
    /// When.
    pub at: Timestamp,
}
