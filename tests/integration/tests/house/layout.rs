//! Rules about the workspace as a whole: its top level, its links between documents.

use super::{assert_none, files_below, has_extension, read, root};

/// Everything that lies at the top, what is hidden or built apart.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "config",
    "crates",
    "docs",
    "systemd",
    "tests",
];

fn strangers<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names
        .into_iter()
        .filter(|name| !name.starts_with('.') && *name != "target" && !TOP_LEVEL.contains(name))
        .map(|name| format!("{name} does not belong at the top"))
        .collect()
}

/// The targets of a Markdown text's links that are files of ours, without what follows a `#`.
fn linked_files(markdown: &str) -> Vec<&str> {
    let mut fenced = false;
    markdown
        .lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(' '))
        .collect()
}

#[test]
fn the_top_level_is_what_it_is() {
    let names: Vec<_> = std::fs::read_dir(root())
        .expect("the root can be read")
        .map(|entry| entry.expect("an entry of the root").file_name())
        .map(|name| name.into_string().expect("our file names are UTF-8"))
        .collect();
    assert_none(&strangers(names.iter().map(String::as_str)));
    for name in TOP_LEVEL {
        assert!(names.iter().any(|found| found == name), "{name} is not there");
    }
}

#[test]
fn a_stranger_at_the_top_is_seen() {
    assert!(strangers(["Cargo.toml", "crates", ".ci", "target"]).is_empty());
    assert_eq!(strangers(["scripts"]).len(), 1);
}

#[test]
fn documents_link_only_to_what_is_there() {
    let mut broken = Vec::new();
    let documents = files_below("docs").into_iter().chain(["README.md".to_owned()]);
    for document in documents.filter(|path| has_extension(path, "md")) {
        let text = read(&document);
        let folder = root().join(&document);
        let folder = folder.parent().expect("a file has a folder");
        for target in linked_files(&text) {
            if !folder.join(target).exists() {
                broken.push(format!("{document} links to {target}"));
            }
        }
    }
    assert_none(&broken);
}

#[test]
fn links_are_found_in_prose_and_not_in_code() {
    let text =
        "[a](docs/a.md#b), [c](https://example.org/c) and [d](d.md)\n```\n[e](e.md)\n```\n[f](#g)";
    assert_eq!(linked_files(text), ["docs/a.md", "d.md"]);
}
