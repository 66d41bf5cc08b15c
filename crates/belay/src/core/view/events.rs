//! `belay events`: one line each.

use belay_protocol::{EventGap, EventSeq};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::core::human;
use crate::core::table::{Style, Tone, one_line};

/// A page of events as far as this program reads it: a newer belayd may know more of them.
#[derive(Debug, Deserialize)]
pub(crate) struct EventPage {
    /// Set when events are missing before the first.
    pub(crate) gap: Option<EventGap>,
    /// The events, oldest first.
    pub(crate) events: Vec<Value>,
    /// Number of the newest event of the node.
    pub(crate) newest: EventSeq,
    /// The number to go on after.
    pub(crate) next: EventSeq,
}

/// The heads of the columns.
pub(crate) fn head(style: Style) -> String {
    let text = columns("SEQ", "WHEN", "SEVERITY", "SUBJECT", "KIND") + "MESSAGE";
    Tone::Faint.paint(style, &text) + "\n"
}

/// One event. What it does not have is shown as `-`.
pub(crate) fn line(event: &Value, style: Style) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or("-").to_owned();
    let seq = event["seq"].as_u64().map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    let at = text("at").parse::<Timestamp>().map_or_else(|_| text("at"), human::clock);
    let tone = match event["severity"].as_str() {
        Some("warning") => Tone::Doubtful,
        Some("alarm") => Tone::Bad,
        Some(_) | None => Tone::Plain,
    };
    let columns = columns(&seq, &at, &text("severity"), &subject(&event["subject"]), &text("kind"));
    tone.paint(style, &(columns + &one_line(&text("message")))) + "\n"
}

fn columns(seq: &str, at: &str, severity: &str, subject: &str, kind: &str) -> String {
    format!("{seq:>6}  {at:<20}  {severity:<8}  {subject:<18}  {kind:<21}  ")
}

fn subject(subject: &Value) -> String {
    let part = |name: &str| subject[name].as_str();
    match (part("workload"), part("volume"), part("key"), part("image")) {
        (Some(workload), Some(volume), _, _) => format!("{workload}/{volume}"),
        (Some(workload), None, Some(key), _) => format!("{workload} sync {key}"),
        (Some(workload), None, None, _) => workload.to_owned(),
        (None, _, _, Some(image)) => image.to_owned(),
        (None, _, _, None) => part("type").unwrap_or("-").to_owned(),
    }
}

/// What is said of events that are missing.
pub(crate) fn gap(gap: &EventGap) -> String {
    let (after, first) = (gap.after.get(), gap.first.get());
    if after >= first {
        return format!(
            "event {after} is not of this ledger, which begins with {first}: an earlier one was \
             lost; everything that there is is shown"
        );
    }
    let missing = first.saturating_sub(1);
    format!("events {} to {missing} are not kept any more", after.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_a_line_also_when_its_kind_is_not_known() {
        let known = json!({
            "seq": 17, "at": "2026-03-01T12:00:00Z", "kind": "volume-level-changed",
            "severity": "alarm", "subject": {"type": "volume", "workload": "web", "volume": "data"},
            "message": "web/data: 96 percent of its bytes are used", "details": {},
        });
        let novel = json!({"seq": 18, "kind": "novel", "subject": {"type": "planet"}});
        assert_eq!(
            head(Style::Plain) + &line(&known, Style::Plain) + &line(&novel, Style::Plain),
            "   SEQ  WHEN                  SEVERITY  SUBJECT             KIND                   MESSAGE\n\
             \x20   17  2026-03-01 12:00:00Z  alarm     web/data            volume-level-changed   \
             web/data: 96 percent of its bytes are used\n\
             \x20   18  -                     -         planet              novel                  -\n"
        );
    }

    #[test]
    fn a_gap_is_said_in_words() {
        let say = |after, first| {
            gap(&EventGap { after: EventSeq::new(after), first: EventSeq::new(first) })
        };
        assert_eq!(say(4, 120), "events 5 to 119 are not kept any more");
        assert!(say(500, 1).starts_with("event 500 is not of this ledger, which begins with 1:"));
    }
}
