//! The task that has events written when nothing else is.

use std::time::Duration;

use belay_ledger::Ledger;
use belay_protocol::{EventSeq, EventTally};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::log::EventLog;
use crate::sink::EventSink;

/// How long an event waits for a commit that is made for something else: events come in groups,
/// and each commit costs the flash of the node a few blocks.
const LINGER: Duration = Duration::from_millis(300);

/// Pause before a ledger that refused is tried again, doubled up to the longest.
const RETRY: Duration = Duration::from_secs(1);

/// Longest pause before a ledger that refused is tried again.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Least time between two tellings of what was lost.
const LOSSES: Duration = Duration::from_secs(60);

/// Has events written that no other commit took along.
#[derive(Debug)]
pub struct EventsTask {
    sink: EventSink,
    log: EventLog,
    newest: watch::Receiver<u64>,
    tally: watch::Sender<EventTally>,
    ending: CancellationToken,
    /// When what was lost may be told next.
    losses: Instant,
    /// Pause before the next try, while the ledger refuses.
    refused: Option<Duration>,
}

impl EventsTask {
    /// Starts the task. It ends with `ending`, after what was told until then is on the disk.
    pub fn spawn(
        ledger: &Ledger,
        ending: CancellationToken,
    ) -> (EventSink, EventLog, JoinHandle<()>) {
        let journal = ledger.journal();
        let newest = journal.newest();
        let (tally, watched) = watch::channel(EventTally {
            newest: EventSeq::new(*newest.borrow()),
            ..EventTally::default()
        });
        let sink = EventSink::new(journal.clone());
        let log = EventLog { journal, tally: watched };
        let task = Self {
            sink: sink.clone(),
            log: log.clone(),
            newest,
            tally,
            ending,
            losses: Instant::now(),
            refused: None,
        };
        (sink, log, tokio::spawn(task.run()))
    }

    async fn run(mut self) {
        // When the staged events are written, if nothing else takes them along before.
        let mut due: Option<Instant> = None;
        loop {
            let write = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.sink.told() => {
                    due.get_or_insert_with(|| Instant::now() + LINGER);
                }
                changed = self.newest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.count();
                }
                () = write => {
                    due = self.write().await.map(|pause| Instant::now() + pause);
                }
                () = self.ending.cancelled() => break,
            }
        }
        self.write().await;
    }

    /// Writes what is staged, and says how long to wait before there is more to do.
    async fn write(&mut self) -> Option<Duration> {
        let written = self.log.journal.flush().await;
        let more = match written {
            Ok(()) => {
                if self.refused.take().is_some() {
                    tracing::info!("the ledger takes events again");
                }
                self.lost()
            }
            Err(error) => {
                if self.refused.is_none() {
                    tracing::error!("events wait in memory: {error}");
                }
                let pause = self.refused.map_or(RETRY, |pause| (pause * 2).min(RETRY_MAX));
                self.refused = Some(pause);
                Some(pause)
            }
        };
        self.count();
        more
    }

    /// Tells what was lost, if it is time, and says when to look again.
    fn lost(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.losses > now {
            let waiting = self.sink.counting(|counts| counts.untold());
            return waiting.then(|| self.losses - now);
        }
        if !self.sink.tell_losses() {
            return None;
        }
        self.losses = now + LOSSES;
        Some(LINGER)
    }

    fn count(&mut self) {
        let newest = EventSeq::new(*self.newest.borrow_and_update());
        let (told, lost) = self.sink.counting(|counts| (counts.told.clone(), counts.lost));
        self.tally.send_replace(EventTally { newest, told, lost });
    }
}
