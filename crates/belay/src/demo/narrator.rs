//! The demo's voice: what happened, when, and with which numbers.

use std::time::Instant;

use crate::core::table::{Tone, one_line};
use crate::failure::Ending;
use crate::output::Output;

/// Writes a line a step, with the seconds since the start.
#[derive(Debug)]
pub(crate) struct Narrator<'a> {
    output: &'a Output,
    began: Instant,
}

impl<'a> Narrator<'a> {
    pub(crate) fn new(output: &'a Output) -> Self {
        Self { output, began: Instant::now() }
    }

    pub(crate) fn title(&self, text: &str) -> Result<(), Ending> {
        self.output.text(&format!("{text}\n\n"))
    }

    /// `  1.2 s  provider  belayd answers`
    pub(crate) fn say(&self, who: &str, what: &str) -> Result<(), Ending> {
        let tenths = self.began.elapsed().as_millis() / 100;
        let time = format!("{:>3}.{} s", tenths / 10, tenths % 10);
        let time = Tone::Faint.paint(self.output.style(), &time);
        let who = Tone::Good.paint(self.output.style(), &format!("{who:<9}"));
        self.output.text(&format!("{time}  {who} {}\n", one_line(what)))
    }

    /// Lines that are not steps.
    pub(crate) fn text(&self, text: &str) -> Result<(), Ending> {
        self.output.text(text)
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.output.is_terminal()
    }
}
