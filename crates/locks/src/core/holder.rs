//! Who holds a lock, in words.

use std::fmt::Write as _;
use std::time::Duration;

use super::record::{Found, Record};

/// Who holds a lock, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Its record reads.
    Named {
        /// The record.
        record: Box<Record>,
        /// How it stands.
        standing: Standing,
    },
    /// It has not said who it is: it has only just taken the lock, or what it wrote does not read.
    Unnamed {
        /// The process that the kernel names, where it does.
        pid: Option<u32>,
    },
}

/// How a holder stands towards what it said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Alive, and its time is not over.
    Inside {
        /// What is left of its time, where it named one.
        left: Option<Duration>,
    },
    /// Alive, and past the time that it named for itself.
    Past {
        /// By how much.
        by: Duration,
    },
    /// Its process has ended and the lock is held all the same: a child of it has the file open.
    Dead,
}

/// The clock that records count on, and the boot that it counts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The boot.
    pub boot_id: String,
    /// Time since it, suspensions included.
    pub since_boot: Duration,
}

impl Holder {
    /// Puts together what is known of the holder of a lock that is held. `alive` says whether the
    /// process that a record names is there; `kernel` is the process that the kernel names.
    pub fn judge(
        found: Found,
        now: &Moment,
        alive: impl FnOnce(&Record) -> bool,
        kernel: Option<u32>,
    ) -> Self {
        let record = match found {
            Found::Record(record) => record,
            Found::Nothing | Found::Unreadable => return Self::Unnamed { pid: kernel },
        };
        if !alive(&record) {
            // Somebody else took it since and has not written yet.
            if kernel.is_some_and(|pid| pid != record.pid) {
                return Self::Unnamed { pid: kernel };
            }
            return Self::Named { record, standing: Standing::Dead };
        }
        let standing = match record.deadline_ms.map(Duration::from_millis) {
            None => Standing::Inside { left: None },
            Some(deadline) => match now.since_boot.checked_sub(deadline) {
                Some(by) if !by.is_zero() => Standing::Past { by },
                Some(_) | None => {
                    let left = deadline.saturating_sub(now.since_boot);
                    Standing::Inside { left: Some(left) }
                }
            },
        };
        Self::Named { record, standing }
    }

    /// What it said of itself.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Named { record, .. } => Some(record),
            Self::Unnamed { .. } => None,
        }
    }

    /// What stays the same while it does the same, to tell when there is something new to say.
    pub fn gist(&self) -> String {
        match self {
            Self::Named { record, standing } => {
                let past = matches!(standing, Standing::Past { .. });
                format!("{} {} {} {past}", record.pid, record.id, record.phase)
            }
            Self::Unnamed { pid } => format!("{pid:?}"),
        }
    }

    /// One line: operation, role, process, age, phase, deadline.
    pub fn line(&self, now: &Moment) -> String {
        match self {
            Self::Named { record, standing } => named_line(record, *standing, now),
            Self::Unnamed { pid: Some(pid) } => {
                format!("pid {pid}, which has not said what it does")
            }
            Self::Unnamed { pid: None } => "a process that has not said who it is".to_owned(),
        }
    }

    /// Whether to go on waiting makes sense.
    pub fn verdict(&self) -> &'static str {
        match self {
            Self::Named { standing: Standing::Inside { .. }, .. } => {
                "its holder is alive and inside its deadline"
            }
            Self::Named { standing: Standing::Past { .. }, .. } => {
                "its holder is alive and past its deadline"
            }
            Self::Named { standing: Standing::Dead, .. } => {
                "its holder has ended and left it to a child"
            }
            Self::Unnamed { .. } => "its holder has not said who it is",
        }
    }
}

fn named_line(record: &Record, standing: Standing, now: &Moment) -> String {
    let age = |ms: u64| {
        let at = Duration::from_millis(ms);
        (record.boot_id == now.boot_id).then(|| seconds(now.since_boot.saturating_sub(at)))
    };
    let mut line = format!("{} ({}, pid {}", record.operation, record.role.as_str(), record.pid);
    if !record.hint.is_empty() {
        let _ = write!(line, ", {}", record.hint);
    }
    line.push(')');
    match age(record.since_ms) {
        Some(age) => _ = write!(line, " for {age}"),
        None => line.push_str(" since another boot"),
    }
    if !record.phase.is_empty() {
        let _ = write!(line, ", {}", record.phase);
        if let Some(age) = age(record.phase_ms) {
            let _ = write!(line, " for {age}");
        }
    }
    let _ = match standing {
        Standing::Inside { left: Some(left) } => {
            write!(line, ", to end within {}", seconds(left))
        }
        Standing::Inside { left: None } => write!(line, ", without a deadline"),
        Standing::Past { by } => write!(line, ", past its deadline by {}", seconds(by)),
        Standing::Dead => write!(line, "; that process has ended, a child of it holds on"),
    };
    line
}

