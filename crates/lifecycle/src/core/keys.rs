//! Reads a TOML table key by key and collects every fault instead of stopping at the first.
//!
//! A reader takes the keys it knows; [`Keys::finish`] reports whatever is left, with the nearest
//! name it does know. Values that are wrong are reported and read as absent, so that one pass over
//! a document finds everything that is wrong with it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use belay_protocol::SpecFault;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Longest piece of a found value that is repeated in a fault.
const FOUND_MAX: usize = 80;

/// Names at least this alike (Jaro-Winkler, 0 to 1) are offered as the nearest.
const NEAR: f64 = 0.8;

/// The faults of one document, with what is needed to say where they are.
#[derive(Debug)]
pub struct Faults {
    file: String,
    line_starts: Vec<usize>,
    found: RefCell<Vec<SpecFault>>,
}

impl Faults {
    /// No faults yet in `text`, which errors call `file`.
    pub fn new(file: &str, text: &str) -> Self {
        let line_starts = std::iter::once(0)
            .chain(
                text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1),
            )
            .collect();
        Self { file: file.to_owned(), line_starts, found: RefCell::default() }
    }

    /// Adds a fault at a byte offset of the document.
    pub fn add(&self, offset: usize, key: &str, found: &str, expected: &str) {
        self.add_near(offset, key, found, expected, None);
    }

    fn add_near(
        &self,
        offset: usize,
        key: &str,
        found: &str,
        expected: &str,
        nearest: Option<String>,
    ) {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        self.found.borrow_mut().push(SpecFault {
            file: format!("{}:{line}", self.file),
            key: key.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
            nearest,
        });
    }

    /// All faults, in the order of the document.
    pub fn into_vec(self) -> Vec<SpecFault> {
        let mut faults = self.found.into_inner();
        let line = |fault: &SpecFault| {
            fault.file.rsplit_once(':').and_then(|(_, line)| line.parse::<usize>().ok())
        };
        faults.sort_by_key(line);
        faults
    }
}

/// Parses a document. A syntax error is the only fault of a document that has one.
pub fn parse<'t>(text: &'t str, faults: &Faults) -> Option<Spanned<DeTable<'t>>> {
    match DeTable::parse(text) {
        Ok(table) => Some(table),
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            faults.add(offset, "(document)", error.message(), "a TOML document");
            None
        }
    }
}

/// A value of a table whose names the writer chose.
#[derive(Debug)]
pub enum Entry<'d> {
    /// A text, or a number or boolean written as one.
    Text(String),
    /// A table.
    Table(Keys<'d>),
}

/// A setting that is on, off, or on for some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Off.
    Off,
    /// On.
    On,
    /// On, but for no longer than this.
    OnFor(Duration),
}

/// One table of a document.
#[derive(Debug)]
pub struct Keys<'d> {
    table: &'d DeTable<'d>,
    /// Dotted path of the table, with a dot at its end unless it is the root.
    prefix: String,
    offset: usize,
    known: BTreeSet<&'static str>,
    faults: &'d Faults,
}

impl<'d> Keys<'d> {
    /// The root table of a document.
    pub fn root(table: &'d Spanned<DeTable<'d>>, faults: &'d Faults) -> Self {
        Self {
            table: table.get_ref(),
            prefix: String::new(),
            offset: table.span().start,
            known: BTreeSet::new(),
            faults,
        }
    }

    /// Byte offset of the table in the document.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Dotted path of a key of this table.
    ///
    /// The empty key names the table itself.
    pub fn path(&self, key: &str) -> String {
        let path = format!("{}{key}", self.prefix);
        path.strip_suffix('.').map(str::to_owned).unwrap_or(path)
    }

    /// Adds a fault about a key of this table.
    pub fn fault(&self, key: &str, found: &str, expected: &str) {
        let offset = self.table.get(key).map_or(self.offset, |value| value.span().start);
        self.faults.add(offset, &self.path(key), found, expected);
    }

    /// Whether the key is there, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Adds a fault under another path, at the place of a key of this table.
    pub fn fault_at(&self, key: &str, path: &str, found: &str, expected: &str) {
        let offset = self.table.get(key).map_or(self.offset, |value| value.span().start);
        self.faults.add(offset, &self.path(path), found, expected);
    }

    /// A port number.
    pub fn port(&mut self, key: &'static str) -> Option<u16> {
        self.integer(key, 1..=65_535).and_then(|port| u16::try_from(port).ok())
    }

    /// Reports that a key is missing.
    pub fn missing(&self, key: &str, expected: &str) {
        self.faults.add(self.offset, &self.path(key), "nothing", expected);
    }

