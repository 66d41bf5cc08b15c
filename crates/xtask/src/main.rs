//! The workspace's own tasks: prepare a host, run the demonstration, run every test, fuzz.
//!
//! It is built before anything else on a machine that has little, so it has no dependency.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person")]

mod belongings;
mod core;
mod criu;
mod demo;
mod fuzz;
mod probe;
mod process;
mod setup;
mod test;
mod workspace;

use std::env;
use std::error::Error;
use std::process::ExitCode;

use crate::core::invocation::{self, Consent, Invocation, USAGE};
use crate::core::needs::Purpose;
use crate::workspace::Workspace;

/// Something failed, and it was said what.
const FAILED: u8 = 1;
/// The command line means nothing.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let invocation = match invocation::parse(env::args().skip(1)) {
        Ok(invocation) => invocation,
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(USAGE_ERROR);
        }
    };
    match carry_out(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn carry_out(invocation: Invocation) -> Result<(), Box<dyn Error>> {
    match invocation {
        Invocation::Help => print!("{USAGE}"),
        Invocation::Setup { consent } => {
            let workspace = Workspace::find()?;
            setup::ensure(Purpose::Run, consent, workspace.target_dir())?;
        }
        Invocation::Demo { consent, demo_args } => {
            let workspace = Workspace::find()?;
            setup::ensure(Purpose::Run, consent, workspace.target_dir())?;
            demo::run(&workspace, &demo_args)?;
        }
        Invocation::Test { tiers, counts } => {
            let workspace = Workspace::find()?;
            // Whoever runs the tests agrees to what they need; nobody may be there to ask.
            setup::ensure(Purpose::Test, Consent::Given, workspace.target_dir())?;
            test::run(&workspace, &tiers, counts)?;
        }
        Invocation::Fuzz { target, run } => fuzz::run(&Workspace::find()?, &target, &run)?,
    }
    Ok(())
}
