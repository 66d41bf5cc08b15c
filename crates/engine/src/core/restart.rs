//! When to start the engine service again after it died.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// A service that lived this long did not die of what killed the one before it.
const HEALTHY: Duration = Duration::from_mins(1);

/// Back-off of a service that is started again and again, for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServiceBackoff {
    deaths: u32,
}

impl ServiceBackoff {
    /// Takes a death after `lived`, gives how long to wait before the next start.
    pub(crate) fn died(&mut self, lived: Duration) -> Duration {
        if lived >= HEALTHY {
            self.deaths = 0;
        }
        let delay = FIRST.saturating_mul(1 << self.deaths.min(16)).min(LONGEST);
        self.deaths = self.deaths.saturating_add(1);
        delay
    }

    /// Deaths in a row.
    pub(crate) fn deaths(self) -> u32 {
        self.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_deaths_wait_longer_each_time_up_to_the_cap() {
        let mut backoff = ServiceBackoff::default();
        let delays: Vec<u64> = (0..10)
            .map(|_| u64::try_from(backoff.died(Duration::from_secs(1)).as_millis()).expect("fits"))
            .collect();
        assert_eq!(delays, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(backoff.deaths(), 10);
    }

    #[test]
    fn a_long_life_starts_the_count_again() {
        let mut backoff = ServiceBackoff::default();
        for _ in 0..40 {
            backoff.died(Duration::ZERO);
        }
        assert_eq!(backoff.died(Duration::from_mins(1)), FIRST);
        assert_eq!(backoff.died(Duration::from_secs(59)), FIRST * 2);
    }
}
