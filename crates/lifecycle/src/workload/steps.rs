//! Carrying out what the machine decided. Each step may be repeated without harm.

use std::time::Duration;

use belay_engine::{Access, Container, ContainerState, EngineError, Liveness, LogOptions, Removal};
use belay_protocol::{DesiredState, EventDetails, Problem, ProblemCode, VolumeFate, WorkloadPhase};
use belay_volumes::{Holder, Origin, Owner, VolumeSpec};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::time::Instant;

use super::app_requests::AppRequests;
use super::command::Occasion;
use super::conflict::NameConflict;
use super::state::{Fetch, FetchPurpose, State};
use crate::core::container::{self, Bind};
use crate::core::machine::{Renewal, Step, VolumesFact};
use crate::core::record::{Interruption, OverridesDue, TABLE};
use crate::core::watch::Watched;
use crate::{problems, saved_log};

/// Lines of a given-up version's log that are passed on.
const LAST_LINES: u32 = 20;

/// How long reading them may take.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(3);

/// Pause before a step that the engine or the kernel refused is tried again, where no ladder counts.
pub(crate) const RETRY: Duration = Duration::from_secs(2);

/// How long a process that was killed has to let go of a volume before that is tried again.
const FORGOTTEN_ENDS: Duration = Duration::from_millis(100);

impl State {
    pub(crate) async fn carry_out(&mut self, step: Step) {
        match step {
            Step::Wait | Step::Look => {}
            Step::Stop { id } => self.stop(&id).await,
            Step::Remove { id } => self.remove(&id).await,
            Step::FetchImage => self.fetch_target(),
            Step::ProvideVolumes => self.provide_volumes().await,
            Step::RecoverVolumes => self.recover_volumes().await,
            Step::ResetVolumes => self.reset_for_app().await,
            Step::Create => self.create().await,
            Step::Start { id } => self.start(&id).await,
            Step::Probe { .. } => self.begin_checks(),
            Step::SettleDeploy => self.settle_deploy().await,
            Step::ReleaseVolumes => self.release_volumes().await,
            Step::Forget => self.forget().await,
        }
    }

    async fn remove(&mut self, id: &str) {
        let wrote = |container: &&Container| {
            container.id.as_str() == id && container.state != ContainerState::Created
        };
        if self.seen.iter().flatten().any(|container| wrote(&container)) {
            let state_dir = self.context.state_dir(&self.name);
            if let Err(error) = saved_log::save(&self.context.engine, &state_dir, id).await {
                // A full disk must not keep the container.
                tracing::warn!(workload = %self.name, "its last lines are not kept: {error}");
            }
        }
        let removed = self.context.engine.remove(id, Removal::Stopped).await;
        self.stale();
        if let Err(error) = removed {
            let problem = problems::stop(&self.name, &error);
            tracing::warn!(workload = %self.name, "{}", problem.detail);
            self.progress("remove", problem.detail.clone());
            self.set_fault(&problem);
            self.pause(RETRY);
        }
    }

    fn fetch_target(&mut self) {
        let Some(known) = &self.known else { return };
        let want = self.want(&known.spec, known.record.image.as_ref());
        self.fetch = Some(Fetch { purpose: FetchPurpose::Target, task: self.begin_fetch(want) });
    }

    /// The user that the container runs as, as spec or image call it.
    pub(super) fn user(&self) -> Option<&str> {
        let spec = self.known.as_ref().and_then(|known| known.spec.user.as_deref());
        spec.or_else(|| self.image.as_ref()?.user.as_deref())
    }

    /// The volumes of the spec in force, the system volume last.
    pub(crate) fn volume_specs(&self) -> Vec<VolumeSpec> {
        let Some(known) = &self.known else { return Vec::new() };
        let image_owner = numeric_owner(self.user());
        let mut specs: Vec<_> = known
            .spec
            .volumes
            .iter()
            .map(|(volume, declared)| {
                let mut spec = declared.of(&self.name, volume);
                spec.owner = spec.owner.or(image_owner);
                spec
            })
            .collect();
        specs.push(VolumeSpec::system(self.name.clone()));
        for spec in &mut specs {
            spec.size = self.promised(&spec.id.volume, spec.size);
        }
        specs
    }

