//! How often a record is written.

use std::time::Duration;

/// Changes that are written at once, however close together: the phases of one operation.
const BURST: u32 = 8;
/// After them, one write in so long.
const EACH: Duration = Duration::from_secs(1);

/// Allows a burst, and one write a second in the long run.
#[derive(Debug, Clone)]
pub struct Rewrites {
    left: u32,
    counted: Duration,
}

impl Rewrites {
    /// `now` is any clock that does not go back.
    pub fn new(now: Duration) -> Self {
        Self { left: BURST, counted: now }
    }

    /// Whether a write may be made now; if so it counts.
    pub fn allow(&mut self, now: Duration) -> bool {
        let earned = now.saturating_sub(self.counted).as_secs() / EACH.as_secs();
        if earned > 0 {
            self.counted = now;
            let earned = u32::try_from(earned).unwrap_or(BURST);
            self.left = self.left.saturating_add(earned).min(BURST);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_written_and_then_one_a_second() {
        let mut rewrites = Rewrites::new(Duration::ZERO);
        let written = (0..10_000).filter(|ms| rewrites.allow(Duration::from_millis(*ms))).count();
        assert_eq!(written, 8 + 9);
        assert!(rewrites.allow(Duration::from_secs(100)));
    }
}
