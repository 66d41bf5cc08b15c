//! Ids and tokens of runs and runners.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_DNSSEC;
use serde::{Deserialize, Serialize};

pub use crate::ids::RunnerId;

/// Characters of 16 bytes in base32.
const BODY: usize = 26;

/// A text that is not an id of the kind that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a {kind} id: expected '{prefix}' and 26 of [0-9a-v]")]
pub struct InvalidId {
    /// What the id would have named.
    pub kind: &'static str,
    /// How such an id begins.
    pub prefix: &'static str,
    /// The text as found, cut to 80 characters.
    pub found: String,
}

macro_rules! timed_id {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        ///
        /// 16 bytes: 6 of milliseconds since 1970, 2 that count within one of them, 8 that cannot
        /// be guessed. As text they are base32 in the order of their value (RFC 4648, section 7,
        /// in lower case), so text and bytes sort alike: by creation.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type([u8; 16]);

        impl $type {
            /// The first id at this time, or the next after `last` if that one is not earlier. Ids
            /// therefore grow even when the clock steps back.
            #[must_use]
            pub fn after(last: Option<Self>, unix_millis: u64, entropy: u64) -> Self {
                let place = (unix_millis & ((1 << 48) - 1)) << 16;
                let place = match last {
                    Some(last) => place.max(last.place().saturating_add(1)),
                    None => place,
                };
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&place.to_be_bytes());
                bytes[8..].copy_from_slice(&entropy.to_be_bytes());
                Self(bytes)
            }

            /// Milliseconds since 1970 at which it was made.
            pub fn unix_millis(self) -> u64 {
                self.place() >> 16
            }

            /// The half that cannot be guessed.
            pub fn entropy(self) -> u64 {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&self.0[8..]);
                u64::from_be_bytes(bytes)
            }

            fn place(self) -> u64 {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&self.0[..8]);
                u64::from_be_bytes(bytes)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, BASE32_DNSSEC.encode(&self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = || InvalidId {
                    kind: $kind,
                    prefix: $prefix,
                    found: text.chars().take(80).collect(),
                };
                let body = text.strip_prefix($prefix).ok_or_else(invalid)?;
                // The decoder takes capitals too; one id has one text.
                if body.len() != BODY || body.bytes().any(|c| c.is_ascii_uppercase()) {
                    return Err(invalid());
                }
                let bytes = BASE32_DNSSEC.decode(body.as_bytes()).map_err(|_| invalid())?;
                Ok(Self(bytes.try_into().map_err(|_| invalid())?))
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.to_string()
            }
        }
    };
}

timed_id!(
    /// A run.
    RunId,
    "run",
    "run_"
);
timed_id!(
    /// Something that a run waits for until somebody completes it.
    WaitpointId,
    "waitpoint",
    "wait_"
);

timed_id!(
    /// The way of a checkpoint from one node to another.
    TravelId,
    "travel",
    "trip_"
);

macro_rules! counted_id {
    ($(#[$doc:meta])* $type:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type($inner);

        impl $type {
            /// The one with this number.
            #[must_use]
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// Its number.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The one after it.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

counted_id!(
    /// How often a run was bound to a session. A message that names an older one is refused.
    Epoch,
    u64
);
counted_id!(
    /// Which of a run's suspensions, counted from 1.
    SuspensionId,
    u64
);
counted_id!(
    /// Which attempt at a run, counted from 1.
    Attempt,
    u32
);
counted_id!(
    /// A request on one socket, chosen by the runner; its answer names it.
    RequestId,
    u64
);

/// Secret with which a runner connects, bound to one workload and one runner.
///
/// `belay_runner_` and 52 characters of base32 over 32 random bytes. It shows itself through
/// [`RunnerToken::expose`] and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct RunnerToken([u8; 32]);

/// A text that is not a runner's token. It does not repeat the text, which may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a runner token: expected 'belay_runner_' and 52 of [0-9a-v]")]
pub struct InvalidToken;

const TOKEN_PREFIX: &str = "belay_runner_";

impl RunnerToken {
    /// The token over these random bytes.
    #[must_use]
    pub fn from_entropy(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for hashing.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The token as text, for its owner's eyes.
    pub fn expose(&self) -> String {
        format!("{TOKEN_PREFIX}{}", BASE32_DNSSEC.encode(&self.0))
    }
}

impl fmt::Debug for RunnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunnerToken(..)")
    }
}

impl FromStr for RunnerToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let body = text.strip_prefix(TOKEN_PREFIX).ok_or(InvalidToken)?;
        if body.len() != 52 || body.bytes().any(|c| c.is_ascii_uppercase()) {
            return Err(InvalidToken);
        }
        let bytes = BASE32_DNSSEC.decode(body.as_bytes()).map_err(|_| InvalidToken)?;
        Ok(Self(bytes.try_into().map_err(|_| InvalidToken)?))
    }
}