    async fn provide_volumes(&mut self) {
        // Without the image its user is not known; the container that exists names the image.
        if self.image.is_none()
            && let Some(target) = self.target()
            && let Ok(Some(image)) = self.context.engine.image(&target.image_id).await
        {
            self.image = Some(image);
        }
        let mut mounted = Vec::new();
        for spec in self.volume_specs_as_found().await {
            match self.context.volumes.ensure(&spec).await {
                Ok(volume) => {
                    if volume.origin == Origin::Created {
                        let detail = format!("{} made, {}", spec.id, spec.size);
                        self.progress("provide volumes", detail);
                    }
                    mounted.push(volume);
                }
                Err(error) => {
                    self.failed(problems::provide(&error), None).await;
                    return;
                }
            }
        }
        self.mounted = mounted;
        self.volumes = VolumesFact::Mounted;
        // A container that runs shows that no apply was cut short behind it: an apply ends with a
        // start, and a start comes only after the recovery. Nothing under it is touched.
        let running = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.iter().any(|c| c.state.liveness() == Liveness::Running));
        if running && !self.apply_was_cut_short().await {
            self.volumes = VolumesFact::Whole;
            self.run_sync();
        }
    }

    async fn create(&mut self) {
        let Some(known) = &self.known else { return };
        let mut binds: Vec<Bind> = self
            .mounted
            .iter()
            .filter_map(|volume| {
                let declared = known.spec.volumes.get(&volume.id.volume)?;
                Some(Bind {
                    source: volume.data.clone(),
                    target: declared.mount.clone(),
                    access: Access::ReadWrite,
                })
            })
            .collect();
        if let Some(system) = self.system_volume() {
            let target = known.spec.system_mount.clone();
            let source = system.data.clone();
            binds.push(Bind { source, target, access: Access::ReadWrite });
        }
        match self.place_secrets().await {
            Ok(secrets) => binds.extend(secrets),
            Err(problem) => {
                self.failed(problem, None).await;
                return;
            }
        }
        let Some((known, image)) = self.known.as_ref().zip(self.image.as_ref()) else { return };
        let exports = self.exports(known);
        let spec = container::container_spec(
            &known.spec,
            &known.record.declaration,
            known.record.generation,
            self.layers(known, &exports),
            &self.context.instance,
            &image.id,
            &binds,
        );
        let created = self.context.engine.create(&spec).await;
        self.stale();
        match created {
            Ok(_) => {
                if let Some(image) = &self.image {
                    self.context.images.used(&self.name, &image.id);
                }
            }
            Err(error @ EngineError::Conflict { .. }) => {
                match self.free_name(&spec.name, &error).await {
                    NameConflict::Freed => {}
                    NameConflict::Held(problem) => self.failed(problem, None).await,
                }
            }
            Err(EngineError::Absent { .. }) => {
                // Somebody removed the image since it was looked up: fetch it again.
                self.image = None;
                self.pause(RETRY);
            }
            Err(error) => self.failed(problems::start(&self.name, &error), None).await,
        }
    }

    async fn start(&mut self, id: &str) {
        // They lie in memory, which a reboot empties.
        if let Err(problem) = self.place_secrets().await {
            self.failed(problem, None).await;
            return;
        }
        self.progress("start", "starting the container");
        let started = self.context.engine.start(id).await;
        self.stale();
        match started {
            Ok(()) => {
                if let Some(back) = &mut self.window_return {
                    back.started_at = Some(Instant::now());
                    back.reply.started();
                }
                self.refresh().await;
                self.begin_checks();
                if self.known.as_ref().is_some_and(|known| known.record.failures > 0) {
                    self.restarts = self.restarts.saturating_add(1);
                }
                self.renewal = Renewal::None;
                let boot = self.context.boot_id.clone();
                let started_with = self.followed_providers();
                self.keep(|record| {
                    record.started_with = started_with;
                    record.overrides_due = OverridesDue::NextStart;
                    record.interruption = Interruption::None;
                    record.next_try_at = None;
                    record.started_in_boot = Some(boot);
                })
                .await;
            }
            Err(error) => {
                let mut problem = problems::start(&self.name, &error);
                if problem.code == ProblemCode::StartFailed
                    || problem.code == ProblemCode::PortTaken
                {
                    let taken = self.taken_ports().await;
                    if !taken.is_empty() {
                        problem.code = ProblemCode::PortTaken;
                        problem.detail = format!("{}; {}", problem.detail, taken.join("; "));
                    }
                }
                self.failed(problem, None).await;
            }
        }
    }

    async fn taken_ports(&self) -> Vec<String> {
        let ports = self.known.as_ref().map(|known| known.spec.ports.clone());
        crate::host::taken_ports(ports.unwrap_or_default()).await
    }

    /// Gives a deploy up, or a version that is watched: the version before is in force again.
    pub(crate) async fn roll_back(&mut self, problem: Problem) {
        tracing::warn!(workload = %self.name, "deploy given up: {}", problem.detail);
        self.set_fault(&problem);
        let Some(known) = &self.known else { return };
        let record = known.record.rolled_back();
        let was_running = record.run == DesiredState::Running;
        let given_up = known.record.declaration.hash();
        let told = EventDetails::DeployRolledBack {
            generation: known.record.generation,
            restored: record.generation,
            cause: problem.detail.as_str().into(),
        };
        if let Some(wish) = &mut self.wish
            && wish.declaration.hash() == given_up
        {
            // Tried once; a file that stays as it is is not deployed again and again.
            self.wish = None;
        }
        self.show_last_lines().await;
        if let Err(problem) = self.put_in_force(record).await {
            self.note(Err(problem));
            self.pause(RETRY);
            return;
        }
        self.coming_up = None;
        self.tell(format!("a deploy of {} was given up: {}", self.name, problem.detail), told);
        if was_running && let Some(pending) = &mut self.pending {
            pending.reporter.progress("roll back", "restoring the version before");
            pending.failure.get_or_insert(problem);
        } else {
            self.fail_pending(problem);
        }
    }

    async fn settle_deploy(&mut self) {
        let Some(known) = &self.known else { return };
        let window = known.spec.rollback_window;
        let settled = self
            .change(|record| {
                let previous = record.previous.take();
                record.watched = previous
                    .and_then(|previous| Watched::begin(previous, window, Timestamp::now()));
            })
            .await;
        if let Err(problem) = settled {
            self.note(Err(problem));
            self.pause(RETRY);
            return;
        }
        self.release_surplus().await;
    }

    /// Releases volumes and secrets that the spec in force does not name any more. The images of
    /// volumes stay.
    async fn release_surplus(&mut self) {
        if self.known.as_ref().is_some_and(|known| known.spec.secrets.is_empty()) {
            self.clear_secrets().await;
        }
        let wanted: Vec<_> = self.volume_specs().into_iter().map(|spec| spec.id).collect();
        let Ok(all) = self.context.volumes.list().await else { return };
        for status in all {
            if status.id.workload == self.name
                && status.mounted.is_some()
                && !wanted.contains(&status.id)
                && let Err(error) = self.context.volumes.release(&status.id).await
            {
                tracing::warn!(workload = %self.name, "{}", problems::with_causes(&error));
            }
        }
    }

    async fn release_volumes(&mut self) {
        self.hide_layout();
        let listed = match self.context.volumes.list().await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(workload = %self.name, "{}", problems::with_causes(&error));
                self.pause(RETRY);
                return;
            }
        };
        for status in listed.into_iter().filter(|status| status.id.workload == self.name) {
            if let Err(error) = self.context.volumes.release(&status.id).await {
                if self.end_forgotten(error.holders()).await {
                    self.pause(FORGOTTEN_ENDS);
                    return;
                }
                let problem = problems::release(&error);
                self.set_fault(&problem);
                if self.phase == WorkloadPhase::Stopping || self.phase == WorkloadPhase::Removing {
                    self.progress("release volumes", problem.detail.clone());
                }
                self.pause(RETRY);
                return;
            }
        }
        self.clear_secrets().await;
        self.mounted.clear();
        self.requests = AppRequests::default();
        self.volumes = VolumesFact::Released;
    }

    /// Ends those among the holders of a volume that are of a container which the engine knows no
    /// more. Says whether there were any.
    async fn end_forgotten(&self, holders: &[Holder]) -> bool {
        let mut any = false;
        for holder in holders {
            match self.context.engine.end_forgotten(holder.pid).await {
                Ok(Some(container)) => {
                    any = true;
                    tracing::warn!(
                        workload = %self.name, %container,
                        "{holder}; its container is gone from the engine, and it is killed"
                    );
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(workload = %self.name, "{}", problems::with_causes(&error));
                }
            }
        }
        any
    }

    async fn forget(&mut self) {
        let Some(known) = &self.known else { return };
        let fate = known.record.removing.unwrap_or(VolumeFate::Keep);
        let newest_generation = known.record.newest_generation;
        self.end_sync().await;
        // What it wrote goes with it; its volumes have a fate of their own.
        if let Err(error) = saved_log::forget(&self.context.state_dir(&self.name)).await {
            tracing::warn!(workload = %self.name, "its saved logs are left: {error}");
        }
        if let Err(problem) = self.delete_leavings(fate).await {
            self.set_fault(&problem);
            tracing::warn!(workload = %self.name, "{}", problem.detail);
            self.fail_pending(problem);
            self.pause(RETRY);
            return;
        }
        if let Err(error) = self.context.ledger.remove(TABLE, self.name.as_str()).await {
            self.note(Err(problems::ledger(&error)));
            self.pause(RETRY);
            return;
        }
        let volumes = match fate {
            VolumeFate::Keep => "its volumes are kept",
            VolumeFate::Delete => "its volumes are deleted",
        };
        let details = EventDetails::Removed { volumes: fate };
        self.tell(format!("{} is removed; {volumes}", self.name), details);
        self.known = None;
        self.forgotten = self.wish.is_none();
        self.unreadable_generation = newest_generation;
        self.publish_status();
        if let Some(pending) = self.pending.take() {
            let mut summary = format!("{} is removed; {volumes}", self.name);
            summary.push_str(&self.those_who_depend());
            pending.reporter.done(summary);
        }
        if let Some(wish) = self.wish.take() {
            self.declare(wish.declaration, wish.spec, Occasion::Reload).await;
        }
    }

    async fn delete_leavings(&self, fate: VolumeFate) -> Result<(), Problem> {
        if fate == VolumeFate::Keep {
            return Ok(());
        }
        let failed = |detail: String| {
            Problem::new(
                ProblemCode::VolumeUnavailable,
                detail,
                "the removal is tried again by itself",
            )
        };
        let listed = self.context.volumes.list().await;
        for status in listed.map_err(|error| failed(problems::with_causes(&error)))? {
            if status.id.workload == self.name {
                let removed = self.context.volumes.remove(&status.id).await;
                removed.map_err(|error| failed(problems::with_causes(&error)))?;
            }
        }
        let directory = self.context.state_dir(&self.name);
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(format!("cannot delete {}: {error}", directory.display())))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Has a step that failed tried again after a while, or once something is asked of the workload.
    pub(crate) fn pause(&mut self, pause: Duration) {
        self.stale();
        self.retry_at = Some(Instant::now() + pause);
    }

    /// Passes the last lines of a version that is given up on to whoever deployed it: with its
    /// container they go.
    async fn show_last_lines(&self) {
        let Some(container) = self.target() else { return };
        let options = LogOptions { follow: false, tail: Some(LAST_LINES), since: None };
        let lines = self.context.engine.logs(&container.id, &options);
        let lines = lines.filter_map(|line| async move { line.ok() }).collect::<Vec<_>>();
        let read = tokio::time::timeout(LAST_LINES_WITHIN, lines).await;
        for line in read.unwrap_or_default() {
            self.progress("its log", line.text().into_owned());
        }
    }
}

/// The owner that a numeric user stands for. Root, names and nonsense stand for none: a name means
/// something only inside the image, and an image is never run to ask it.
fn numeric_owner(user: Option<&str>) -> Option<Owner> {
    let user = user?;
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    let owner = Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? };
    (owner.uid != 0).then_some(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_numeric_user_owns_a_volume() {
        assert_eq!(numeric_owner(Some("1000")), Some(Owner { uid: 1000, gid: 1000 }));
        assert_eq!(numeric_owner(Some("1000:50")), Some(Owner { uid: 1000, gid: 50 }));
        for none in
            [None, Some(""), Some("root"), Some("0"), Some("0:0"), Some("app"), Some("app:1")]
        {
            assert_eq!(numeric_owner(none), None, "{none:?}");
        }
    }
}
