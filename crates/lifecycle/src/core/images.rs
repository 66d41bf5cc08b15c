//! Decisions about images: what a reference says, whose credentials go with it, when it is asked
//! for again, and which images may go.

pub mod back_off;
pub mod collection;
pub mod credentials;
pub mod platform;
pub mod record;
pub mod reference;
