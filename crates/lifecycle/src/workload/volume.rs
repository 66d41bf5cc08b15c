//! Acting on one volume of the workload, on an operator's word.
//!
//! The workload's task is the one that mounts and unmounts its volumes, so nothing else can be at
//! work on them meanwhile. Whatever replaces or repairs what is in a volume waits for a stopped
//! workload: belayd says so and does not stop it by itself.

use belay_engine::Liveness;
use belay_protocol::{DesiredState, OperationOutcome, Problem, ProblemCode, VolumeAct, VolumeName};
use belay_volumes::{ByteSize, GenerationName, SYSTEM_VOLUME, VolumeId, VolumeSpec, VolumeStatus};

use super::pending::PendingKind;
use super::state::State;
use crate::core::machine::VolumesFact;
use crate::node::VolumesLook;
use crate::problems;
use crate::reporter::Reporter;
use crate::volume_act;

/// File systems are made of such blocks, and images of whole ones.
const BLOCK: u64 = 4096;

impl State {
    /// Takes an act on one volume, does it, has the node show what came of it, and answers.
    pub(crate) async fn act_on_volume(
        &mut self,
        volume: VolumeName,
        act: VolumeAct,
        look: &VolumesLook,
        reporter: Reporter,
    ) {
        let id = VolumeId { workload: self.name.clone(), volume };
        let shutdown = self.context.shutdown.clone();
        let done = if let Some(problem) = self.volume_obstacle() {
            Err(problem)
        } else {
            tokio::select! {
                done = self.volume_act(&id, &act, &reporter) => done,
                // What has begun goes on without this task, or is found and finished next time.
                () = shutdown.cancelled() => Err(self.gone()),
            }
        };
        match done {
            Ok(summary) => {
                tracing::info!(volume = %id, act = act.verb(), "{summary}");
                volume_act::tell_done(&self.context.events, &id, &act, &summary);
                look.now().await;
                reporter.finish(Ok(OperationOutcome { summary, publish: None }));
            }
            Err(problem) => {
                tracing::warn!(volume = %id, act = act.verb(), "{}", problem.detail);
                look.now().await;
                reporter.finish(Err(problem));
            }
        }
    }

    /// What is under way and has to end before a volume is acted on.
    fn volume_obstacle(&self) -> Option<Problem> {
        let Some(known) = &self.known else { return Some(self.unknown()) };
        if self.context.shutdown.is_cancelled() {
            return Some(self.gone());
        }
        if let Some(pending) = &self.pending {
            return Some(self.busy(pending.kind));
        }
        if known.record.removing.is_some() {
            return Some(self.busy(PendingKind::Remove));
        }
        if known.record.previous.is_some() {
            return Some(self.busy(PendingKind::Deploy));
        }
        (self.window.is_some() || self.window_request.is_some()).then(|| {
            Problem::new(
                ProblemCode::Busy,
                format!("volume-sync is at work on the volumes of {}", self.name),
                format!("belay sync status {} shows when it is done", self.name),
            )
        })
    }

    async fn volume_act(
        &mut self,
        id: &VolumeId,
        act: &VolumeAct,
        reporter: &Reporter,
    ) -> Result<String, Problem> {
        let declared = self.volume_specs().into_iter().find(|spec| spec.id == *id);
        let found = self.found_volume(id, declared.as_ref()).await?;
        let volumes = self.context.volumes.clone();
        match act {
            VolumeAct::Grow(request) => {
                let size = parse_size(&request.size)?;
                let spec = declared.ok_or_else(|| self.unnamed(id, "grown"))?;
                self.grow(&found, spec, size, reporter).await
            }
            VolumeAct::Check(request) => {
                self.require_rest(id, act).await?;
                reporter.progress("check", format!("the file system of {id}, {}", found.size));
                volume_act::check(&volumes, id, request.mode).await
            }
            VolumeAct::Reset => {
                let spec = declared.ok_or_else(|| self.unnamed(id, "reset"))?;
                self.require_rest(id, act).await?;
                self.reset(spec, reporter).await
            }
            VolumeAct::Rollback(request) => {
                self.require_rest(id, act).await?;
                self.roll_volume_back(id, request.generation.as_deref()).await
            }
            VolumeAct::Adopt => {
                self.require_rest(id, act).await?;
                reporter.progress("adopt", format!("checking the image in the place of {id}"));
                volume_act::adopt(&volumes, id).await
            }
            VolumeAct::Trim => {
                let freed = volumes.trim(id).await;
                let freed = freed.map_err(|error| volume_act::care(&error, id))?;
                Ok(format!("{id} gave {freed} back to the host"))
            }
            VolumeAct::Remove if declared.is_some() => Err(Problem::new(
                ProblemCode::VolumeInUse,
                format!("{} names volume {}", self.name, id.volume),
                format!(
                    "take it out of the spec and deploy that first; belay volume reset {id} \
                     empties it"
                ),
            )),
            VolumeAct::Remove => {
                let removed = volume_act::remove(&volumes, id).await?;
                // A volume of this name that is made later begins with what its spec says.
                self.change(|record| _ = record.grown.remove(&id.volume)).await?;
                Ok(removed)
            }
        }
    }

