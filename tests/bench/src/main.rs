//! Benchmarks, each beside the floor under it, measured in the same run: absolute times belong to
//! the machine, ratios belong to the program.
#![expect(clippy::print_stdout, reason = "the report is what this program is for")]

mod lifecycle;
mod report;
mod volumes;

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["thaw-watchdog"] {
        return Ok(belay_volumes::thaw_watchdog());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    if arguments.first().is_some_and(|word| word == "lifecycle") {
        let minutes = match &arguments[1..] {
            [] => 5,
            [minutes] => minutes.parse()?,
            _ => anyhow::bail!("expected at most the minutes of idleness"),
        };
        let findings = runtime.block_on(lifecycle::run(minutes))?;
        println!("{}", lifecycle::render(&findings));
        let holds = findings.iter().all(lifecycle::Finding::holds);
        return Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let rounds = match arguments.as_slice() {
        [] => 15,
        [rounds] => rounds.parse()?,
        _ => anyhow::bail!("expected at most the number of rounds, or lifecycle"),
    };
    let rows = runtime.block_on(volumes::run(rounds))?;
    println!("{}", report::render(&rows));
    Ok(if rows.iter().all(report::Row::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