    /// Whether the key is there with anything but a table as its value.
    pub fn has_no_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| !matches!(value.get_ref(), DeValue::Table(_)))
    }

    fn take(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.insert(key);
        self.table.get(key)
    }

    fn wrong(&self, key: &str, value: &DeValue<'_>, expected: &str) {
        self.fault(key, &show(value), expected);
    }

    /// A text.
    pub fn text(&mut self, key: &'static str, expected: &str) -> Option<&'d str> {
        match self.take(key)?.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(text),
            other => {
                self.wrong(key, other, expected);
                None
            }
        }
    }

    /// A text that parses; the parser's error is shown after what was expected.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, expected: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.text(key, expected)?;
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.fault(key, &format!("{text:?}"), &format!("{expected} ({error})"));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        let text = self.text(key, &expected)?;
        let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let offset = self.table.get(key).map_or(self.offset, |value| value.span().start);
            let nearest = nearest(text, names.iter().copied());
            let found = format!("{text:?}");
            self.faults.add_near(offset, &self.path(key), &found, &expected, nearest);
        }
        chosen
    }

    /// A whole number within bounds.
    pub fn integer(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?.get_ref();
        let expected = || format!("a whole number from {} to {}", bounds.start(), bounds.end());
        if let DeValue::Integer(number) = value {
            let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
            if let Some(number) = parsed.filter(|number| bounds.contains(number)) {
                return Some(number);
            }
        }
        self.wrong(key, value, &expected());
        None
    }

    /// A number above zero, whole or not.
    pub fn positive(&mut self, key: &'static str, expected: &str) -> Option<f64> {
        let value = self.take(key)?.get_ref();
        let number = match value {
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| number.is_finite() && *number > 0.0) {
            return Some(number);
        }
        self.wrong(key, value, expected);
        None
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)?.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            other => {
                self.wrong(key, other, "true or false");
                None
            }
        }
    }

    /// A duration such as `500ms`, `30s`, `5m` or `1h`, within bounds.
    pub fn duration(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let expected = format!(
            "a duration such as \"500ms\", \"30s\" or \"5m\", from {} to {}",
            show_duration(*bounds.start()),
            show_duration(*bounds.end())
        );
        let text = self.text(key, &expected)?;
        let parsed = parse_duration(text).filter(|duration| bounds.contains(duration));
        if parsed.is_none() {
            self.fault(key, &format!("{text:?}"), &expected);
        }
        parsed
    }

    /// `true`, `false`, or a duration within bounds: on, but for no longer than that.
    pub fn switch(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Switch> {
        match self.take(key)?.get_ref() {
            DeValue::Boolean(true) => Some(Switch::On),
            DeValue::Boolean(false) => Some(Switch::Off),
            DeValue::String(_) => self.duration(key, bounds).map(Switch::OnFor),
            other => {
                self.wrong(key, other, "true, false or a duration such as \"10m\"");
                None
            }
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str, expected: &str) -> Option<Vec<String>> {
        let value = self.take(key)?.get_ref();
        let DeValue::Array(items) = value else {
            self.wrong(key, value, expected);
            return None;
        };
        let mut texts = Vec::new();
        for item in items {
            if let DeValue::String(text) = item.get_ref() {
                texts.push(text.clone().into_owned());
            } else {
                let found = show(item.get_ref());
                self.faults.add(item.span().start, &self.path(key), &found, expected);
            }
        }
        Some(texts)
    }

    /// A sub-table.
    pub fn table(&mut self, key: &'static str) -> Option<Keys<'d>> {
        let value = self.take(key)?;
        self.sub_table(key, value)
    }

    /// Sub-tables by a name that the writer chose.
    pub fn named_tables(&mut self, key: &'static str) -> Vec<(&'d str, Keys<'d>)> {
        let Some(mut outer) = self.table(key) else { return Vec::new() };
        let table = outer.table;
        table
            .iter()
            .filter_map(|(name, value)| {
                let name: &'d str = name.get_ref();
                Some((name, outer.sub_table(name, value)?))
            })
            .collect()
    }

    /// An array of tables.
    pub fn tables(&mut self, key: &'static str) -> Vec<Keys<'d>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(key, value.get_ref(), "a list of tables");
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .filter_map(|(number, item)| self.sub_table(&format!("{key}[{number}]"), item))
            .collect()
    }

    /// A table of texts or tables by a name that the writer chose; numbers and booleans become
    /// texts.
    pub fn map(&mut self, key: &'static str, expected: &str) -> Vec<(&'d str, Entry<'d>)> {
        let Some(mut inner) = self.table(key) else { return Vec::new() };
        let mut entries = Vec::new();
        for (name, value) in inner.table {
            let text = match value.get_ref() {
                DeValue::String(text) => text.clone().into_owned(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(value) => value.to_string(),
                DeValue::Table(_) => {
                    let name: &'d str = name.get_ref();
                    let table = inner.sub_table(name, value);
                    entries.extend(table.map(|table| (name, Entry::Table(table))));
                    continue;
                }
                other @ (DeValue::Datetime(_) | DeValue::Array(_)) => {
                    let found = show(other);
                    let path = inner.path(name.get_ref());
                    self.faults.add(value.span().start, &path, &found, expected);
                    continue;
                }
            };
            let name: &'d str = name.get_ref();
            entries.push((name, Entry::Text(text)));
        }
        entries
    }

    fn sub_table(&mut self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Option<Keys<'d>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Keys {
                table,
                prefix: format!("{}{key}.", self.prefix),
                offset: value.span().start,
                known: BTreeSet::new(),
                faults: self.faults,
            });
        }
        let found = show(value.get_ref());
        self.faults.add(value.span().start, &self.path(key), &found, "a table");
        None
    }

    /// Reports every key that was not asked for.
    pub fn finish(self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !self.known.contains(name) {
                let nearest = nearest(name, self.known.iter().copied());
                let known: Vec<_> = self.known.iter().copied().collect();
                let expected = format!("one of the keys {}", known.join(", "));
                let path = self.path(name);
                self.faults.add_near(key.span().start, &path, "an unknown key", &expected, nearest);
            }
        }
    }
}

/// The name most like `word`, if any is near.
pub fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    // Two letters swapped in a short word are near by edits and far by likeness.
    let edits = |name: &str| strsim::damerau_levenshtein(word, name);
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(likeness, name)| *likeness >= NEAR || edits(name) <= 1)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

fn show(value: &DeValue<'_>) -> String {
    let text = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    if text.chars().count() > FOUND_MAX {
        text.chars().take(FOUND_MAX).chain("…".chars()).collect()
    } else {
        text
    }
}

/// Parses a duration: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// Writes a duration as [`parse_duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".to_owned(),
        ms if ms % 86_400_000 == 0 => format!("{}d", ms / 86_400_000),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}
