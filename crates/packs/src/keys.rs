//! The keys of a set of packs.

use std::fmt;

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

use crate::chunk::ChunkId;
use crate::frame::{sealed, unsealed};

/// What each derived key is for. The words are part of the format.
const PLAIN_ID: &str = "belay packs 1, chunk ids without a key";
const SEALED_ID: &str = "belay packs 1, chunk ids";
const SEALED_NONCE: &str = "belay packs 1, nonces";
const SEALED_CONTENT: &str = "belay packs 1, content";

/// The secret from which all keys of a set of packs follow.
#[derive(Clone)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// A key of 32 bytes from the system's generator of random numbers.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be wrapped for another member.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey")
    }
}

/// How chunks are named and whether they are sealed.
#[derive(Clone)]
pub struct Keys {
    id: [u8; 32],
    pub(crate) sealing: Option<Sealing>,
}

/// What seals the content of frames.
#[derive(Clone)]
pub(crate) struct Sealing {
    pub(crate) cipher: XChaCha20Poly1305,
    pub(crate) nonce: [u8; 32],
}

impl Keys {
    /// Chunks that anyone can read.
    pub fn plain() -> Self {
        Self { id: blake3::derive_key(PLAIN_ID, &[]), sealing: None }
    }

    /// Chunks that only who has the key can read, recognise or name.
    pub fn sealed(key: &DataKey) -> Self {
        let derived = |purpose| blake3::derive_key(purpose, &key.0);
        Self {
            id: derived(SEALED_ID),
            sealing: Some(Sealing {
                cipher: XChaCha20Poly1305::new(&derived(SEALED_CONTENT).into()),
                nonce: derived(SEALED_NONCE),
            }),
        }
    }

    /// Whether content is sealed.
    pub fn is_sealed(&self) -> bool {
        self.sealing.is_some()
    }

    /// Seals bytes that are no chunk, bound to what they are; as they are without a key.
    pub fn seal(&self, context: &[u8], bytes: &[u8]) -> Vec<u8> {
        match &self.sealing {
            None => bytes.to_vec(),
            Some(sealing) => sealed(sealing, context, bytes),
        }
    }

    /// Undoes [`Keys::seal`]; none if they were not sealed so.
    pub fn unseal(&self, context: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
        match &self.sealing {
            None => Some(bytes.to_vec()),
            Some(sealing) => unsealed(sealing, context, bytes),
        }
    }

    /// The name of these bytes.
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId::from_bytes(*blake3::keyed_hash(&self.id, plain).as_bytes())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_sealed() { "Keys(sealed)" } else { "Keys(plain)" })
    }
}
