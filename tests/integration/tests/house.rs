//! The house rules that a compiler does not hold: which crate may use which, what a decision may
//! touch, how files are named and how large they grow.
//!
//! Every rule carries samples that break it and samples that keep it, so that a rule that has
//! stopped working is seen as well.

#[path = "house/edges.rs"]
mod edges;
#[path = "house/layout.rs"]
mod layout;
#[path = "house/rules.rs"]
mod rules;
#[path = "house/source.rs"]
mod source;

use std::path::{Path, PathBuf};

/// The root of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this package is two levels below the root").to_owned()
}

/// Every file below `dir`, by its path from the root, in order; what is built or hidden is left
/// out.
fn files_below(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(&dir)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", dir.display()));
        for entry in entries {
            let entry = entry.expect("an entry of a directory that is being read");
            let name = entry.file_name().into_string().expect("our file names are UTF-8");
            if name.starts_with('.') || name == "target" {
                continue;
            }
            let path = entry.path();
            if entry.file_type().expect("the entry is still there").is_dir() {
                open.push(path);
            } else {
                let path = path.strip_prefix(root()).expect("it is below the root");
                found.push(path.to_str().expect("our file names are UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The text of a file, by its path from the root.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{path} cannot be read: {error}"))
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// Fails with every violation at once.
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{} found:\n  {}", violations.len(), violations.join("\n  "));
}
