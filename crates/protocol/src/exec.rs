//! A command in a running workload: what is asked for, and the frames that go both ways while it
//! runs (`POST /v1/workloads/{name}/exec`).
//!
//! A frame is one byte that says what it is, four bytes of length in network order, and so many
//! bytes. Neither side sends more than [`EXEC_WINDOW`] data frames that the other has not given
//! credit for, so that nobody has to hold more, and what is not data always gets through.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Problem;

/// What the connection is upgraded to.
pub const EXEC_PROTOCOL: &str = "belay-exec/1";

/// Longest payload of a frame, in bytes.
pub const EXEC_FRAME_MAX: usize = 32 << 10;

/// Data frames that may be under way in one direction.
pub const EXEC_WINDOW: u16 = 16;

/// A command to run in a workload's container.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments; no shell is put in between.
    pub argv: Vec<String>,
    /// Environment, added to the container's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// User, as a name or numeric ids; the container's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Absolute working directory; the container's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Whether its standard input is sent; without, it reads the end at once.
    #[serde(default)]
    pub stdin: bool,
    /// Size of its terminal; without, it has none and its two outputs are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Longest that it may run, in milliseconds; without, as long as its client stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl std::fmt::Debug for ExecRequest {
    /// Leaves arguments and the values of the environment out: secrets travel there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecRequest")
            .field("program", &self.argv.first())
            .field("user", &self.user)
            .field("stdin", &self.stdin)
            .field("terminal", &self.terminal)
            .field("timeout_ms", &self.timeout_ms)
            .finish_non_exhaustive()
    }
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// A signal that a client may have sent to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecSignal {
    /// `SIGHUP`.
    Hup,
    /// `SIGINT`.
    Int,
    /// `SIGQUIT`.
    Quit,
    /// `SIGKILL`.
    Kill,
    /// `SIGTERM`.
    Term,
}

impl ExecSignal {
    const ALL: [Self; 5] = [Self::Hup, Self::Int, Self::Quit, Self::Kill, Self::Term];

    /// Its number on Linux.
    pub fn number(self) -> u8 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Term => 15,
        }
    }
}

/// What a client sends while the command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Data(Vec<u8>),
    /// The end of its standard input.
    End,
    /// Its terminal has another size.
    Resize(TerminalSize),
    /// A signal for it and its process group.
    Signal(ExecSignal),
    /// So many more frames of output are taken.
    Credit(u16),
}

/// What belayd sends while the command runs.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecOutput {
    /// Bytes from its standard output, or its terminal.
    Stdout(Vec<u8>),
    /// Bytes from its standard error.
    Stderr(Vec<u8>),
    /// So many more frames of input are taken.
    Credit(u16),
    /// It has ended with this exit code, 128 plus the number for a signal. The last frame.
    Exited(i32),
    /// It could not be run, or was ended before its time. The last frame.
    Failed(Box<Problem>),
}

/// Why bytes are no frame of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that is not known.
    #[error("there is no frame of kind {0:#04x}")]
    Kind(u8),
    /// A payload that is longer than it may be.
    #[error("a frame of {0} bytes is longer than it may be")]
    TooLong(usize),
    /// A payload that does not have the shape of its kind.
    #[error("the payload of a frame of kind {0:#04x} is not of its shape")]
    Payload(u8),
}

const DATA: u8 = 0x01;
const END: u8 = 0x02;
const RESIZE: u8 = 0x03;
const SIGNAL: u8 = 0x04;
const INPUT_CREDIT: u8 = 0x05;
const STDOUT: u8 = 0x81;
const STDERR: u8 = 0x82;
const OUTPUT_CREDIT: u8 = 0x83;
const EXITED: u8 = 0x84;
const FAILED: u8 = 0x85;

/// Bytes before each payload.
const HEADER: usize = 5;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[kind][..], &length, payload].concat()
}

/// A direction of the protocol.
pub trait ExecFrame: Sized {
    /// The frame on the wire.
    fn encode(&self) -> Vec<u8>;

