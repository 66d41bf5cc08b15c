//! Which published generations and history entries may go.

use std::collections::BTreeSet;
use std::time::Duration;

use belay_protocol::Cid;

use super::record::Order;

/// A published generation, as its history entry tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) order: Order,
    pub(crate) blob: Cid,
    /// How long ago it was published.
    pub(crate) age: Duration,
    /// False once its object was deleted from the store.
    pub(crate) stored: bool,
    /// Whether a live consumer fetches or holds it.
    pub(crate) needed: bool,
}

/// Generations that stay for consumers alone. One that is dead or hostile costs no more than these,
/// and those only until its acknowledgement is old.
pub(crate) const NEEDED_MAX: usize = 4;

/// What is kept, and what may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retirement {
    /// Objects of generations that stay, with all that they need.
    pub(crate) kept: BTreeSet<Cid>,
    /// Indexes of generations whose object may be deleted.
    pub(crate) retired: Vec<usize>,
}

/// Which generations may go.
///
/// The newest `keep` distinct objects stay, in the order of their records and not of any clock, and
/// so does any that was superseded less than `grace` ago: a slow consumer may still be fetching it.
/// Beyond those the newest [`NEEDED_MAX`] that a live consumer needs stay.
/// An object that a kept generation shares stays too. Deletions that failed earlier come up again.
pub(crate) fn retirable(generations: &[Generation], keep: usize, grace: Duration) -> Retirement {
    let mut newest_first: Vec<usize> = (0..generations.len()).collect();
    newest_first.sort_by_key(|&index| std::cmp::Reverse(generations[index].order));
    let mut kept = BTreeSet::new();
    let mut superseded_for = Duration::ZERO;
    let mut for_consumers = 0;
    let mut retired = Vec::new();
    for &index in &newest_first {
        let generation = &generations[index];
        let young = superseded_for < grace;
        superseded_for = generation.age;
        if kept.contains(&generation.blob) {
            continue;
        }
        if kept.len() < keep.max(1) || young {
            kept.insert(generation.blob);
        } else if generation.needed && for_consumers < NEEDED_MAX {
            for_consumers += 1;
            kept.insert(generation.blob);
        } else if generation.stored {
            retired.push(index);
        }
    }
    // An older announcement may keep what a later one let go.
    retired.retain(|&index| !kept.contains(&generations[index].blob));
    Retirement { kept, retired }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_mins(10);

    fn generation(seq: u64, blob: u8, age: u64) -> Generation {
        Generation {
            order: Order { epoch: 1, seq },
            blob: Cid::from_digest([blob; 32]),
            age: Duration::from_secs(age),
            stored: true,
            needed: false,
        }
    }

    #[test]
    fn what_live_consumers_need_stays_and_no_more_of_it_than_is_bounded() {
        let mut history: Vec<Generation> =
            (1..=12).map(|n| generation(n, u8::try_from(n).expect("small"), 9_000 - n)).collect();
        for index in [0, 1, 3, 4, 6, 7] {
            history[index].needed = true;
        }
        // The newest two, and the newest four of those that are needed.
        assert_eq!(retirable(&history, 2, GRACE).retired, [9, 8, 5, 2, 1, 0]);
    }

    #[test]
    fn sm072_sm075_the_oldest_by_order_goes_whatever_its_version() {
        let history = [generation(3, 3, 700), generation(1, 1, 900), generation(2, 2, 800)];
        assert_eq!(retirable(&history, 2, GRACE).retired, [1]);
    }

    #[test]
    fn b32_a_generation_superseded_a_moment_ago_stays() {
        let history = [generation(1, 1, 9_000), generation(2, 2, 8_000), generation(3, 3, 10)];
        assert_eq!(retirable(&history, 1, GRACE).retired, [0]);
        let history = [generation(1, 1, 9_000), generation(2, 2, 10), generation(3, 3, 5)];
        assert_eq!(retirable(&history, 1, GRACE).retired, Vec::<usize>::new());
    }

    #[test]
    fn b10_every_generation_that_was_not_deleted_comes_up_again() {
        let history: Vec<Generation> =
            (1..=5).map(|n| generation(n, u8::try_from(n).expect("small"), 9_000 - n)).collect();
        assert_eq!(retirable(&history, 2, GRACE).retired, [2, 1, 0]);
    }

    #[test]
    fn an_object_that_a_kept_generation_shares_stays() {
        let history = [generation(1, 1, 9_000), generation(2, 2, 8_000), generation(3, 1, 7_000)];
        assert_eq!(retirable(&history, 1, GRACE).retired, [1]);
    }

    proptest! {
        #[test]
        fn the_newest_objects_are_never_retired(
            blobs in prop::collection::vec((0_u8..6, 0_u64..2_000), 1..20),
            keep in 1_usize..4,
        ) {
            let count = blobs.len() as u64;
            let history: Vec<Generation> = blobs.iter().enumerate()
                .map(|(index, &(blob, age))| generation(index as u64 + 1, blob, age + count))
                .collect();
            let Retirement { kept, retired } = retirable(&history, keep, GRACE);
            let mut newest = BTreeSet::new();
            for generation in history.iter().rev() {
                if newest.len() < keep {
                    newest.insert(generation.blob);
                }
            }
            prop_assert!(newest.is_subset(&kept));
            for index in retired {
                prop_assert!(!kept.contains(&history[index].blob));
            }
        }
    }
}
