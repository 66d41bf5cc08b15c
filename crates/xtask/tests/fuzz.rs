//! `cargo xtask fuzz` knows the targets of the fuzzer, and says which there are.

use std::path::Path;
use std::process::Command;

#[test]
fn a_target_that_there_is_not_is_refused_with_those_that_there_are() {
    let refused = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["fuzz", "nonsense"]).output();
    let refused = refused.expect("it starts");
    let told = String::from_utf8(refused.stderr).expect("text");
    assert!(!refused.status.success() && told.contains("`nonsense` is not a target"), "{told}");
    assert!(refused.stdout.is_empty(), "nothing is built for it");
    // Every target has a corpus, and every corpus a target, which the fuzzer's own tests hold.
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    let mut names: Vec<String> = corpora
        .read_dir()
        .expect("lists")
        .map(|entry| entry.expect("lists").file_name().into_string().expect("text"))
        .collect();
    names.sort_unstable();
    let line = told.lines().find_map(|line| line.split_once("is not a target: ")).expect("they");
    let mut listed: Vec<&str> = line.1.split(", ").map(str::trim).collect();
    listed.sort_unstable();
    assert_eq!(listed, names);
}
