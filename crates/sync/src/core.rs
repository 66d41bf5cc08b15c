//! Every decision of sync: pure, without io, tasks or clocks.

pub(crate) mod ack;
pub(crate) mod apply;
pub(crate) mod archive;
pub(crate) mod attempts;
pub(crate) mod capturing;
pub(crate) mod difference;
pub(crate) mod fencing;
pub(crate) mod importing;
pub(crate) mod maintenance;
pub(crate) mod manifest;
pub(crate) mod member;
pub(crate) mod path;
pub(crate) mod patience;
pub(crate) mod quarantine;
pub(crate) mod record;
pub(crate) mod request;
pub(crate) mod retention;
pub(crate) mod rollback;
pub(crate) mod root;
pub(crate) mod schedule;
pub(crate) mod seen;
pub(crate) mod signature;
pub(crate) mod sweep;
pub(crate) mod terms;
pub(crate) mod tree;
pub(crate) mod trial;
