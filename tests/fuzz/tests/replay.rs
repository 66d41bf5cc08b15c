//! The corpora and the seeds, through the functions that the fuzzer calls.

use std::collections::BTreeSet;
use std::fs;

use belay_fuzz::{TARGETS, Target};
use belay_sync::fuzzing::Verdict;

/// More than this is a heap, not a corpus.
const FILES_MAX: usize = 300;
const BYTES_MAX: usize = 16 * 1024;

fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(target.corpus()).expect("every target has a corpus");
    let read = |entry: fs::DirEntry| {
        (entry.path().display().to_string(), fs::read(entry.path()).expect("reads"))
    };
    entries.map(|entry| read(entry.expect("lists"))).collect()
}

#[test]
fn every_input_of_the_corpora_keeps_the_promises() {
    for target in TARGETS {
        let inputs = inputs(&target);
        assert!((10..=FILES_MAX).contains(&inputs.len()), "{}: {}", target.name, inputs.len());
        let mut verdicts = BTreeSet::new();
        for (path, bytes) in &inputs {
            assert!(bytes.len() <= BYTES_MAX, "{path} has {} bytes", bytes.len());
            let verdict = std::panic::catch_unwind(|| (target.run)(bytes));
            let verdict = verdict.unwrap_or_else(|_| panic!("{} breaks on {path}", target.name));
            assert_eq!((target.run)(bytes), verdict, "{path}: the same each time");
            verdicts.insert(format!("{verdict:?}"));
        }
        assert_eq!(verdicts.len(), 2, "{}: some are accepted, some refused", target.name);
    }
}

#[test]
fn what_the_writers_make_is_accepted() {
    for target in TARGETS {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            assert_eq!((target.run)(seed), Verdict::Accepted, "{} {number}", target.name);
        }
    }
}

#[test]
fn no_input_is_lawful_when_it_was_cut_off() {
    // Only these end where they say; JSON ends with its last brace.
    for name in ["request", "record", "ack", "root", "manifest"] {
        let target = Target::find(name).expect("a target");
        for seed in (target.seeds)() {
            for length in (0..seed.len()).step_by(3) {
                assert_eq!((target.run)(&seed[..length]), Verdict::Refused, "{name} at {length}");
            }
        }
    }
}

#[test]
fn every_corpus_belongs_to_a_target() {
    let corpora = TARGETS[0].corpus();
    let corpora = corpora.parent().expect("the corpora lie side by side");
    for entry in fs::read_dir(corpora).expect("lists") {
        let name = entry.expect("lists").file_name().into_string().expect("text");
        assert!(Target::find(&name).is_some(), "{name} is the corpus of no target");
    }
}
