//! When a consumer may stop its workload for an apply.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: i64 = 24 * 60 * 60;
const MINUTES: u16 = 24 * 60;

/// Times of the week, in UTC, in which a workload may be stopped: one span on each of some days.
/// A span that goes on over midnight is of the day on which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintenanceWindow {
    /// By day, from Monday on.
    days: [bool; 7],
    /// Minute of the day on which it begins.
    from: u16,
    /// Its length in minutes, at most a day.
    length: u16,
}

/// A text that is no [`MaintenanceWindow`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// It has not the shape of one.
    #[error("it is not of the shape \"02:00-04:00\" or \"sat,sun 02:00-04:00\"")]
    Shape,
    /// A day has no such name.
    #[error("{found:?} is no day; days are mon, tue, wed, thu, fri, sat, sun, and as in mon-fri")]
    Day {
        /// What was found.
        found: String,
    },
    /// A time is none.
    #[error("{found:?} is no time from 00:00 to 24:00")]
    Time {
        /// What was found.
        found: String,
    },
    /// It ends when it begins.
    #[error("it ends when it begins; 00:00-24:00 is a whole day")]
    Empty,
}

impl FromStr for MaintenanceWindow {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let mut words = text.split_whitespace();
        let (days, span) = match (words.next(), words.next(), words.next()) {
            (Some(span), None, None) => ([true; 7], span),
            (Some(named), Some(span), None) => (days(named)?, span),
            _ => return Err(InvalidWindow::Shape),
        };
        let (from, to) = span.split_once('-').ok_or(InvalidWindow::Shape)?;
        let (from, to) = (minute(from)?, minute(to)?);
        if from == to || (from, to) == (MINUTES, 0) {
            return Err(InvalidWindow::Empty);
        }
        if from == MINUTES {
            return Err(InvalidWindow::Time { found: "24:00".to_owned() });
        }
        let length = if to > from { to - from } else { MINUTES - from + to };
        Ok(Self { days, from, length })
    }
}

fn days(text: &str) -> Result<[bool; 7], InvalidWindow> {
    let day = |name: &str| {
        let found = DAYS.iter().position(|day| *day == name);
        found.ok_or_else(|| InvalidWindow::Day { found: name.to_owned() })
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // From a day to one before it goes on over the end of the week.
        let span = (last + 7 - first) % 7;
        for step in 0..=span {
            days[(first + step) % 7] = true;
        }
    }
    Ok(days)
}

fn minute(text: &str) -> Result<u16, InvalidWindow> {
    let wrong = || InvalidWindow::Time { found: text.to_owned() };
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str| {
        let lawful = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| lawful).ok_or_else(wrong)
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let all = hour * 60 + minute;
    if minute < 60 && all <= MINUTES { Ok(all) } else { Err(wrong()) }
}

impl fmt::Display for MaintenanceWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != [true; 7] {
            let named = DAYS.iter().zip(self.days).filter(|(_, open)| *open).map(|(day, _)| *day);
            write!(f, "{} ", named.collect::<Vec<_>>().join(","))?;
        }
        let end = self.from + self.length;
        let end = if end > MINUTES { end - MINUTES } else { end };
        let Self { from, .. } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02} UTC", from / 60, from % 60, end / 60, end % 60)
    }
}

impl MaintenanceWindow {
    /// When it is open first, from `now` on: `now` if it is open.
    pub(crate) fn opens(&self, now: Timestamp) -> Timestamp {
        let now_second = now.as_second();
        let today = now_second.div_euclid(DAY);
        // That of yesterday may still be open, and every window opens within a week.
        for day in today - 1..=today + 7 {
            // The first day of 1970 was a Thursday.
            let weekday = usize::try_from((day + 3).rem_euclid(7)).unwrap_or(0);
            let begins = day * DAY + i64::from(self.from) * 60;
            let ends = begins + i64::from(self.length) * 60;
            if !self.days[weekday] || now_second >= ends {
                continue;
            }
            if now_second >= begins {
                return now;
            }
            return Timestamp::from_second(begins).unwrap_or(now);
        }
        now
    }
}

