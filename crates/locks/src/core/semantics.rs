//! Whether a file system keeps `flock` as this crate needs it.

/// What a try said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Try {
    /// It has the lock.
    Got,
    /// Somebody else has it.
    Refused,
}

/// What is wrong with a file system's `flock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A file that nobody locked could not be locked.
    #[error("a fresh file there cannot be locked")]
    NeverGiven,
    /// Two opens of one file were both given the lock.
    #[error("two opens of one file there both get its lock")]
    GivenTwice,
    /// The lock stayed after its file was closed.
    #[error("a lock there outlives the file that held it")]
    Kept,
}

/// Judges three tries: of a first open; of a second one meanwhile; of that one after the first was
/// closed.
pub fn judge(first: Try, second: Try, after: Try) -> Result<(), Broken> {
    match (first, second, after) {
        (Try::Refused, _, _) => Err(Broken::NeverGiven),
        (Try::Got, Try::Got, _) => Err(Broken::GivenTwice),
        (Try::Got, Try::Refused, Try::Refused) => Err(Broken::Kept),
        (Try::Got, Try::Refused, Try::Got) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_locks_that_exclude_and_end_will_do() {
        use Try::{Got, Refused};
        assert_eq!(judge(Got, Refused, Got), Ok(()));
        assert_eq!(judge(Got, Got, Got), Err(Broken::GivenTwice));
        assert_eq!(judge(Got, Refused, Refused), Err(Broken::Kept));
        assert_eq!(judge(Refused, Got, Got), Err(Broken::NeverGiven));
    }
}
