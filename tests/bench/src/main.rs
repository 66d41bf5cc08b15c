//! Benchmarks, each beside the floor under it, measured in the same run: absolute times belong to
//! the machine, ratios belong to the program.
#![expect(clippy::print_stdout, reason = "the report is what this program is for")]

mod report;
mod volumes;

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["thaw-watchdog"] {
        return Ok(belay_volumes::thaw_watchdog());
    }
    let rounds = match arguments.as_slice() {
        [] => 15,
        [rounds] => rounds.parse()?,
        _ => anyhow::bail!("expected at most the number of rounds"),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let rows = runtime.block_on(volumes::run(rounds))?;
    println!("{}", report::render(&rows));
    Ok(if rows.iter().all(report::Row::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
