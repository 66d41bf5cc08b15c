//! A removal that does not end: an engine that was cut off while it removed a container leaves it
//! "removing" for ever, and nothing may be done to its workload while that cannot be told apart
//! from one that is under way.

use std::time::Duration;

/// How long a removal may take before it counts as stuck. The engine's own is over in seconds.
const GRACE: Duration = Duration::from_secs(60);

/// Remembers since when a container is being removed.
#[derive(Debug, Default)]
pub struct StuckRemoval {
    seen: Option<(String, Duration)>,
}

impl StuckRemoval {
    /// Takes what a look found at `now`, a monotonic time, and gives the container whose removal is
    /// to be finished by force. After a try it is given as much time again.
    pub fn look(&mut self, removing: Option<&str>, now: Duration) -> Option<String> {
        let Some(id) = removing else {
            self.seen = None;
            return None;
        };
        match &mut self.seen {
            Some((seen, since)) if seen == id => {
                if now.saturating_sub(*since) < GRACE {
                    return None;
                }
                *since = now;
                Some(id.to_owned())
            }
            Some(_) | None => {
                self.seen = Some((id.to_owned(), now));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_removal_is_finished_by_force_once_it_has_had_its_time() {
        let mut stuck = StuckRemoval::default();
        assert_eq!(stuck.look(Some("a"), at(5)), None);
        assert_eq!(stuck.look(Some("a"), at(64)), None);
        assert_eq!(stuck.look(Some("a"), at(65)).as_deref(), Some("a"));
        assert_eq!(stuck.look(Some("a"), at(67)), None, "a try is given its time too");
        assert_eq!(stuck.look(Some("a"), at(125)).as_deref(), Some("a"));
    }

    #[test]
    fn another_container_or_an_end_begins_anew() {
        let mut stuck = StuckRemoval::default();
        stuck.look(Some("a"), at(0));
        assert_eq!(stuck.look(Some("b"), at(100)), None);
        assert_eq!(stuck.look(None, at(150)), None);
        assert_eq!(stuck.look(Some("b"), at(200)), None);
        assert_eq!(stuck.look(Some("b"), at(260)).as_deref(), Some("b"));
    }
}
