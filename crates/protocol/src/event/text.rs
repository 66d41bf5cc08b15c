//! Text that fits a line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text of an event, in characters.
const LONGEST: usize = 500;

/// One line of at most 500 characters: what is longer is cut, and line ends and other control
/// characters become blanks, so that nothing a workload wrote bends a table or a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct EventText(String);

impl EventText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for EventText {
    fn from(text: &str) -> Self {
        let mut line = String::with_capacity(text.len().min(LONGEST));
        let mut characters = text.trim().chars();
        for character in characters.by_ref().take(LONGEST) {
            line.push(if character.is_control() { ' ' } else { character });
        }
        if characters.next().is_some() {
            line.pop();
            line.push('…');
        }
        Self(line)
    }
}

impl From<String> for EventText {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&String> for EventText {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<EventText> for String {
    fn from(text: EventText) -> Self {
        text.0
    }
}

impl fmt::Display for EventText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_of_bounded_length() {
        assert_eq!(EventText::from(" a\nb\u{1b}[2Jc\r\n").as_str(), "a b [2Jc");
        let long = EventText::from("ä".repeat(600));
        assert_eq!(long.as_str().chars().count(), LONGEST);
        assert!(long.as_str().ends_with("ä…"));
        assert_eq!(EventText::from("x".repeat(LONGEST)).as_str(), "x".repeat(LONGEST));
    }
}
