//! Acknowledgements of consumers: who is believed, what they keep, and how far behind they are.

use std::collections::BTreeSet;
use std::time::Duration;

use belay_protocol::{
    ACK_SCHEMA, AckPlace, AckState, Cid, ConsumerId, SyncAck, SyncConsumer, SyncFleet, SyncKey,
};
use belay_store::{ACK_MAX, StoredAck};
use ed25519_dalek::SigningKey;

use super::record::{ORDER_MAX, Order};
use super::signature::{Signing, is_signed, publisher, sign};

/// Consumers of one key that are heard. The others keep nothing, and are said to be there.
pub(crate) const CONSUMERS_MAX: usize = 256;
/// Refusals that are told.
const REFUSED_MAX: usize = 8;

/// What a consumer has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: AckState,
    pub(crate) record: Option<AckPlace>,
}

/// Why what lies in the store is no acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AckFault {
    #[error("it has more than {ACK_MAX} bytes")]
    TooLarge,
    #[error("it is newer than this version of belayd")]
    Newer,
    #[error("it is no acknowledgement")]
    Shape,
    #[error("it is of another key")]
    Key,
    #[error("it is of another consumer")]
    Consumer,
    #[error("it names a place that no record has")]
    Place,
    #[error("it is not what its signer signed")]
    Forged,
}

/// What is known of the consumers of a key.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// Those who are believed, with the time since they told so.
    known: Vec<(SyncAck, Duration)>,
    refused: Vec<String>,
}

/// The acknowledgement as it is stored, signed.
pub(crate) fn signed(ack: &SyncAck, key: &SigningKey) -> serde_json::Result<Vec<u8>> {
    let unsigned = SyncAck { signer: publisher(key), signature: None, ..ack.clone() };
    Ok(sign(Signing::Acknowledgement, serde_json::to_vec(&unsigned)?, key))
}

/// Judges what was found under the name of a consumer.
pub(crate) fn judge(stored: &StoredAck, key: &SyncKey) -> Result<SyncAck, AckFault> {
    if stored.bytes.len() > ACK_MAX {
        return Err(AckFault::TooLarge);
    }
    let value: serde_json::Value =
        serde_json::from_slice(&stored.bytes).map_err(|_| AckFault::Shape)?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(schema) if schema > u64::from(ACK_SCHEMA) => return Err(AckFault::Newer),
        Some(_) | None => {}
    }
    let ack: SyncAck = serde_json::from_value(value).map_err(|_| AckFault::Shape)?;
    if ack.schema != ACK_SCHEMA {
        return Err(AckFault::Shape);
    }
    if !is_signed(Signing::Acknowledgement, &stored.bytes, &ack.signer) {
        return Err(AckFault::Forged);
    }
    if ack.key != *key {
        return Err(AckFault::Key);
    }
    if ack.consumer != stored.consumer {
        return Err(AckFault::Consumer);
    }
    let lawful = |place: &AckPlace| {
        (1..=ORDER_MAX).contains(&place.epoch) && (1..=ORDER_MAX).contains(&place.seq)
    };
    if !ack.record.iter().chain(&ack.holds).all(lawful) {
        return Err(AckFault::Place);
    }
    Ok(ack)
}

impl Acks {
    /// Judges what the store has, of which it was asked for one more than is heard.
    pub(crate) fn new(stored: &[StoredAck], key: &SyncKey) -> Self {
        let mut acks = Self::default();
        for stored in stored.iter().take(CONSUMERS_MAX) {
            match judge(stored, key) {
                Ok(ack) => acks.known.push((ack, stored.age)),
                Err(fault) => acks.refuse(&stored.consumer, &fault),
            }
        }
        if stored.len() > CONSUMERS_MAX {
            acks.refused.truncate(REFUSED_MAX);
            acks.refused.push(format!(
                "more than {CONSUMERS_MAX} consumers acknowledge the key; the others are not heard"
            ));
        }
        acks
    }

