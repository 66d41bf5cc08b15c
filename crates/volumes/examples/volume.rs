//! One operation on the volumes of a directory, and out, as the daemon would do it. The tests run
//! it to kill it: with the failpoints compiled in, `BELAY_VOLUMES_FAILPOINT` says where.
//!
//! `volume <root> <first loop device> ensure <workload/volume> <size> [ext4|xfs|btrfs]`
//! `volume <root> <first loop device> release|remove <workload/volume>`

use belay_volumes::{VolumeSpec, Volumes, VolumesConfig};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [root, first, rest @ ..] = words.as_slice() else {
        return Err("expected a directory and the number of a loop device".into());
    };
    let first = first.parse()?;
    let mut config = VolumesConfig::new(*root);
    config.minors = first..first + 64;
    let volumes = Volumes::open(config).await?;
    match rest {
        ["ensure", id, size] => provide(&volumes, id, size, "ext4").await,
        ["ensure", id, size, file_system] => provide(&volumes, id, size, file_system).await,
        ["release", id] => Ok(volumes.release(&id.parse()?).await?),
        ["remove", id] => Ok(volumes.remove(&id.parse()?).await?),
        _ => Err("expected ensure, release or remove with a volume".into()),
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
