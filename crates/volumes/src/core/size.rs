//! Sizes in bytes, with the one parser that configuration, command line and API share.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount of storage in bytes.
///
/// Text form: a decimal number, with a fraction if wanted, and at most one suffix out of `K`, `M`,
/// `G`, `T` or `Ki`, `Mi`, `Gi`, `Ti`, upper or lower case. **Both rows of suffixes are binary**:
/// `10M` and `10Mi` are 10 485 760 bytes. A file system is laid out in binary blocks and operators
/// of such volumes have always written `10M` for MiB; reading it as 10 000 000 would cut their
/// volumes short. `MB` and `MiB` are refused, because the one is read in two ways. A fraction
/// that does not come out at a whole byte is rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// There is no number before the suffix.
    #[error("{found:?} is not a size: expected a number with K, M, G, T, Ki, Mi, Gi or Ti")]
    NotANumber {
        /// The text as found, cut to 40 characters.
        found: String,
    },
    /// The number is below zero.
    #[error("{found:?} is not a size: it is negative")]
    Negative {
        /// The text as found, cut to 40 characters.
        found: String,
    },
    /// The suffix is none of the known ones.
    #[error(
        "{found:?} is not a size: {suffix:?} is not a unit; write K, M, G or T (or Ki, Mi, Gi, \
         Ti), all counted by 1024, or plain bytes"
    )]
    Unit {
        /// The text as found, cut to 40 characters.
        found: String,
        /// The suffix as found.
        suffix: String,
    },
    /// The size does not fit 64 bits.
    #[error("{found:?} is not a size: it is larger than any disk")]
    TooLarge {
        /// The text as found, cut to 40 characters.
        found: String,
    },
}

const UNITS: [(&str, u64); 4] =
    [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

/// Digits after the point that are looked at; more cannot change a size below 2^64 bytes.
const FRACTION_DIGITS: usize = 18;

impl ByteSize {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// This many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// This many KiB.
    ///
    /// # Panics
    /// When the product does not fit 64 bits.
    pub const fn kib(count: u64) -> Self {
        Self(count * 1024)
    }

    /// This many MiB.
    ///
    /// # Panics
    /// When the product does not fit 64 bits.
    pub const fn mib(count: u64) -> Self {
        Self(count * 1024 * 1024)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The sum, or the largest size when it does not fit.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This size rounded up to a multiple of `unit`, or `None` when that does not fit.
    pub const fn round_up(self, unit: u64) -> Option<Self> {
        match self.0.checked_next_multiple_of(unit) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let found = || text.chars().take(40).collect::<String>();
        let trimmed = text.trim();
        if trimmed.starts_with('-') {
            return Err(InvalidSize::Negative { found: found() });
        }
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, suffix) = trimmed.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let dotted = number.contains('.');
        if whole.is_empty() || (dotted && fraction.is_empty()) || fraction.contains('.') {
            return Err(InvalidSize::NotANumber { found: found() });
        }
        let suffix = suffix.trim_start();
        let unit: u64 = match suffix.to_ascii_lowercase().as_str() {
            "" => 1,
            "k" | "ki" => 1 << 10,
            "m" | "mi" => 1 << 20,
            "g" | "gi" => 1 << 30,
            "t" | "ti" => 1 << 40,
            _ => {
                let suffix = suffix.chars().take(20).collect();
                return Err(InvalidSize::Unit { found: found(), suffix });
            }
        };
        let too_large = |_| InvalidSize::TooLarge { found: found() };
        let whole: u64 = whole.parse().map_err(too_large)?;
        let bytes = u128::from(whole) * u128::from(unit) + fraction_of(unit, fraction);
        u64::try_from(bytes).map(Self).map_err(|_| InvalidSize::TooLarge { found: found() })
    }
}

/// `unit * 0.digits`, rounded up to a whole byte.
fn fraction_of(unit: u64, digits: &str) -> u128 {
    let mut numerator: u128 = 0;
    let mut denominator: u128 = 1;
    for digit in digits.bytes().take(FRACTION_DIGITS) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        denominator *= 10;
    }
    (u128::from(unit) * numerator).div_ceil(denominator)
}

impl fmt::Display for ByteSize {
    /// The exact size in the largest unit that divides it; parsing it gives the same size back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, unit) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(unit) {
                return write!(f, "{}{suffix}", self.0 / unit);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    /// Accepts the text form, or a whole number of bytes.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"64M\", \"1.5G\" or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes)
                    .map(ByteSize)
                    .map_err(|_| E::custom(InvalidSize::Negative { found: bytes.to_string() }))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests;
