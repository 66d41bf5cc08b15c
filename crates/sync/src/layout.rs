//! What sync is told about a workload: its mounts, and the settings of its sync.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use belay_protocol::record::ArchiveFormat;
use belay_protocol::{PublisherKey, SyncKey, SyncRole, VolumeName};

use crate::clones::VolumeClones;
use crate::core::capturing::CapturePolicy;
use crate::core::fencing::PublisherRule;
use crate::core::maintenance::ApplyTimes;
use crate::core::ownership::OwnershipPolicy;
use crate::core::schedule::Schedule;
use crate::core::trial::OnUnready;
use crate::sealing::Sealing;

/// Where a workload's volumes are on the host and in its container.
///
/// All host paths are made by belayd and lie outside what a container can change.
#[derive(Debug, Clone)]
pub struct SyncLayout {
    /// The volumes that can be published from and applied to.
    pub mounts: Vec<MountPoint>,
    /// The system volume.
    pub control: ControlVolume,
    /// What keeps the volumes' state of one moment.
    pub clones: Arc<dyn VolumeClones>,
}

impl PartialEq for SyncLayout {
    /// Equal places; what keeps their state follows from them.
    fn eq(&self, other: &Self) -> bool {
        let Self { mounts, control, clones: _ } = self;
        *mounts == other.mounts && *control == other.control
    }
}

impl Eq for SyncLayout {}

/// The system volume, in which an app and belayd exchange files.
#[derive(Debug, Clone)]
pub struct ControlVolume {
    /// Host path of its `data` directory; `volume-sync` lies in it.
    pub data: PathBuf,
    /// Where the container sees it, as in `/belay`.
    pub container_path: String,
    /// What puts answers there.
    pub answers: Arc<dyn AnswerPlace>,
}

impl PartialEq for ControlVolume {
    /// Equal places; what writes there follows from them.
    fn eq(&self, other: &Self) -> bool {
        let Self { data, container_path, answers: _ } = self;
        *data == other.data && *container_path == other.container_path
    }
}

impl Eq for ControlVolume {}

/// Puts answers into a volume that its container may have filled.
pub trait AnswerPlace: Debug + Send + Sync {
    /// Puts a file of root's, mode 0644, into `directory`, which lies on the system volume: whole
    /// or not at all, in the place of a file or a link of that name. Blocks the thread.
    ///
    /// # Errors
    /// Those of the file system; a directory of that name is one.
    fn place(&self, directory: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()>;
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
    /// In which form a provider publishes. A consumer takes any.
    pub format: ArchiveFormat,
    /// How trees are sealed; none if anyone with the store may read them.
    pub sealing: Option<Sealing>,
    /// What captures may be.
    pub capture: CapturePolicy,
    /// Whose records a consumer takes; none if it takes those of whoever writes to the store.
    pub publishers: Option<Vec<PublisherKey>>,
    /// Who may publish besides the provider that published last.
    pub publisher: PublisherRule,
    /// What a consumer does with content on which its workload does not become ready.
    pub on_unready: OnUnready,
    /// What a consumer makes of owners and set-id bits.
    pub ownership: OwnershipPolicy,
    /// What a provider publishes by itself; nothing if none.
    pub schedule: Option<Schedule>,
    /// When a consumer may stop its workload for an apply.
    pub apply_times: ApplyTimes,
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
    /// How long a provider offers what it captured to a store that takes nothing of it.
    pub store_patience: Duration,
    /// Published generations to keep, the newest included; at least 2.
    pub keep_generations: usize,
    /// A superseded generation is kept at least this long for slow consumers.
    pub retire_grace: Duration,
    /// What a consumer needs is kept for this long after it said so, within bounds.
    pub ack_grace: Duration,
    /// What no record names is deleted once it was found so this long ago, and still is.
    pub sweep_grace: Duration,
}

impl SyncSpec {
    /// The settings a spec that names only role and key stands for.
    pub fn new(role: SyncRole, key: SyncKey) -> Self {
        Self {
            role,
            key,
            format: ArchiveFormat::Tree,
            sealing: None,
            capture: CapturePolicy::Stopped,
            publishers: None,
            publisher: PublisherRule::One,
            on_unready: OnUnready::Rollback,
            ownership: OwnershipPolicy::default(),
            schedule: None,
            apply_times: ApplyTimes::default(),
            poll_interval: Duration::from_secs(10),
            min_publish_interval: Duration::from_secs(10),
            request_grace: Duration::from_secs(2),
            window_timeout: Duration::from_mins(5),
            store_timeout: Duration::from_mins(10),
            store_patience: Duration::from_hours(1),
            keep_generations: 2,
            retire_grace: Duration::from_mins(10),
            ack_grace: Duration::from_hours(24),
            sweep_grace: Duration::from_hours(24),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{AnswerPlace, Arc, BorrowedFd, ControlVolume, MountPoint, PathBuf, SyncLayout, io};
    use crate::clones::NoClones;

    /// A control volume that nobody fills.
    pub(crate) fn control_volume(data: PathBuf) -> ControlVolume {
        ControlVolume { data, container_path: "/belay".to_owned(), answers: Arc::new(PlainAnswers) }
    }

    /// A layout of one volume, named `data` and seen at `/data`, in this directory.
    pub(crate) fn one_volume(root: &std::path::Path) -> SyncLayout {
        let data = root.join("data");
        std::fs::create_dir_all(&data).expect("creates a volume");
        SyncLayout {
            mounts: vec![MountPoint {
                volume: "data".parse().expect("a name"),
                container_path: "/data".to_owned(),
                data,
                private: root.join("private"),
                size: 1 << 30,
            }],
            control: control_volume(root.to_owned()),
            clones: Arc::new(NoClones),
        }
    }

    #[derive(Debug)]
    struct PlainAnswers;

    impl AnswerPlace for PlainAnswers {
        fn place(&self, directory: BorrowedFd<'_>, name: &str, text: &[u8]) -> io::Result<()> {
            use std::os::fd::AsRawFd;
            let directory = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
            let next = directory.join(".next");
            std::fs::write(&next, text)?;
            std::fs::rename(next, directory.join(name))
        }
    }
}
