//! Looks at the engine that the workloads of a node share.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use belay_engine::{Engine, ListedContainer, labels};
use belay_protocol::WorkloadName;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How often a quiet workload is compared with the engine, should an event have been lost.
pub(crate) const PERIOD: Duration = Duration::from_secs(30);

/// Over how much of a period the workloads' looks are spread, so that they do not all want a thread
/// at once.
const SPREAD: Duration = Duration::from_secs(1);

/// How old a list may be that another workload asked for.
const FRESH: Duration = Duration::from_secs(5);

/// Has quiet workloads look at the engine about the same time, with one list for all of them.
///
/// With a list and an inspect for each, twenty idle workloads cost more than everything else that
/// belayd does.
#[derive(Debug, Clone)]
pub struct Roll {
    began: Instant,
    instance: String,
    called: Arc<Mutex<Option<Called>>>,
}

#[derive(Debug, Clone)]
struct Called {
    at: Instant,
    found: Arc<[ListedContainer]>,
}

impl Roll {
    /// Of the containers of this installation.
    pub fn new(instance: String) -> Self {
        Self { began: Instant::now(), instance, called: Arc::default() }
    }

    /// When a workload that looked at `looked_at` looks again if nothing happens: within a period,
    /// at the moment of the period that is its own.
    pub(crate) fn next_look(&self, workload: &WorkloadName, looked_at: Instant) -> Instant {
        let mut hasher = DefaultHasher::new();
        workload.hash(&mut hasher);
        let spread = u64::try_from(SPREAD.as_millis()).unwrap_or(u64::MAX).max(1);
        let first = self.began + Duration::from_millis(hasher.finish() % spread);
        let since = looked_at.saturating_duration_since(first);
        if looked_at < first {
            return first;
        }
        let periods = u32::try_from(since.as_nanos() / PERIOD.as_nanos()).unwrap_or(u32::MAX - 1);
        first + PERIOD * (periods + 1)
    }

    /// What the engine lists of all containers of this installation, a few seconds old at most;
    /// `None` when it could not say.
    pub(crate) async fn call(&self, engine: &Engine) -> Option<Arc<[ListedContainer]>> {
        // Whoever comes meanwhile waits for the list under way instead of asking for another.
        let mut called = self.called.lock().await;
        if let Some(last) = called.as_ref().filter(|last| last.at.elapsed() <= FRESH) {
            return Some(Arc::clone(&last.found));
        }
        let at = Instant::now();
        let filter = format!("{}={}", labels::INSTANCE, self.instance);
        let found: Arc<[ListedContainer]> = engine.roll(&[filter]).await.ok()?.into();
        *called = Some(Called { at, found: Arc::clone(&found) });
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_come_within_a_period_and_about_the_same_time() {
        let roll = Roll::new("here".to_owned());
        let names = (0..20).map(|n| format!("w{n}").parse().expect("a name"));
        let names: Vec<WorkloadName> = names.collect();
        for seconds in [0, 1, 17, 29, 30, 31, 59, 3_600] {
            let now = roll.began + Duration::from_secs(seconds);
            let next: Vec<_> = names.iter().map(|name| roll.next_look(name, now)).collect();
            assert!(next.iter().all(|at| *at > now || seconds == 0), "never at once again");
            assert!(next.iter().all(|at| *at <= now + PERIOD));
            let place = |at: &Instant| (*at - roll.began).as_millis() % PERIOD.as_millis();
            assert!(next.iter().all(|at| place(at) < SPREAD.as_millis()), "all in one second");
        }
        let name = &names[3];
        let first = roll.next_look(name, roll.began + Duration::from_secs(5));
        assert_eq!(roll.next_look(name, first), first + PERIOD, "and goes on from look to look");
        assert_eq!(roll.next_look(name, first - Duration::from_millis(1)), first);
    }
}
