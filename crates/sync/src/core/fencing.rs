//! Who may publish under a key: the one who published last, until somebody takes over.

use std::fmt;

use belay_protocol::record::SyncRecord;
use belay_protocol::{NodeId, PublisherKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{ORDER_MAX, Order};

/// Who may publish under a key besides the one who published last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PublisherRule {
    /// Nobody, until an operator has one take over.
    #[default]
    One,
    /// Whoever has the key in its spec as a provider, by turns.
    Any,
}

/// What this node signs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publisher {
    pub(crate) signer: PublisherKey,
    pub(crate) node: NodeId,
}

/// The record of another node by which this one may not publish any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fence {
    pub(crate) order: Order,
    pub(crate) node: NodeId,
    pub(crate) signer: Option<PublisherKey>,
    /// When that record was made, by the clock of its node.
    pub(crate) at: Timestamp,
}

impl Fence {
    fn of(record: &SyncRecord) -> Self {
        Self {
            order: Order::of(record),
            node: record.node_id.clone(),
            signer: record.signer,
            at: record.timestamp,
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, node, signer, at } = self;
        write!(
            f,
            "fenced: {node} publishes under this key, by record {} of epoch {}",
            order.seq, order.epoch
        )?;
        if let Some(signer) = signer {
            write!(f, ", signed by {signer}")?;
        }
        write!(f, ", of {at}")
    }
}

/// Whether this node may publish what follows the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Right {
    May,
    Fenced(Fence),
}

impl Publisher {
    /// Whether it made this record. Before records were signed the name alone could tell.
    fn made(&self, record: &SyncRecord) -> bool {
        match record.signer {
            Some(signer) => signer == self.signer,
            None => record.node_id == self.node,
        }
    }

    /// Whether it may publish after `head`. `fence` is what it was fenced by before: a store that
    /// lost its newest records does not make a fenced node the publisher again.
    pub(crate) fn right(
        &self,
        rule: PublisherRule,
        head: Option<&SyncRecord>,
        fence: Option<&Fence>,
    ) -> Right {
        match (rule, head, fence) {
            (PublisherRule::Any, _, _) | (PublisherRule::One, None, None) => Right::May,
            (PublisherRule::One, None, Some(fence)) => Right::Fenced(fence.clone()),
            (PublisherRule::One, Some(head), fence) => {
                let newer = fence.filter(|fence| fence.order >= Order::of(head));
                match newer {
                    Some(fence) => Right::Fenced(fence.clone()),
                    None if self.made(head) => Right::May,
                    None => Right::Fenced(Fence::of(head)),
                }
            }
        }
    }
}

/// The place of a takeover: in a later epoch than everything that is known, so that whatever the one
/// before still sends stands before it. None if no reader would take it.
pub(crate) fn place_of_takeover(known: impl IntoIterator<Item = Order>) -> Option<Order> {
    let (mut epoch, mut seq) = (0, 0);
    for order in known {
        epoch = epoch.max(order.epoch);
        seq = seq.max(order.seq);
    }
    let place = Order { epoch: epoch.checked_add(1)?, seq: seq.checked_add(1)? };
    (place.epoch <= ORDER_MAX && place.seq <= ORDER_MAX).then_some(place)
}

#[cfg(test)]
mod tests {
    use belay_protocol::Cid;
    use belay_protocol::record::SIGNED_SCHEMA;
    use serde_json::json;

    use super::*;

    fn publisher(name: &str, seed: u8) -> Publisher {
        Publisher {
            signer: PublisherKey::from_bytes([seed; 32]),
            node: name.parse().expect("a name"),
        }
    }

    fn record(by: &Publisher, epoch: u64, seq: u64) -> SyncRecord {
        let cid = Cid::from_digest([1; 32]);
        serde_json::from_value(json!({
            "schema": SIGNED_SCHEMA, "key": "models", "epoch": epoch, "seq": seq, "cid": cid,
            "parent_cid": null, "node_id": by.node, "publish_id": "p", "version": 1_700_000_000,
            "timestamp": "2023-11-14T22:13:20Z", "capture": "stopped", "metadata": {},
            "runtime": {}, "signer": by.signer,
            "manifest": {
                "schema_version": 1, "archive_paths": ["/app"], "archive_format": "tar.gz",
                "archive_size_bytes": 1000, "encryption": "none", "blob": cid,
                "content_bytes": 5000, "members": 3, "skipped_special": 0,
            },
        }))
        .expect("a record")
    }

    fn order(epoch: u64, seq: u64) -> Order {
        Order { epoch, seq }
    }

    #[test]
    fn who_published_last_may_go_on_and_nobody_else() {
        let (a, b) = (publisher("a", 1), publisher("b", 2));
        let right = |who: &Publisher, head: Option<&SyncRecord>| {
            who.right(PublisherRule::One, head, None) == Right::May
        };
        assert!(right(&a, None));
        let head = record(&a, 1, 4);
        assert!(right(&a, Some(&head)));
        assert!(!right(&b, Some(&head)));
        // The key counts and not the name, which anyone can bear.
        assert!(right(&publisher("renamed", 1), Some(&head)));
        assert!(!right(&publisher("a", 3), Some(&head)));
        // Before records were signed there was only the name.
        let unsigned = SyncRecord { signer: None, ..head.clone() };
        assert!(right(&publisher("a", 3), Some(&unsigned)));
        assert!(!right(&b, Some(&unsigned)));
        assert_eq!(b.right(PublisherRule::Any, Some(&head), None), Right::May);
    }

    #[test]
    fn a_fence_stands_until_a_later_record_of_ones_own() {
        let (a, b) = (publisher("a", 1), publisher("b", 2));
        let taken = record(&b, 2, 5);
        let Right::Fenced(fence) = a.right(PublisherRule::One, Some(&taken), None) else {
            panic!("fenced")
        };
        assert_eq!((fence.order, fence.node.as_str()), (order(2, 5), "b"));
        let told = fence.to_string();
        for part in ["fenced", " b ", "record 5", "epoch 2", &b.signer.to_string(), "2023-11-14"] {
            assert!(told.contains(part), "{told}");
        }
        let fenced = |head: Option<&SyncRecord>| a.right(PublisherRule::One, head, Some(&fence));
        // A store that was lost or put back gives nothing back.
        assert_eq!(fenced(None), Right::Fenced(fence.clone()));
        assert_eq!(fenced(Some(&record(&a, 1, 4))), Right::Fenced(fence.clone()));
        assert_eq!(fenced(Some(&record(&a, 3, 6))), Right::May);
        let Right::Fenced(later) = fenced(Some(&record(&b, 2, 9))) else { panic!("fenced") };
        assert_eq!(later.order, order(2, 9));
        assert_eq!(a.right(PublisherRule::Any, Some(&taken), Some(&fence)), Right::May);
    }

    #[test]
    fn a_takeover_stands_after_everything_that_is_known() {
        assert_eq!(place_of_takeover([order(1, 7)]), Some(order(2, 8)));
        assert_eq!(place_of_takeover([order(1, 7), order(4, 2), order(3, 9)]), Some(order(5, 10)));
        assert_eq!(place_of_takeover([order(ORDER_MAX, 1)]), None);
        assert_eq!(place_of_takeover([order(1, u64::MAX)]), None);
    }
}
