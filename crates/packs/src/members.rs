//! Who may read: the data key in an envelope for each member.
//!
//! An envelope is made by X25519 with a key that serves once. That key follows from the data key and
//! the member, so that the same key for the same member is the same envelope, and no randomness is
//! needed here. Keys are written as OpenSSL writes them (RFC 8410).

use std::fmt;
use std::str::FromStr;

use chacha20poly1305::aead::Aead;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use data_encoding::BASE64;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

use crate::keys::DataKey;

/// What each derived key is for. The words are part of the format.
const EPHEMERAL: &str = "belay packs 1, ephemeral keys";
const WRAPPING: &str = "belay packs 1, wrapping";

/// The structure around 32 bytes of an X25519 public key.
const PUBLIC_DER: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00];
/// The structure around 32 bytes of an X25519 private key.
const SECRET_DER: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x04, 0x22, 0x04, 0x20,
];
const PEM_HEAD: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_TAIL: &str = "-----END PRIVATE KEY-----";

/// A member by its public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member([u8; 32]);

/// A text that is no key of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an X25519 key as `openssl pkey` writes it")]
pub struct NoMember;

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&[&PUBLIC_DER[..], &self.0].concat()))
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Member {
    type Err = NoMember;

    /// Reads the line between the first and the last of a PEM file with a public key.
    fn from_str(text: &str) -> Result<Self, NoMember> {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| NoMember)?;
        let key = bytes.strip_prefix(&PUBLIC_DER).ok_or(NoMember)?;
        let member = Self(key.try_into().map_err(|_| NoMember)?);
        // A key of small order would share a secret that everyone knows.
        if x25519([1; 32], member.0) == [0; 32] { Err(NoMember) } else { Ok(member) }
    }
}

/// What makes a reader a member.
#[derive(Clone)]
pub struct MemberSecret([u8; 32]);

impl fmt::Debug for MemberSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemberSecret")
    }
}

impl MemberSecret {
    /// The secret of these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a PEM file with a private key.
    ///
    /// # Errors
    /// Any other text.
    pub fn from_pem(text: &str) -> Result<Self, NoMember> {
        let body = text.trim().strip_prefix(PEM_HEAD).and_then(|rest| rest.strip_suffix(PEM_TAIL));
        let bytes = BASE64.decode(body.ok_or(NoMember)?.trim().as_bytes()).map_err(|_| NoMember)?;
        let key = bytes.strip_prefix(&SECRET_DER).ok_or(NoMember)?;
        Ok(Self(key.try_into().map_err(|_| NoMember)?))
    }

    /// The member whose secret this is.
    pub fn member(&self) -> Member {
        Member(x25519(self.0, X25519_BASEPOINT_BYTES))
    }
}

/// A data key for one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// For whom it is.
    pub member: Member,
    ephemeral: [u8; 32],
    sealed: [u8; 48],
}

impl Envelope {
    /// Bytes of the encoded form.
    pub const ENCODED: usize = 112;

    /// Puts a key into an envelope that only this member opens.
    pub fn seal(key: &DataKey, member: Member) -> Self {
        let mut secret = blake3::Hasher::new_derive_key(EPHEMERAL);
        secret.update(key.as_bytes());
        secret.update(&member.0);
        let secret = *secret.finalize().as_bytes();
        let ephemeral = x25519(secret, X25519_BASEPOINT_BYTES);
        let cipher = wrapping(&x25519(secret, member.0), &ephemeral, member);
        Self { member, ephemeral, sealed: sealed_key(&cipher, key) }
    }

    /// The key; none if it is not for this member, or was changed.
    pub fn open(&self, secret: &MemberSecret) -> Option<DataKey> {
        if secret.member() != self.member {
            return None;
        }
        let shared = x25519(secret.0, self.ephemeral);
        let cipher = wrapping(&shared, &self.ephemeral, self.member);
        let key = cipher.decrypt(&XNonce::default(), &self.sealed[..]).ok()?;
        Some(DataKey::from_bytes(key.try_into().ok()?))
    }

