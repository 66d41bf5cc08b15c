//! The life of a container.

use std::time::Duration;

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
    WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};

use super::http::Api;
use super::request::{TooLarge, create_body};
use super::{Engine, EngineKind, reference};
use crate::container::{Container, ContainerId, ContainerState, ListedContainer, Liveness};
use crate::core::state::{InspectBody, ListRow};
use crate::deadline;
use crate::error::{EngineError, Object, Operation};
use crate::spec::ContainerSpec;

/// What [`Engine::remove`] may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// A container without a process; one that runs is a conflict.
    Stopped,
    /// Whatever state it is in; a process is killed first.
    Force,
}

/// Inspects under way at once during a list.
const LIST_WIDTH: usize = 4;

impl Engine {
    /// Creates a container. Deadline: [`deadline::CHANGE`].
    ///
    /// Fails as [`EngineError::Conflict`] when the name is taken, [`EngineError::Absent`] when the
    /// image is not there (nothing is pulled), [`EngineError::Invalid`] when a mount's source does
    /// not exist: Podman would make an empty directory in its place, and the container would write
    /// beside the volume.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<ContainerId, EngineError> {
        let operation = Operation::Create;
        let object = || Object::Container(spec.name.clone());
        let invalid = |detail: String| EngineError::Invalid { operation, object: object(), detail };
        reference(operation, &spec.name)?;
        for mount in &spec.mounts {
            if !mount.source.is_absolute() || mount.source.to_str().is_none() {
                return Err(invalid(format!(
                    "the mount source {} is not an absolute UTF-8 path",
                    mount.source.display()
                )));
            }
            if let Err(error) = tokio::fs::metadata(&mount.source).await {
                return Err(invalid(format!(
                    "the mount source {} cannot be used: {error}",
                    mount.source.display()
                )));
            }
        }
        let body = create_body(spec, self.info().kind)
            .map_err(|TooLarge(what)| invalid(format!("{what} is too large")))?;
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let create = self.docker().create_container(Some(options), body);
        let created = self.call(operation, object(), deadline::CHANGE, create).await;
        match created {
            Ok(created) => Ok(ContainerId::new(created.id)),
            // The only thing that a create can miss is what it names.
            Err(EngineError::Absent { detail, .. }) => Err(EngineError::Absent {
                operation,
                object: Object::Image(spec.image.clone()),
                detail,
            }),
            Err(error) => Err(error),
        }
    }

    /// Starts a container; one that runs already is left as it is. Deadline: [`deadline::START`].
    pub async fn start(&self, container: impl AsRef<str>) -> Result<(), EngineError> {
        let name = reference(Operation::Start, container.as_ref())?;
        let start = self.docker().start_container(name, None::<StartContainerOptions>);
        self.call(Operation::Start, object(name), deadline::START, start).await
    }

    /// Sends the stop signal, waits `grace`, then kills; one that does not run is left as it is.
    /// `grace` is rounded up to whole seconds. Deadline: `grace` and
    /// [`deadline::STOP_BEYOND_GRACE`].
    pub async fn stop(
        &self,
        container: impl AsRef<str>,
        grace: Duration,
    ) -> Result<(), EngineError> {
        let name = reference(Operation::Stop, container.as_ref())?;
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let after = grace.saturating_add(deadline::STOP_BEYOND_GRACE);
        let stop = self.docker().stop_container(name, Some(options));
        self.call(Operation::Stop, object(name), after, stop).await
    }

    /// Sends a signal, by name (`SIGTERM`) or number, to process 1. A container that does not run
    /// is a conflict. Deadline: [`deadline::CHANGE`].
    pub async fn kill(&self, container: impl AsRef<str>, signal: &str) -> Result<(), EngineError> {
        let name = reference(Operation::Kill, container.as_ref())?;
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        let kill = self.docker().kill_container(name, Some(options));
        self.call(Operation::Kill, object(name), deadline::CHANGE, kill).await
    }

    /// Removes a container and its anonymous volumes; one that does not exist is removed already.
    /// Deadline: [`deadline::REMOVE`].
    pub async fn remove(
        &self,
        container: impl AsRef<str>,
        removal: Removal,
    ) -> Result<(), EngineError> {
        let name = reference(Operation::Remove, container.as_ref())?;
        let options = RemoveContainerOptionsBuilder::default()
            .force(removal == Removal::Force)
            .v(true)
            .build();
        let remove = self.docker().remove_container(name, Some(options));
        match self.call(Operation::Remove, object(name), deadline::REMOVE, remove).await {
            Err(EngineError::Absent { .. }) => Ok(()),
            other => other,
        }
    }

    /// Gives a container another name; a name that is taken is a conflict. Deadline:
    /// [`deadline::CHANGE`].
    pub async fn rename(
        &self,
        container: impl AsRef<str>,
        new_name: &str,
    ) -> Result<(), EngineError> {
        let name = reference(Operation::Rename, container.as_ref())?;
        let new_name = reference(Operation::Rename, new_name)?;
        let options = RenameContainerOptionsBuilder::default().name(new_name).build();
        let rename = self.docker().rename_container(name, options);
        self.call(Operation::Rename, object(name), deadline::CHANGE, rename).await
    }

    /// Freezes every process; one that is frozen already is a conflict. Deadline:
    /// [`deadline::CHANGE`].
    pub async fn pause(&self, container: impl AsRef<str>) -> Result<(), EngineError> {
        let name = reference(Operation::Pause, container.as_ref())?;
        let pause = self.docker().pause_container(name);
        self.call(Operation::Pause, object(name), deadline::CHANGE, pause).await
    }

    /// Thaws every process; one that is not frozen is a conflict. Deadline: [`deadline::CHANGE`].
    pub async fn unpause(&self, container: impl AsRef<str>) -> Result<(), EngineError> {
        let name = reference(Operation::Unpause, container.as_ref())?;
        let unpause = self.docker().unpause_container(name);
        self.call(Operation::Unpause, object(name), deadline::CHANGE, unpause).await
    }

    /// Looks a container up by name or id; `None` is a container that does not exist. Deadline:
    /// [`deadline::READ`].
    pub async fn inspect(
        &self,
        container: impl AsRef<str>,
    ) -> Result<Option<Container>, EngineError> {
        let name = reference(Operation::Inspect, container.as_ref())?;
        let path = format!("/containers/{name}/json");
        let found = self
            .http()
            .get::<InspectBody>(Operation::Inspect, object(name), deadline::READ, &path, &[])
            .await;
        match found {
            Ok(body) => {
                let mut found = body.into_container();
                self.ask_kernel_for_oom(&mut found).await;
                Ok(Some(found))
            }
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All containers, running or not, that carry every one of these labels (`name` or
    /// `name=value`), each as inspect finds it. Deadline: [`deadline::READ`] for the list and for
    /// each container.
    pub async fn list(&self, labels: &[String]) -> Result<Vec<Container>, EngineError> {
        let rows = self.rows(labels).await?;
        // A container that goes away between the two is left out.
        futures_util::stream::iter(rows)
            .map(|row| async move { self.inspect(&row.id).await })
            .buffered(LIST_WIDTH)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    /// The same containers, as the list alone shows them. Deadline: [`deadline::READ`].
    pub async fn roll(&self, labels: &[String]) -> Result<Vec<ListedContainer>, EngineError> {
        let rows = self.rows(labels).await?;
        Ok(rows.into_iter().map(ListRow::into_listed).collect())
    }

    async fn rows(&self, labels: &[String]) -> Result<Vec<ListRow>, EngineError> {
        let filters = serde_json::json!({ "label": labels }).to_string();
        let query = [("all", "true"), ("filters", filters.as_str())];
        self.http()
            .get(Operation::List, Object::Containers, deadline::READ, "/containers/json", &query)
            .await
    }

    /// Waits until no process is left, gives the state then. Deadline: `within`; a container that
    /// does not exist, or no longer, is [`EngineError::Absent`].
    ///
    /// The kernel tells the end of the first process at once, and the engine only has to write it
    /// down then; where the kernel cannot be asked, the engine's own wait is what tells.
    pub async fn wait(
        &self,
        container: impl AsRef<str>,
        within: Duration,
    ) -> Result<ContainerState, EngineError> {
        let name = reference(Operation::Wait, container.as_ref())?;
        let timed_out = || EngineError::TimedOut {
            operation: Operation::Wait,
            object: object(name),
            after: within,
        };
        let end = tokio::time::Instant::now() + within;
        let mut pauses = 0;
        loop {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Err(timed_out());
            }
            let found = tokio::time::timeout_at(end, self.inspect(name)).await;
            let found = found.map_err(|_| timed_out())??.ok_or_else(|| EngineError::Absent {
                operation: Operation::Wait,
                object: object(name),
                detail: "it was removed".to_owned(),
            })?;
            match found.state.liveness() {
                Liveness::Stopped => return Ok(found.state),
                Liveness::Running => match self.first_process(&found).await {
                    // What has ended and stays unwritten for so long is the engine's to explain.
                    Some(process) if pauses < PAUSES => {
                        let ended = tokio::time::timeout_at(end, process.ended()).await;
                        ended.map_err(|_| timed_out())?;
                    }
                    Some(_) | None => {
                        self.wait_once(name, left).await.map_err(|error| match error {
                            EngineError::TimedOut { .. } => timed_out(),
                            other => other,
                        })?;
                    }
                },
                // The end is near, and the engine has not written it down.
                Liveness::Unknown => {}
            }
            let pause = (WAIT_PAUSE_FIRST * (1 << pauses.min(8))).min(WAIT_PAUSE);
            tokio::time::sleep(pause.min(left)).await;
            pauses += 1;
        }
    }

    /// One wait of the engine's. Podman's Docker route looks every 250 ms; its own can be told to
    /// look more often.
    async fn wait_once(&self, name: &str, within: Duration) -> Result<(), EngineError> {
        match self.info().kind {
            EngineKind::Podman => {
                let path = format!("/containers/{name}/wait");
                let request = self
                    .http()
                    .request(reqwest::Method::POST, Api::Libpod, &path)
                    .query(&[("condition", "stopped"), ("condition", "exited")])
                    .query(&[("interval", "50ms")]);
                let wait = self.http().json::<i64>(Operation::Wait, object(name), within, request);
                wait.await.map(drop)
            }
            EngineKind::Docker => {
                let wait =
                    self.docker()
                        .wait_container(name, None::<WaitContainerOptions>)
                        .map(|answer| match answer {
                            // The client makes an error of an exit code that is not 0.
                            Err(bollard::errors::Error::DockerContainerWaitError { .. })
                            | Ok(_) => Ok(()),
                            Err(error) => Err(error),
                        })
                        .try_collect::<()>();
                self.call(Operation::Wait, object(name), within, wait).await
            }
        }
    }
}

/// Between two looks at a container whose end is known and not yet recorded, at first and at most.
const WAIT_PAUSE_FIRST: Duration = Duration::from_millis(2);
const WAIT_PAUSE: Duration = Duration::from_millis(20);

/// Looks at a container whose first process has ended by the kernel's word and runs by the engine's:
/// some seconds.
const PAUSES: u32 = 100;

fn object(name: &str) -> Object {
    Object::Container(name.to_owned())
}
