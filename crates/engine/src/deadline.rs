//! How long each call may take.
//!
//! The figures are several times the slowest of a laden two-core machine (a start of 1 s, a
//! removal of 0.7 s, a list of 50 ms), because a call that is cut off leaves its outcome unknown.

use std::time::Duration;

/// Connecting to a socket and the first answer.
pub const PING: Duration = Duration::from_secs(5);
/// What the engine is. Podman looks up the packages of its parts for each answer, by running the
/// package manager, which takes seconds on a laden machine.
pub const ABOUT: Duration = Duration::from_secs(30);
/// Reading: inspect, list, image.
pub const READ: Duration = Duration::from_secs(15);
/// Creating a container, renaming, pausing, sending a signal, tagging.
pub const CHANGE: Duration = Duration::from_mins(1);
/// Starting, which includes network, mounts and the runtime.
pub const START: Duration = Duration::from_mins(2);
/// Removing, which includes the end of the container when forced.
pub const REMOVE: Duration = Duration::from_mins(2);
/// What [`crate::Engine::stop`] allows beyond the grace that its caller gives.
pub const STOP_BEYOND_GRACE: Duration = Duration::from_mins(1);
/// Longest that a pull may get nowhere while something is still to come. The whole of it has no
/// bound of its own.
pub const PULL_SILENCE: Duration = Duration::from_mins(2);
/// Longest that an engine may unpack what it has pulled: gigabytes on a slow card.
pub const PULL_UNPACK: Duration = Duration::from_mins(20);
/// Loading an image from a file.
pub const LOAD: Duration = Duration::from_mins(30);
/// Writing a container's processes to disk or bringing them back: about a millisecond for each
/// MiB of memory, and as long as a slow disk takes for it.
pub const CHECKPOINT: Duration = Duration::from_mins(10);
/// Longest silence within a stream that has begun.
pub const STREAM_SILENCE: Duration = Duration::from_mins(1);
/// Making an exec session, and asking for its result.
pub const EXEC_SETUP: Duration = Duration::from_secs(15);
/// First bytes of a log, event or archive stream.
pub const STREAM_OPEN: Duration = Duration::from_secs(30);
