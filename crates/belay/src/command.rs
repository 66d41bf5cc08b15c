//! One function a verb: ask belayd, show the answer.

mod doctor;
mod events;
mod exec;
mod image;
mod lock;
mod logs;
mod operate;
mod runs;
mod show;
mod sync;
mod travel;
mod volume;

use std::process::ExitCode;

use belay_protocol::{DiffAgainst, VerifyDepth};

pub(crate) use doctor::{examine, find_belayd};
pub(crate) use operate::deploy_request;

use crate::cli::{Arguments, SyncVerb, Verb};
use crate::client::Client;
use crate::demo;
use crate::failure::Ending;
use crate::output::Output;

/// Runs the command and gives its exit code.
pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<ExitCode, Ending> {
    let socket = arguments.socket();
    let client = || Client::new(&socket);
    match arguments.verb {
        Verb::Deploy { file, wait } => operate::deploy(&client()?, &file, wait, output).await?,
        Verb::Ps(listing) => show::workloads(&client()?, listing, output).await?,
        Verb::Status { workload: None, listing } => {
            show::node(&client()?, listing, output).await?;
        }
        Verb::Status { workload: Some(workload), listing } => {
            show::workload(&client()?, &workload, listing, output).await?;
        }
        Verb::Logs { workload, follow, tail, since, previous, timestamps } => {
            let since = since.map(|since| since.moment(jiff::Timestamp::now()));
            let query = belay_protocol::LogQuery { follow, tail, since, previous, resume: None };
            let stamps = if timestamps { logs::Stamps::Shown } else { logs::Stamps::Hidden };
            logs::run(&client()?, &workload, &query, stamps, output).await?;
        }
        Verb::Exec { workload, options } => {
            return exec::run(&client()?, &workload, options).await;
        }
        Verb::Start { workload, without_content: false, wait } => {
            operate::act_on(&client()?, &workload, "start", wait, output).await?;
        }
        Verb::Start { workload, without_content: true, wait } => {
            operate::start_without_content(&client()?, &workload, wait, output).await?;
        }
        Verb::Stop { workload, wait } => {
            operate::act_on(&client()?, &workload, "stop", wait, output).await?;
        }
        Verb::Restart { workload, wait } => {
            operate::act_on(&client()?, &workload, "restart", wait, output).await?;
        }
        Verb::Rm { workload, volumes, force, wait } => {
            let fate = if volumes { "delete" } else { "keep" };
            let dependants = if force { "ignore" } else { "refuse" };
            let how = operate::Removal { volumes: fate, dependants, wait };
            operate::remove(&client()?, &workload, how, output).await?;
        }
        Verb::Env { workload, clear: true, listing: _ } => {
            operate::clear_overrides(&client()?, &workload, output).await?;
        }
        Verb::Env { workload, clear: false, listing } => {
            show::overrides(&client()?, &workload, listing, output).await?;
        }
        Verb::Explain { workload, listing } => {
            show::explain(&client()?, &workload, listing, output).await?;
        }
        Verb::Events(shown) => events::run(&client()?, &shown, output).await?,
        Verb::Image(verb) => image::run(&client()?, verb, output).await?,
        Verb::Lock(verb) => lock::run(&client()?, verb, output).await?,
        Verb::Volume(verb) => volume::run(&client()?, verb, output).await?,
        Verb::Sync(verb) => sync(&client()?, verb, output).await?,
        Verb::Run(verb) => return runs::run(&client()?, verb, output).await,
        Verb::Runner(verb) => runs::runner(&client()?, verb, output).await?,
        Verb::Waitpoint(verb) => runs::waitpoint(&client()?, verb, output).await?,
        Verb::Checkpoint(verb) => runs::checkpoint(&client()?, verb, output).await?,
        Verb::Doctor { listing, belayd } => {
            return doctor::run(belayd.as_deref(), listing, output).await;
        }
        Verb::Demo { as_runner: true, .. } => return demo::runner().await,
        Verb::Demo { clean: true, .. } => return demo::clean(output).await,
        Verb::Demo { belayd, once, clean: false, as_runner: false } => {
            let stay = if once { demo::Stay::Once } else { demo::Stay::UntilInterrupted };
            return demo::run(belayd.as_deref(), stay, output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn sync(client: &Client, verb: SyncVerb, output: &Output) -> Result<(), Ending> {
    match verb {
        SyncVerb::Status(listing) => {
            show::sync(client, listing, output).await?;
        }
        SyncVerb::Publish { targets, metadata } => {
            operate::publish(client, &targets, metadata, output).await?;
        }
        SyncVerb::Pause { workload } => {
            sync::act(client, &workload, "pause", output).await?;
        }
        SyncVerb::Resume { workload } => {
            sync::act(client, &workload, "resume", output).await?;
        }
        SyncVerb::Apply { workload } => {
            sync::act(client, &workload, "apply", output).await?;
        }
        SyncVerb::Rollback { workload, cid } => {
            sync::roll_back(client, &workload, cid, output).await?;
        }
        SyncVerb::Show { about, cid, listing } => {
            sync::show(client, &about, cid, listing, output).await?;
        }
        SyncVerb::Export { workload, cid } => {
            sync::export(client, &workload, cid.as_ref(), output).await?;
        }
        SyncVerb::Import { workload, file } => {
            sync::import(client, &workload, &file, output).await?;
        }
        SyncVerb::Diff { workload, from, to, live, listing } => {
            let to = if live { DiffAgainst::Live } else { DiffAgainst::Generation(to) };
            sync::diff(client, &workload, &from, &to, listing, output).await?;
        }
        SyncVerb::Takeover(who) => sync::take_over(client, &who, output).await?,
        SyncVerb::Keygen => operate::signing_key(client, output).await?,
        SyncVerb::Verify { workload, content, listing } => {
            let depth = if content { VerifyDepth::Content } else { VerifyDepth::Marks };
            sync::verify(client, &workload, depth, listing, output).await?;
        }
        SyncVerb::History { workload, listing } => {
            show::history(client, &workload, listing, output).await?;
        }
    }
    Ok(())
}
