//! How long to wait before belayd is looked for again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// The pause after so many failures in a row: doubled each time, up to 10 s, and shortened by up to
/// half of it, so that the runners of a node do not come back at one instant.
pub(crate) fn pause(failures: u32, entropy: u64) -> Duration {
    let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).filter(|factor| *factor != 0);
    let whole = FIRST.checked_mul(doubled.unwrap_or(u32::MAX)).unwrap_or(LONGEST).min(LONGEST);
    let half = whole / 2;
    let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
    half + Duration::from_millis(entropy % (millis + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_to_ten_seconds_and_is_never_less_than_half_of_it() {
        for (failures, whole) in [(1, 100), (2, 200), (3, 400), (7, 6400), (8, 10_000)] {
            assert_eq!(pause(failures, 0), Duration::from_millis(whole / 2), "{failures}");
            assert_eq!(pause(failures, whole / 2), Duration::from_millis(whole), "{failures}");
        }
        for failures in [0, 31, 32, 33, 1000, u32::MAX] {
            for entropy in [0, 1, 4999, 5000, u64::MAX] {
                let pause = pause(failures, entropy);
                assert!(pause >= FIRST / 2 && pause <= LONGEST, "{failures} {entropy}: {pause:?}");
            }
        }
    }
}
