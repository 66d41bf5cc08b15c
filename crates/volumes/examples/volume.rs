//! One operation on the volumes of a directory, and out, as the daemon would do it. The tests run
//! it to kill it: with the failpoints compiled in, `BELAY_VOLUMES_FAILPOINT` says where.
//!
//! `volume <root> <first loop device> ensure <workload/volume> <size> [ext4|xfs|btrfs]`
//! `volume <root> <first loop device> release|remove <workload/volume>`
//! `volume <root> <first loop device> keep|swap <workload/volume> <generation>`
//! `volume thaw-watchdog`
//!
//! `BELAY_VOLUMES_POOL` is the size of a pool, if there is one.

use std::process::ExitCode;

use belay_volumes::{VolumeSpec, Volumes, VolumesConfig, Watchdog, thaw_watchdog};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["thaw-watchdog"] {
        return Ok(thaw_watchdog());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match runtime.block_on(operate(&arguments)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // As an operator reads it, causes included.
        Err(failure) => Err(explain(&*failure).into()),
    }
}

fn explain(failure: &dyn std::error::Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn operate(arguments: &[String]) -> Result<(), Failure> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [root, first, rest @ ..] = words.as_slice() else {
        return Err("expected a directory and the number of a loop device".into());
    };
    let first = first.parse()?;
    let mut config = VolumesConfig::new(*root);
    config.minors = first..first + 64;
    config.pool = std::env::var("BELAY_VOLUMES_POOL").ok().map(|size| size.parse()).transpose()?;
    config.watchdog = Some(Watchdog {
        program: "/proc/self/exe".into(),
        arguments: vec!["thaw-watchdog".to_owned()],
    });
    let volumes = Volumes::open(config).await?;
    match rest {
        ["ensure", id, size] => provide(&volumes, id, size, "ext4").await,
        ["ensure", id, size, file_system] => provide(&volumes, id, size, file_system).await,
        ["release", id] => Ok(volumes.release(&id.parse()?).await?),
        ["remove", id] => Ok(volumes.remove(&id.parse()?).await?),
        ["keep", id, name] => {
            volumes.keep_generation(&id.parse()?, &name.parse()?).await?;
            Ok(())
        }
        ["swap", id, name] => Ok(volumes.swap_generation(&id.parse()?, &name.parse()?).await?),
        _ => Err("expected an operation and a volume".into()),
    }
}

async fn provide(
    volumes: &Volumes,
    id: &str,
    size: &str,
    file_system: &str,
) -> Result<(), Failure> {
    let mut spec = VolumeSpec::data(id.parse()?, size.parse()?);
    spec.file_system = file_system.parse()?;
    volumes.ensure(&spec).await?;
    Ok(())
}
