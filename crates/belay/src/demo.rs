//! `belay demo`: two belayd on this machine, a container each on a volume of its own, a replication
//! between them that is asked for from inside a container, and two runs that wait.
//!
//! Everything lies in one directory. What a demo that was killed left there is removed before the
//! next one begins, and what this one made is removed when it ends, by itself or by a signal.

mod image;
mod interrupt;
mod leftovers;
mod narrator;
mod node;
mod place;
mod runner;
mod runs;
mod story;
mod tool;
mod web;

use std::path::Path;
use std::process::ExitCode;

use crate::command;
use crate::demo::interrupt::Interrupt;
use crate::demo::leftovers::{Images, Leftovers};
use crate::demo::narrator::Narrator;
use crate::demo::place::Place;
use crate::demo::story::Stage;
use crate::failure::{self, Ending, Failure};
use crate::output::Output;

/// Exit code after an interrupt, when everything was removed: 128 and `SIGINT`.
const INTERRUPTED: u8 = 130;

/// What happens after the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stay {
    /// It ends at once.
    Once,
    /// Both nodes stay up until a signal.
    UntilInterrupted,
}

/// Runs the demo, and removes everything it made.
pub(crate) async fn run(
    belayd: Option<&Path>,
    stay: Stay,
    output: &Output,
) -> Result<ExitCode, Ending> {
    let belayd = command::find_belayd(belayd)?;
    require_root()?;
    let mut interrupt = Interrupt::watch()?;
    let narrator = Narrator::new(output);
    narrator.title("Belay demo: two nodes on this machine, a volume replicated between them.")?;
    story::check_host(&belayd, &narrator).await?;
    let place = Place::claim()?;
    sweep_earlier(&place, &narrator).await?;

    let mut stage = Stage::new(belayd, &place)?;
    place.create()?;
    let told = tokio::select! {
        told = story::tell(&mut stage, stay, &narrator) => told.map(|()| ExitCode::SUCCESS),
        signal = interrupt.arrived() => {
            narrator.say("signal", &format!("{signal}: cleaning up"))?;
            Ok(ExitCode::from(INTERRUPTED))
        }
    };
    let told = match told {
        // Staying ends with a signal; by then the story was told to its end.
        Ok(_) if stage.is_told() => Ok(ExitCode::SUCCESS),
        Err(Ending::Failed(mut failure)) => {
            failure.details.extend(stage.log_tails());
            Err(Ending::Failed(failure))
        }
        other => other,
    };
    let cleaned = clean_up(stage, &place, &narrator).await;
    // The first failure is the one to show; a failed clean-up after it is shown on the side.
    match (told, cleaned) {
        (Err(failed), Err(Ending::Failed(also))) => {
            output.failure(&also);
            Err(failed)
        }
        (Err(failed), _) => Err(failed),
        (Ok(code), cleaned) => cleaned.map(|()| code),
    }
}

/// Removes what a demo that was killed left behind, and does nothing else.
pub(crate) async fn clean(output: &Output) -> Result<ExitCode, Ending> {
    require_root()?;
    let narrator = Narrator::new(output);
    sweep_earlier(&Place::claim()?, &narrator).await?;
    narrator.say("clean", "nothing of a demo is left")?;
    Ok(ExitCode::SUCCESS)
}

/// Works as the demo's runner, in a container.
pub(crate) async fn runner() -> Result<ExitCode, Ending> {
    runner::work().await
}

fn require_root() -> Result<(), Ending> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(
        failure::NO_PERMISSION,
        "the demo mounts volumes and runs containers, which takes root",
        "sudo belay demo",
    )
    .into())
}

/// Removes what a demo that could not clean up left behind.
async fn sweep_earlier(place: &Place, narrator: &Narrator<'_>) -> Result<(), Ending> {
    let found = Leftovers::find(place).await?;
    if found.is_empty() && !place.exists() {
        return Ok(());
    }
    narrator.say("earlier", &format!("an earlier demo was cut; removing {found}"))?;
    leftovers::sweep(place).await?;
    place.remove()
}

/// Removes the workloads through the API, ends both belayd, and proves that nothing is left.
async fn clean_up(stage: Stage<'_>, place: &Place, narrator: &Narrator<'_>) -> Result<(), Ending> {
    let images = Images::of_containers().await;
    let orderly = stage.end(narrator).await;
    if let Ok(images) = images {
        images.remove().await;
    }
    let found = Leftovers::find_settled(place).await?;
    let left = found.to_string();
    if !found.is_empty() {
        leftovers::sweep(place).await?;
    }
    place.remove()?;
    orderly?;
    if !found.is_empty() {
        return Err(Failure::new(
            failure::SOFTWARE,
            format!("belayd left {left} behind; the demo removed that by force"),
            "report this as a bug",
        )
        .into());
    }
    narrator.say(
        "clean",
        &format!(
            "no container, mount, loop device or process of the demo is left; {} is gone",
            place.directory().display()
        ),
    )
}
