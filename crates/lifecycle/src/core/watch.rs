//! Whether a version that became ready and then fails gives way to the one before.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::record::PreviousVersion;

/// Failures in a row at which a watched version gives way.
pub const FAILURES: u32 = 3;

/// The longest watch that a spec may ask for.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A version that became ready and is not trusted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// The version that it replaced.
    pub previous: PreviousVersion,
    /// When it is trusted, by the wall clock: the watch outlives belayd.
    pub until: Timestamp,
}

impl Watched {
    /// The watch over what has just become ready; none where the spec asks for none.
    pub fn begin(previous: PreviousVersion, window: Duration, now: Timestamp) -> Option<Self> {
        let window = SignedDuration::try_from(window).ok().filter(|window| !window.is_zero())?;
        Some(Self { previous, until: now.checked_add(window).ok()? })
    }

    /// Whether the watch goes on. One that would end later than any watch can was begun by another
    /// clock and is over: going back long after the deploy would surprise more than it helps.
    pub fn goes_on(&self, now: Timestamp) -> bool {
        let left = self.until.duration_since(now);
        left.is_positive() && left.unsigned_abs() <= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use belay_protocol::DesiredState;

    use super::*;
    use crate::core::record::{Declaration, Source};

    fn previous() -> PreviousVersion {
        let declaration = Declaration {
            spec: "one".into(),
            file: "web.toml".into(),
            directory: "/etc".into(),
            source: Source::Api,
        };
        PreviousVersion { declaration, generation: 1, run: DesiredState::Running, image: None }
    }

    fn after(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).expect("a time")
    }

    #[test]
    fn a_watch_lasts_as_long_as_its_window() {
        let watched = Watched::begin(previous(), Duration::from_secs(300), after(0));
        let watched = watched.expect("it begins");
        assert!(watched.goes_on(after(0)));
        assert!(watched.goes_on(after(299)));
        assert!(!watched.goes_on(after(300)));
    }

    #[test]
    fn no_window_is_no_watch() {
        assert_eq!(Watched::begin(previous(), Duration::ZERO, after(0)), None);
    }

    #[test]
    fn a_watch_begun_by_a_clock_that_ran_years_ahead_is_over() {
        let watched = Watched::begin(previous(), Duration::from_secs(300), after(400_000_000));
        assert!(!watched.expect("it begins").goes_on(after(0)));
    }
}
