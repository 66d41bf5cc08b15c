//! Keeping the state that one or several volumes have at one moment.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::syncfs;
use tracing::info;

use super::{BUILDING, Cloning, Generation, Paths, cloning, committed_beside, paths};
use crate::core::generation::{self, GenerationName};
use crate::core::plan::{ObservedImage, Refusal};
use crate::core::size::ByteSize;
use crate::core::spec::VolumeId;
use crate::error::{GenerationError, IoFault};
use crate::failpoint::{self, Moment};
use crate::freeze::{self, Freezable, FreezeFault};
use crate::volumes::Inner;
use crate::{image, ioctl, observe};

mod rest;

/// Who may write to volumes while their state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Anybody: they are held back.
    Anybody,
    /// Nobody, by the word of whoever stopped them.
    Nobody,
}

/// A volume whose state is to be kept.
pub(super) struct Subject {
    id: VolumeId,
    paths: Paths,
    size: ByteSize,
    image: File,
    /// Its root, if it is mounted and has to be frozen.
    root: Option<Freezable>,
    /// The number of its loop device then.
    minor: u32,
}

/// Whether the state of these volumes can be kept now. What they have to write is written, so that
/// keeping it has less to wait for.
pub(crate) fn prepare(
    inner: &Inner,
    ids: &[VolumeId],
    name: &GenerationName,
) -> Result<(), GenerationError> {
    let subjects = look(inner, ids, name)?;
    let Some(first) = subjects.first() else { return Ok(()) };
    let id = || first.id.clone();
    let found = cloning(inner.layout.images());
    match found.map_err(|source| GenerationError::Io { id: id(), source })? {
        Cloning::ByReference => {}
        Cloning::Unsupported => return Err(GenerationError::NotCloning { id: id() }),
    }
    let mounted = subjects.iter().filter(|subject| subject.root.is_some()).count();
    if let Some(watchdog) = &inner.config.watchdog {
        let ready = inner.guards.prepare(watchdog, mounted);
        ready.map_err(|source| GenerationError::Io { id: id(), source })?;
    }
    for subject in &subjects {
        let Some(Freezable { mount, root }) = &subject.root else { continue };
        let synced = syncfs(root).map_err(IoFault::on("sync", mount));
        synced.map_err(|source| GenerationError::Io { id: subject.id.clone(), source })?;
    }
    Ok(())
}

/// Keeps the state that these volumes have at one moment under a name, in each replacing what had
/// the name. When it fails, volumes that come later keep what had the name.
pub(crate) fn keep(
    inner: &Inner,
    ids: &[VolumeId],
    name: &GenerationName,
    writers: Writers,
) -> Result<Vec<Generation>, GenerationError> {
    let subjects = look(inner, ids, name)?;
    let mut building = Vec::new();
    let kept = clone_all(inner, &subjects, writers, &mut building)
        .and_then(|stall| name_all(&subjects, name, stall));
    if kept.is_err() {
        for path in building {
            // What stays is replaced by the next one, and swept by the next start.
            let _gone = fs::remove_file(path);
        }
    }
    let kept = kept?;
    for Generation { id, stall, .. } in &kept {
        info!(volume = %id, generation = %name, stall_us = stall.as_micros(), "generation kept");
    }
    Ok(kept)
}

/// Looks at the volumes and refuses what cannot be kept.
fn look(
    inner: &Inner,
    ids: &[VolumeId],
    name: &GenerationName,
) -> Result<Vec<Subject>, GenerationError> {
    let mut subjects = Vec::new();
    for id in ids {
        let io = |source| GenerationError::Io { id: id.clone(), source };
        let paths = paths(inner, id, name);
        let sight = observe::volume(&inner.layout, id).map_err(io)?;
        let ObservedImage::Present { size, .. } = sight.observed.image else {
            let refusal = Refusal::NoVolume;
            return Err(GenerationError::Refused { id: id.clone(), refusal });
        };
        super::refuse_mounted(id, &paths.mount)?;
        let device = sight.observed.devices.first().filter(|device| device.mounted_somewhere);
        let root = match device {
            None => None,
            Some(_) if inner.config.watchdog.is_none() => {
                return Err(GenerationError::NoWatchdog { id: id.clone() });
            }
            Some(device) => {
                let opened = freeze::open_root(&inner.layout.mount(id), device.minor);
                Some(opened.map_err(|fault| explain(id, fault))?)
            }
        };
        let image = image::open_unlocked(&paths.image).map_err(io)?;
        if root.is_some() {
            let extents = ioctl::count_extents(&image).map_err(IoFault::on("map", &paths.image));
            let extents = extents.map_err(io)?;
            if extents > inner.config.extents_max {
                return Err(GenerationError::Scattered { id: id.clone(), extents });
            }
        }
        let (id, size) = (id.clone(), ByteSize::bytes(size));
        let minor = device.map_or(0, |device| device.minor);
        subjects.push(Subject { id, paths, size, image, root, minor });
    }
    let Some(Subject { id, .. }) = subjects.first() else { return Ok(subjects) };
    let io = |source| GenerationError::Io { id: id.clone(), source };
    let available =
        image::available(inner.layout.images()).map_err(io)?.saturating_sub(inner.config.keep_free);
    let others = committed_beside(inner, ids).map_err(io)?;
    let sizes = subjects.iter().map(|subject| subject.size);
    let needed = sizes.fold(ByteSize::ZERO, ByteSize::saturating_add);
    generation::may_hold(available, others, needed)
        .map_err(|available| GenerationError::NoRoom { id: id.clone(), needed, available })?;
    Ok(subjects)
}

