//! What a reader is told besides the events.

use belay_ledger::{JournalPage, Numbered};
use belay_protocol::{Event, EventDetails, EventGap, EventPage, EventSeq, EventSubject};
use jiff::Timestamp;

/// What is missing between the number that was asked for and what is kept: `first` is the oldest
/// number that is kept, `newest` the newest that was given.
pub(crate) fn gap(after: EventSeq, first: Option<u64>, newest: u64) -> Option<EventGap> {
    let first = first.unwrap_or(newest.saturating_add(1));
    // A number that was never given comes from a ledger that is gone.
    let foreign = after.get() > newest;
    let missing = after.get().saturating_add(1) < first;
    (foreign || missing).then(|| EventGap { after, first: EventSeq::new(first) })
}

/// A page of the journal as a page of events; `limit` is how many were asked for.
pub(crate) fn page(read: &JournalPage, gap: Option<EventGap>, limit: usize) -> EventPage {
    let newest = EventSeq::new(read.newest);
    // A page that is not full ends at the end, whatever of it was passed over.
    let last = read.entries.last().map(|found| EventSeq::new(found.number));
    let next = if read.entries.len() < limit { newest } else { last.unwrap_or(newest) };
    EventPage {
        first: read.first.map(EventSeq::new),
        newest,
        gap,
        events: read.entries.iter().map(event).collect(),
        next,
    }
}

/// An entry as the event that it is, or as one that says why it cannot be read.
fn event(found: &Numbered) -> Event {
    let seq = EventSeq::new(found.number);
    match serde_json::from_str::<Event>(&found.entry.body) {
        Ok(event) => Event { seq, ..event },
        Err(error) => {
            let details = EventDetails::Unreadable { cause: error.to_string().into() };
            Event {
                seq,
                at: Timestamp::from_millisecond(found.entry.at).unwrap_or_default(),
                severity: details.severity(),
                subject: EventSubject::Node,
                message: format!(
                    "event {seq} ({}) is in the ledger and this belayd cannot read it",
                    found.entry.kind
                )
                .into(),
                details,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use belay_ledger::Entry;

    use super::*;

    #[test]
    fn a_gap_is_told_when_numbers_are_gone_or_foreign() {
        let gap = |after, first, newest| {
            gap(EventSeq::new(after), first, newest).map(|gap| gap.first.get())
        };
        for (after, first, newest, expected) in [
            (0, None, 0, None),
            (0, Some(1), 9, None),
            (5, Some(1), 9, None),
            (9, Some(1), 9, None),
            (119, Some(120), 130, None),
            (118, Some(120), 130, Some(120)),
            (0, Some(120), 130, Some(120)),
            (131, Some(120), 130, Some(120)),
            (5, None, 0, Some(1)),
            (u64::MAX, Some(120), 130, Some(120)),
        ] {
            assert_eq!(gap(after, first, newest), expected, "{after} {first:?} {newest}");
        }
    }

    fn numbered(number: u64, body: &str) -> Numbered {
        let entry =
            Entry { at: 1000, topic: String::new(), kind: "novel".into(), body: body.into() };
        Numbered { number, entry }
    }

    #[test]
    fn an_event_that_cannot_be_read_costs_that_event() {
        let good = r#"{"seq":0,"at":"2026-03-01T12:00:00Z","kind":"belayd-stopping",
            "severity":"info","subject":{"type":"node"},"message":"belayd ends","details":{}}"#;
        let read = JournalPage {
            first: Some(3),
            newest: 9,
            entries: vec![numbered(4, good), numbered(5, "{\"kind\":\"novel\"}")],
        };
        let page = page(&read, None, 2);
        assert_eq!(page.events[0].seq.get(), 4);
        assert_eq!(page.events[0].details, EventDetails::BelaydStopping {});
        assert_eq!(page.events[1].seq.get(), 5);
        assert!(matches!(page.events[1].details, EventDetails::Unreadable { .. }));
        assert_eq!(page.events[1].at.as_second(), 1);
        assert_eq!(page.next.get(), 5, "a full page goes on after its last");
    }

    #[test]
    fn a_page_that_is_not_full_goes_on_at_the_end() {
        let read = JournalPage { first: Some(3), newest: 9, entries: Vec::new() };
        assert_eq!(page(&read, None, 2).next.get(), 9);
    }
}
