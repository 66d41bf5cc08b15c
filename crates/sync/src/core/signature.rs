//! The signature of a record: who published it, shown to whoever has the record alone.
//!
//! What is signed is the text of the record itself, up to its signature, which stands last. No form
//! has to be made anew from what was read, so there is nothing in which two programs could differ.

use belay_protocol::PublisherKey;
use belay_protocol::record::SyncRecord;
use data_encoding::BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// What a signature is for. Nothing that a key signs for the one passes for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signing {
    Record,
    Acknowledgement,
}

impl Signing {
    /// Stands before what is signed.
    fn domain(self) -> &'static [u8] {
        match self {
            Self::Record => b"belay sync record 1\n",
            Self::Acknowledgement => b"belay sync ack 1\n",
        }
    }
}

/// What stands between the text that is signed and the signature.
const BEFORE: &[u8] = b",\"signature\":\"";
/// Characters of 64 bytes in base64.
const WRITTEN: usize = 88;
const AFTER: &[u8] = b"\"}";

/// The public half of a key.
pub(crate) fn publisher(key: &SigningKey) -> PublisherKey {
    PublisherKey::from_bytes(key.verifying_key().to_bytes())
}

/// The record as it is stored: as it stands, with `key` as its signer, and signed.
pub(crate) fn signed(record: &SyncRecord, key: &SigningKey) -> serde_json::Result<Vec<u8>> {
    let unsigned = SyncRecord { signer: Some(publisher(key)), signature: None, ..record.clone() };
    Ok(sign(Signing::Record, serde_json::to_vec(&unsigned)?, key))
}

/// An object of JSON that names `key` as its signer, with its signature as its last member.
pub(crate) fn sign(signing: Signing, mut unsigned: Vec<u8>, key: &SigningKey) -> Vec<u8> {
    // The brace at the end comes after the signature.
    unsigned.pop();
    let signature = key.sign(&message(signing, &unsigned)).to_bytes();
    unsigned.extend_from_slice(BEFORE);
    unsigned.extend_from_slice(BASE64.encode(&signature).as_bytes());
    unsigned.extend_from_slice(AFTER);
    unsigned
}

/// Whether `signer` signed a record that is stored as `bytes`.
pub(crate) fn is_signed_by(bytes: &[u8], signer: &PublisherKey) -> bool {
    is_signed(Signing::Record, bytes, signer)
}

/// Whether `signer` signed what is stored as `bytes`.
pub(crate) fn is_signed(signing: Signing, bytes: &[u8], signer: &PublisherKey) -> bool {
    let parts = bytes.strip_suffix(AFTER).and_then(|rest| {
        let (rest, written) = rest.split_at_checked(rest.len().checked_sub(WRITTEN)?)?;
        Some((rest.strip_suffix(BEFORE)?, written))
    });
    let Some((text, written)) = parts else { return false };
    let Ok(signature) = BASE64.decode(written) else { return false };
    let Ok(signature) = Signature::from_slice(&signature) else { return false };
    let Ok(key) = VerifyingKey::from_bytes(signer.as_bytes()) else { return false };
    // Strict: keys of small order, under which anything is signed, are none.
    key.verify_strict(&message(signing, text), &signature).is_ok()
}

fn message(signing: Signing, text: &[u8]) -> Vec<u8> {
    [signing.domain(), text].concat()
}

#[cfg(test)]
mod tests {
    use belay_protocol::Cid;
    use belay_protocol::record::SIGNED_SCHEMA;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What the key below makes of the record below, byte for byte.
    const GOLDEN: &str = include_str!("signature/golden.json");

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn record() -> SyncRecord {
        let cid = Cid::from_digest([1; 32]);
        serde_json::from_value(json!({
            "schema": SIGNED_SCHEMA, "key": "models", "epoch": 1, "seq": 4, "cid": cid,
            "parent_cid": null, "node_id": "node-a", "publish_id": "p", "version": 1_700_000_000,
            "timestamp": "2023-11-14T22:13:20Z", "capture": "stopped",
            "metadata": {"ratio": 0.1, "text": "\u{e9}\"}"},
            "runtime": {"provider_capture": "offline", "consumer_apply": "offline_restart"},
            "manifest": {
                "schema_version": 1, "archive_paths": ["/app/data"], "archive_format": "tar.gz",
                "archive_size_bytes": 1000, "encryption": "none", "blob": cid,
                "content_bytes": 5000, "members": 3, "skipped_special": 0,
            },
        }))
        .expect("a record")
    }

    #[test]
    fn a_known_record_has_the_signature_written_down() {
        let bytes = signed(&record(), &key()).expect("serialises");
        assert_eq!(String::from_utf8_lossy(&bytes), GOLDEN.trim_end());
        assert!(is_signed_by(&bytes, &publisher(&key())));
        let read: SyncRecord = serde_json::from_slice(&bytes).expect("a record");
        assert_eq!(read.signer, Some(publisher(&key())));
        assert_eq!(SyncRecord { signer: None, signature: None, ..read }, record());
    }

    #[test]
    fn what_is_signed_for_one_purpose_is_not_signed_for_another() {
        let bytes = signed(&record(), &key()).expect("serialises");
        assert!(!is_signed(Signing::Acknowledgement, &bytes, &publisher(&key())));
    }

    #[test]
    fn another_key_did_not_sign_it_and_no_key_signs_everything() {
        let bytes = signed(&record(), &key()).expect("serialises");
        let other = SigningKey::from_bytes(&[8; 32]);
        assert!(!is_signed_by(&bytes, &publisher(&other)));
        for weak in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert!(!is_signed_by(&bytes, &PublisherKey::from_bytes(weak)));
        }
        for text in [&b""[..], b"{}", BEFORE, AFTER, &bytes[..bytes.len() - 1]] {
            assert!(!is_signed_by(text, &publisher(&key())));
        }
    }

    proptest! {
        #[test]
        fn no_byte_can_be_another(place in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = signed(&record(), &key()).expect("serialises");
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(!is_signed_by(&bytes, &publisher(&key())));
        }
    }
}