    async fn found_volume(
        &self,
        id: &VolumeId,
        declared: Option<&VolumeSpec>,
    ) -> Result<VolumeStatus, Problem> {
        let listed = self.context.volumes.list().await.map_err(|error| {
            let next = "belay doctor shows what the host lacks";
            Problem::new(ProblemCode::VolumeUnavailable, problems::with_causes(&error), next)
        })?;
        let mut names = Vec::new();
        for status in listed {
            if status.id == *id {
                return Ok(status);
            }
            if status.id.workload == self.name && status.id.volume.as_str() != SYSTEM_VOLUME {
                names.push(status.id.volume.to_string());
            }
        }
        Err(volume_act::absent(
            id,
            &match (declared, names.as_slice()) {
                (Some(_), _) => " yet: it is made when its workload starts".to_owned(),
                (None, []) => format!("; {} has none", self.name),
                (None, names) => format!("; {} has {}", self.name, names.join(", ")),
            },
        ))
    }

    fn unnamed(&self, id: &VolumeId, done: &str) -> Problem {
        Problem::new(
            ProblemCode::VolumeRefused,
            format!("the spec of {} does not name {}, so it is not {done}", self.name, id.volume),
            format!("name it in the spec and deploy that, or delete it: belay volume rm {id}"),
        )
    }

    /// Refuses what would harm a volume that is in use.
    async fn require_rest(&mut self, id: &VolumeId, act: &VolumeAct) -> Result<(), Problem> {
        self.stale();
        self.refresh().await;
        let name = &self.name;
        let verb = act.verb();
        let Some(seen) = &self.seen else {
            return Err(Problem::new(
                ProblemCode::EngineUnreachable,
                format!(
                    "whether {name} runs cannot be told, so {id} is not touched: {}",
                    self.engine_fault.clone().unwrap_or_default()
                ),
                "belay doctor says what is missing; then repeat the command",
            ));
        };
        let wanted = self.known.as_ref().map(|known| known.record.run);
        let running = seen.iter().any(|c| c.state.liveness() != Liveness::Stopped);
        if wanted == Some(DesiredState::Running) || running {
            return Err(Problem::new(
                ProblemCode::VolumeInUse,
                format!("{name} is {}, and {verb} of {id} needs it stopped", self.phase.as_str()),
                format!("belay stop {name}, then repeat the command, then belay start {name}"),
            ));
        }
        if !seen.is_empty() || self.volumes != VolumesFact::Released {
            return Err(Problem::new(
                ProblemCode::Busy,
                format!("{name} is being stopped, and {id} is not released yet"),
                format!("belay status {name} shows when it is stopped; then repeat the command"),
            ));
        }
        Ok(())
    }

    async fn grow(
        &mut self,
        found: &VolumeStatus,
        mut spec: VolumeSpec,
        size: ByteSize,
        reporter: &Reporter,
    ) -> Result<String, Problem> {
        let id = spec.id.clone();
        if size < found.size {
            return Err(Problem::new(
                ProblemCode::VolumeRefused,
                format!(
                    "{id} has {} ({} bytes) and {size} ({} bytes) was asked for: a volume never \
                     shrinks",
                    found.size,
                    found.size.as_u64(),
                    size.as_u64()
                ),
                "copy what is in it to a new, smaller volume; nothing was changed",
            ));
        }
        spec.size = size;
        let online = self.running_incarnation().is_some();
        if size > found.size {
            reporter.progress("grow", format!("{id} from {} to {size}", found.size));
        }
        // The image grows first and the record follows: in between, what is there already is what
        // is mounted next, and a growth that was cut off is completed by that.
        let grown = self.context.volumes.ensure(&spec).await;
        if self.volumes == VolumesFact::Released {
            self.release_again(&id).await;
        }
        let grown = grown.map_err(|error| volume_act::ensure(&error, &id))?;
        let bytes = grown.size.as_u64();
        self.change(|record| _ = record.grown.insert(id.volume.clone(), bytes)).await?;
        if let Some(mounted) = self.mounted.iter_mut().find(|mounted| mounted.id == id) {
            *mounted = grown;
            if self.sync.is_some() && self.volumes == VolumesFact::Whole {
                self.run_sync();
            }
        }
        if size == found.size {
            return Ok(format!("{id} has {size} already"));
        }
        let went_on =
            if online { format!("; {} went on running", self.name) } else { String::new() };
        Ok(format!("{id} has {size}, {} before{went_on}", found.size))
    }

