//! Which new chunks of changed files are held against what lay in their place before. That costs a
//! reading of the store for each of them, which is in vain where a file was written anew.

/// Chunks that were like nothing, one after the other, before fewer are tried.
const PATIENCE: u32 = 16;
/// Of those, one in so many is tried.
const SAMPLE: u32 = 16;

/// What a new chunk lies beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Content that was there before. A change begins or ends in the chunk.
    Old,
    /// Other new chunks.
    New,
}

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    Like,
    Unlike,
}

/// Tells which chunks are tried, by what came of those before.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    unlike: u32,
    passed: u32,
}

impl Attempts {
    /// Whether the next chunk is tried.
    pub(crate) fn is_due(&mut self, beside: Beside) -> bool {
        match beside {
            Beside::Old => true,
            Beside::New if self.unlike < PATIENCE => true,
            Beside::New => {
                self.passed += 1;
                let is_due = self.passed == SAMPLE;
                if is_due {
                    self.passed = 0;
                }
                is_due
            }
        }
    }

    /// Learns what came of one that was tried.
    pub(crate) fn note(&mut self, tried: Tried) {
        match tried {
            Tried::Like => *self = Self::default(),
            Tried::Unlike => self.unlike = self.unlike.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(attempts: &mut Attempts, chunks: u32, came: Tried) -> u32 {
        let mut tries = 0;
        for _ in 0..chunks {
            if attempts.is_due(Beside::New) {
                attempts.note(came);
                tries += 1;
            }
        }
        tries
    }

    #[test]
    fn where_nothing_is_alike_few_are_tried_and_where_it_is_all_are() {
        let mut attempts = Attempts::default();
        assert_eq!(tries(&mut attempts, 1_000, Tried::Like), 1_000);
        assert_eq!(tries(&mut attempts, 16 + 160, Tried::Unlike), 16 + 10);
        // What is beside the old is tried always, and one that is alike brings the others back.
        assert!(attempts.is_due(Beside::Old));
        attempts.note(Tried::Unlike);
        assert!(!attempts.is_due(Beside::New));
        assert!(attempts.is_due(Beside::Old));
        attempts.note(Tried::Like);
        assert_eq!(tries(&mut attempts, 100, Tried::Like), 100);
    }
}
