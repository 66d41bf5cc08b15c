//! The consumer's side.
