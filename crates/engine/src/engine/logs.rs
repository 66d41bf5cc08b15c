//! What a container wrote to its standard output and error.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

use super::{Engine, fault, http, reference};
use crate::error::{EngineError, Object, Operation};

/// Which lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with lines as they are written, until the container ends.
    pub follow: bool,
    /// Only so many of the newest; `None` is all that the engine keeps.
    pub tail: Option<u32>,
    /// Only lines from this time on, to the second.
    pub since: Option<Timestamp>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it was written to.
    pub stream: LogStream,
    /// When, by the engine: Podman tells whole seconds, Docker nanoseconds.
    pub time: Option<Timestamp>,
    /// What, without the line end. The engines hand a long line over in pieces, Podman of 8 KiB and
    /// Docker of 16 KiB, each of which is a line here. At most [`LogLine::BYTES_MAX`]; should a
    /// piece be longer it is cut.
    pub bytes: Bytes,
}

impl LogLine {
    /// Longest line that is given, in bytes.
    pub const BYTES_MAX: usize = 64 << 10;

    /// The line as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

impl Engine {
    /// A container's output. It may be dropped at any time; there is no deadline. The stream ends
    /// with the output, or with one error.
    pub fn logs(
        &self,
        container: impl AsRef<str>,
        options: &LogOptions,
    ) -> BoxStream<'static, Result<LogLine, EngineError>> {
        let name = container.as_ref().to_owned();
        let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let since = options.since.map_or(0, |time| i32::try_from(time.as_second()).unwrap_or(0));
        let request = LogsOptionsBuilder::default()
            .follow(options.follow)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .since(since)
            .tail(&tail)
            .build();
        let engine = self.clone();
        let checked = reference(Operation::Logs, &name).map(str::to_owned);
        futures_util::stream::once(std::future::ready(checked))
            .map(move |checked| match checked {
                Ok(name) => {
                    let object = Object::Container(name.clone());
                    let lines =
                        engine.docker().logs(&name, Some(request.clone())).map(move |piece| {
                            match piece {
                                Ok(piece) => read(&object, piece),
                                Err(error) => {
                                    Err(fault::from_bollard(Operation::Logs, object.clone(), error))
                                }
                            }
                        });
                    lines.boxed()
                }
                Err(error) => futures_util::stream::once(std::future::ready(Err(error))).boxed(),
            })
            .flatten()
            .boxed()
    }
}

/// Reads a piece. Output comes in frames, as none of our containers has a terminal; what comes
/// without is the engine's own word: Podman answers that all is well before it looks for the log,
/// and a container that is removed in between is told of in the place of its output.
fn read(object: &Object, piece: LogOutput) -> Result<LogLine, EngineError> {
    let (stream, bytes) = match piece {
        LogOutput::StdErr { message } => (LogStream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } => {
            (LogStream::Stdout, message)
        }
        LogOutput::Console { message } => {
            let words = http::message(&message);
            return Err(fault::refused(Operation::Logs, object.clone(), None, &words));
        }
    };
    let (time, mut bytes) = split_time(bytes);
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.truncate(bytes.len() - 1);
    }
    if bytes.len() > LogLine::BYTES_MAX {
        // A copy, so that the rest of the line is let go.
        bytes = Bytes::copy_from_slice(&bytes[..LogLine::BYTES_MAX]);
    }
    Ok(LogLine { stream, time, bytes })
}

/// Splits the time that the engine puts before each line from what the container wrote.
fn split_time(line: Bytes) -> (Option<Timestamp>, Bytes) {
    let Some(space) = line.iter().take(64).position(|&c| c == b' ') else {
        return (None, line);
    };
    let time = std::str::from_utf8(&line[..space]).ok().and_then(|text| text.parse().ok());
    match time {
        Some(time) => (Some(time), line.slice(space + 1..)),
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object::Container("web".into())
    }

    fn line(text: &'static [u8]) -> LogLine {
        let piece = LogOutput::StdOut { message: Bytes::from_static(text) };
        read(&object(), piece).expect("framed")
    }

    #[test]
    fn an_error_in_the_place_of_output_is_no_output() {
        let body = br#"{"cause":"no such container","message":"failed to obtain logs for Container 'web': container web does not exist in database: no such container","response":500}"#;
        let piece = LogOutput::Console { message: Bytes::from_static(body) };
        let error = read(&object(), piece).expect_err("the engine's own words");
        assert!(matches!(error, EngineError::Absent { .. }), "{error}");
        assert!(
            error.to_string().starts_with("cannot read the output of container web"),
            "{error}"
        );
    }

    #[test]
    fn the_time_before_a_line_is_taken_off() {
        let podman = line(b"2026-11-22T02:45:42Z out\n");
        assert_eq!(
            (podman.time.map(jiff::Timestamp::as_second), podman.text().as_ref()),
            (Some(1_795_315_542), "out")
        );
        let docker = line(b"2026-11-22T02:45:42.123456789Z a b\r\n");
        assert_eq!(docker.time.map(jiff::Timestamp::subsec_nanosecond), Some(123_456_789));
        assert_eq!(docker.text(), "a b");
        let empty = line(b"2026-11-22T02:45:42Z \n");
        assert_eq!((empty.time.is_some(), empty.bytes.len()), (true, 0));
    }

    #[test]
    fn a_line_without_a_time_is_kept_whole() {
        for text in [&b"plain words"[..], b"2026 words", b"", b"x"] {
            let piece = LogOutput::StdErr { message: Bytes::from_static(text) };
            let line = read(&object(), piece).expect("framed");
            assert_eq!(
                (line.stream, line.time, line.bytes.as_ref()),
                (LogStream::Stderr, None, text)
            );
        }
    }

    #[test]
    fn an_endless_line_is_cut() {
        let message = Bytes::from(vec![b'y'; LogLine::BYTES_MAX * 3]);
        let line = read(&object(), LogOutput::StdOut { message }).expect("framed");
        assert_eq!(line.bytes.len(), LogLine::BYTES_MAX);
    }
}