/// What an operation left behind that ended without letting go of its lock in order.
pub fn interrupted_line(record: Option<&Record>, died: bool) -> String {
    let Some(record) = record else {
        return "the operation before ended without letting go, and its record does not read"
            .to_owned();
    };
    let Record { operation, pid, phase, .. } = record;
    let how = if died { "died" } else { "was given up" };
    let phase = if phase.is_empty() { "an unnamed phase" } else { phase };
    format!("{operation} by pid {pid} {how} in {phase}")
}

/// A length of time for people.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        whole @ 10..120 => format!("{whole} s"),
        whole @ 120..7_200 => format!("{} min", whole / 60),
        whole @ 7_200..172_800 => format!("{} h", whole / 3_600),
        whole => format!("{} days", whole / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identity::Identity;

    fn now(seconds: u64) -> Moment {
        Moment { boot_id: "this".to_owned(), since_boot: Duration::from_secs(seconds) }
    }

    fn record() -> Record {
        let who = Identity { pid: 812, start_ticks: 5, boot_id: "this".to_owned() };
        let mut record = Record::new("workload web", &who);
        record.operation = "deploy".to_owned();
        record.phase = "fetching".to_owned();
        record.since_ms = 100_000;
        record.phase_ms = 103_000;
        record.deadline_ms = Some(400_000);
        record.wall_ms = 1_760_000_000_000;
        record
    }

    fn judged(record: Record, at: u64, alive: bool, kernel: Option<u32>) -> Holder {
        Holder::judge(Found::Record(Box::new(record)), &now(at), |_| alive, kernel)
    }

    #[test]
    fn every_busy_message_has_operation_role_pid_age_phase_and_deadline() {
        let inside = judged(record(), 112, true, Some(812));
        assert_eq!(
            inside.line(&now(112)),
            "deploy (daemon, pid 812) for 12 s, fetching for 9.0 s, to end within 4 min"
        );
        assert_eq!(inside.verdict(), "its holder is alive and inside its deadline");
        let past = judged(record(), 460, true, None);
        assert_eq!(
            past.line(&now(460)),
            "deploy (daemon, pid 812) for 6 min, fetching for 5 min, past its deadline by 60 s"
        );
        assert_eq!(past.verdict(), "its holder is alive and past its deadline");
        let open = judged(Record { deadline_ms: None, ..record() }, 112, true, None);
        assert!(open.line(&now(112)).ends_with(", without a deadline"));
    }

    #[test]
    fn a_dead_holder_and_a_child_that_holds_on() {
        let left = judged(record(), 112, false, Some(812));
        assert!(left.line(&now(112)).ends_with("; that process has ended, a child of it holds on"));
        // The kernel names another: it has only just taken the lock.
        assert_eq!(judged(record(), 112, false, Some(900)), Holder::Unnamed { pid: Some(900) });
    }

    #[test]
    fn clock_steps_of_a_year_while_held_change_nothing() {
        const YEAR_MS: i64 = 365 * 86_400_000;
        let told = judged(record(), 112, true, None);
        for step in [-YEAR_MS, YEAR_MS] {
            let stepped = Record { wall_ms: record().wall_ms + step, ..record() };
            let stepped = judged(stepped, 112, true, None);
            assert_eq!(stepped.line(&now(112)), told.line(&now(112)));
            assert_eq!(stepped.verdict(), told.verdict());
        }
    }

    #[test]
    fn what_cannot_be_known_is_not_made_up() {
        let found = Holder::judge(Found::Unreadable, &now(1), |_| true, Some(7));
        assert_eq!(found.line(&now(1)), "pid 7, which has not said what it does");
        let found = Holder::judge(Found::Nothing, &now(1), |_| true, None);
        assert_eq!(found.line(&now(1)), "a process that has not said who it is");
        assert_eq!(found.verdict(), "its holder has not said who it is");
        let other = Record { boot_id: "another".to_owned(), ..record() };
        let line = judged(other, 112, true, None).line(&now(112));
        assert!(
            line.starts_with("deploy (daemon, pid 812) since another boot, fetching,"),
            "{line}"
        );
    }

    #[test]
    fn what_was_interrupted_is_named() {
        let died = interrupted_line(Some(&record()), true);
        assert_eq!(died, "deploy by pid 812 died in fetching");
        assert_eq!(
            interrupted_line(Some(&record()), false),
            "deploy by pid 812 was given up in fetching"
        );
        assert!(interrupted_line(None, true).contains("does not read"));
    }

    #[test]
    fn times_are_short() {
        for (time, text) in
            [(0, "0.0 s"), (11, "11 s"), (150, "2 min"), (9_000, "2 h"), (400_000, "4 days")]
        {
            assert_eq!(seconds(Duration::from_secs(time)), text);
        }
    }
}
