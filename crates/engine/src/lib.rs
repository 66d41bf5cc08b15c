//! The container engine: Podman or Docker behind one typed handle.
//!
//! [`connect`] finds an engine (a configured socket, Podman's, Docker's, or a `podman system
//! service` that it starts itself) and gives an [`Engine`], a cheap handle whose methods are the
//! verbs: image, pull, load, create, start, stop, kill, remove, inspect, list, events, logs, exec,
//! pause, checkpoint, restore, archive. Every call but the streams has a deadline of its own, see [`deadline`]; every
//! error is an [`EngineError`] that tells absent, conflict, busy, invalid, unreachable, timed out
//! and unknown apart.
//!
//! Threads and tasks: one long-lived thread per [`PodmanService`], which owns the service process
//! (its death signal is tied to that thread), and one that copies the service's standard error into
//! the log; both are joined by [`PodmanService::shutdown`]. There is no task: calls and streams are
//! driven by whoever polls them and stop when dropped, but for the reading of a file that is being
//! loaded, which goes on to the end of that file on the blocking pool. The one channel there hands
//! over four pieces at most and makes the reader wait when full.
//!
//! `core` decides (what a body, a status or a name means); everything beside it carries out.

mod blocking;
mod checkpoint;
mod connect;
mod container;
mod core;
pub mod deadline;
mod doctor;
mod engine;
mod error;
mod event;
mod image;
pub mod labels;
mod pull;
mod service;
mod spec;

pub use checkpoint::{CheckpointError, CheckpointReport, RestoreReport};
pub use connect::{ConnectError, EngineChoice, EngineOptions, connect, connect_own};
pub use container::{
    Container, ContainerId, ContainerState, Incarnation, ListedContainer, Liveness, MountSeen,
    RestartPolicy,
};
pub use doctor::{DoctorReport, Finding, Severity, criu_version, examine};
pub use engine::{
    Abilities, CheckpointPlace, Engine, EngineInfo, EngineKind, Events, ExecOutput, ExecSpec,
    FirstProcess, LogLine, LogOptions, LogStream, Removal, Session, SessionInput, SessionOutput,
    SessionPiece, SessionSignal, SessionSpec, Stdin, Survivor, Terminal, TimedLog, Version,
};
pub use error::{EngineError, LoadError, Object, Operation};
pub use event::{Action, EngineEvent, EventMarker, Health};
pub use image::{Image, ImageEntry, RegistryCredentials};
pub use pull::{PullError, PullFault, PullPatience, PullProgress};
pub use service::{PodmanService, ServiceStatus};
pub use spec::{
    Access, BindMount, ContainerSpec, Init, Limits, LogLimit, Network, PortBinding, Protocol,
    RootAccess,
};
