//! What is decided: nothing in here touches a file, a process or a clock.

pub mod holder;
pub mod identity;
pub mod name;
pub mod poll;
pub mod record;
pub mod rewrite;
pub mod semantics;
