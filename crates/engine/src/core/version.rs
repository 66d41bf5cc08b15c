//! Versions of engines.

use std::fmt;

/// A version of an engine or of its API. Ordered by its numbers; what follows them is kept as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u32; 3],
    text: String,
}

impl Version {
    /// Reads up to three numbers separated by dots; what is missing or follows counts as 0.
    pub(crate) fn parse(text: &str) -> Self {
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(text.trim().split('.')) {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            *number = part[..digits].parse().unwrap_or(0);
            if digits < part.len() {
                break;
            }
        }
        Self { numbers, text: text.trim().to_owned() }
    }

    /// Major, minor, patch.
    pub fn numbers(&self) -> [u32; 3] {
        self.numbers
    }

    /// Whether this is the given version or a later one.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.numbers >= [major, minor, 0]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_their_numbers() {
        for (text, numbers) in [
            ("4.3.1", [4, 3, 1]),
            ("20.10.24+dfsg1", [20, 10, 24]),
            ("1.41", [1, 41, 0]),
            ("5.4.2-dev", [5, 4, 2]),
            ("5.4-rc1.7", [5, 4, 0]),
            ("", [0, 0, 0]),
            ("x", [0, 0, 0]),
            ("99999999999.1", [0, 1, 0]),
        ] {
            assert_eq!(Version::parse(text).numbers(), numbers, "{text:?}");
        }
        assert!(Version::parse("20.10.24").at_least(4, 3));
        assert!(Version::parse("4.3.1").at_least(4, 3));
        assert!(!Version::parse("4.2.9").at_least(4, 3));
    }
}
