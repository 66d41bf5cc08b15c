//! What sync is told about a workload: its mounts, and the settings of its sync.

use std::path::PathBuf;
use std::time::Duration;

use belay_protocol::{SyncKey, SyncRole, VolumeName};

/// Where a workload's volumes are on the host and in its container.
///
/// All host paths are made by belayd and lie outside what a container can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncLayout {
    /// The volumes that can be published from and applied to.
    pub mounts: Vec<MountPoint>,
    /// Host path of the system volume's `data` directory; `volume-sync` lies in it.
    pub control: PathBuf,
    /// Where the container sees the system volume, as in `/belay`.
    pub control_mount: String,
}

/// One volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Its name.
    pub volume: VolumeName,
    /// Where the container sees it, absolute and normalised.
    pub container_path: String,
    /// Host path of the directory the container sees.
    pub data: PathBuf,
    /// Host path of the directory for staging and marks, on the same file system as `data` and
    /// out of the container's sight.
    pub private: PathBuf,
    /// Size of the volume, in bytes. Nothing larger is ever staged.
    pub size: u64,
}

/// Settings of one workload's sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncSpec {
    /// Which side it is on.
    pub role: SyncRole,
    /// The key.
    pub key: SyncKey,
    /// Requests and records are looked for this often even when nothing was noticed.
    pub poll_interval: Duration,
    /// Least time between the starts of two captures, so that an app cannot keep itself down.
    pub min_publish_interval: Duration,
    /// A request that is not JSON yet is given this long to become it.
    pub request_grace: Duration,
    /// Longest wait for the container to stop.
    pub window_timeout: Duration,
    /// Longest wait for one exchange with the store.
    pub store_timeout: Duration,
    /// Published generations to keep, the newest included; at least 2.
    pub keep_generations: usize,
    /// A superseded generation is kept at least this long for slow consumers.
    pub retire_grace: Duration,
}

impl SyncSpec {
    /// The settings a spec that names only role and key stands for.
    pub fn new(role: SyncRole, key: SyncKey) -> Self {
        Self {
            role,
            key,
            poll_interval: Duration::from_secs(10),
            min_publish_interval: Duration::from_secs(10),
            request_grace: Duration::from_secs(2),
            window_timeout: Duration::from_mins(5),
            store_timeout: Duration::from_mins(10),
            keep_generations: 2,
            retire_grace: Duration::from_mins(10),
        }
    }
}
