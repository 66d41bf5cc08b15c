//! This program's terminal, as far as a command in a workload gets it.

use std::io;

use belay_protocol::TerminalSize;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Size of the terminal at standard input; `None` where it is none.
pub(crate) fn size_of_input() -> Option<TerminalSize> {
    let size = tcgetwinsize(stdin()).ok()?;
    Some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}

/// The terminal at standard input while it hands on every key as it is. Dropping it puts it back.
#[derive(Debug)]
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
