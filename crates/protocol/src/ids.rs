//! Names and ids. Each is parsed once, at the edge, and trusted afterwards.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

/// Longest name of a workload, volume or node: what fits a DNS label, so that a name can become a
/// host name, a file name and a lock name without any rewriting.
const NAME_MAX: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The name is empty.
    #[error("a {kind} name must not be empty")]
    Empty {
        /// What the name would have named.
        kind: &'static str,
    },
    /// The name is longer than 63 characters.
    #[error("a {kind} name has at most {NAME_MAX} characters, this one has {length}")]
    TooLong {
        /// What the name would have named.
        kind: &'static str,
        /// Length found, in characters.
        length: usize,
    },
    /// The name holds a character outside the set, or begins or ends with a separator.
    #[error(
        "{found:?} is not a {kind} name: use lower-case letters, digits and '-', beginning and \
         ending with a letter or digit"
    )]
    Character {
        /// What the name would have named.
        kind: &'static str,
        /// The name as found, cut to 80 characters.
        found: String,
    },
}

fn check_name(kind: &'static str, text: &str) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty { kind });
    }
    let length = text.chars().count();
    if length > NAME_MAX {
        return Err(InvalidName::TooLong { kind, length });
    }
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let inside = bytes.iter().all(|&c| alphanumeric(c) || c == b'-');
    if !inside || !alphanumeric(bytes[0]) || !alphanumeric(bytes[bytes.len() - 1]) {
        return Err(InvalidName::Character { kind, found: text.chars().take(80).collect() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check_name($kind, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                check_name($kind, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// Name of a workload: 1 to 63 of `[a-z0-9-]`, beginning and ending with a letter or digit.
    WorkloadName,
    "workload"
);
name!(
    /// Name of a volume within its workload, in the same alphabet as [`WorkloadName`].
    VolumeName,
    "volume"
);
name!(
    /// Name of a node. It labels containers and signs records, so two nodes must not share one.
    NodeId,
    "node"
);
name!(
    /// Key under which a provider publishes and consumers look.
    SyncKey,
    "sync key"
);

name!(
    /// Name of a runner, one on the node; the same alphabet as [`WorkloadName`].
    RunnerId,
    "runner"
);

/// Content id of a captured tree: a `CIDv1` (raw codec, BLAKE3-256), multibase base32 lower case.
///
/// Shape: `b` followed by 58 base32 characters over 36 bytes (version 1, codec 0x55, hash 0x1e,
/// length 32, digest), as <https://github.com/multiformats/cid> specifies it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cid([u8; 32]);

/// A text that is not a content id of the form this program writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is not a content id: expected 'b' and 58 base32 characters (CIDv1, raw, blake3)"
)]
pub struct InvalidCid {
    /// The text as found, cut to 80 characters.
    pub found: String,
}

const CID_PREFIX: [u8; 4] = [0x01, 0x55, 0x1e, 0x20];

impl Cid {
    /// The id of content with this BLAKE3-256 digest.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The BLAKE3-256 digest.
    pub fn digest(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 characters, as used in history file names.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0_u8; 36];
        bytes[..4].copy_from_slice(&CID_PREFIX);
        bytes[4..].copy_from_slice(&self.0);
        write!(f, "b{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cid({self})")
    }
}

impl FromStr for Cid {
    type Err = InvalidCid;
    fn from_str(text: &str) -> Result<Self, InvalidCid> {
        let invalid = || InvalidCid { found: text.chars().take(80).collect() };
        let body = text.strip_prefix('b').ok_or_else(invalid)?;
        if body.len() != 58 || body.bytes().any(|c| c.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let bytes =
            BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|_| invalid())?;
        let digest = bytes.strip_prefix(&CID_PREFIX).ok_or_else(invalid)?;
        Ok(Self(digest.try_into().map_err(|_| invalid())?))
    }
}

impl TryFrom<String> for Cid {
    type Error = InvalidCid;
    fn try_from(text: String) -> Result<Self, InvalidCid> {
        text.parse()
    }
}

impl From<Cid> for String {
    fn from(cid: Cid) -> String {
        cid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-1", "0day", &"x".repeat(63)] {
            assert!(good.parse::<WorkloadName>().is_ok(), "{good}");
        }
        for bad in ["", "Web", "-a", "a-", "a_b", "a/b", "..", "a.b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<WorkloadName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refused_name_says_what_would_do() {
        let error = "Web_1".parse::<WorkloadName>().expect_err("refused");
        assert_eq!(
            error.to_string(),
            "\"Web_1\" is not a workload name: use lower-case letters, digits and '-', beginning \
             and ending with a letter or digit"
        );
    }

    #[test]
    fn a_cid_survives_its_text_form() {
        let cid = Cid::from_digest([7; 32]);
        let text = cid.to_string();
        assert_eq!(text.len(), 59);
        assert_eq!(text.parse::<Cid>(), Ok(cid));
        assert_eq!(cid.short().len(), 12);
    }

    #[test]
    fn a_cid_of_known_content_has_the_published_prefix() {
        // Every CIDv1 of raw blake3-256 content begins with "bafkr4i".
        assert!(Cid::from_digest([0; 32]).to_string().starts_with("bafkr4i"));
    }

    #[test]
    fn foreign_or_damaged_cids_are_refused() {
        let good = Cid::from_digest([1; 32]).to_string();
        let upper = good.to_ascii_uppercase();
        for bad in ["", "b", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG", &good[..58], &upper]
        {
            assert!(bad.parse::<Cid>().is_err(), "{bad}");
        }
    }
}