    /// The frame of this kind with this payload.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, FrameError>;
}

impl ExecFrame for ExecInput {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Data(bytes) => frame(DATA, bytes),
            Self::End => frame(END, &[]),
            Self::Resize(size) => {
                frame(RESIZE, &[size.rows.to_be_bytes(), size.columns.to_be_bytes()].concat())
            }
            Self::Signal(signal) => frame(SIGNAL, &[signal.number()]),
            Self::Credit(frames) => frame(INPUT_CREDIT, &frames.to_be_bytes()),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let wrong = FrameError::Payload(kind);
        match (kind, payload) {
            (DATA, bytes) => Ok(Self::Data(bytes.to_vec())),
            (END, []) => Ok(Self::End),
            (RESIZE, [a, b, c, d]) => Ok(Self::Resize(TerminalSize {
                rows: u16::from_be_bytes([*a, *b]),
                columns: u16::from_be_bytes([*c, *d]),
            })),
            (SIGNAL, [number]) => {
                let known = ExecSignal::ALL.into_iter().find(|signal| signal.number() == *number);
                known.map(Self::Signal).ok_or(wrong)
            }
            (INPUT_CREDIT, [a, b]) => Ok(Self::Credit(u16::from_be_bytes([*a, *b]))),
            (END | RESIZE | SIGNAL | INPUT_CREDIT, _) => Err(wrong),
            (other, _) => Err(FrameError::Kind(other)),
        }
    }
}

impl ExecFrame for ExecOutput {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Stdout(bytes) => frame(STDOUT, bytes),
            Self::Stderr(bytes) => frame(STDERR, bytes),
            Self::Credit(frames) => frame(OUTPUT_CREDIT, &frames.to_be_bytes()),
            Self::Exited(code) => frame(EXITED, &code.to_be_bytes()),
            Self::Failed(problem) => {
                let document = serde_json::to_vec(problem).expect("a problem is plain data");
                frame(FAILED, &document)
            }
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let wrong = FrameError::Payload(kind);
        match (kind, payload) {
            (STDOUT, bytes) => Ok(Self::Stdout(bytes.to_vec())),
            (STDERR, bytes) => Ok(Self::Stderr(bytes.to_vec())),
            (OUTPUT_CREDIT, [a, b]) => Ok(Self::Credit(u16::from_be_bytes([*a, *b]))),
            (EXITED, [a, b, c, d]) => Ok(Self::Exited(i32::from_be_bytes([*a, *b, *c, *d]))),
            (FAILED, document) => {
                serde_json::from_slice(document).map(Self::Failed).map_err(|_| wrong)
            }
            (OUTPUT_CREDIT | EXITED, _) => Err(wrong),
            (other, _) => Err(FrameError::Kind(other)),
        }
    }
}

/// Puts frames together from bytes as they arrive. Holds one frame and what came with it.
#[derive(Debug, Default)]
pub struct ExecFrames {
    unread: Vec<u8>,
}

