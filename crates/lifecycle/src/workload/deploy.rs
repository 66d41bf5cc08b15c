//! Replacing a spec: check everything, fetch, then put it in force.

use std::time::Duration;

use belay_engine::Image;
use belay_protocol::event::AskedVerb;
use belay_protocol::{DesiredState, Problem, ProblemCode, VolumeName};
use belay_volumes::{Allocation, ByteSize, VolumeStatus};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::command::Occasion;
use super::pending::PendingKind;
use super::state::{Fetch, FetchPurpose, Known, State, Wish};
use crate::core::limits;
use crate::core::machine::{Renewal, VolumesFact};
use crate::core::record::{Declaration, ImageInForce, Interruption, Source, WorkloadRecord};
use crate::core::spec::{self, ImageSource, PullPolicy, WorkloadSpec};
use crate::images::{Fetched, ImageLease, Urgency, Want};
use crate::reporter::Reporter;
use crate::{host, problems, secrets};

/// Pause before a spec from a file that could not be deployed is tried again.
const WISH_RETRY: Duration = Duration::from_secs(60);

impl State {
    /// Takes a deploy: refuses it, or begins to fetch its image. Nothing is changed yet.
    pub(crate) async fn deploy(
        &mut self,
        declaration: Declaration,
        spec: Box<WorkloadSpec>,
        reporter: Reporter,
    ) {
        if let Some(known) = &self.known {
            let declared_by_file = known.record.declaration.source == Source::File;
            if declared_by_file && declaration.source == Source::Api {
                reporter.finish(Err(self.owned_by_file(&known.record.declaration.file)));
                return;
            }
            if known.record.removing.is_some() {
                reporter.finish(Err(self.busy(PendingKind::Remove)));
                return;
            }
            if let Some(reason) = &known.record.halted {
                let problem = self.halted(reason);
                reporter.finish(Err(problem));
                return;
            }
        }
        if !self.begin(PendingKind::PrepareDeploy, reporter) {
            return;
        }
        self.tell_asked(AskedVerb::Deploy);
        // A tag may have moved, and a file may have changed: then the image says whether it differs.
        if self.is_in_force(&spec) && !may_have_moved(&spec) {
            self.deploy_again(declaration).await;
            return;
        }
        if let Some(problem) = self.refusal(&spec).await {
            self.refuse_deploy(problem);
            return;
        }
        self.prepare(declaration, spec);
    }

    fn owned_by_file(&self, file: &str) -> Problem {
        Problem::new(
            ProblemCode::OwnedByFile,
            format!("{} is declared by {file}", self.name),
            format!("edit {file} and reload belayd: systemctl reload belayd"),
        )
    }

    /// Whether a spec says the same as the one in force, however it is written.
    fn is_in_force(&self, spec: &WorkloadSpec) -> bool {
        self.known
            .as_ref()
            .is_some_and(|known| known.spec == *spec && known.record.previous.is_none())
    }

    /// Deploys what is in force already: nothing is replaced, but it is made to run.
    async fn deploy_again(&mut self, declaration: Declaration) {
        if let Some(pending) = &mut self.pending {
            pending.kind = PendingKind::Start;
            pending.reporter.progress("deploy", "this spec is in force already");
        }
        let running = self.running_incarnation().is_some();
        let written = self
            .change(|record| {
                record.run = DesiredState::Running;
                record.failures = 0;
                record.next_try_at = None;
                record.failed = None;
                if !running {
                    record.interruption = Interruption::Planned;
                }
                // The label on its container still carries the old text; the spec is the same.
                record.declaration = declaration;
            })
            .await;
        self.stale();
        if let Err(problem) = written {
            self.fail_pending(problem);
        }
    }

