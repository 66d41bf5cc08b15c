//! How a capture is made.

use belay_protocol::record::{Capture, ProviderCapture};

/// What an operator permits of captures of one workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CapturePolicy {
    /// The container is stopped for each.
    #[default]
    Stopped,
    /// It runs on where the volumes can be kept at one moment, and is stopped where not.
    Atomic,
    /// It always runs on; where the volumes cannot be kept they are read while it writes.
    Live,
}

/// What a capture is, where volumes can be kept at one moment and where not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CapturePlan {
    pub(crate) kept: Capture,
    pub(crate) otherwise: Capture,
}

/// What a request that says nothing wishes, in effect.
pub(crate) fn unsaid(policy: CapturePolicy) -> ProviderCapture {
    match policy {
        CapturePolicy::Stopped => ProviderCapture::Offline,
        CapturePolicy::Atomic | CapturePolicy::Live => ProviderCapture::Online,
    }
}

/// Plans a capture. What is wished was permitted when it was asked for, and may not be any more.
pub(crate) fn plan(policy: CapturePolicy, wish: ProviderCapture) -> CapturePlan {
    let (kept, otherwise) = match (policy, wish) {
        (CapturePolicy::Stopped, _) | (_, ProviderCapture::Offline) => {
            (Capture::Stopped, Capture::Stopped)
        }
        (CapturePolicy::Atomic, ProviderCapture::Online) => (Capture::Atomic, Capture::Stopped),
        (CapturePolicy::Live, ProviderCapture::Online) => (Capture::Atomic, Capture::Live),
    };
    CapturePlan { kept, otherwise }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_runs_on_only_where_that_is_permitted_and_wished() {
        use Capture::{Atomic, Live, Stopped};
        for (policy, wish, kept, otherwise) in [
            (CapturePolicy::Stopped, ProviderCapture::Offline, Stopped, Stopped),
            // The spec was another when it was asked for.
            (CapturePolicy::Stopped, ProviderCapture::Online, Stopped, Stopped),
            (CapturePolicy::Atomic, ProviderCapture::Offline, Stopped, Stopped),
            (CapturePolicy::Atomic, ProviderCapture::Online, Atomic, Stopped),
            (CapturePolicy::Live, ProviderCapture::Offline, Stopped, Stopped),
            (CapturePolicy::Live, ProviderCapture::Online, Atomic, Live),
        ] {
            assert_eq!(plan(policy, wish), CapturePlan { kept, otherwise }, "{policy:?} {wish:?}");
        }
        for policy in [CapturePolicy::Stopped, CapturePolicy::Atomic, CapturePolicy::Live] {
            let runs = plan(policy, unsaid(policy)).kept != Stopped;
            assert_eq!(runs, policy != CapturePolicy::Stopped, "{policy:?}");
        }
    }
}
