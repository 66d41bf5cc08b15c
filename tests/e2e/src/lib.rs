//! belayd and its containers as a whole: nothing here but the tests beside it, and what runs in their
//! containers.

pub mod books;
