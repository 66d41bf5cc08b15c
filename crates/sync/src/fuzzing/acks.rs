//! Acknowledgements.

use std::collections::BTreeSet;
use std::time::Duration;

use belay_protocol::{AckPlace, AckState, Cid, SyncAck, SyncKey};
use belay_store::StoredAck;
use ed25519_dalek::SigningKey;
use serde_json::Value;

use super::Verdict;
use crate::core::ack::{Acks, judge, signed};
use crate::core::record::Order;
use crate::core::signature::{Signing, publisher, sign};

const GRACE: Duration = Duration::from_hours(24);

fn key() -> SyncKey {
    "models".parse().expect("a key")
}

fn signing() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn stored(bytes: &[u8]) -> StoredAck {
    let consumer = "edge-7.app".parse().expect("a consumer");
    StoredAck { consumer, bytes: bytes.to_vec().into(), age: Duration::ZERO }
}

/// The bytes of an acknowledgement as a store has them, and the same as one that has the key signs
/// them.
///
/// # Panics
/// If one is accepted that breaks a bound, that nobody signed, or that has more than one meaning, or
/// if one keeps other than what it names.
pub fn ack(bytes: &[u8]) -> Verdict {
    let found = hold(bytes);
    // What signs takes an object, whose last brace it puts behind the signature.
    if !bytes.ends_with(b"}") {
        return found;
    }
    let as_record = sign(Signing::Record, bytes.to_vec(), &signing());
    let refused = judge(&stored(&as_record), &key()).is_err();
    assert!(refused, "what was signed as a record is no acknowledgement");
    match (found, hold(&sign(Signing::Acknowledgement, bytes.to_vec(), &signing()))) {
        (Verdict::Refused, Verdict::Refused) => Verdict::Refused,
        (Verdict::Accepted, _) | (_, Verdict::Accepted) => Verdict::Accepted,
    }
}

fn hold(bytes: &[u8]) -> Verdict {
    let found = stored(bytes);
    let acks = Acks::new(std::slice::from_ref(&found), &key());
    let (needed, fleet) = (acks.needed(GRACE), acks.fleet(None, GRACE));
    let Ok(ack) = judge(&found, &key()) else {
        assert!(needed.is_empty() && fleet.consumers.is_empty(), "it keeps nothing");
        let told: usize = fleet.refused.iter().map(String::len).sum();
        assert!(fleet.refused.len() == 1 && told < 512, "it is named: {:?}", fleet.refused);
        return Verdict::Refused;
    };
    assert!(bytes.len() <= 4 * 1024, "4 KiB");
    assert_eq!((ack.schema, &ack.key, &ack.consumer), (1, &key(), &found.consumer));
    let lawful = 1..=(1_u64 << 53) - 1;
    for place in ack.record.iter().chain(&ack.holds) {
        assert!(lawful.contains(&place.epoch) && lawful.contains(&place.seq), "{place:?}");
    }
    let wants = match ack.state {
        AckState::Fetching
        | AckState::Waiting
        | AckState::OnTrial
        | AckState::Applied
        | AckState::Failed => ack.record,
        AckState::Refused | AckState::Halted | AckState::Paused => None,
    };
    let place = |at: &AckPlace| (Order { epoch: at.epoch, seq: at.seq }, at.cid);
    let expected: BTreeSet<_> = wants.iter().chain(&ack.holds).map(place).collect();
    assert_eq!(needed, expected, "it keeps what it fetches or holds");
    assert!(acks.needed(Duration::ZERO).is_empty(), "and nothing once it is old");
    assert!(fleet.refused.is_empty(), "{:?}", fleet.refused);
    assert_eq!(fleet.consumers[0].signer, ack.signer, "it is told who signed it");
    hold_form(bytes, &ack);
    // Written again it is another text, and so signed anew; it means the same.
    let again = signed(&ack, &signing()).expect("an acknowledgement is JSON");
    if again.len() <= 4 * 1024 {
        let read = judge(&stored(&again), &key()).expect("it is as lawful as before");
        let unsigned = |ack: SyncAck| SyncAck { signature: None, ..ack };
        let signer = publisher(&signing());
        assert_eq!(unsigned(read), unsigned(SyncAck { signer, ..ack }), "it has one meaning");
    }
    Verdict::Accepted
}

/// Holds that nothing was passed over which an acknowledgement does not have.
fn hold_form(bytes: &[u8], ack: &SyncAck) {
    let found: Value = serde_json::from_slice(bytes).expect("it was read");
    let known = serde_json::to_value(ack).expect("an acknowledgement is JSON");
    for part in ["", "/record", "/holds"] {
        let members = found.pointer(part).and_then(Value::as_object);
        for name in members.into_iter().flatten().map(|(name, _)| name) {
            let known = known.pointer(part).and_then(|part| part.get(name));
            assert!(known.is_some(), "{name:?} means nothing");
        }
    }
}

/// Acknowledgements that are accepted: one as it is stored, and some as they are before they are
/// signed.
///
/// # Panics
/// Never: they are texts.
pub fn ack_seeds() -> Vec<Vec<u8>> {
    let place = |seq| AckPlace { epoch: 1, seq, cid: Cid::from_digest([7; 32]) };
    let ack = |state, record, holds| SyncAck {
        schema: 1,
        key: key(),
        consumer: "edge-7.app".parse().expect("a consumer"),
        state,
        record,
        holds,
        at: "2026-01-01T00:00:00Z".parse().expect("a time"),
        signer: publisher(&signing()),
        signature: None,
    };
    let unsigned = |ack: &SyncAck| serde_json::to_vec(ack).expect("an acknowledgement is JSON");
    let fetching = ack(AckState::Fetching, Some(place(4)), Some(place(3)));
    vec![
        signed(&fetching, &signing()).expect("an acknowledgement is JSON"),
        unsigned(&fetching),
        unsigned(&ack(AckState::Refused, None, None)),
        unsigned(&ack(AckState::OnTrial, Some(place((1 << 53) - 1)), None)),
    ]
}