    /// Everything that speaks against a spec on this host, in one problem.
    async fn refusal(&self, spec: &WorkloadSpec) -> Option<Problem> {
        let mut against = Vec::new();
        let own: Vec<_> = self
            .known
            .as_ref()
            .filter(|_| self.running_incarnation().is_some())
            .map(|known| known.spec.ports.clone())
            .unwrap_or_default();
        let mut code = ProblemCode::VolumeUnavailable;
        let wanted = spec.ports.iter().copied();
        let foreign = wanted.filter(|port| !own.iter().any(|mine| spec::overlaps(mine, port)));
        for taken in host::taken_ports(foreign.collect()).await {
            code = ProblemCode::PortTaken;
            against.push(taken);
        }
        for wrong in secrets::faults(&spec.secrets, &self.context.runtime_dir).await {
            code = ProblemCode::SecretUnavailable;
            against.push(wrong);
        }
        let abilities = &self.context.engine.info().abilities;
        for missing in limits::unsupported(&spec.limits, abilities) {
            code = ProblemCode::LimitUnsupported;
            against.push(format!("{missing}, which this host's kernel or engine does not have"));
        }
        match self.context.volumes.list().await {
            Ok(existing) => {
                against.extend(self.want_of_space(spec, &existing));
                for found in existing.iter().filter(|found| found.id.workload == self.name) {
                    let Some(wanted) = spec.volumes.get(&found.id.volume) else { continue };
                    if self.promised(&found.id.volume, wanted.size) < found.size {
                        against.push(format!(
                            "volume {} has {} and the spec wants {}: a volume never shrinks",
                            found.id, found.size, wanted.size
                        ));
                    }
                }
            }
            Err(error) => against.push(problems::with_causes(&error)),
        }
        if against.is_empty() {
            return None;
        }
        let detail = format!("{}: {}", self.name, against.join("; "));
        Some(Problem::new(code, detail, "correct the spec; nothing was changed"))
    }

    /// Why the volumes that a spec adds do not fit on this host, if they do not.
    fn want_of_space(&self, spec: &WorkloadSpec, existing: &[VolumeStatus]) -> Option<String> {
        let is_new = |name: &VolumeName| {
            !existing.iter().any(|v| v.id.workload == self.name && v.id.volume == *name)
        };
        let needed = spec
            .volumes
            .iter()
            .filter(|(name, volume)| volume.allocation == Allocation::Full && is_new(name))
            .fold(ByteSize::ZERO, |sum, (_, volume)| sum.saturating_add(volume.size));
        let directory = &self.context.workloads_dir;
        match host::free_space(directory) {
            Ok(free) if needed > free => Some(format!(
                "its volumes need {needed} on the host, {} has {free} free",
                directory.display()
            )),
            Ok(_) => None,
            Err(error) => Some(format!("cannot measure {}: {error}", directory.display())),
        }
    }

    fn prepare(&mut self, declaration: Declaration, spec: Box<WorkloadSpec>) {
        let task = self.begin_fetch(self.want(&spec, None));
        // A fetch for the spec in force gives way: what it fetched stays in the engine's store.
        if let Some(old) =
            self.fetch.replace(Fetch { purpose: FetchPurpose::Deploy(declaration, spec), task })
        {
            old.task.abort();
        }
    }

    /// The image of a spec; `in_force` is the one that its version ran on.
    pub(crate) fn want(&self, spec: &WorkloadSpec, in_force: Option<&ImageInForce>) -> Want {
        let policy = match (spec.pull, in_force) {
            // Only a deploy asks the registry for something newer than what ran.
            (PullPolicy::Always, Some(_)) => PullPolicy::Missing,
            (policy, _) => policy,
        };
        Want {
            workload: self.name.clone(),
            source: spec.image.clone(),
            policy,
            auth_file: spec.registry_auth_file.clone(),
            exact: in_force.map(|image| image.id.clone()),
            urgency: if self.pending.is_some() { Urgency::Operator } else { Urgency::Own },
        }
    }

    pub(crate) fn begin_fetch(&self, want: Want) -> JoinHandle<Result<Fetched, Problem>> {
        let images = self.context.images.clone();
        let progress = self.progress_end();
        tokio::spawn(async move { images.fetch(want, progress).await })
    }

