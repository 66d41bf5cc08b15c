//! Which of a runner's lines belong to which of its runs.

use std::time::Duration;

use belay_protocol::runner::{Epoch, RunId};
use belay_runner::Stint;
use jiff::Timestamp;

/// A line that was written right before the end of an attempt is read by the engine a moment after
/// it: so long it counts, if the runner has not got another run by then.
pub const TRAIL: Duration = Duration::from_secs(1);

/// A part of a runner's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The run that it is of.
    pub run: RunId,
    /// The stint.
    pub epoch: Epoch,
    /// From this time on.
    pub from: Timestamp,
    /// Up to, and without, this time; none while it goes on.
    pub end: Option<Timestamp>,
}

/// The parts of a runner's output that its stints are, in their order.
pub fn parts(stints: &[(RunId, Stint)]) -> Vec<Part> {
    let next = stints.iter().skip(1).map(|(_, next)| Some(next.from)).chain([None]);
    let part = |((run, stint), next): (&(RunId, Stint), Option<Timestamp>)| {
        let trail = |until: Timestamp| until.saturating_add(TRAIL).unwrap_or(Timestamp::MAX);
        let end = stint.until.map(trail);
        let end = match (end, next) {
            (Some(end), Some(next)) => Some(end.min(next)),
            (end, next) => end.or(next),
        };
        Part { run: *run, epoch: stint.epoch, from: stint.from, end }
    };
    stints.iter().zip(next).map(part).collect()
}

impl Part {
    /// Whether a line of this time is in it.
    pub fn has(&self, at: Timestamp) -> bool {
        self.from <= at && self.end.is_none_or(|end| at < end)
    }

    /// Whether nothing more comes that is in it.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.end.is_some_and(|end| end <= now)
    }
}

/// The part that a line of this time is in. A clock that was set back makes parts overlap; the last
/// one counts then.
pub fn part_of(parts: &[Part], at: Timestamp) -> Option<usize> {
    parts.iter().rposition(|part| part.has(at))
}

#[cfg(test)]
mod tests {
    use belay_protocol::runner::Attempt;
    use belay_runner::Origin;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("in range")
    }

    fn stint(n: u64, from: i64, until: Option<i64>) -> (RunId, Stint) {
        let stint = Stint {
            epoch: Epoch::new(n),
            attempt: Attempt::new(1),
            runner: "run-1".parse().expect("a name"),
            origin: Origin::Hosted,
            from: at(from),
            until: until.map(at),
        };
        (RunId::after(None, n, n), stint)
    }

    #[test]
    fn each_line_is_of_the_run_that_the_runner_had_then() {
        let parts =
            parts(&[stint(1, 1000, Some(2000)), stint(2, 2100, Some(3000)), stint(3, 9000, None)]);
        let of = |millis| part_of(&parts, at(millis)).map(|at| at + 1);
        for (millis, run) in [
            (999, None),
            (1000, Some(1)),
            (1999, Some(1)),
            (2099, Some(1)),
            (2100, Some(2)),
            (3000, Some(2)),
            (3999, Some(2)),
            (4000, None),
            (8999, None),
            (9000, Some(3)),
            (1_000_000, Some(3)),
        ] {
            assert_eq!(of(millis), run, "{millis}");
        }
        let now = at(3500);
        let over: Vec<bool> = parts.iter().map(|part| part.is_over(now)).collect();
        assert_eq!(over, [true, false, false]);
    }

    #[test]
    fn a_clock_that_was_set_back_gives_lines_to_the_later_run() {
        let parts = parts(&[stint(1, 5000, Some(6000)), stint(2, 4000, None)]);
        assert_eq!(part_of(&parts, at(5500)), Some(1));
        assert_eq!(part_of(&parts, at(4500)), Some(1));
        assert_eq!(part_of(&parts, at(3000)), None);
    }

    #[test]
    fn a_runner_without_runs_has_no_parts() {
        assert_eq!(parts(&[]), []);
        assert_eq!(part_of(&[], at(1)), None);
    }
}
