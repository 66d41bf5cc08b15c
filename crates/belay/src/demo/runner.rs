//! The demo's runner: this very program in a container, for a run that has nothing to do but wait.

use std::process::ExitCode;

use belay_runner_client::{Failure as RunFailure, Run, RunnerConfig, serve};
use serde_json::{Value, json};

use crate::failure::{self, Ending, Failure};

/// Takes runs until belayd ends it. A run holds `hold_mib` of memory, waits for its waitpoint, and
/// says what it heard and whether the memory is as it was.
pub(crate) async fn work() -> Result<ExitCode, Ending> {
    let failed = |what: String| {
        let next = "it is what the demo's containers run; see belay demo";
        Ending::from(Failure::new(failure::SOFTWARE, what, next))
    };
    let config = RunnerConfig::from_env().map_err(|error| failed(error.to_string()))?;
    let served = serve(config, async |run: &mut Run| {
        let held: Vec<u8> = pattern(held_bytes(run.payload())?).collect();
        let waitpoint = run.waitpoint().await?;
        let heard = run.wait(waitpoint).await?;
        let whole = held.iter().copied().eq(pattern(held.len()));
        Ok::<_, RunFailure>(json!({ "heard": heard, "whole": whole }))
    });
    served.await.map_err(|error| failed(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

fn held_bytes(payload: &Value) -> Result<usize, RunFailure> {
    let mib = payload["hold_mib"].as_u64().and_then(|mib| usize::try_from(mib).ok());
    let bytes = mib.and_then(|mib| mib.checked_mul(1 << 20));
    bytes.ok_or_else(|| RunFailure::for_good("hold_mib is no size"))
}

/// What is held: no page of it is like the next.
fn pattern(length: usize) -> impl Iterator<Item = u8> {
    (0..=250).cycle().take(length)
}
