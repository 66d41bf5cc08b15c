//! How much an event matters.

use super::Severity;
use super::kind::{ContentWaitEnd, EventDetails, LastEnd};
use crate::{CheckOutcome, VolumeLevel};

impl EventDetails {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::BelaydStarted { last_end: LastEnd::None | LastEnd::Orderly, .. }
            | Self::BelaydStopping {}
            | Self::EngineReached { .. }
            | Self::HostRelieved {}
            | Self::PhaseChanged { .. }
            | Self::Asked { .. }
            | Self::DeployBegun { .. }
            | Self::DeployReady { .. }
            | Self::Ended { exit_code: 0, .. }
            | Self::Recovered { .. }
            | Self::HaltCleared { .. }
            | Self::CommandBegun { .. }
            | Self::Alive {}
            | Self::Removed { .. }
            | Self::VolumeLevelChanged { level: VolumeLevel::Normal, .. }
            | Self::VolumeTakesWrites {}
            | Self::VolumeChecked { outcome: CheckOutcome::Clean }
            | Self::VolumeActDone { .. }
            | Self::Published { .. }
            | Self::Applied { .. }
            | Self::ApplyFinished { .. }
            | Self::ContentWaitEnded { by: ContentWaitEnd::Operator, .. }
            | Self::SyncPaused {}
            | Self::SyncResumed {}
            | Self::SyncRolledBack { .. }
            | Self::SyncTakenOver { .. }
            | Self::ImagePullBegun {}
            | Self::ImagePulled { .. }
            | Self::ImagePullEnded { .. }
            | Self::ImageRemoved { .. }
            | Self::RunnerCheckpointed { .. }
            | Self::RunnerPaused { .. }
            | Self::RunnerRestored { .. }
            | Self::RunSubmitted { .. }
            | Self::RunStarted { .. }
            | Self::RunSuspended { .. }
            | Self::RunResumed { .. }
            | Self::RunFinished { .. }
            | Self::RunCancelled { .. }
            | Self::RunExported { .. }
            | Self::RunImported { .. }
            | Self::RunReclaimed { .. }
            | Self::SnapshotScheduled { .. }
            | Self::SnapshotRefused { .. }
            | Self::SnapshotCancelled { .. }
            | Self::SnapshotDispatched { .. }
            | Self::SnapshotTaken { .. }
            | Self::RunnerEnded { out_of_memory: false, .. } => Severity::Info,
            Self::BelaydStarted { last_end: LastEnd::Killed | LastEnd::HostWentDown, .. }
            | Self::EventsLost { .. }
            | Self::DeployRefused { .. }
            | Self::DeployRolledBack { .. }
            | Self::Crashed { .. }
            | Self::Ended { .. }
            | Self::StartFailed { .. }
            | Self::BackingOff { .. }
            | Self::VolumeLevelChanged { level: VolumeLevel::Warning, .. }
            | Self::VolumeUnreserved { .. }
            | Self::VolumeChecked { outcome: CheckOutcome::Repaired }
            | Self::SyncFailed { .. }
            | Self::Quarantined { .. }
            | Self::ApplyTakenBack { .. }
            | Self::ContentWaitEnded { by: ContentWaitEnd::Time, .. }
            | Self::ImagePullFailed { .. }
            | Self::OutOfMemory { .. }
            | Self::Unreadable { .. }
            | Self::Unhealthy { .. }
            | Self::LivenessUnknown { .. }
            | Self::RunnerNotSnapshotted { .. }
            | Self::RunnerNotRestored { .. }
            | Self::RunNotStarted { .. }
            | Self::RunAttemptFailed { .. }
            | Self::RunFailed { .. }
            | Self::SnapshotLate { .. }
            | Self::SnapshotFailed { .. }
            | Self::RunnerEnded { .. } => Severity::Warning,
            Self::EngineLost { .. }
            | Self::LedgerReplaced { .. }
            | Self::HostOvercommitted { .. }
            | Self::Halted { .. }
            | Self::GivenUp { .. }
            | Self::VolumeLevelChanged { level: VolumeLevel::Critical, .. }
            | Self::VolumeRefusesWrites {}
            | Self::VolumeErrors { .. }
            | Self::Unkillable { .. }
            | Self::VolumeChecked { outcome: CheckOutcome::Damaged } => Severity::Alarm,
        }
    }
}
