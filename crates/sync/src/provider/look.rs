//! Looks for a request, and takes it.

use std::time::{Duration, Instant};

use belay_store::{BlobStore, RecordStore};

use super::Provider;
use crate::control::{ControlDir, Fingerprint, Pending};
use crate::core::capturing::CapturePolicy;
use crate::core::request::{RefusedRequest, ValidRequest, judge};
use crate::failpoint::{Point, reached};
use crate::layout::SyncLayout;
use crate::volume::mount_table;
use crate::window::OfflineWindow;

/// What a look at the control directory came to.
pub(super) enum Look {
    Nothing,
    /// Look again after this long.
    Wait(Duration),
    Request(Box<ValidRequest>),
    Refused(Box<RefusedRequest>),
}

impl<S, W> Provider<S, W>
where
    S: BlobStore + RecordStore,
    W: OfflineWindow,
{
    pub(super) async fn look(&mut self, layout: &SyncLayout) -> std::io::Result<Look> {
        let (layout, spec) = (layout.clone(), self.context.spec.clone());
        let unfinished = self.unfinished.take();
        let early = self
            .last_request
            .map(|at| spec.min_publish_interval.saturating_sub(at.elapsed()))
            .filter(|left| !left.is_zero());
        let looked = tokio::task::spawn_blocking(move || {
            look_blocking(&layout, unfinished, spec.request_grace, early, spec.capture)
        });
        let (look, unfinished) = looked.await.map_err(std::io::Error::other)??;
        self.unfinished = unfinished;
        Ok(look)
    }
}

/// `early` is how long no request is taken yet.
fn look_blocking(
    layout: &SyncLayout,
    unfinished: Option<(Fingerprint, Instant)>,
    grace: Duration,
    early: Option<Duration>,
    policy: CapturePolicy,
) -> std::io::Result<(Look, Option<(Fingerprint, Instant)>)> {
    let mounts = mount_table(layout).map_err(std::io::Error::other)?;
    let Some(control) = ControlDir::open(&layout.control)? else {
        return Ok((Look::Nothing, None));
    };
    // Whatever it is, it would be answered, and an app that hands in nothing lawful must not have
    // belayd write answers and events without end. Nor is it touched: what is no file is taken away
    // by the look that answers it.
    if let Some(left) = early
        && control.has_request()?
    {
        return Ok((Look::Wait(left), unfinished));
    }
    let (bytes, print) = match control.pending()? {
        Pending::Nothing => return Ok((Look::Nothing, None)),
        Pending::Unsafe { what } => {
            let refused = RefusedRequest {
                error: format!("request.json is {what}, expected a file"),
                body: None,
                raw_body: None,
                unfinished: false,
            };
            return Ok((Look::Refused(Box::new(refused)), None));
        }
        Pending::Request { bytes, print } => (bytes, print),
    };
    match judge(&bytes, &mounts, policy) {
        Err(refused) if refused.unfinished => {
            // Time counts from the last change, so a slow writer is waited for, but no longer than
            // the grace after it stops writing.
            let since = match unfinished {
                Some((seen, since)) if seen == print => since,
                _ => Instant::now(),
            };
            let left = grace.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Ok((Look::Wait(left), Some((print, since))));
            }
        }
        Ok(_) | Err(_) => {}
    }
    let claimed = control.claim();
    reached(Point::RequestClaimed);
    // What was taken is what counts, whatever it was a moment ago.
    let look = match claimed {
        Ok(bytes) => match judge(&bytes, &mounts, policy) {
            Ok(valid) => Look::Request(Box::new(valid)),
            Err(refused) => Look::Refused(refused),
        },
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Look::Refused(Box::new(RefusedRequest {
                error: "request.json was replaced while it was taken".to_owned(),
                body: None,
                raw_body: None,
                unfinished: false,
            }))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Look::Nothing,
        Err(error) => return Err(error),
    };
    Ok((look, None))
}
