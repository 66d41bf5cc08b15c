//! Volumes: provisioning and release beside the system calls and the mkfs that they cannot do
//! without, and what a capture costs a writer.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use belay_volumes::testing::Floor;
use belay_volumes::{ByteSize, GenerationName, VolumeSpec, Volumes, VolumesConfig, Watchdog};

use crate::report::{Row, Target};

/// Numbers of loop devices that nothing else uses here.
const MINORS: std::ops::Range<u32> = 900_000..900_256;
const FLOOR_MINOR: u32 = 900_300;
const PARALLEL: usize = 64;

pub(crate) async fn run(rounds: usize) -> Result<Vec<Row>> {
    let scratch = tempfile::Builder::new().prefix("belay-bench-").tempdir_in("/var/tmp")?;
    let mut rows = provisioning(scratch.path(), rounds).await?;
    rows.extend(parallel(scratch.path()).await?);
    rows.extend(captures(scratch.path(), rounds).await?);
    Ok(rows)
}

fn config(root: std::path::PathBuf) -> VolumesConfig {
    let mut config = VolumesConfig::new(root);
    config.minors = MINORS;
    config.watchdog = Some(Watchdog {
        program: "/proc/self/exe".into(),
        arguments: vec!["thaw-watchdog".to_owned()],
    });
    config
}

fn spec(name: &str, size: ByteSize) -> Result<VolumeSpec> {
    Ok(VolumeSpec::data(format!("bench/{name}").parse()?, size))
}

async fn provisioning(scratch: &Path, rounds: usize) -> Result<Vec<Row>> {
    let volumes = Volumes::open(config(scratch.join("provision"))).await?;
    let mut rows = Vec::new();
    for mib in [10, 256, 1024] {
        let wanted = spec("one", ByteSize::mib(mib))?;
        let (mut provided, mut floor) = (Vec::new(), Vec::new());
        let (mut released, mut floor_released) = (Vec::new(), Vec::new());
        // In turns, so that both see the same machine.
        for _ in 0..rounds {
            let began = Instant::now();
            volumes.ensure(&wanted).await?;
            provided.push(began.elapsed());
            let began = Instant::now();
            volumes.release(&wanted.id).await?;
            released.push(began.elapsed());
            volumes.remove(&wanted.id).await?;
            let raw = Floor::provision(scratch, FLOOR_MINOR, wanted.size)?;
            floor.push(raw.provision);
            floor_released.push(raw.release()?);
        }
        rows.push(Row {
            name: format!("provision {}", wanted.size),
            samples: provided,
            floor,
            target: Target::Ratio(1.5),
        });
        rows.push(Row {
            name: format!("release {}", wanted.size),
            samples: released,
            floor: floor_released,
            target: Target::Ratio(1.5),
        });
    }
    let wanted = spec("again", ByteSize::mib(256))?;
    volumes.ensure(&wanted).await?;
    let (mut again, mut attach) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        volumes.ensure(&wanted).await?;
        again.push(began.elapsed());
        let raw = Floor::provision(scratch, FLOOR_MINOR, ByteSize::mib(10))?;
        attach.push(raw.attach);
        raw.release()?;
    }
    volumes.release(&wanted.id).await?;
    rows.push(row("ensure of a mounted volume", again, Target::None));
    rows.push(row("attach", attach, Target::Limit(Duration::from_micros(500))));
    Ok(rows)
}

async fn parallel(scratch: &Path) -> Result<Vec<Row>> {
    let volumes = Volumes::open(config(scratch.join("parallel"))).await?;
    let specs: Vec<_> = (0..PARALLEL)
        .map(|number| spec(&format!("v{number}"), ByteSize::mib(10)))
        .collect::<Result<_>>()?;
    let began = Instant::now();
    let running: Vec<_> = specs
        .iter()
        .map(|wanted| {
            let (volumes, wanted) = (volumes.clone(), wanted.clone());
            tokio::spawn(async move { volumes.ensure(&wanted).await })
        })
        .collect();
    for task in running {
        task.await?.context("one of the volumes in parallel")?;
    }
    let provided = began.elapsed();
    let began = Instant::now();
    let running: Vec<_> = specs
        .iter()
        .map(|wanted| {
            let (volumes, id) = (volumes.clone(), wanted.id.clone());
            tokio::spawn(async move { volumes.release(&id).await })
        })
        .collect();
    for task in running {
        task.await?.context("one of the releases in parallel")?;
    }
    let released = began.elapsed();
    Ok(vec![
        row("provision 64 volumes of 10Mi at once", vec![provided], Target::None),
        row("release 64 volumes at once", vec![released], Target::None),
    ])
}

async fn captures(scratch: &Path, rounds: usize) -> Result<Vec<Row>> {
    let mut config = config(scratch.join("captures"));
    config.pool = Some(ByteSize::mib(3200));
    let volumes = Volumes::open(config).await?;
    let wanted = spec("store", ByteSize::mib(1024))?;
    let name: GenerationName = "a".parse()?;
    let mounted = volumes.ensure(&wanted).await?;
    let (mut idle, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        idle.push(volumes.keep_generation(&wanted.id, &name).await?.stall);
        whole.push(began.elapsed());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, path) = (Arc::clone(&stop), mounted.data.join("log"));
        std::thread::spawn(move || transactions(&path, &stop))
    };
    let mut loaded = Vec::new();
    for _ in 0..rounds {
        loaded.push(volumes.keep_generation(&wanted.id, &name).await?.stall);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let latencies = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    volumes.release(&wanted.id).await?;
    let mut swaps = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        volumes.swap_generation(&wanted.id, &name).await?;
        swaps.push(began.elapsed());
    }
    volumes.release_pool().await?;
    let limit = Target::Limit(Duration::from_millis(10));
    Ok(vec![
        row("freeze, clone and thaw of an idle 1Gi volume", idle, limit),
        row("the same with sync, watchdog and record", whole, Target::None),
        row("write stall of a clone under 300 fsync/s", loaded, Target::None),
        row("transactions of that writer", latencies, Target::None),
        row("swap of generations", swaps, Target::Limit(Duration::from_millis(10))),
    ])
}

/// About 300 small synced writes a second; returns how long each took.
fn transactions(path: &Path, stop: &AtomicBool) -> std::io::Result<Vec<Duration>> {
    let mut file = File::create(path)?;
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        file.write_all(&[7; 512])?;
        file.sync_data()?;
        took.push(began.elapsed());
        std::thread::sleep(Duration::from_micros(3300).saturating_sub(began.elapsed()));
    }
    Ok(took)
}

fn row(name: &str, samples: Vec<Duration>, target: Target) -> Row {
    Row { name: name.to_owned(), samples, floor: Vec::new(), target }
}
