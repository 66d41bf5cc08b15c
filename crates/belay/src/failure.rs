//! How a command ends when it does not end well: what failed, why, what to type next, and the exit
//! code.

use std::fmt::Display;

use belay_protocol::Problem;

/// Wrong arguments (`EX_USAGE`).
pub(crate) const USAGE: u8 = 64;
/// A file that was named cannot be read (`EX_NOINPUT`).
pub(crate) const NO_INPUT: u8 = 66;
/// belayd is not reachable (`EX_UNAVAILABLE`).
pub(crate) const UNAVAILABLE: u8 = 69;
/// Something of this machine or of the command itself failed (`EX_SOFTWARE`).
pub(crate) const SOFTWARE: u8 = 70;
/// belayd's answer is not one of this version's (`EX_PROTOCOL`).
pub(crate) const PROTOCOL: u8 = 76;
/// The user may not do this (`EX_NOPERM`).
pub(crate) const NO_PERMISSION: u8 = 77;
/// A command in a workload that was not run or not heard to the end, as docker has it.
pub(crate) const EXEC_NOT_RUN: u8 = 125;
/// Interrupted; what a shell reports for `SIGINT`.
pub(crate) const INTERRUPTED: u8 = 130;
/// The reader of the output went away; what a shell reports for `SIGPIPE`.
pub(crate) const PIPE_CLOSED: u8 = 141;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Nobody reads the output any more: `belay ps | head -1`.
    PipeClosed,
    /// It failed.
    Failed(Box<Failure>),
}

/// A failure, ready to be shown.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed, on what, and why.
    pub(crate) what: String,
    /// More on it, a line each.
    pub(crate) details: Vec<String>,
    /// What to type or do next.
    pub(crate) next: String,
    /// Exit code of the command.
    pub(crate) exit_code: u8,
}

impl Failure {
    pub(crate) fn new(exit_code: u8, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), details: Vec::new(), next: next.into(), exit_code }
    }

    /// Something of this machine failed.
    pub(crate) fn local(what: impl Display, error: &dyn std::error::Error, next: &str) -> Self {
        Self::new(SOFTWARE, format!("{what}: {}", chain(error)), next)
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<Problem> for Ending {
    fn from(problem: Problem) -> Self {
        let details = problem.faults.iter().map(ToString::to_string).collect();
        let what = problem.to_string();
        let exit_code = problem.code.exit_code();
        Failure { what, details, next: problem.next, exit_code }.into()
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source; one mention is enough.
        if !text.ends_with(&cause_text) {
            text += ": ";
            text += &cause_text;
        }
        source = cause.source();
    }
    text
}
