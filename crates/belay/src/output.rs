//! Everything this program writes goes through here: pages to standard output, progress and
//! failures to standard error.

use std::io::{self, IsTerminal, Write};

use belay_protocol::OperationProgress;
use serde::Serialize;

use crate::core::progress;
use crate::core::table::{Style, Tone};
use crate::core::view;
use crate::failure::{Ending, Failure};

/// The two streams, and what each may carry.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: Stream,
    stderr: Stream,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    style: Style,
    is_terminal: bool,
}

impl Stream {
    fn new(is_terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = is_terminal && !set("NO_COLOR") && !dumb;
        Self { style: if colour { Style::Colour } else { Style::Plain }, is_terminal }
    }
}

impl Output {
    /// Colours and moving lines on terminals only, colours not with `NO_COLOR`.
    pub(crate) fn of_this_process() -> Self {
        Self {
            stdout: Stream::new(io::stdout().is_terminal()),
            stderr: Stream::new(io::stderr().is_terminal()),
        }
    }

    /// Style of standard output.
    pub(crate) fn style(&self) -> Style {
        self.stdout.style
    }

    /// Whether a person is likely to be watching.
    pub(crate) fn is_terminal(&self) -> bool {
        self.stdout.is_terminal
    }

    /// Writes text to standard output and flushes it.
    pub(crate) fn text(&self, text: &str) -> Result<(), Ending> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes to standard output and flushes it.
    #[expect(clippy::unused_self, reason = "whoever writes holds the one `Output`")]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Ending> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Ending::PipeClosed,
            _ => Failure::local("cannot write the output", &error, "").into(),
        })
    }

    /// Writes a shape of the protocol as JSON.
    pub(crate) fn json<T: Serialize>(&self, value: &T) -> Result<(), Ending> {
        let text = serde_json::to_string_pretty(value).map_err(|error| {
            Failure::local("cannot write the answer as JSON", &error, "report this as a bug")
        })?;
        self.text(&(text + "\n"))
    }

    /// Writes a value as one line of JSON.
    pub(crate) fn json_line<T: Serialize>(&self, value: &T) -> Result<(), Ending> {
        let text = serde_json::to_string(value).map_err(|error| {
            Failure::local("cannot write the answer as JSON", &error, "report this as a bug")
        })?;
        self.text(&(text + "\n"))
    }

    /// Says something about the answer, to standard error: it is no part of it.
    pub(crate) fn remark(&self, text: &str) {
        to_stderr(&format!("belay: {}\n", Tone::Faint.paint(self.stderr.style, text)));
    }

    /// Writes what failed to standard error.
    pub(crate) fn failure(&self, failure: &Failure) {
        let page = view::problem::page(&failure.what, &failure.details, &failure.next);
        let page = match page.strip_prefix("belay:") {
            Some(rest) => Tone::Bad.paint(self.stderr.style, "belay:") + rest,
            None => page,
        };
        to_stderr(&page);
    }

    /// Says something beside the output, on standard error.
    pub(crate) fn notice(&self, text: &str) {
        let line = format!("belay: {text}");
        to_stderr(&(Tone::Faint.paint(self.stderr.style, &line) + "\n"));
    }

    /// Begins to show the progress of one operation.
    pub(crate) fn progress(&self) -> ProgressLine {
        ProgressLine { moves: self.stderr.is_terminal, style: self.stderr.style, shown: None }
    }
}

/// Losing standard error leaves nobody to tell.
fn to_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

/// Progress on standard error: one line that moves on a terminal, a line a step elsewhere.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    moves: bool,
    style: Style,
    shown: Option<String>,
}

impl ProgressLine {
    /// Shows how far it is.
    pub(crate) fn show(&mut self, now: &OperationProgress) {
        let step = progress::step(now);
        if self.moves {
            let begins = self.shown.as_ref().is_some_and(|shown| *shown != step);
            let line_end = if begins { "\n" } else { "" };
            let bar = Tone::Faint.paint(self.style, &progress::bar(now));
            to_stderr(&format!("{line_end}\r\x1b[K{bar}"));
            self.shown = Some(step);
        } else if self.shown.as_ref() != Some(&step) {
            to_stderr(&format!("{step}\n"));
            self.shown = Some(step);
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.moves && self.shown.is_some() {
            to_stderr("\n");
        }
    }
}