    /// The encoded form: member, ephemeral key, sealed key.
    pub fn encode(&self) -> [u8; Self::ENCODED] {
        let mut bytes = [0; Self::ENCODED];
        bytes[..32].copy_from_slice(&self.member.0);
        bytes[32..64].copy_from_slice(&self.ephemeral);
        bytes[64..].copy_from_slice(&self.sealed);
        bytes
    }

    /// Reads the encoded form. What is wrong with it shows when it is opened.
    pub fn decode(bytes: &[u8; Self::ENCODED]) -> Self {
        let (mut member, mut ephemeral, mut sealed) = ([0; 32], [0; 32], [0; 48]);
        member.copy_from_slice(&bytes[..32]);
        ephemeral.copy_from_slice(&bytes[32..64]);
        sealed.copy_from_slice(&bytes[64..]);
        Self { member: Member(member), ephemeral, sealed }
    }
}

fn sealed_key(cipher: &XChaCha20Poly1305, key: &DataKey) -> [u8; 48] {
    // The wrapping key serves for this one message.
    let sealed = cipher.encrypt(&XNonce::default(), &key.as_bytes()[..]);
    let sealed = sealed.ok().and_then(|sealed| sealed.try_into().ok());
    sealed.expect("32 bytes and a tag are 48")
}

fn wrapping(shared: &[u8; 32], ephemeral: &[u8; 32], member: Member) -> XChaCha20Poly1305 {
    let mut hasher = blake3::Hasher::new_derive_key(WRAPPING);
    hasher.update(shared);
    hasher.update(ephemeral);
    hasher.update(&member.0);
    XChaCha20Poly1305::new(&(*hasher.finalize().as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `openssl genpkey -algorithm X25519` and `openssl pkey -pubout`.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIEDLpAKYrTPO4Q/uEcg64Oh/WftcCXgJF0G3Droi1qtk\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "MCowBQYDK2VuAyEATpbMA2ufcuNho6kfYCLHG1wEmuTV/erbsY4rHReGeUw=";

    fn secret(seed: u8) -> MemberSecret {
        MemberSecret::from_bytes([seed; 32])
    }

    fn key() -> DataKey {
        DataKey::from_bytes([7; 32])
    }

    #[test]
    fn keys_are_read_as_openssl_writes_them() {
        let secret = MemberSecret::from_pem(PEM).expect("a key");
        assert_eq!(secret.member().to_string(), PUBLIC);
        assert_eq!(PUBLIC.parse(), Ok(secret.member()));
        let small_order = BASE64.encode(&[&PUBLIC_DER[..], &[0; 32]].concat());
        for text in ["", "key", &PUBLIC[1..], &PUBLIC[..40], &small_order] {
            assert_eq!(text.parse::<Member>(), Err(NoMember), "{text:?}");
        }
        for text in ["", PUBLIC, &PEM[5..], &PEM.replace("MC4CAQ", "MC4CAR")] {
            assert!(MemberSecret::from_pem(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_envelope_opens_for_its_member_alone() {
        let mine = Envelope::seal(&key(), secret(1).member());
        let opened = mine.open(&secret(1)).expect("it is for this member");
        assert_eq!(opened.as_bytes(), key().as_bytes());
        assert!(mine.open(&secret(2)).is_none());
        assert_eq!(Envelope::seal(&key(), secret(1).member()), mine, "no chance in it");
        let other = DataKey::from_bytes([8; 32]);
        assert_ne!(Envelope::seal(&other, secret(1).member()).ephemeral, mine.ephemeral);
        assert_eq!(Envelope::decode(&mine.encode()), mine);
        for place in 0..Envelope::ENCODED {
            let mut bytes = mine.encode();
            bytes[place] ^= 1;
            assert!(Envelope::decode(&bytes).open(&secret(1)).is_none(), "byte {place}");
        }
    }

    #[test]
    fn a_known_key_has_the_envelope_written_down() {
        let bytes = Envelope::seal(&key(), secret(1).member()).encode();
        assert_eq!(blake3::hash(&bytes).to_hex()[..16], *"6618f1d42b29a8b1");
    }
}
