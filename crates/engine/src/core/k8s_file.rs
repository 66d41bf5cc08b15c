//! Podman's log files: on each line a time, a stream, whether the text ends there, and the text.

use bytes::Bytes;
use jiff::Timestamp;

use crate::engine::{LogLine, LogStream};

/// Puts the lines that a container wrote together from those of its log file. A text that was
/// written in pieces has a line for each, the last of which says that it is the last.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    stdout: Begun,
    stderr: Begun,
}

/// A text whose end has not come.
#[derive(Debug, Default)]
struct Begun {
    text: Vec<u8>,
    /// Of its last piece.
    time: Option<Timestamp>,
}

impl Begun {
    fn end(&mut self, stream: LogStream) -> Option<LogLine> {
        let time = self.time.take()?;
        while matches!(self.text.last(), Some(b'\r')) {
            self.text.pop();
        }
        let bytes = Bytes::from(std::mem::take(&mut self.text));
        Some(LogLine { stream, time: Some(time), bytes })
    }
}

impl Joiner {
    /// Takes a line of the file without its end; gives a line of the container that ends with it. What
    /// is no line of such a file is left out.
    pub(crate) fn take(&mut self, line: &[u8]) -> Option<LogLine> {
        let mut parts = line.splitn(4, |&byte| byte == b' ');
        let time: Timestamp = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let (stream, begun) = match parts.next()? {
            b"stdout" => (LogStream::Stdout, &mut self.stdout),
            b"stderr" => (LogStream::Stderr, &mut self.stderr),
            _ => return None,
        };
        let ends = match parts.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        let text = parts.next().unwrap_or_default();
        let room = LogLine::BYTES_MAX.saturating_sub(begun.text.len());
        begun.text.extend_from_slice(&text[..text.len().min(room)]);
        begun.time = Some(time);
        if ends { begun.end(stream) } else { None }
    }

    /// The texts that have begun, where nothing more comes.
    pub(crate) fn rest(&mut self) -> impl Iterator<Item = LogLine> {
        let stdout = self.stdout.end(LogStream::Stdout);
        stdout.into_iter().chain(self.stderr.end(LogStream::Stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<(LogStream, String)> {
        let mut joiner = Joiner::default();
        let taken = lines.iter().filter_map(|line| joiner.take(line.as_bytes()));
        taken.map(|line| (line.stream, line.text().into_owned())).collect()
    }

    #[test]
    fn lines_have_their_time_stream_and_text() {
        let mut joiner = Joiner::default();
        let line = joiner.take(b"2026-11-22T12:49:16.834709340+00:00 stdout F a  b ").expect("one");
        assert_eq!(line.time, "2026-11-22T12:49:16.83470934Z".parse().ok());
        assert_eq!((line.stream, &line.bytes[..]), (LogStream::Stdout, &b"a  b "[..]));
        let elsewhere =
            joiner.take(b"2026-11-22T14:49:16.5+02:00 stderr F ").expect("an empty one");
        assert_eq!(elsewhere.time, "2026-11-22T12:49:16.5Z".parse().ok());
        assert!(elsewhere.bytes.is_empty());
    }

    #[test]
    fn pieces_of_one_text_are_put_together_by_their_stream() {
        let at = "2026-11-22T12:49:16Z";
        assert_eq!(
            read(&[
                &format!("{at} stdout P one "),
                &format!("{at} stderr F other"),
                &format!("{at} stdout P and "),
                &format!("{at} stdout F the same\r"),
            ]),
            [
                (LogStream::Stderr, "other".to_owned()),
                (LogStream::Stdout, "one and the same".to_owned()),
            ]
        );
    }

    #[test]
    fn a_text_that_has_no_end_is_given_when_nothing_more_comes() {
        let mut joiner = Joiner::default();
        for piece in ["stdout P no ", "stderr F other", "stdout P end"] {
            joiner.take(format!("2026-11-22T12:49:16Z {piece}").as_bytes());
        }
        let rest: Vec<String> = joiner.rest().map(|line| line.text().into_owned()).collect();
        assert_eq!(rest, ["no end"]);
        assert_eq!(joiner.rest().count(), 0);
    }

    #[test]
    fn a_text_without_end_is_cut() {
        let piece = format!("2026-11-22T12:49:16Z stdout P {}", "x".repeat(8192));
        let mut joiner = Joiner::default();
        for _ in 0..100 {
            assert!(joiner.take(piece.as_bytes()).is_none());
        }
        let line = joiner.take(b"2026-11-22T12:49:16Z stdout F end").expect("it ends");
        assert_eq!(line.bytes.len(), LogLine::BYTES_MAX);
    }

    #[test]
    fn what_is_no_line_of_such_a_file_is_left_out() {
        for line in
            ["", "x", "2026-11-22T12:49:16Z", "2026-11-22T12:49:16Z stdin F x", "noon stdout F x"]
        {
            assert_eq!(read(&[line]), [], "{line}");
        }
    }
}