/// What an operator allows of the stops for applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ApplyTimes {
    /// Least time between two applies.
    pub min_interval: Duration,
    /// When there may be one; any time if none.
    pub window: Option<MaintenanceWindow>,
}

/// An apply that has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) until: Timestamp,
    pub(crate) why: String,
}

impl ApplyTimes {
    /// Whether an apply has to wait at `now`, where the one before it was at `last`.
    ///
    /// A last apply that lies in the future was written by another clock, and holds nothing back.
    pub(crate) fn hold(&self, now: Timestamp, last: Option<Timestamp>) -> Option<Hold> {
        let interval = SignedDuration::try_from(self.min_interval).unwrap_or(SignedDuration::MAX);
        let rested = last
            .filter(|last| *last <= now)
            .and_then(|last| last.checked_add(interval).ok())
            .map_or(now, |rested| rested.max(now));
        let opens = self.window.map_or(rested, |window| window.opens(rested));
        if opens <= now {
            return None;
        }
        let why = match self.window {
            Some(window) if opens > rested => format!("its window, {window}"),
            Some(_) | None => {
                format!("the least time between two applies, {} s", self.min_interval.as_secs())
            }
        };
        Some(Hold { until: opens, why })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(text: &str) -> MaintenanceWindow {
        text.parse().expect("a window")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_window_is_read_as_it_is_shown() {
        for (text, shown) in [
            ("02:00-04:00", "02:00-04:00 UTC"),
            ("sat,sun 02:00-04:00", "sat,sun 02:00-04:00 UTC"),
            ("mon-fri 22:00-04:30", "mon,tue,wed,thu,fri 22:00-04:30 UTC"),
            ("sat-mon 00:00-24:00", "mon,sat,sun 00:00-24:00 UTC"),
            ("mon-sun 12:00-00:00", "12:00-24:00 UTC"),
        ] {
            assert_eq!(window(text).to_string(), shown);
        }
        for (text, told) in [
            ("", "shape"),
            ("02:00", "shape"),
            ("sat 02:00-04:00 UTC", "shape"),
            ("caturday 02:00-04:00", "no day"),
            ("sat, 02:00-04:00", "no day"),
            ("2:00-04:00", "no time"),
            ("02:60-04:00", "no time"),
            ("02:00-24:01", "no time"),
            ("24:00-04:00", "no time"),
            ("+2:00-04:00", "no time"),
            ("02:00-02:00", "whole day"),
            ("24:00-00:00", "whole day"),
        ] {
            let fault = text.parse::<MaintenanceWindow>().expect_err(text).to_string();
            assert!(fault.contains(told), "{text}: {fault}");
        }
    }

    #[test]
    fn it_opens_on_its_days_and_goes_on_over_midnight() {
        // The first of March 2026 is a Sunday.
        for (text, now, opens) in [
            ("02:00-04:00", "2026-03-01T01:59:59Z", "2026-03-01T02:00:00Z"),
            ("02:00-04:00", "2026-03-01T02:00:00Z", "2026-03-01T02:00:00Z"),
            ("02:00-04:00", "2026-03-01T03:59:59Z", "2026-03-01T03:59:59Z"),
            ("02:00-04:00", "2026-03-01T04:00:00Z", "2026-03-02T02:00:00Z"),
            ("sun 22:00-02:00", "2026-03-02T01:00:00Z", "2026-03-02T01:00:00Z"),
            ("sun 22:00-02:00", "2026-03-02T02:00:00Z", "2026-03-08T22:00:00Z"),
            ("sun 22:00-02:00", "2026-03-01T01:00:00Z", "2026-03-01T22:00:00Z"),
            ("sun 00:00-24:00", "2026-03-01T23:59:59Z", "2026-03-01T23:59:59Z"),
            ("sun 00:00-24:00", "2026-03-02T00:00:00Z", "2026-03-08T00:00:00Z"),
        ] {
            assert_eq!(window(text).opens(at(now)), at(opens), "{text} at {now}");
        }
    }

    #[test]
    fn an_apply_waits_for_the_later_of_both_and_says_for_which() {
        let times = ApplyTimes {
            min_interval: Duration::from_hours(1),
            window: Some(window("02:00-04:00")),
        };
        let hold = |now, last: Option<&str>| {
            let held = times.hold(at(now), last.map(at))?;
            Some((held.until.to_string(), held.why))
        };
        assert_eq!(hold("2026-03-01T02:30:00Z", None), None);
        let (until, why) =
            hold("2026-03-01T02:30:00Z", Some("2026-03-01T02:10:00Z")).expect("held");
        assert_eq!(until, "2026-03-01T03:10:00Z");
        assert!(why.contains("between two applies, 3600 s"), "{why}");
        let (until, why) =
            hold("2026-03-01T03:50:00Z", Some("2026-03-01T03:30:00Z")).expect("held");
        assert_eq!(until, "2026-03-02T02:00:00Z", "it rests beyond the end of the window");
        assert!(why.contains("its window, 02:00-04:00 UTC"), "{why}");
        assert_eq!(
            hold("2026-03-01T03:00:00Z", Some("2026-03-01T09:00:00Z")),
            None,
            "another clock"
        );
        let free = ApplyTimes::default();
        assert_eq!(free.hold(at("2026-03-01T03:00:00Z"), Some(at("2026-03-01T03:00:00Z"))), None);
    }

    /// Whether a minute of the week, from Monday on, is in the window: by trying every day's span.
    fn is_open(days: [bool; 7], from: u16, to: u16, minute: i64) -> bool {
        (0..7_i64).any(|day| {
            let begins = day * 1440 + i64::from(from);
            let ends = day * 1440 + i64::from(to) + if to > from { 0 } else { 1440 };
            let there = |minute| begins <= minute && minute < ends;
            let index = usize::try_from(day).expect("small");
            days[index] && (there(minute) || there(minute + 7 * 1440))
        })
    }

    proptest! {
        #[test]
        fn it_is_open_when_a_naive_look_at_every_day_says_so(
            days in proptest::array::uniform7(any::<bool>()),
            from in 0..1440_u16,
            to in 0..=1440_u16,
            minute in 0..7 * 1440_i64,
        ) {
            prop_assume!(from != to && days.contains(&true));
            let names: Vec<_> = DAYS.iter().zip(days).filter(|(_, open)| *open).map(|(day, _)| *day).collect();
            let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
            let window = window(&format!("{} {}-{}", names.join(","), time(from), time(to)));
            // A Monday.
            let monday = at("2026-03-02T00:00:00Z").as_second();
            let now = Timestamp::from_second(monday + minute * 60).expect("a time");
            let opens = window.opens(now);
            let wait = (opens.as_second() - now.as_second()) / 60;
            prop_assert!((0..7 * 1440).contains(&wait));
            let first = (0..7 * 1440).find(|later| is_open(days, from, to, (minute + later) % (7 * 1440)));
            prop_assert_eq!(first, Some(wait), "{} at minute {}", window, minute);
        }

        #[test]
        fn what_was_held_is_free_when_it_was_said_to_be(
            seconds in 0..10_000_000_i64,
            ago in 0..100_000_i64,
            interval in 0..100_000_u64,
            from in 0..1440_u16,
            length in 1..1440_u16,
        ) {
            let to = (from + length) % 1440;
            let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
            let times = ApplyTimes {
                min_interval: Duration::from_secs(interval),
                window: Some(window(&format!("{}-{}", time(from), time(to)))),
            };
            let now = Timestamp::from_second(1_770_000_000 + seconds).expect("a time");
            let last = Timestamp::from_second(1_770_000_000 + seconds - ago).expect("a time");
            if let Some(held) = times.hold(now, Some(last)) {
                prop_assert!(held.until > now);
                prop_assert_eq!(times.hold(held.until, Some(last)), None);
                let before = Timestamp::from_second(held.until.as_second() - 1).expect("a time");
                prop_assert!(times.hold(before, Some(last)).is_some(), "not a second too late");
            }
        }
    }
}
