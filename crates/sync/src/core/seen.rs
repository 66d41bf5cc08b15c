//! Tells whether a file is as it was when it was last read.
//!
//! A file that changes gets another change time, which nobody can set. But the clock behind it
//! stands still for some milliseconds at a time: of two changes within one step the second leaves no
//! trace. So only what had not changed for longer than a step when its reading began is believed to
//! be the same later.

use super::member::Mtime;

/// Longest step of a kernel's clock for files is 10 ms; twice that leaves room.
const STEP_NANOS: i128 = 20_000_000;

/// What a file looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: Mtime,
    pub(crate) changed: Mtime,
}

/// What is remembered of an entry of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Whatever it looks like, it is read again.
    Untold,
    /// A file that looked like this holds what the manifest says.
    Settled(Look),
}

impl Seen {
    /// Bytes of the encoded form.
    pub(crate) const ENCODED: usize = 41;

    /// What may be remembered of a file that looked like this and whose reading began no earlier
    /// than `began`, in nanoseconds since 1970.
    pub(crate) fn of(look: Look, began: i128) -> Self {
        let changed = nanos(look.changed);
        if changed + STEP_NANOS < began { Self::Settled(look) } else { Self::Untold }
    }

    /// Whether a file that looks like this holds what it held.
    pub(crate) fn holds(&self, look: &Look) -> bool {
        match self {
            Self::Untold => false,
            Self::Settled(seen) => seen == look,
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::ENCODED] {
        let mut bytes = [0; Self::ENCODED];
        let Self::Settled(look) = self else { return bytes };
        bytes[0] = 1;
        bytes[1..9].copy_from_slice(&look.inode.to_le_bytes());
        bytes[9..17].copy_from_slice(&look.size.to_le_bytes());
        bytes[17..25].copy_from_slice(&look.modified.seconds.to_le_bytes());
        bytes[25..29].copy_from_slice(&look.modified.nanos.to_le_bytes());
        bytes[29..37].copy_from_slice(&look.changed.seconds.to_le_bytes());
        bytes[37..41].copy_from_slice(&look.changed.nanos.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::ENCODED]) -> Self {
        let eight = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            eight
        };
        let four = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(four)
        };
        if bytes[0] != 1 {
            return Self::Untold;
        }
        Self::Settled(Look {
            inode: u64::from_le_bytes(eight(1)),
            size: u64::from_le_bytes(eight(9)),
            modified: Mtime { seconds: i64::from_le_bytes(eight(17)), nanos: four(25) },
            changed: Mtime { seconds: i64::from_le_bytes(eight(29)), nanos: four(37) },
        })
    }
}

fn nanos(time: Mtime) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(nanos: u32) -> Look {
        let modified = Mtime { seconds: -5, nanos: 3 };
        Look { inode: 12, size: 1 << 40, modified, changed: Mtime { seconds: 100, nanos } }
    }

    const AT: i128 = 100_000_000_000;

    #[test]
    fn what_changed_a_moment_before_it_was_read_is_read_again() {
        assert_eq!(Seen::of(look(0), AT), Seen::Untold);
        assert_eq!(Seen::of(look(0), AT + 20_000_000), Seen::Untold);
        let settled = Seen::of(look(0), AT + 20_000_001);
        assert!(settled.holds(&look(0)));
        // A clock that was set back makes changes of the future.
        assert_eq!(Seen::of(look(0), AT - 3_600_000_000_000), Seen::Untold);
        assert!(!Seen::Untold.holds(&look(0)));
    }

    #[test]
    fn any_difference_is_a_change() {
        let settled = Seen::Settled(look(0));
        for other in [
            look(1),
            Look { inode: 13, ..look(0) },
            Look { size: 1, ..look(0) },
            Look { modified: Mtime { seconds: -5, nanos: 4 }, ..look(0) },
        ] {
            assert!(!settled.holds(&other), "{other:?}");
        }
    }

    #[test]
    fn what_is_remembered_comes_back() {
        for seen in [Seen::Untold, Seen::Settled(look(7))] {
            assert_eq!(Seen::decode(&seen.encode()), seen);
        }
    }
}
