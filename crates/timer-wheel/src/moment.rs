use std::time::Duration;

/// A point on a monotonic clock: nanoseconds since an origin that the caller
/// picks once, such as the start of the program.
///
/// Sixty-four bits reach 584 years past the origin. What lies further away is
/// held to be [`Moment::MAX`], so no delay needs a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The origin itself, the earliest moment there is.
    pub const ORIGIN: Self = Self(0);
    /// The latest moment there is. It can be a deadline like any other.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment this many nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment this long after the origin, [`Moment::MAX`] if that is too
    /// far away to be told.
    #[must_use]
    pub fn at(since_origin: Duration) -> Self {
        Self(u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long after the origin this is.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The moment this long afterwards, [`Moment::MAX`] at most.
    #[must_use]
    pub fn saturating_add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(Self::at(delay).0))
    }

    /// How long after `earlier` this is, zero if it is not after it: what is
    /// left until a deadline, or how late it is.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::Moment;
    use std::time::Duration;

    #[test]
    fn durations_survive_to_the_nanosecond() {
        let moment = Moment::at(Duration::new(3, 7));
        assert_eq!(moment.as_nanos(), 3_000_000_007);
        assert_eq!(moment.since_origin(), Duration::new(3, 7));
        assert_eq!(moment.saturating_add(Duration::from_nanos(3)).as_nanos(), 3_000_000_010);
    }

    #[test]
    fn what_is_too_far_to_be_told_is_the_last_moment() {
        assert_eq!(Moment::at(Duration::MAX), Moment::MAX);
        assert_eq!(Moment::from_nanos(1).saturating_add(Duration::MAX), Moment::MAX);
        assert_eq!(Moment::MAX.saturating_add(Duration::from_nanos(1)), Moment::MAX);
    }

    #[test]
    fn nothing_is_left_of_a_deadline_that_passed() {
        let (early, late) = (Moment::from_nanos(5), Moment::from_nanos(12));
        assert_eq!(late.saturating_since(early), Duration::from_nanos(7));
        assert_eq!(early.saturating_since(late), Duration::ZERO);
    }
}
