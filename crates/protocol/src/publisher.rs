//! The public key by which a publisher is known.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// The structure around the 32 bytes of an Ed25519 public key (RFC 8410).
const DER: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The Ed25519 key with which a node signs what it publishes, as one line of base64: the line
/// between the first and the last of what `openssl pkey -pubout` writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublisherKey([u8; 32]);

/// A text that is no key of a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key as `belay sync keygen` prints it")]
pub struct InvalidPublisherKey;

impl PublisherKey {
    /// The key of these 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight characters that tell one key from another at a look.
    pub fn short(&self) -> String {
        BASE64.encode(&self.0[..6])
    }
}

impl fmt::Display for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&[&DER[..], &self.0].concat()))
    }
}

impl fmt::Debug for PublisherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublisherKey {
    type Err = InvalidPublisherKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublisherKey> {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| InvalidPublisherKey)?;
        let key = bytes.strip_prefix(&DER).ok_or(InvalidPublisherKey)?;
        Ok(Self(key.try_into().map_err(|_| InvalidPublisherKey)?))
    }
}

impl From<PublisherKey> for String {
    fn from(key: PublisherKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublisherKey {
    type Error = InvalidPublisherKey;

    fn try_from(text: String) -> Result<Self, InvalidPublisherKey> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `openssl genpkey -algorithm Ed25519` and `openssl pkey -pubout`.
    const PUBLIC: &str = "MCowBQYDK2VwAyEAWSCGdhi7ruuczQSp812R56GbUiqXsvBsKPYtL1dMw5I=";

    #[test]
    fn a_key_is_read_and_written_as_openssl_writes_it() {
        let key: PublisherKey = PUBLIC.parse().expect("a key");
        assert_eq!(key.to_string(), PUBLIC);
        assert_eq!(PUBLIC[16..24], key.short(), "what follows the structure");
        let json = serde_json::to_string(&key).expect("serialises");
        assert_eq!(serde_json::from_str::<PublisherKey>(&json).expect("reads back"), key);
        // An X25519 key is something else.
        let x25519 = "MCowBQYDK2VuAyEATpbMA2ufcuNho6kfYCLHG1wEmuTV/erbsY4rHReGeUw=";
        for text in ["", "key", &PUBLIC[1..], &PUBLIC[..40], x25519] {
            assert_eq!(text.parse::<PublisherKey>(), Err(InvalidPublisherKey), "{text:?}");
        }
    }
}
