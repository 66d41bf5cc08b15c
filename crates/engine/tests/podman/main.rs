//! The engine against a real Podman: real containers of a root file system made of busybox, behind
//! a service that the test starts itself. Needs root, podman, runc, criu and busybox-static.

mod archives;
mod checkpoint;
mod events;
mod life;
mod network;
mod output;
mod registry;
mod service;
mod sessions;
mod world;
