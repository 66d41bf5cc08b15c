//! Benchmarks, each beside the floor under it, measured in the same run: absolute times belong to
//! the machine, ratios belong to the program.
#![expect(clippy::print_stdout, reason = "the report is what this program is for")]

mod checkpoints;
mod engine_look;
mod lifecycle;
mod locks;
mod replicas;
mod report;
mod runners;
mod sync;
mod volumes;

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["thaw-watchdog"] {
        return Ok(belay_volumes::thaw_watchdog());
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [runners::PART, rest @ ..] => {
            runners::part(rest)?;
            return Ok(ExitCode::SUCCESS);
        }
        ["runners", rest @ ..] => return Ok(judge(&runners::run(number(rest, 10_000)?)?)),
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let rows = match words.as_slice() {
        ["lifecycle", rest @ ..] => {
            let minutes = number(rest, 5)?;
            return Ok(judge(&runtime.block_on(lifecycle::run(minutes))?));
        }
        ["reattach"] => return Ok(judge(&runtime.block_on(lifecycle::reattach())?)),
        ["checkpoints", rest @ ..] => {
            return Ok(judge(&runtime.block_on(checkpoints::run(number(rest, 7)?))?));
        }
        ["replicas", rest @ ..] => {
            return Ok(judge(&runtime.block_on(replicas::run(number(rest, 7)?))?));
        }
        ["sync"] => return Ok(judge(&runtime.block_on(sync::run())?)),
        ["locks", rest @ ..] => locks::run(number(rest, 15)?)?,
        rounds => runtime.block_on(volumes::run(number(rounds, 15)?))?,
    };
    println!("{}", report::render(&rows));
    Ok(if rows.iter().all(report::Row::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(findings: &[lifecycle::Finding]) -> ExitCode {
    println!("{}", lifecycle::render(findings));
    let holds = findings.iter().all(lifecycle::Finding::holds);
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The rounds, the minutes of idleness, or the connections.
fn number<T: std::str::FromStr>(words: &[&str], default: T) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match words {
        [] => Ok(default),
        [number] => Ok(number.parse()?),
        _ => anyhow::bail!(
            "expected nothing, lifecycle, reattach, sync, replicas, locks, checkpoints or runners, and \
             at most one number: rounds, minutes of idleness, or connections"
        ),
    }
}
