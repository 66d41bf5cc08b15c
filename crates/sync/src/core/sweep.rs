//! Objects that no record names, and since when that is known.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_protocol::Cid;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Objects that are remembered. Those beyond are found again once these are gone.
const UNNAMED_MAX: usize = 4_096;

/// What was found unnamed, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unnamed {
    /// When it was looked last, by this node's clock.
    pub(crate) looked: Timestamp,
    /// Objects, and when each was found first, by this node's clock.
    pub(crate) since: BTreeMap<Cid, Timestamp>,
}

impl Unnamed {
    /// What is known after another look, which found these objects unnamed.
    pub(crate) fn after(
        known: Option<Self>,
        now: Timestamp,
        found: impl IntoIterator<Item = Cid>,
    ) -> Self {
        let known = known.map(|known| known.since).unwrap_or_default();
        let since = found.into_iter().take(UNNAMED_MAX).map(|id| {
            // A time that lies ahead is of a clock that was set back since.
            let first = known.get(&id).copied().filter(|first| *first <= now);
            (id, first.unwrap_or(now))
        });
        Self { looked: now, since: since.collect() }
    }

    /// Those that were found long enough ago, at most this many.
    pub(crate) fn due(&self, now: Timestamp, grace: Duration, most: usize) -> Vec<Cid> {
        let is_due = |first: Timestamp| {
            Duration::try_from(now.duration_since(first)).is_ok_and(|age| age >= grace)
        };
        // What is found for the first time is never due: two looks are what it takes.
        let due = self.since.iter().filter(|(_, first)| **first < now && is_due(**first));
        due.map(|(id, _)| *id).take(most).collect()
    }
}

/// Time between two looks: a few in each grace, so that what is nobody's goes soon after it.
pub(crate) fn interval(grace: Duration) -> Duration {
    grace / 4
}

/// How long it is until the next look. A look that lies ahead is of a clock that was set back.
pub(crate) fn left(looked: Timestamp, now: Timestamp, grace: Duration) -> Duration {
    let since = Duration::try_from(now.duration_since(looked));
    since.map_or(Duration::ZERO, |since| interval(grace).saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_hours(24);

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(hour * 3_600).expect("a time")
    }

    fn id(n: u8) -> Cid {
        Cid::from_digest([n; 32])
    }

    #[test]
    fn an_object_is_due_when_it_was_found_twice_a_grace_apart() {
        let first = Unnamed::after(None, at(0), [id(1), id(2)]);
        assert_eq!(first.due(at(0), Duration::ZERO, 9), [], "one look is not enough");
        // What is named again in between begins anew.
        let second = Unnamed::after(Some(first), at(12), [id(1)]);
        let third = Unnamed::after(Some(second), at(24), [id(1), id(2), id(3)]);
        assert_eq!(third.due(at(24), GRACE, 9), [id(1)]);
        let fourth = Unnamed::after(Some(third), at(48), [id(1), id(2), id(3)]);
        assert_eq!(fourth.due(at(48), GRACE, 2), [id(1), id(2)], "no more than is asked for");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_due() {
        let ahead = Unnamed::after(None, at(100), [id(1)]);
        let back = Unnamed::after(Some(ahead), at(1), [id(1)]);
        assert_eq!(back.since[&id(1)], at(1));
        assert_eq!(left(at(100), at(1), GRACE), Duration::ZERO);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let many =
            (0..10_000_u32).map(|n| Cid::from_digest(*blake3::hash(&n.to_le_bytes()).as_bytes()));
        assert_eq!(Unnamed::after(None, at(0), many).since.len(), UNNAMED_MAX);
    }

    #[test]
    fn it_is_looked_a_few_times_in_a_grace() {
        assert_eq!(left(at(0), at(2), GRACE), Duration::from_hours(4));
        assert_eq!(left(at(0), at(6), GRACE), Duration::ZERO);
    }
}
