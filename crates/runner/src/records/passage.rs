//! All that is known of a run that another node gave up, as it travels.

use std::collections::BTreeMap;
use std::sync::Arc;

use belay_protocol::NodeId;
use belay_protocol::runner::{RunId, TravelId, WaitpointId};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shape::{RunShape, SubmissionShape};
use crate::core::event::{Arrival, Origin, RunRecord, Traveller};
use crate::core::run::{Departure, Phase, Submission};
use crate::core::tokens::TokenHash;

/// A run that was given up, with the tokens by which its runner is let in.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// The run.
    pub(crate) arrival: Arrival,
    /// The node that it was given up to.
    to: NodeId,
    /// Hashes of the tokens.
    pub(crate) tokens: Vec<TokenHash>,
}

/// A text that is no [`Passage`].
#[derive(Debug, thiserror::Error)]
pub enum BadPassage {
    /// It is of another shape.
    #[error("it is not of the shape that this belayd writes")]
    Shape(#[source] serde_json::Error),
    /// It says what cannot be.
    #[error("it says what cannot be: {0}")]
    Content(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PassageShape {
    from: NodeId,
    run: RunId,
    submission: SubmissionShape,
    state: RunShape,
    /// What its waitpoints were completed with.
    completed: BTreeMap<WaitpointId, Value>,
    /// Hashes, in hexadecimal digits.
    tokens: Vec<String>,
}

impl Passage {
    /// The passage of a run that this node, `from`, gave up; none for one that it did not.
    pub(crate) fn of(from: &NodeId, record: RunRecord, tokens: Vec<TokenHash>) -> Option<Self> {
        let Phase::Moved { departure: Departure { travel, to }, until, .. } = &record.run.phase
        else {
            return None;
        };
        let owner = record.owner.as_ref().filter(|owner| owner.origin == Origin::Hosted)?;
        let traveller = Traveller {
            travel: *travel,
            from: from.clone(),
            run: record.run.id,
            runner: owner.runner.clone(),
            workload: record.run.submission.workload.clone(),
            until: *until,
        };
        let to = to.clone();
        Some(Self { arrival: Arrival { traveller, record }, to, tokens })
    }

    /// Who travels.
    pub fn traveller(&self) -> &Traveller {
        &self.arrival.traveller
    }

    /// The node that it is for.
    pub fn to(&self) -> &NodeId {
        &self.to
    }

    /// Its way.
    pub fn travel(&self) -> TravelId {
        self.arrival.traveller.travel
    }

    /// As it travels. It holds the payload and the hashes of tokens in clear.
    #[expect(clippy::missing_panics_doc, reason = "a passage is plain data, which is always JSON")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Arrival { traveller, record } = &self.arrival;
        let completed = record.run.waitpoints.iter();
        let completed = completed.filter_map(|(&id, output)| Some((id, output.clone()?))).collect();
        let shape = PassageShape {
            from: traveller.from.clone(),
            run: traveller.run,
            submission: SubmissionShape::of(&record.run.submission),
            state: RunShape::of(record),
            completed,
            tokens: self.tokens.iter().map(|hash| HEXLOWER.encode(&hash.0)).collect(),
        };
        serde_json::to_vec(&shape).expect("a passage is plain data")
    }

    /// Reads what [`Passage::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadPassage> {
        let shape: PassageShape = serde_json::from_slice(bytes).map_err(BadPassage::Shape)?;
        let content = |what: &str| BadPassage::Content(what.to_owned());
        let PassageShape { from, run, submission, state, mut completed, tokens } = shape;
        let hash = |text: String| {
            let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
            Some(TokenHash(bytes.try_into().ok()?))
        };
        let tokens: Option<Vec<TokenHash>> = tokens.into_iter().map(hash).collect();
        let tokens = tokens.ok_or_else(|| content("a token's hash is none"))?;
        let submission = Arc::new(Submission::from(submission));
        let record = state
            .into_record(run, submission, None, |waitpoint| completed.remove(&waitpoint))
            .map_err(BadPassage::Content)?;
        if !completed.is_empty() {
            return Err(content("a completion is of no waitpoint of the run"));
        }
        if record.pending.is_some() || record.flight.is_some() {
            return Err(content("the run is in the hands of an engine"));
        }
        Self::of(&from, record, tokens)
            .ok_or_else(|| content("the run was not given up by a node that started its runner"))
    }
}
