//! A number that differs between processes and moments, for jitter only.

use std::hash::{BuildHasher as _, RandomState};

/// A number from 0 to 1.
pub(crate) fn chance() -> f64 {
    f64::from(number()) / f64::from(u32::MAX)
}

/// Eight digits that name one operation among others.
pub(crate) fn id() -> String {
    format!("{:08x}", number())
}

fn number() -> u32 {
    let random = RandomState::new().hash_one(0_u8);
    u32::try_from(random >> 32).expect("half of 64 bits")
}
