//! Events out of the lines of a stream of them.

use belay_protocol::{EventGap, EventSeq};
use serde::Deserialize;
use serde_json::Value;

/// What a block of the stream says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    /// An event, as belayd wrote it: a newer one may know kinds that this program does not.
    Event(Value),
    /// Events that were asked for are not kept any more.
    Gap(EventGap),
    /// belayd ends the stream, and why.
    End(String),
}

/// Reads lines without the empty ones between blocks. belayd writes the `data` of a block on one
/// line, and last.
#[derive(Debug, Default)]
pub(crate) struct EventBlocks {
    kind: String,
    /// The number of the block that is being read. It counts once the block is whole: one that is
    /// cut is asked for again.
    number: Option<EventSeq>,
    position: Option<EventSeq>,
    /// Whether the block says nothing but its number.
    is_alive: bool,
}

#[derive(Deserialize)]
struct End {
    reason: String,
}

impl EventBlocks {
    /// The number to go on after, as far as the stream has said one.
    pub(crate) fn position(&self) -> Option<EventSeq> {
        self.position
    }

    /// Takes a line, and gives what it completes.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Option<Told>, serde_json::Error> {
        let text = String::from_utf8_lossy(line);
        // Fields that are not known are passed over, as the standard has it.
        let Some((field, value)) = text.split_once(": ") else { return Ok(None) };
        match field {
            "" => self.is_alive = value == "alive",
            "event" => value.clone_into(&mut self.kind),
            "id" => {
                self.number = value.parse().ok();
                if std::mem::take(&mut self.is_alive) {
                    self.position = self.number.or(self.position);
                }
            }
            "data" => {
                self.position = self.number.take().or(self.position);
                return Ok(Some(match std::mem::take(&mut self.kind).as_str() {
                    "gap" => Told::Gap(serde_json::from_str(value)?),
                    "end" => Told::End(serde_json::from_str::<End>(value)?.reason),
                    _ => Told::Event(serde_json::from_str(value)?),
                }));
            }
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_belayd_writes_them() {
        let mut blocks = EventBlocks::default();
        let mut told = Vec::new();
        for line in [
            "retry: 2000",
            "event: gap",
            "id: 2",
            "data: {\"after\":1,\"first\":3}",
            "id: 3",
            "data: {\"seq\":3,\"kind\":\"novel\"}",
            ": alive",
            "id: 9",
            "event: end",
            "data: {\"reason\":\"it ends\"}",
        ] {
            told.extend(blocks.take(line.as_bytes()).expect("reads"));
        }
        assert_eq!(
            told,
            [
                Told::Gap(EventGap { after: EventSeq::new(1), first: EventSeq::new(3) }),
                Told::Event(serde_json::json!({"seq": 3, "kind": "novel"})),
                Told::End("it ends".to_owned()),
            ]
        );
        assert_eq!(blocks.position(), Some(EventSeq::new(9)));
        assert!(blocks.take(b"data: {").is_err());
    }

    #[test]
    fn a_block_that_is_cut_is_asked_for_again() {
        let mut blocks = EventBlocks::default();
        for line in ["id: 3", "data: {}", "id: 4"] {
            blocks.take(line.as_bytes()).expect("reads");
        }
        assert_eq!(blocks.position(), Some(EventSeq::new(3)));
    }
}
