//! belayd: the daemon. Reads its configuration, takes its instance lock, wires the parts, and ends
//! in order. What the parts decide is theirs.

mod bridge;
mod config;
mod daemon;
mod doctor;
mod instance;
mod logging;
mod run_record;
mod runner_door;
mod runners;
mod sources;
mod watchdog;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// Exit code: the configuration has faults. systemd must not restart on it.
const EXIT_CONFIGURATION: u8 = 78;

/// Keeps containers running on this machine, gives each fixed-size volumes, and replicates their
/// state. Run it from its systemd unit; talk to it with `belay`.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: belayd --config /etc/belay/belayd.toml")]
struct Arguments {
    /// The configuration file. One that is absent stands for the defaults, unless it was named.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the configuration, say every fault in it, and end.
    CheckConfig,
    /// Thaw what its parent froze, should the parent be unable to. belayd starts this itself.
    #[command(hide = true)]
    ThawWatchdog,
    /// Look at every prerequisite of this host, change nothing, and end with 1 if one is missing.
    Doctor {
        /// Write the findings as a JSON array.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::ThawWatchdog) = arguments.command {
        // Nothing that can fail or take time comes before it: a volume is frozen meanwhile.
        return belay_volumes::thaw_watchdog();
    }
    let config = match sources::read_config(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(faults) => {
            let mut out = std::io::stderr().lock();
            for fault in &faults {
                let _ = writeln!(out, "belayd: {fault}");
            }
            let _ = writeln!(out, "belayd: correct the configuration and start it again");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    match arguments.command {
        Some(Command::CheckConfig) => {
            let _ = writeln!(std::io::stdout(), "the configuration is good");
            ExitCode::SUCCESS
        }
        Some(Command::Doctor { json }) => run(doctor::report(config, json)),
        Some(Command::ThawWatchdog) => ExitCode::SUCCESS,
        None => {
            if let Err(error) = logging::start(&config) {
                let _ = writeln!(std::io::stderr(), "belayd: {error:#}");
                return ExitCode::from(EXIT_CONFIGURATION);
            }
            run(supervise(config, arguments.config))
        }
    }
}

fn run(task: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Two cores are the common host; blocking work has threads of its own.
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(task);
            // A blocking call that hangs (a dead disk) must not keep the process.
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            code
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "belayd: cannot start its runtime: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn supervise(config: Config, file: Option<PathBuf>) -> ExitCode {
    match daemon::run(config, file).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            match error.downcast_ref::<instance::LockError>() {
                Some(instance::LockError::Held { .. }) => ExitCode::from(instance::EXIT_HELD),
                Some(instance::LockError::Unusable { .. }) | None => ExitCode::FAILURE,
            }
        }
    }
}