#[derive(Debug)]
enum TakeStep {
    Freeze,
    Clone,
}

/// Clones every image under its first name, while nothing writes to any of the volumes. Returns how
/// long their writers had to wait.
fn clone_all(
    inner: &Inner,
    subjects: &[Subject],
    writers: Writers,
    building: &mut Vec<PathBuf>,
) -> Result<Duration, GenerationError> {
    let mut targets = Vec::new();
    for Subject { id, paths, .. } in subjects {
        let path = paths.directory.join(BUILDING);
        let file = File::create(&path).map_err(IoFault::on("create", &path));
        targets.push(file.map_err(|source| GenerationError::Io { id: id.clone(), source })?);
        building.push(path);
    }
    if writers == Writers::Nobody {
        let began = Instant::now();
        if rest::clone_at_rest(subjects, &targets) {
            return Ok(began.elapsed());
        }
    }
    let clone = || {
        let reach = |step: TakeStep| {
            let reached = failpoint::reach("generation", &step, Moment::After);
            reached.map_err(|fault| (0, fault))
        };
        reach(TakeStep::Freeze)?;
        for (index, (subject, target)) in subjects.iter().zip(&targets).enumerate() {
            ioctl::clone_file(target, &subject.image)
                .map_err(IoFault::on("clone", &subject.paths.image))
                .map_err(|fault| (index, fault))?;
        }
        reach(TakeStep::Clone)
    };
    let of = |index: usize| &subjects[index].id;
    let mounted = subjects.iter().enumerate();
    let (places, roots): (Vec<usize>, Vec<&Freezable>) =
        mounted.filter_map(|(index, subject)| Some((index, subject.root.as_ref()?))).unzip();
    let Some(watchdog) = inner.config.watchdog.as_ref().filter(|_| !roots.is_empty()) else {
        // None of them is mounted: a mounted one was refused for want of a watchdog.
        let done = clone().map(|()| Duration::ZERO);
        return done.map_err(|(index, fault)| explain(of(index), FreezeFault::Io(fault)));
    };
    match freeze::while_frozen(watchdog, &inner.guards, &roots, clone) {
        Ok((Ok(()), stall)) => Ok(stall),
        Ok((Err((index, fault)), _)) => Err(explain(of(index), FreezeFault::Io(fault))),
        Err((index, fault)) => Err(explain(of(places[index]), fault)),
    }
}

/// Gives the clones their names. One that ends with this process need not outlive a power cut.
fn name_all(
    subjects: &[Subject],
    name: &GenerationName,
    stall: Duration,
) -> Result<Vec<Generation>, GenerationError> {
    let mut kept = Vec::new();
    for Subject { id, paths, root, .. } in subjects {
        let io = |source| GenerationError::Io { id: id.clone(), source };
        let building = paths.directory.join(BUILDING);
        if !name.is_passing() {
            let synced = File::open(&building).and_then(|file| file.sync_all());
            synced.map_err(IoFault::on("sync", &building)).map_err(io)?;
        }
        fs::rename(&building, &paths.generation)
            .map_err(IoFault::on("rename", &building))
            .map_err(io)?;
        if !name.is_passing() {
            image::sync_directory(&paths.directory).map_err(io)?;
        }
        let stall = if root.is_some() { stall } else { Duration::ZERO };
        let (id, image) = (id.clone(), paths.generation.clone());
        kept.push(Generation { id, name: name.clone(), image, stall });
    }
    Ok(kept)
}

fn explain(id: &VolumeId, fault: FreezeFault) -> GenerationError {
    let id = id.clone();
    match fault {
        FreezeFault::NotItsDevice => GenerationError::NotMountedHere { id },
        FreezeFault::TooLong => GenerationError::TooLong { id },
        FreezeFault::Io(source)
            if matches!(
                source.source.raw_os_error().map(Errno::from_raw),
                Some(Errno::EOPNOTSUPP | Errno::EXDEV | Errno::ENOTTY)
            ) =>
        {
            GenerationError::NotCloning { id }
        }
        FreezeFault::Io(source) => GenerationError::Io { id, source },
    }
}
