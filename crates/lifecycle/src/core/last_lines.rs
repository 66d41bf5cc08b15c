//! The end of a log, within a bound.

use std::collections::VecDeque;

/// Keeps the newest lines of a log that fit a number of bytes.
#[derive(Debug)]
pub struct LastLines {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    most: usize,
}

impl LastLines {
    /// Keeps up to `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, most }
    }

    /// Takes a line with its end, and lets go of the oldest that do not fit any more.
    pub fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > self.most
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    /// All that is kept, oldest first.
    pub fn into_bytes(self) -> Vec<u8> {
        self.lines.into_iter().flatten().collect()
    }
}

/// Number and container in the name of a saved log.
fn parts(name: &str) -> Option<(u64, &str)> {
    let (number, container) = name.strip_suffix(".ndjson")?.split_once('-')?;
    Some((number.parse().ok()?, container))
}

/// The container in the name of a saved log, as the beginning of its id.
pub fn container_of(name: &str) -> Option<&str> {
    parts(name).map(|(_, container)| container)
}

/// The name under which the log of a container is saved beside these: the one that it has, or one
/// that is newer than all of them.
pub fn name_for(container: &str, existing: &[String]) -> String {
    let own = existing.iter().find(|name| parts(name).is_some_and(|(_, of)| of == container));
    own.cloned().unwrap_or_else(|| {
        let newest = existing.iter().filter_map(|name| parts(name)).map(|(number, _)| number).max();
        format!("{:08}-{container}.ndjson", newest.unwrap_or(0).saturating_add(1))
    })
}

/// The names of saved logs among these, newest first.
pub fn newest_first(names: Vec<String>) -> Vec<String> {
    let mut found: Vec<String> = names.into_iter().filter(|name| parts(name).is_some()).collect();
    found.sort_by_key(|name| std::cmp::Reverse(parts(name).map(|(number, _)| number)));
    found
}

/// How far a log was read, to go on where another connection ended. Times may be whole seconds, so
/// the lines of the last second are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    second: i64,
    lines: u64,
}

impl Cursor {
    /// Behind so many lines of a second.
    pub fn at(second: i64, lines: u64) -> Self {
        Self { second, lines }
    }

    /// The lines that come after it, of a log that is read whole. The first of its second were read.
    pub fn rest<T>(&self, lines: Vec<T>, second_of: impl Fn(&T) -> Option<i64>) -> Vec<T> {
        let mut seen = self.lines;
        let is_new = |line: &T| match second_of(line) {
            Some(second) if second == self.second && seen > 0 => {
                seen -= 1;
                false
            }
            Some(second) => second >= self.second,
            None => seen == 0,
        };
        let mut is_new = is_new;
        lines.into_iter().filter(|line| is_new(line)).collect()
    }

    /// Notes a line of this second.
    pub fn saw(&mut self, second: i64) {
        if second > self.second {
            *self = Self { second, lines: 0 };
        }
        if second == self.second {
            self.lines += 1;
        }
    }

    /// The second from which on is asked again; `None` before the first line.
    pub fn since(&self) -> Option<i64> {
        (self.lines > 0).then_some(self.second)
    }

    /// Lines of that second that were seen already.
    pub fn seen(&self) -> u64 {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_that_fit_are_kept() {
        let mut last = LastLines::new(10);
        for line in ["one\n", "two\n", "three\n"] {
            last.push(line.as_bytes().to_vec());
        }
        assert_eq!(last.into_bytes(), b"two\nthree\n");
        let mut last = LastLines::new(3);
        last.push(b"longer\n".to_vec());
        assert_eq!(last.into_bytes(), b"");
    }

    #[test]
    fn a_log_is_saved_once_and_the_newest_comes_first() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(name_for("abc", &[]), "00000001-abc.ndjson");
        let existing =
            names(&["00000009-abc.ndjson", "00000010-def.ndjson", "x", "00000011-z.tmp"]);
        assert_eq!(name_for("abc", &existing), "00000009-abc.ndjson");
        assert_eq!(name_for("new", &existing), "00000011-new.ndjson");
        let sorted = newest_first(existing);
        assert_eq!(sorted, names(&["00000010-def.ndjson", "00000009-abc.ndjson"]));
    }

    #[test]
    fn the_rest_of_a_log_is_what_comes_after_its_cursor() {
        let lines =
            vec![(Some(4), "a"), (Some(5), "b"), (Some(5), "c"), (None, "d"), (Some(6), "e")];
        let rest = |cursor: Cursor| {
            let left = cursor.rest(lines.clone(), |line| line.0).into_iter();
            left.map(|line| line.1).collect::<String>()
        };
        assert_eq!(rest(Cursor::at(5, 1)), "cde");
        assert_eq!(rest(Cursor::at(5, 2)), "de");
        assert_eq!(rest(Cursor::at(6, 1)), "");
        assert_eq!(rest(Cursor::at(0, 0)), "abcde");
    }

    #[test]
    fn a_cursor_counts_the_lines_of_its_last_second() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.since(), None);
        for second in [5, 5, 7, 7, 7, 6] {
            cursor.saw(second);
        }
        assert_eq!((cursor.since(), cursor.seen()), (Some(7), 3));
    }
}
