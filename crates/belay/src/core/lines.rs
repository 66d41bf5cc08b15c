//! Lines out of chunks: answers that go on arrive in pieces that end anywhere.

/// Longest line that is read; belayd's are a few hundred bytes, a container's log lines are cut by
/// the engine at 16 KiB.
const LONGEST: usize = 4 * 1024 * 1024;

/// A line is longer than any that belayd writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineTooLong;

/// Collects chunks and gives whole lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Adds a chunk and gives the lines that it completes, without their ends and without empty
    /// ones.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        let mut lines = Vec::new();
        let mut pieces = chunk.split(|&byte| byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.pending.extend_from_slice(piece);
            let is_whole = pieces.peek().is_some();
            if is_whole && !self.pending.is_empty() {
                lines.push(std::mem::take(&mut self.pending));
            }
        }
        if self.pending.len() > LONGEST { Err(LineTooLong) } else { Ok(lines) }
    }

    /// Whether the answer ended within a line.
    pub(crate) fn is_torn(&self) -> bool {
        !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_are_cut() {
        let text = b"one\n\ntwo\nthree\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut read = Vec::new();
            for chunk in text.chunks(size) {
                read.extend(lines.push(chunk).expect("short lines"));
            }
            assert_eq!(read, [&b"one"[..], b"two", b"three"]);
            assert!(!lines.is_torn());
        }
    }

    #[test]
    fn an_end_within_a_line_is_seen() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), Ok(vec![b"one".to_vec()]));
        assert!(lines.is_torn());
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; LONGEST];
        assert_eq!(lines.push(&chunk), Ok(vec![]));
        assert_eq!(lines.push(b"x"), Err(LineTooLong));
    }
}
