//! How far a workload's log was read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{LogLine, LogStream};

/// Where a log that was followed goes on after its connection was lost: behind so many lines of a
/// second in the log of a container. Engines tell whole seconds, so the lines of one are counted.
///
/// In a query it is written `CONTAINER:SECOND:LINES`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPosition {
    /// First 12 characters of the container's id.
    pub container: String,
    /// Newest second of which a line was read, since 1970; 0 before the first.
    pub second: i64,
    /// Lines of that second that were read.
    pub lines: u64,
}

impl LogPosition {
    /// The position behind a line that was read at `before`; `None` while it is not known of which
    /// container lines are.
    pub fn behind(before: Option<Self>, line: &LogLine) -> Option<Self> {
        let mut position = match (&line.container, before) {
            (Some(container), before) => before
                // A log that is gone on with names the container once more.
                .filter(|before| before.container == *container)
                .unwrap_or_else(|| Self { container: container.clone(), second: 0, lines: 0 }),
            (None, before) => before?,
        };
        let second = line.at.map(jiff::Timestamp::as_second);
        match (line.stream, second) {
            // The node's own word, with the node's time.
            (LogStream::Notice, _) | (LogStream::Stdout | LogStream::Stderr, None) => {}
            (LogStream::Stdout | LogStream::Stderr, Some(second)) => {
                if second > position.second {
                    (position.second, position.lines) = (second, 0);
                }
                position.lines += u64::from(second == position.second);
            }
        }
        Some(position)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.container, self.second, self.lines)
    }
}

/// A text that is no position in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position in a log is CONTAINER:SECOND:LINES")]
pub struct InvalidLogPosition;

impl FromStr for LogPosition {
    type Err = InvalidLogPosition;

    fn from_str(text: &str) -> Result<Self, InvalidLogPosition> {
        let mut parts = text.split(':');
        let (Some(container), Some(second), Some(lines), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidLogPosition);
        };
        let is_id = container.len() == 12 && container.bytes().all(|c| c.is_ascii_hexdigit());
        match (is_id, second.parse(), lines.parse()) {
            (true, Ok(second), Ok(lines)) => {
                Ok(Self { container: container.to_owned(), second, lines })
            }
            (true | false, _, _) => Err(InvalidLogPosition),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn line(stream: LogStream, second: Option<i64>, container: Option<&str>) -> LogLine {
        LogLine {
            stream,
            at: second.map(|second| Timestamp::from_second(second).expect("in range")),
            text: String::new(),
            container: container.map(str::to_owned),
        }
    }

    #[test]
    fn lines_of_a_second_are_counted_and_another_container_begins_anew() {
        let (one, two) = ("0123456789ab", "ba9876543210");
        let mut position = None;
        for (stream, second, container, expected) in [
            (LogStream::Stdout, Some(5), None, None),
            (LogStream::Stdout, Some(5), Some(one), Some((one, 5, 1))),
            (LogStream::Stderr, Some(5), None, Some((one, 5, 2))),
            (LogStream::Stdout, Some(7), None, Some((one, 7, 1))),
            (LogStream::Stdout, Some(6), None, Some((one, 7, 1))),
            (LogStream::Notice, Some(9), None, Some((one, 7, 1))),
            (LogStream::Stdout, None, None, Some((one, 7, 1))),
            (LogStream::Stdout, Some(7), Some(two), Some((two, 7, 1))),
            // The connection was lost and made again, in the same second.
            (LogStream::Stdout, Some(7), Some(two), Some((two, 7, 2))),
            (LogStream::Notice, None, Some(two), Some((two, 7, 2))),
        ] {
            position = LogPosition::behind(position, &line(stream, second, container));
            let found = position.as_ref().map(|at| (at.container.as_str(), at.second, at.lines));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let position = LogPosition { container: "0123456789ab".into(), second: -5, lines: 3 };
        assert_eq!(position.to_string(), "0123456789ab:-5:3");
        assert_eq!(position.to_string().parse(), Ok(position));
        for wrong in ["", "0123456789ab:1", "0123456789ab:1:2:3", "../456789ab:1:2", "x:1:2"] {
            assert_eq!(wrong.parse::<LogPosition>(), Err(InvalidLogPosition), "{wrong}");
        }
    }
}
