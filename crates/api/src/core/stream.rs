//! Server-sent events: the text of each block, as the HTML standard has it.
//!
//! The number of a block is its `id`, so that a client which lost the connection says with
//! `Last-Event-ID` where to go on. `data` is one line and the last of its block.

use belay_protocol::{Event, EventGap, EventSeq};
use serde::Serialize;

/// What a reader does when the connection is lost: wait so many milliseconds, then come back.
pub(crate) const RETRY: &str = "retry: 2000\n\n";

/// An event.
pub(crate) fn event(event: &Event) -> String {
    format!("id: {}\ndata: {}\n\n", event.seq, json(event))
}

/// Events that were asked for are not kept any more.
pub(crate) fn gap(gap: &EventGap) -> String {
    let before = gap.first.get().saturating_sub(1);
    format!("event: gap\nid: {before}\ndata: {}\n\n", json(gap))
}

/// Nothing happened. The number keeps a reader of few kinds from falling behind what is kept.
pub(crate) fn alive(position: EventSeq) -> String {
    format!(": alive\nid: {position}\n\n")
}

/// The answer ends, and why.
pub(crate) fn end(reason: &str) -> String {
    format!("event: end\ndata: {}\n\n", json(&serde_json::json!({ "reason": reason })))
}

/// JSON has no line ends but those that are asked for.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("wire shapes have derived serializers")
}

#[cfg(test)]
mod tests {
    use belay_protocol::{EventDetails, EventSubject};

    use super::*;

    #[test]
    fn a_block_ends_with_its_data_and_an_empty_line() {
        let details = EventDetails::EngineLost { cause: "a\nb".into() };
        let told = Event {
            seq: EventSeq::new(7),
            at: "2026-03-01T12:00:00Z".parse().expect("a time"),
            severity: details.severity(),
            subject: EventSubject::Node,
            message: "gone\r\n: away".into(),
            details,
        };
        assert_eq!(
            event(&told),
            "id: 7\ndata: {\"seq\":7,\"at\":\"2026-03-01T12:00:00Z\",\"kind\":\"engine-lost\",\
             \"severity\":\"alarm\",\"subject\":{\"type\":\"node\"},\"message\":\"gone  : away\",\
             \"details\":{\"cause\":\"a b\"}}\n\n"
        );
        let missing = EventGap { after: EventSeq::new(5), first: EventSeq::new(120) };
        let text = "event: gap\nid: 119\ndata: {\"after\":5,\"first\":120}\n\n";
        assert_eq!(gap(&missing), text);
        assert_eq!(alive(EventSeq::new(7)), ": alive\nid: 7\n\n");
        assert_eq!(end("it ends"), "event: end\ndata: {\"reason\":\"it ends\"}\n\n");
    }
}