    /// Takes the image of a spec that is to be deployed.
    pub(crate) async fn deploy_fetched(
        &mut self,
        declaration: Declaration,
        spec: Box<WorkloadSpec>,
        fetched: Fetched,
    ) {
        if self.is_in_force(&spec) && self.image_in_force() == Some(fetched.image.id.as_str()) {
            let _ = self.wish.take_if(|wish| *wish.spec == *spec);
            self.deploy_again(declaration).await;
            return;
        }
        self.switch(declaration, spec, fetched).await;
    }

    /// The image that the version in force runs on, as its container says it, or else its record.
    fn image_in_force(&self) -> Option<&str> {
        let recorded = || self.known.as_ref()?.record.image.as_ref().map(|image| &*image.id);
        self.target().map(|container| &*container.image_id).or_else(recorded)
    }

    /// Takes the image of the version in force.
    pub(crate) async fn target_fetched(&mut self, fetched: Fetched) {
        let in_force = ImageInForce { id: fetched.image.id.clone(), digest: fetched.digest };
        // Durable before the container: the next start is on the same one.
        self.keep(|record| record.image = Some(in_force)).await;
        self.image = Some(fetched.image);
        self.lease = Some(fetched.lease);
    }

    /// Refuses a deploy that has changed nothing.
    pub(crate) fn refuse_deploy(&mut self, problem: Problem) {
        self.tell_deploy_refused(&problem);
        if let Some(wish) = &mut self.wish {
            wish.due = Instant::now() + WISH_RETRY;
            tracing::warn!(workload = %self.name, "{}", problem.detail);
            self.set_fault(&problem);
        }
        self.fail_pending(problem);
        if self.known.is_none() && self.wish.is_none() {
            self.forgotten = true;
        }
    }

    /// Puts a spec in force whose image is there. The record is durable before anything is stopped.
    pub(crate) async fn switch(
        &mut self,
        declaration: Declaration,
        spec: Box<WorkloadSpec>,
        fetched: Fetched,
    ) {
        let mut record = match &self.known {
            None => {
                let mut record = WorkloadRecord::first(declaration);
                // Containers of a record that does not parse any more must not pass for this one's.
                record.generation = self.unreadable_generation + 1;
                record.newest_generation = record.generation;
                record
            }
            Some(known) => {
                let mut record = known.record.replaced_by(declaration);
                // One that was not running has nothing to go back to.
                if known.record.run == DesiredState::Stopped || known.record.failed.is_some() {
                    record.previous = None;
                }
                record
            }
        };
        let digest = fetched.digest;
        record.image = Some(ImageInForce { id: fetched.image.id.clone(), digest });
        let first = self.known.is_none();
        if first {
            self.known = Some(Known { record: record.clone(), spec: (*spec).clone() });
        }
        if let Err(problem) = self.write(record).await {
            if first {
                // Nothing is in force that is not written down.
                self.known = None;
                self.forgotten = self.wish.is_none();
            }
            self.note(Err(problem.clone()));
            self.fail_pending(problem);
            return;
        }
        self.take_force(*spec, Some((fetched.image, fetched.lease))).await;
        self.tell_deploy_begun();
        let in_force = self.known.as_ref().map(|known| &known.spec);
        if self.wish.take_if(|wish| Some(&*wish.spec) == in_force).is_some() {
            tracing::info!(workload = %self.name, "the spec of its file is in force");
        }
        if let Some(pending) = &mut self.pending {
            pending.kind = PendingKind::Deploy;
        }
    }

    /// Puts a record in force whose spec was in force before.
    pub(crate) async fn put_in_force(&mut self, record: WorkloadRecord) -> Result<(), Problem> {
        let declaration = &record.declaration;
        let directory = std::path::Path::new(&declaration.directory);
        let parsed = spec::parse(&declaration.spec, &declaration.file, directory);
        let spec = parsed.map_err(|faults| {
            Problem::new(
                ProblemCode::InvalidSpec,
                format!("{}: the version before is refused", self.name),
                "deploy a corrected spec",
            )
            .with_faults(faults)
        })?;
        self.write(record).await?;
        self.take_force(spec, None).await;
        Ok(())
    }

