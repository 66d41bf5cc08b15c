//! What a consumer tells providers of itself, through the store.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Cid, InvalidName, NodeId, PublisherKey, SyncKey, WorkloadName};

/// Schema of the acknowledgements this program writes, and the newest it reads.
pub const ACK_SCHEMA: u32 = 1;

/// One consumer of a key: a workload of a node. As text `node.workload`; neither has a dot in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConsumerId {
    /// Its node.
    pub node: NodeId,
    /// The workload.
    pub workload: WorkloadName,
}

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.workload)
    }
}

impl FromStr for ConsumerId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // Without a dot the workload is empty, which is no name.
        let (node, workload) = text.split_once('.').unwrap_or((text, ""));
        Ok(Self { node: node.parse()?, workload: workload.parse()? })
    }
}

impl TryFrom<String> for ConsumerId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ConsumerId> for String {
    fn from(consumer: ConsumerId) -> Self {
        consumer.to_string()
    }
}

/// What a consumer does with a record, and what its volumes hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncAck {
    /// [`ACK_SCHEMA`].
    pub schema: u32,
    /// The key.
    pub key: SyncKey,
    /// Who says so.
    pub consumer: ConsumerId,
    /// What became of `record`.
    pub state: AckState,
    /// The record it is about; none where what was found is no record.
    pub record: Option<AckPlace>,
    /// What its volumes hold by their marks; none if they hold nothing of the key, or not one thing.
    pub holds: Option<AckPlace>,
    /// When, by the consumer's clock; informative.
    pub at: Timestamp,
    /// Who signed it.
    pub signer: PublisherKey,
    /// The signature over all that stands before it. It comes last; none before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// A record as an acknowledgement names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckPlace {
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// Its content.
    pub cid: Cid,
}

/// What became of a record on a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AckState {
    /// It is about to be fetched, or is being fetched.
    Fetching,
    /// It is fetched, and waits for its time.
    Waiting,
    /// The volumes hold it, and it stays if the workload becomes ready on it.
    OnTrial,
    /// The volumes hold it.
    Applied,
    /// It is not one that this consumer takes.
    Refused,
    /// It could not be applied, and is tried again later.
    Failed,
    /// The volumes may hold no whole state.
    Halted,
    /// It waits for the end of a pause.
    Paused,
}

impl AckState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Waiting => "waiting",
            Self::OnTrial => "on-trial",
            Self::Applied => "applied",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Halted => "halted",
            Self::Paused => "paused",
        }
    }
}

/// What a provider knows of the consumers of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncFleet {
    /// Those that told something lately enough to be kept, by name.
    pub consumers: Vec<SyncConsumer>,
    /// What was found and is no acknowledgement, and why; at most a few are told.
    pub refused: Vec<String>,
}

/// A consumer, as a provider knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncConsumer {
    /// Its node.
    pub node: NodeId,
    /// Its workload.
    pub workload: WorkloadName,
    /// What became of `record`.
    pub state: AckState,
    /// The record that it told of last.
    pub record: Option<AckPlace>,
    /// What its volumes hold.
    pub holds: Option<AckPlace>,
    /// Records between what its volumes hold and the newest, 0 where that is of the same content; none
    /// where it cannot be told, across a takeover or where they hold nothing.
    pub behind: Option<u64>,
    /// Whether it told so within the time for which what it needs is kept.
    pub live: bool,
    /// When it told so, by its own clock.
    pub at: Timestamp,
    /// Who signed it: who may write to the store chooses the names, and not this.
    pub signer: PublisherKey,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_acknowledgement_has_the_form_written_down() {
        let cid = Cid::from_digest([1; 32]).to_string();
        let signer = PublisherKey::from_bytes([5; 32]).to_string();
        let golden = json!({
            "schema": 1, "key": "models", "consumer": "edge-7.app", "state": "fetching",
            "record": {"epoch": 1, "seq": 4, "cid": cid}, "holds": null,
            "at": "2026-01-01T00:00:00Z", "signer": signer, "signature": "c2ln",
        });
        let ack: SyncAck = serde_json::from_value(golden.clone()).expect("an acknowledgement");
        assert_eq!(ack.consumer.workload.as_str(), "app");
        assert_eq!(serde_json::to_value(&ack).expect("serialises"), golden);
        let text = serde_json::to_string(&ack).expect("serialises");
        assert!(text.ends_with(",\"signature\":\"c2ln\"}"), "it comes last: {text}");
    }

    #[test]
    fn a_consumer_is_a_node_and_a_workload() {
        let consumer: ConsumerId = "edge-7.app".parse().expect("a consumer");
        assert_eq!(consumer.to_string(), "edge-7.app");
        for bad in ["", "edge-7", "edge-7.", ".app", "edge-7.app.x", "../app", "a/b.app"] {
            bad.parse::<ConsumerId>().expect_err(bad);
        }
    }

    #[test]
    fn states_are_shown_as_they_are_written() {
        for state in [
            AckState::Fetching,
            AckState::Waiting,
            AckState::OnTrial,
            AckState::Applied,
            AckState::Refused,
            AckState::Failed,
            AckState::Halted,
            AckState::Paused,
        ] {
            assert_eq!(serde_json::to_value(state).expect("serialises"), state.as_str());
        }
    }
}
