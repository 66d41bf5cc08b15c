//! Every decision of the API, without a socket: which host names are this host, what a query
//! string asks for, what a page holds.

pub(crate) mod host;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod query;
pub(crate) mod stream;
