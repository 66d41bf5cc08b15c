//! The table of cases in `docs/sync.md` has every case, and the tests that it names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The catalogue: the letters of its numbers, how many there are, and their digits.
const CATALOGUE: [(&str, u32, usize); 4] =
    [("CF", 19, 2), ("SM", 111, 3), ("SX", 44, 2), ("B", 40, 0)];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of the table: what is held, and by what.
fn rows() -> Vec<(String, String)> {
    let page = fs::read_to_string(repository().join("docs/sync.md")).expect("the page");
    let (_, table) = page.split_once("| case | held by |\n|---|---|\n").expect("the table");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells = line.trim_matches('|').split_once(" | ").expect("two cells");
        (cells.0.trim().to_owned(), cells.1.trim().to_owned())
    };
    rows.map(row).collect()
}

fn numbered(text: &str) -> Option<(&'static str, u32)> {
    CATALOGUE.iter().find_map(|(letters, _, digits)| {
        let number = text.strip_prefix(letters)?;
        let number =
            if *digits == 0 || number.len() == *digits { number.parse().ok() } else { None };
        Some((*letters, number?))
    })
}

/// The cases of a cell, such as `CF06–08, SM028`; none if it is of another kind.
fn cases(cell: &str) -> Vec<(&'static str, u32)> {
    let mut cases = Vec::new();
    for part in cell.split(", ") {
        let (first, last) = part.split_once('–').unwrap_or((part, part));
        let Some((letters, from)) = numbered(first) else { return Vec::new() };
        let last = last.trim_start_matches(letters);
        let to = last.parse().unwrap_or_else(|_| panic!("{part:?} ends with a number"));
        cases.extend((from..=to).map(|number| (letters, number)));
    }
    cases
}

#[test]
fn every_case_of_the_catalogue_has_its_row_and_only_one() {
    let mut seen = BTreeMap::<_, u32>::new();
    for (cell, _) in rows() {
        for case in cases(&cell) {
            *seen.entry(case).or_default() += 1;
        }
    }
    let all: BTreeSet<_> = CATALOGUE
        .iter()
        .flat_map(|(letters, count, _)| (1..=*count).map(move |number| (*letters, number)))
        .collect();
    let found: BTreeSet<_> = seen.keys().copied().collect();
    assert_eq!(all.difference(&found).collect::<Vec<_>>(), Vec::<&(&str, u32)>::new(), "missing");
    assert_eq!(found.difference(&all).collect::<Vec<_>>(), Vec::<&(&str, u32)>::new(), "unknown");
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "more than once: {twice:?}");
}

fn source(named: &str) -> Option<String> {
    let path = match (named.strip_prefix("T/"), named.strip_prefix("C/")) {
        (Some(rest), _) => format!("crates/sync/tests/sync/{rest}"),
        (_, Some(rest)) => format!("crates/sync/src/{rest}"),
        (None, None) => named.to_owned(),
    };
    fs::read_to_string(repository().join(format!("{path}.rs"))).ok()
}

#[test]
fn every_test_that_a_case_names_exists() {
    for (cell, held) in rows().iter().filter(|(cell, _)| !cases(cell).is_empty()) {
        let mut file: Option<(String, String)> = None;
        let mut tests = 0;
        for word in held.split('`').skip(1).step_by(2) {
            if word.contains('/') {
                let text = source(word).unwrap_or_else(|| panic!("{cell}: there is no {word}"));
                file = Some((word.to_owned(), text));
                continue;
            }
            let is_a_name =
                word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            let Some((name, text)) = file.as_ref().filter(|_| is_a_name) else { continue };
            let is_there = text.lines().any(|line| {
                let line = line.trim_start().trim_start_matches("async ");
                line.strip_prefix("fn ").is_some_and(|line| line.starts_with(word))
            });
            assert!(is_there, "{cell}: {name} has no test {word}");
            tests += 1;
        }
        assert!(tests > 0, "{cell}: no test is named");
    }
}
