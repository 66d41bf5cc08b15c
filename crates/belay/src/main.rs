//! `belay`: the operator's command. It talks to belayd's Unix socket, shows what belayd says, and
//! ends with an exit code that scripts can rely on (`docs/commands.md`).
//!
//! `core` holds what is shown and how answers are read; `command` has one module a verb; `demo`
//! runs two nodes on this machine. There is one task, and no state outlives a command but the
//! demo's directory.

mod cli;
mod client;
mod command;
mod core;
mod demo;
mod failure;
mod output;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::Arguments;
use crate::failure::Ending;
use crate::output::Output;

fn main() -> ExitCode {
    let output = Output::of_this_process();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // The parser's own pages; a failure to print them leaves nobody to tell.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(failure::USAGE),
            };
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(command::run(arguments, &output));
            // A read of standard input cannot be taken back, and nobody types any more.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(failure::Failure::local("cannot start", &error, "try again").into()),
    };
    match ended {
        Ok(code) => code,
        Err(Ending::PipeClosed) => ExitCode::from(failure::PIPE_CLOSED),
        Err(Ending::Failed(failure)) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code)
        }
    }
}
