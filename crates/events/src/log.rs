//! Reading what happened.

use belay_ledger::{Journal, JournalQuery, LedgerError, ReadFrom};
use belay_protocol::{EventPage, EventQuery, EventStart, EventTally};
use tokio::sync::watch;

use crate::core::page;

/// Reads events that are on the disk. Clones read the same log.
#[derive(Debug, Clone)]
pub struct EventLog {
    pub(crate) journal: Journal,
    pub(crate) tally: watch::Receiver<EventTally>,
}

impl EventLog {
    /// Number of the newest event and counts since the start; changes when there is a new one.
    pub fn tally(&self) -> watch::Receiver<EventTally> {
        self.tally.clone()
    }

    /// Reads a page. A number that is not kept any more, or that this ledger never gave, is
    /// answered from the oldest event that there is, with the gap.
    pub async fn read(&self, query: &EventQuery) -> Result<EventPage, LedgerError> {
        let journal_query = |from| JournalQuery {
            from,
            topic: query.workload.as_ref().map(ToString::to_string),
            kinds: query.kinds.iter().map(|kind| kind.as_str().to_owned()).collect(),
            limit: query.limit,
        };
        let after = match query.start {
            EventStart::Last => {
                let read = self.journal.read(journal_query(ReadFrom::End)).await?;
                return Ok(page::page(&read, None, query.limit));
            }
            EventStart::After(after) => after,
        };
        let mut read = self.journal.read(journal_query(ReadFrom::After(after.get()))).await?;
        let gap = page::gap(after, read.first, read.newest);
        if let Some(gap) = gap
            && gap.first <= after
        {
            let before = gap.first.get().saturating_sub(1);
            read = self.journal.read(journal_query(ReadFrom::After(before))).await?;
        }
        Ok(page::page(&read, gap, query.limit))
    }
}