    /// Empties a volume. Nothing of it is remembered: a kill leaves the volume as it was, or gone
    /// and made anew when its workload starts, and neither empties it a second time.
    async fn reset(&mut self, spec: VolumeSpec, reporter: &Reporter) -> Result<String, Problem> {
        let (id, size) = (spec.id.clone(), spec.size);
        let volumes = self.context.volumes.clone();
        reporter.progress("reset", format!("deleting {id}"));
        volumes.remove(&id).await.map_err(|error| volume_act::removal(&error, &id))?;
        reporter.progress("reset", format!("making {id} anew, {size}"));
        let made = volumes.ensure(&spec).await;
        self.release_again(&id).await;
        made.map_err(|error| {
            let problem = volume_act::ensure(&error, &id);
            let detail = format!("{id} was deleted and not made anew: {}", problem.detail);
            Problem { detail, ..problem }
        })?;
        Ok(format!("{id} is empty; belay start {} starts with it", self.name))
    }

    async fn release_again(&mut self, id: &VolumeId) {
        if let Err(error) = self.context.volumes.release(id).await {
            // The next step releases whatever is still mounted.
            tracing::warn!(volume = %id, "{}", problems::with_causes(&error));
            self.volumes = VolumesFact::Partial;
        }
    }

    async fn roll_volume_back(
        &self,
        id: &VolumeId,
        wanted: Option<&str>,
    ) -> Result<String, Problem> {
        let volumes = &self.context.volumes;
        let kept = volumes.generations(id).await;
        let kept = kept.map_err(|error| volume_act::generation(&error, id))?;
        let names: Vec<String> = kept.iter().map(ToString::to_string).collect();
        let choose = |why: String| {
            let next = format!("belay volume show {id} lists them; nothing was changed");
            Err(Problem::new(ProblemCode::VolumeRefused, why, next))
        };
        let chosen = match (wanted, kept.as_slice()) {
            (_, []) => return choose(format!("no earlier state of {id} is kept")),
            (None, [only]) => only.clone(),
            (None, _) => {
                let names = names.join(", ");
                return choose(format!("{id} has several generations, name one: {names}"));
            }
            (Some(wanted), kept) => {
                let asked = wanted.parse::<GenerationName>().ok();
                let Some(name) = asked.filter(|name| kept.contains(name)) else {
                    let wanted: String = wanted.chars().take(80).collect();
                    let names = names.join(", ");
                    return choose(format!("{id} has no generation {wanted:?}, only {names}"));
                };
                name
            }
        };
        let swapped = volumes.swap_generation(id, &chosen).await;
        swapped.map_err(|error| volume_act::generation(&error, id))?;
        Ok(format!("{id} is generation {chosen}; what it was has that name now"))
    }

    /// The size that a volume was promised: what its spec says, or what an operator grew it to.
    pub(crate) fn promised(&self, volume: &VolumeName, declared: ByteSize) -> ByteSize {
        let grown = self.known.as_ref().and_then(|known| known.record.grown.get(volume));
        grown.map_or(declared, |bytes| declared.max(ByteSize::bytes(*bytes)))
    }

    /// The specs of the volumes with the sizes that those which exist have: a version that asked
    /// for less is restored on them, and a growth that was cut off is completed.
    pub(crate) async fn volume_specs_as_found(&self) -> Vec<VolumeSpec> {
        let mut specs = self.volume_specs();
        if let Ok(listed) = self.context.volumes.list().await {
            for spec in &mut specs {
                let found = listed.iter().find(|found| found.id == spec.id);
                let whole = found.filter(|found| found.fault.is_none());
                spec.size = whole.map_or(spec.size, |found| found.size.max(spec.size));
            }
        }
        specs
    }
}

/// Reads a size as a spec has it, rounded up to whole blocks.
fn parse_size(text: &str) -> Result<ByteSize, Problem> {
    let wrong = |why: String| {
        Problem::new(
            ProblemCode::InvalidRequest,
            why,
            "name a size such as 64M or 1.5G; nothing was changed",
        )
    };
    let size: ByteSize = text.parse().map_err(|error| wrong(format!("{error}")))?;
    if size == ByteSize::ZERO {
        return Err(wrong(format!("{text:?} is not a size for a volume: it is zero")));
    }
    size.round_up(BLOCK).ok_or_else(|| wrong(format!("{size} is larger than any disk")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_as_in_a_spec_and_rounded_to_blocks() {
        assert_eq!(parse_size("64M").expect("a size"), ByteSize::mib(64));
        assert_eq!(parse_size("4097").expect("a size"), ByteSize::bytes(8192));
        for (wrong, words) in [
            ("", "expected a number"),
            ("0", "it is zero"),
            ("-1M", "it is negative"),
            ("64MB", "\"MB\" is not a unit"),
            ("64 potatoes", "is not a unit"),
            ("99999999999T", "larger than any disk"),
            ("18446744073709551615", "larger than any disk"),
        ] {
            let problem = parse_size(wrong).expect_err(wrong);
            assert_eq!(problem.code, ProblemCode::InvalidRequest);
            assert!(problem.detail.contains(words), "{wrong}: {}", problem.detail);
        }
    }
}