    fn refuse(&mut self, consumer: &ConsumerId, fault: &AckFault) {
        if self.refused.len() < REFUSED_MAX {
            self.refused.push(format!("what lies there for {consumer} is refused: {fault}"));
        }
    }

    /// What live consumers fetch or hold, by place and content.
    ///
    /// Whoever may write to the store is heard: they could delete what is there as well, and what
    /// they can have kept is bounded.
    pub(crate) fn needed(&self, grace: Duration) -> BTreeSet<(Order, Cid)> {
        let live = self.known.iter().filter(|(_, age)| *age < grace);
        let places = live.flat_map(|(ack, _)| {
            let fetched = match ack.state {
                AckState::Fetching
                | AckState::Waiting
                | AckState::OnTrial
                | AckState::Applied
                | AckState::Failed => ack.record,
                // It wants nothing of what it refuses; and what is uncertain ends by the head of
                // then, as a pause does.
                AckState::Refused | AckState::Halted | AckState::Paused => None,
            };
            fetched.into_iter().chain(ack.holds)
        });
        places.map(|place| (order(place), place.cid)).collect()
    }

    /// What is shown of them beside this head.
    pub(crate) fn fleet(&self, head: Option<AckPlace>, grace: Duration) -> SyncFleet {
        let consumers = self.known.iter().map(|(ack, age)| SyncConsumer {
            node: ack.consumer.node.clone(),
            workload: ack.consumer.workload.clone(),
            state: ack.state,
            record: ack.record,
            holds: ack.holds,
            behind: ack.holds.and_then(|holds| behind(head?, holds)),
            live: *age < grace,
            at: ack.at,
            signer: ack.signer,
        });
        SyncFleet { consumers: consumers.collect(), refused: self.refused.clone() }
    }
}

fn order(place: AckPlace) -> Order {
    Order { epoch: place.epoch, seq: place.seq }
}