impl ExecFrames {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next frame; `None` when more must arrive first. After an error the connection is of no
    /// use any more.
    pub fn take<F: ExecFrame>(&mut self) -> Result<Option<F>, FrameError> {
        let Some((&[kind, a, b, c, d], rest)) = self.unread.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > EXEC_FRAME_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = F::decode(kind, payload)?;
        self.unread.drain(..HEADER + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProblemCode;

    fn inputs() -> Vec<(ExecInput, &'static [u8])> {
        vec![
            (ExecInput::Data(b"ls\n".to_vec()), b"\x01\0\0\0\x03ls\n"),
            (ExecInput::End, b"\x02\0\0\0\0"),
            (
                ExecInput::Resize(TerminalSize { rows: 24, columns: 300 }),
                b"\x03\0\0\0\x04\0\x18\x01\x2c",
            ),
            (ExecInput::Signal(ExecSignal::Int), b"\x04\0\0\0\x01\x02"),
            (ExecInput::Credit(16), b"\x05\0\0\0\x02\0\x10"),
        ]
    }

    fn outputs() -> Vec<(ExecOutput, &'static [u8])> {
        vec![
            (ExecOutput::Stdout(b"a".to_vec()), b"\x81\0\0\0\x01a"),
            (ExecOutput::Stderr(Vec::new()), b"\x82\0\0\0\0"),
            (ExecOutput::Credit(1), b"\x83\0\0\0\x02\0\x01"),
            (ExecOutput::Exited(-1), b"\x84\0\0\0\x04\xff\xff\xff\xff"),
        ]
    }

    #[test]
    fn frames_have_the_bytes_written_down() {
        for (frame, golden) in inputs() {
            assert_eq!(frame.encode(), golden, "{frame:?}");
        }
        for (frame, golden) in outputs() {
            assert_eq!(frame.encode(), golden, "{frame:?}");
        }
    }

    #[test]
    fn frames_are_put_together_however_they_are_cut() {
        let mut expected: Vec<_> = outputs().into_iter().map(|(frame, _)| frame).collect();
        let problem = Problem::new(ProblemCode::NotRunning, "web is stopped", "belay start web");
        expected.push(ExecOutput::Failed(Box::new(problem)));
        let wire: Vec<u8> = expected.iter().flat_map(ExecFrame::encode).collect();
        for step in 1..wire.len() {
            let mut frames = ExecFrames::default();
            let mut found = Vec::new();
            for part in wire.chunks(step) {
                frames.push(part);
                while let Some(frame) = frames.take::<ExecOutput>().expect("frames") {
                    found.push(frame);
                }
            }
            assert_eq!(found, expected, "cut at {step}");
        }
        let mut frames = ExecFrames::default();
        for (_, golden) in inputs() {
            frames.push(golden);
        }
        for (frame, _) in inputs() {
            assert_eq!(frames.take(), Ok(Some(frame)));
        }
        assert_eq!(frames.take::<ExecInput>(), Ok(None));
    }

    #[test]
    fn what_is_no_frame_is_told() {
        for (wire, error) in [
            (&b"\x07\0\0\0\0"[..], FrameError::Kind(7)),
            (b"\x81\0\0\0\0", FrameError::Kind(0x81)),
            (b"\x01\0\x01\0\0", FrameError::TooLong(1 << 16)),
            (b"\x02\0\0\0\x01x", FrameError::Payload(2)),
            (b"\x03\0\0\0\x02\0\x18", FrameError::Payload(3)),
            (b"\x04\0\0\0\x01\x0b", FrameError::Payload(4)),
            (b"\x05\0\0\0\x01\x0b", FrameError::Payload(5)),
        ] {
            let mut frames = ExecFrames::default();
            frames.push(wire);
            assert_eq!(frames.take::<ExecInput>(), Err(error), "{wire:?}");
        }
        let mut frames = ExecFrames::default();
        frames.push(b"\x85\0\0\0\x01{");
        assert_eq!(frames.take::<ExecOutput>(), Err(FrameError::Payload(0x85)));
    }

    #[test]
    fn a_request_has_the_form_written_down_and_hides_its_secrets() {
        let request = ExecRequest {
            argv: vec!["sh".into(), "-c".into(), "secret-argument".into()],
            env: [("KEY".to_owned(), "secret-value".to_owned())].into(),
            user: None,
            working_dir: None,
            stdin: true,
            terminal: Some(TerminalSize { rows: 24, columns: 80 }),
            timeout_ms: None,
        };
        let json = serde_json::json!({
            "argv": ["sh", "-c", "secret-argument"], "env": {"KEY": "secret-value"},
            "stdin": true, "terminal": {"rows": 24, "columns": 80},
        });
        assert_eq!(serde_json::to_value(&request).expect("plain data"), json);
        assert_eq!(serde_json::from_value::<ExecRequest>(json).expect("reads"), request);
        let shown = format!("{request:?}");
        assert!(shown.contains("sh") && !shown.contains("secret"), "{shown}");
    }
}