    async fn take_force(&mut self, spec: WorkloadSpec, image: Option<(Image, ImageLease)>) {
        let Some(known) = &mut self.known else { return };
        let sync_changed = known.spec.sync != spec.sync;
        known.spec = spec;
        (self.image, self.lease) = image.unzip();
        self.checks.end();
        self.ailing = None;
        self.healthy_since = None;
        self.renewal = Renewal::None;
        self.restarts = 0;
        // Its volumes may differ; ensuring those that are mounted does nothing.
        self.volumes = VolumesFact::Partial;
        if sync_changed {
            self.end_sync().await;
        } else {
            self.hide_layout();
        }
        self.stale();
    }

    /// Takes the spec that the workload's file has now.
    pub(crate) async fn declare(
        &mut self,
        declaration: Declaration,
        spec: Box<WorkloadSpec>,
        occasion: Occasion,
    ) {
        match &self.known {
            None => {
                // Nothing can be lost by it, so it is in force at once and tried until it works.
                let mut record = WorkloadRecord::first(declaration.clone());
                record.generation = self.unreadable_generation + 1;
                record.newest_generation = record.generation;
                self.known = Some(Known { record: record.clone(), spec: (*spec).clone() });
                if let Err(problem) = self.write(record).await {
                    self.known = None;
                    self.wish = Some(Wish { declaration, spec, due: Instant::now() + WISH_RETRY });
                    self.note(Err(problem));
                } else {
                    self.tell_deploy_begun();
                }
                self.stale();
            }
            Some(known) if known.record.removing.is_some() => {
                // Its file is back before its removal ended: it begins anew after it.
                self.wish = Some(Wish { declaration, spec, due: Instant::now() });
            }
            Some(known) if known.spec == *spec => {
                // Asked for anew only on the operator's word: a start of belayd needs no registry.
                let anew = occasion == Occasion::Reload && spec.pull == PullPolicy::Always;
                self.wish = anew.then(|| Wish {
                    declaration: declaration.clone(),
                    spec,
                    due: Instant::now(),
                });
                let written = self.change(|record| record.declaration = declaration).await;
                self.note(written);
            }
            Some(known) if known.record.given_up.as_deref() == Some(&declaration.hash()) => {
                tracing::warn!(workload = %self.name, "its file still has the spec that was given up");
            }
            Some(_) => {
                self.wish = Some(Wish { declaration, spec, due: Instant::now() });
            }
        }
    }

    /// Begins to deploy the spec of the workload's file, when it is time and nothing else is under
    /// way.
    pub(crate) async fn grant_wish(&mut self) {
        let idle = self.pending.is_none() && self.fetch.is_none();
        // What an operator stopped stays so, whatever its file says now.
        let held = self.known.as_ref().is_some_and(|known| {
            known.record.run == DesiredState::Stopped
                || known.record.halted.is_some()
                || known.record.removing.is_some()
        });
        let Some(wish) = &mut self.wish else { return };
        if !idle || held || wish.due > Instant::now() || self.context.shutdown.is_cancelled() {
            return;
        }
        wish.due = Instant::now() + WISH_RETRY;
        let (declaration, spec) = (wish.declaration.clone(), wish.spec.clone());
        match self.refusal(&spec).await {
            Some(problem) => self.refuse_deploy(problem),
            None => self.prepare(declaration, spec),
        }
    }

    /// The workload's file is gone: it is stopped and forgotten, its volumes are kept.
    pub(crate) async fn undeclare(&mut self) {
        let by_file = self
            .known
            .as_ref()
            .is_some_and(|known| known.record.declaration.source == Source::File);
        self.wish = None;
        if by_file {
            tracing::info!(workload = %self.name, "its file is gone; it is removed, its volumes are kept");
            let written = self
                .change(|record| {
                    record.removing = Some(belay_protocol::VolumeFate::Keep);
                    record.interruption = Interruption::Planned;
                })
                .await;
            self.note(written);
        }
    }
}

/// Whether the same spec can name another image than before.
fn may_have_moved(spec: &WorkloadSpec) -> bool {
    match &spec.image {
        ImageSource::File(_) => true,
        ImageSource::Registry(_) => spec.pull == PullPolicy::Always,
    }
}