fn behind(head: AckPlace, holds: AckPlace) -> Option<u64> {
    // What was announced again, as by a takeover, is held whatever its place was.
    if head.cid == holds.cid {
        return Some(0);
    }
    (head.epoch == holds.epoch).then(|| head.seq.checked_sub(holds.seq)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_hours(24);

    fn key() -> SyncKey {
        "models".parse().expect("a key")
    }

    fn signing(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn place(seq: u64) -> AckPlace {
        let cid = Cid::from_digest([u8::try_from(seq % 251).expect("small"); 32]);
        AckPlace { epoch: 1, seq, cid }
    }

    fn ack(node: &str, state: AckState, record: u64, holds: Option<u64>) -> SyncAck {
        SyncAck {
            schema: ACK_SCHEMA,
            key: key(),
            consumer: format!("{node}.app").parse().expect("a consumer"),
            state,
            record: Some(place(record)),
            holds: holds.map(place),
            at: "2026-01-01T00:00:00Z".parse().expect("a time"),
            signer: publisher(&signing(1)),
            signature: None,
        }
    }

    fn stored(ack: &SyncAck, age: Duration) -> StoredAck {
        let bytes = signed(ack, &signing(1)).expect("serialises").into();
        StoredAck { consumer: ack.consumer.clone(), bytes, age }
    }

    #[test]
    fn what_live_consumers_fetch_or_hold_is_needed_and_nothing_else() {
        let fresh = Duration::from_hours(1);
        let stored = [
            stored(&ack("a", AckState::Fetching, 4, Some(2)), fresh),
            stored(&ack("b", AckState::Applied, 3, Some(3)), GRACE),
            stored(&ack("c", AckState::Refused, 5, Some(1)), fresh),
            stored(&ack("d", AckState::Failed, 6, None), fresh),
            stored(&ack("e", AckState::Paused, 9, Some(7)), fresh),
            stored(&ack("f", AckState::Halted, 10, None), fresh),
            stored(&ack("g", AckState::OnTrial, 11, None), fresh),
            stored(&ack("h", AckState::Waiting, 12, None), fresh),
        ];
        let acks = Acks::new(&stored, &key());
        let needed: Vec<u64> = acks.needed(GRACE).iter().map(|(order, _)| order.seq).collect();
        assert_eq!(needed, [1, 2, 4, 6, 7, 11, 12]);
        let fleet = acks.fleet(Some(place(6)), GRACE);
        assert_eq!(fleet.consumers[0].signer, publisher(&signing(1)));
        let told: Vec<_> = fleet.consumers[..4]
            .iter()
            .map(|one| (one.node.as_str(), one.behind, one.live))
            .collect();
        let expected =
            [("a", Some(4), true), ("b", Some(3), false), ("c", Some(5), true), ("d", None, true)];
        assert_eq!(told, expected);
        let taken_over = AckPlace { epoch: 2, seq: 7, ..place(3) };
        let other_epoch = acks.fleet(Some(taken_over), GRACE).consumers;
        assert_eq!((other_epoch[0].behind, other_epoch[1].behind), (None, Some(0)));
    }

    #[test]
    fn hostile_acknowledgements_keep_nothing_and_are_named() {
        let whole = ack("a", AckState::Fetching, 4, None);
        let fresh = Duration::ZERO;
        let raw = |text: &[u8]| StoredAck {
            consumer: whole.consumer.clone(),
            bytes: text.to_vec().into(),
            age: fresh,
        };
        let of = |change: fn(&mut SyncAck)| {
            let mut changed = whole.clone();
            change(&mut changed);
            raw(&signed(&changed, &signing(1)).expect("serialises"))
        };
        let mut forged = signed(&whole, &signing(1)).expect("serialises");
        let digit = forged.iter().position(|&byte| byte == b'4').expect("the number");
        forged[digit] = b'5';
        let elsewhere =
            StoredAck { consumer: "b.app".parse().expect("a consumer"), ..stored(&whole, fresh) };
        for (hostile, fault) in [
            (raw(&vec![b' '; ACK_MAX + 1]), AckFault::TooLarge),
            (raw(b"{\"schema\": 2}"), AckFault::Newer),
            (raw(b"{}"), AckFault::Shape),
            (raw(b"\xff"), AckFault::Shape),
            (raw(&forged), AckFault::Forged),
            (of(|ack| ack.key = "other".parse().expect("a key")), AckFault::Key),
            (elsewhere, AckFault::Consumer),
            (of(|ack| ack.record = Some(AckPlace { seq: 0, ..place(1) })), AckFault::Place),
            (of(|ack| ack.holds = Some(AckPlace { epoch: u64::MAX, ..place(1) })), AckFault::Place),
        ] {
            assert_eq!(judge(&hostile, &key()), Err(fault.clone()), "{fault}");
            let acks = Acks::new(&[hostile], &key());
            assert!(acks.needed(GRACE).is_empty(), "{fault}");
            let refused = acks.fleet(None, GRACE).refused;
            assert!(refused[0].contains(&fault.to_string()), "{refused:?}");
        }
    }

    #[test]
    fn only_so_many_are_heard_and_told() {
        let whole = stored(&ack("z", AckState::Applied, 2, None), Duration::ZERO);
        let noise = |n| StoredAck {
            consumer: format!("n{n:04}.app").parse().expect("a consumer"),
            bytes: "x".into(),
            age: Duration::ZERO,
        };
        let mut many: Vec<StoredAck> = (1..CONSUMERS_MAX).map(noise).collect();
        many.push(whole.clone());
        let fleet = Acks::new(&many, &key()).fleet(None, GRACE);
        assert_eq!((fleet.consumers.len(), fleet.refused.len()), (1, REFUSED_MAX));
        many.insert(0, noise(0));
        let fleet = Acks::new(&many, &key()).fleet(None, GRACE);
        assert!(fleet.consumers.is_empty(), "it is beyond those that are heard");
        assert_eq!(fleet.refused.len(), REFUSED_MAX + 1);
    }
}
