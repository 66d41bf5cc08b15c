//! A runner's side of belayd's socket: takes runs of a workload, waits without being in the way, and
//! says how they ended.
//!
//! [`serve`] is all that most runners need: it hands each run to a function, and the function's
//! result to belayd. [`Runner`] gives the runs one by one to a program that wants to see more.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use belay_runner_client::{Failure, Run, RunnerConfig, serve};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // What belayd gives to the containers that it starts.
//! let config = RunnerConfig::from_env()?;
//! serve(config, async |run: &mut Run| {
//!     let name = run.payload()["name"].as_str().ok_or(Failure::for_good("who is it for?"))?;
//!     let greeting = format!("hello, {name}");
//!     // The process may be checkpointed here, and restored when the wait is over.
//!     run.sleep(Duration::from_secs(3600)).await?;
//!     Ok(json!({ "greeting": greeting }))
//! })
//! .await?;
//! # Ok(())
//! # }
//! ```
//!
//! One task owns the socket. Handles talk to it through a bounded channel, and each question
//! carries the channel of its answer. A connection that is lost, be it by a restart of belayd, a
//! freeze or a restore of this process, is made again; what was asked and not answered is asked
//! again in the new epoch of the run, so that a program sees of it only that things take longer.
//! What the program is told when a run is not its own any more, see [`Run::lost`].
//!
//! The protocol is `docs/runner-protocol.md`.

mod config;
mod core;
mod link;
mod runner;
mod serve;
mod task;

pub use crate::core::conversation::Loss;
pub use belay_protocol::WorkloadName;
pub use belay_protocol::runner::{
    Again, Attempt, NextForRun, ReleaseReason, RunId, RunnerError, RunnerErrorCode, RunnerId,
    RunnerToken, WaitRequest, WaitResult, WaitpointId,
};
pub use config::{
    ConfigError, Endpoint, InvalidEndpoint, RunnerConfig, TOKEN_VARIABLE, URL_VARIABLE,
};
pub use runner::{Run, RunError, Runner, RunnerEnd};
pub use serve::{Failure, serve};
