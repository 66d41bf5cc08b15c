//! A runner for the tests: what a run asks for in its payload, it does.
//!
//! `say` are lines to be written, `hold_mib` is memory to be held, `exit` a code to end with, `hog` everything there is, `wait_ms` a
//! wait, `wait_token` one for what somebody tells it, `say_after` are lines after both, `write` is a
//! file to be written. The result says what became of the memory and how many runs this process has had.

use std::io::Write as _;
use std::time::Duration;

use belay_runner_client::{Failure, Run, RunnerConfig, serve};
use serde_json::json;

const MIB: usize = 1 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let config = RunnerConfig::from_env().expect("belayd says how to connect");
    let mut held: Vec<u8> = Vec::new();
    let mut runs = 0;
    let served = serve(config, async |run: &mut Run| {
        runs += 1;
        let wish = run.payload().clone();
        let number = |name: &str| wish[name].as_u64();
        if let Some(mib) = number("hold_mib") {
            let mib = usize::try_from(mib).expect("it fits");
            held = pattern(mib * MIB).collect();
        }
        if let Some(path) = wish["write"].as_str() {
            std::fs::write(path, "something").expect("it is written");
        }
        if let Some(lines) = wish["say"].as_array() {
            say(lines);
        }
        if let Some(code) = number("exit") {
            std::process::exit(i32::try_from(code).expect("a code"));
        }
        if wish["hog"] == true {
            loop {
                held.extend(vec![1; MIB]);
            }
        }
        if let Some(wait) = number("wait_ms") {
            // The wait is what is tried out: belayd ends it, whether this process is there or not.
            run.sleep(Duration::from_millis(wait)).await?;
        }
        let mut told = serde_json::Value::Null;
        if wish["wait_token"] == true {
            let waitpoint = run.waitpoint().await?;
            told = run.wait(waitpoint).await?;
        }
        if let Some(lines) = wish["say_after"].as_array() {
            say(lines);
        }
        let whole = held.iter().copied().eq(pattern(held.len()));
        Ok::<_, Failure>(json!({ "runs": runs, "held": held.len(), "whole": whole, "told": told }))
    });
    served.await.expect("it ends in order");
}

fn say(lines: &[serde_json::Value]) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{}", line.as_str().expect("a line")).expect("it is written");
    }
}

/// What is held: no page of it is like the next.
fn pattern(length: usize) -> impl Iterator<Item = u8> {
    (0..=250).cycle().take(length)
}
