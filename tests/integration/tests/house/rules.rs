//! Rules about a single source file.

use super::source::Source;
use super::{assert_none, files_below, has_extension, read};

/// A path and a text.
type Sample = (&'static str, &'static str);

/// One rule with what breaks it and what does not.
struct Rule {
    name: &'static str,
    /// Says what is wrong, each time with the line.
    check: fn(&Source) -> Vec<String>,
    breaks: &'static [Sample],
    keeps: &'static [Sample],
}

/// A file may grow to this many lines, its tests apart.
const MOST_LINES: usize = 800;

const RULES: &[Rule] = &[
    Rule {
        name: "a module is foo.rs beside foo/, never foo/mod.rs",
        check: |source| said(source.path.ends_with("/mod.rs"), "rename it"),
        breaks: &[("crates/x/src/a/mod.rs", "")],
        keeps: &[("crates/x/src/a.rs", "")],
    },
    Rule {
        name: "a file is named by what it is about",
        check: |source| {
            let empty = source
                .parts()
                .any(|part| EMPTY_NAMES.contains(&part.strip_suffix(".rs").unwrap_or(part)));
            said(empty, "the name says nothing")
        },
        breaks: &[("crates/x/src/utils.rs", ""), ("crates/x/src/common/a.rs", "")],
        keeps: &[("crates/x/src/datagram.rs", "")],
    },
    Rule {
        name: "a file stays within 800 lines, tests apart",
        check: |source| {
            let lines = if source.is_test() { 0 } else { source.shipped_lines() };
            said(lines > MOST_LINES, &format!("{lines} lines"))
        },
        breaks: &[("crates/x/src/a.rs", LONG)],
        keeps: &[("crates/x/src/a/tests.rs", LONG), ("crates/x/src/a.rs", "fn a() {}")],
    },
    Rule {
        name: "lib.rs has no logic",
        check: |source| {
            if !source.path.ends_with("/lib.rs") {
                return Vec::new();
            }
            lines_where(source.shipped(), |line| {
                let mut words = line.split_whitespace();
                let first = match words.next() {
                    Some(word) if word.starts_with("pub") => words.next(),
                    word => word,
                };
                first.is_some_and(|word| ITEM_WORDS.contains(&word))
                    || (line.contains("mod ") && line.contains('{'))
            })
        },
        breaks: &[
            ("crates/x/src/lib.rs", "mod a;\npub fn b() {}"),
            ("crates/x/src/lib.rs", "pub(crate) struct A;"),
            ("crates/x/src/lib.rs", "pub mod a { pub use b; }"),
        ],
        keeps: &[
            (
                "crates/x/src/lib.rs",
                "//! fn\n#![expect(a)]\nmod a;\npub use a::{\n    fn_like,\n};",
            ),
            ("crates/x/src/a.rs", "fn b() {}"),
        ],
    },
    Rule {
        name: "a lint is expected with a reason, never allowed",
        check: |source| {
            lines_where(&source.code, |line| {
                let line: String = line.split_whitespace().collect();
                line.contains("#[allow(")
                    || line.contains("#![allow(")
                    || (line.contains("cfg_attr(") && line.contains(",allow("))
            })
        },
        breaks: &[
            ("crates/x/src/a.rs", "#[allow(dead_code)]\nfn a() {}"),
            ("crates/x/tests/a.rs", "#![ allow(dead_code)]"),
            ("crates/x/src/a.rs", "#[cfg_attr(test, allow(dead_code))]"),
        ],
        keeps: &[("crates/x/src/a.rs", "#[expect(dead_code, reason = \"b\")] // #[allow(c)]")],
    },
    Rule {
        name: "nothing is left to be done later",
        check: |source| {
            let mut found =
                lines_where(&source.text, |line| MARKS.iter().any(|&mark| has_word(line, mark)));
            found.extend(lines_where(&source.code, |line| {
                has_word(line, "todo!") || has_word(line, "unimplemented!")
            }));
            found
        },
        breaks: &[
            ("crates/x/src/a.rs", concat!("// TO", "DO: more")),
            ("crates/x/src/a.rs", "fn a() { todo!() }"),
            ("tests/x/tests/a.rs", "fn a() { unimplemented!(\"b\") }"),
        ],
        keeps: &[("crates/x/src/a.rs", "fn a() { mktodo!(\"todo!\") }")],
    },
    Rule {
        name: "a decision touches nothing: no io, task, clock or log in core/",
        check: |source| {
            let core = source.parts().any(|part| part == "core" || part == "core.rs");
            if !core || !source.path.starts_with("crates/") {
                return Vec::new();
            }
            let mut found = lines_where(source.shipped(), |line| {
                IMPURE.iter().any(|&word| has_word(line, word))
            });
            // `use std::{collections::BTreeMap, fs}` names a module without its path.
            let shipped = source.shipped();
            for (start, _) in shipped.match_indices("std::{") {
                let group = &shipped[start + 6..];
                let group = &group[..group.find(';').unwrap_or(group.len())];
                for module in ["fs", "process", "thread", "env"] {
                    if has_word(group, module) {
                        found.push(format!("std::{module} in a group"));
                    }
                }
            }
            found
        },
        breaks: &[
            ("crates/x/src/core/a.rs", "use tokio::sync::mpsc;"),
            ("crates/x/src/core.rs", "fn a() { std::fs::read(b); }"),
            ("crates/x/src/core/a.rs", "use std::{collections::BTreeMap, fs};"),
            ("crates/x/src/core/a.rs", "fn a() -> B { Instant::now() }"),
            ("crates/x/src/core/a.rs", "fn a(path: &Path) -> bool { path.exists() }"),
            ("crates/x/src/core/a.rs", "fn a() { tracing::info!(b); }"),
        ],
        keeps: &[
            ("crates/x/src/core/a.rs", "//! tokio\nuse std::net::IpAddr;\nuse std::time::Instant;"),
            ("crates/x/src/core/a.rs", "fn a() {}\n#[cfg(test)]\nmod tests { use std::fs; }"),
            ("crates/x/src/a.rs", "use tokio::sync::mpsc;"),
        ],
    },
    Rule {
        name: "a test sleeps between two looks, or says above why time itself must pass",
        check: |source| {
            // The harness owns the one poll with a deadline, and waits between two looks.
            if source.path.starts_with("tests/harness/src/") {
                return Vec::new();
            }
            let tested = source.tested();
            // Time that is paused passes at once.
            if ["start_paused", "time::pause()"].iter().any(|word| tested.contains(word)) {
                return Vec::new();
            }
            let lines: Vec<_> = source.text.lines().collect();
            sleeps_outside_polls(&tested)
                .into_iter()
                .filter(|&at| at == 0 || !lines[at - 1].trim_start().starts_with("//"))
                .map(|at| format!("line {}", at + 1))
                .collect()
        },
        breaks: &[
            ("crates/x/tests/a.rs", "fn a() { std::thread::sleep(b); }"),
            (
                "crates/x/src/a.rs",
                "#[cfg(test)]\nmod tests { async fn a() { time::sleep(b).await; } }",
            ),
            ("tests/e2e/tests/a.rs", "fn a() { loop { b(); } sleep(c); }"),
        ],
        keeps: &[
            ("crates/x/src/a.rs", "async fn a() { tokio::time::sleep(b).await; }"),
            (
                "crates/x/src/a/tests.rs",
                "#[tokio::test(start_paused = true)]\nasync fn a() { sleep(b).await; }",
            ),
            (
                "crates/x/tests/a.rs",
                "fn a() {\n    // Nothing may happen for a while.\n    sleep(b);\n}",
            ),
            (
                "crates/x/tests/a.rs",
                "fn a() {\n    while !done() {\n        assert!(now() < deadline);\n        sleep(b);\n    }\n}",
            ),
        ],
    },
    Rule {
        name: "no test is skipped in silence",
        check: |source| {
            // What a test starts as a second process of its own binary is no test itself.
            let other_process = "#[ignore = \"the other process of ";
            let lines = source.code.lines().zip(source.text.lines());
            lines
                .filter(|(code, _)| has_word(code, "#[ignore"))
                .filter(|(_, text)| !text.trim_start().starts_with(other_process))
                .map(|(_, text)| text.trim().to_owned())
                .collect()
        },
        breaks: &[
            ("crates/x/tests/a.rs", "#[test]\n#[ignore]\nfn a() {}"),
            ("crates/x/src/a.rs", "#[test]\n#[ignore = \"b\"]\nfn a() {}"),
        ],
        keeps: &[
            ("crates/x/tests/a.rs", "#[test]\nfn ignore() {} // #[ignore]"),
            ("crates/x/tests/a.rs", "#[test]\n#[ignore = \"the other process of b\"]\nfn a() {}"),
        ],
    },
    Rule {
        name: "a program is run by its absolute path",
        check: |source| {
            if source.path.starts_with("crates/xtask/") {
                return Vec::new();
            }
            let call = "Command::new(";
            let shipped = source.shipped();
            shipped
                .match_indices(call)
                .map(|(start, _)| start + call.len())
                .filter(|&start| {
                    let program = source.text[start..].trim_start();
                    program.starts_with('"') && !program.starts_with("\"/")
                })
                .map(|start| at_line(shipped, start))
                .collect()
        },
        breaks: &[
            ("crates/x/src/a.rs", "fn a() { Command::new(\"mount\"); }"),
            ("crates/x/src/a.rs", "fn a() { tokio::process::Command::new(\n    \"ls\"); }"),
        ],
        keeps: &[
            (
                "crates/x/src/a.rs",
                "fn a() { Command::new(\"/usr/bin/mount\"); Command::new(tool); }",
            ),
            ("crates/x/tests/a.rs", "fn a() { Command::new(\"ls\"); }"),
            ("crates/xtask/src/a.rs", "fn a() { Command::new(\"cargo\"); }"),
        ],
    },
    Rule {
        name: "every queue has a bound",
        check: |source| {
            lines_where(source.shipped(), |line| {
                line.contains("unbounded") || line.contains("mpsc::channel()")
            })
        },
        breaks: &[
            ("crates/x/src/a.rs", "let (a, b) = mpsc::unbounded_channel();"),
            ("crates/x/src/a.rs", "let (a, b) = std::sync::mpsc::channel();"),
        ],
        keeps: &[("crates/x/src/a.rs", "let (a, b) = mpsc::channel(16); // unbounded")],
    },
    Rule {
        name: "what is read from outside is read strictly",
        check: |source| {
            lines_where(source.shipped(), |line| {
                line.contains("serde(") && (has_word(line, "untagged") || has_word(line, "flatten"))
            })
        },
        breaks: &[
            ("crates/x/src/a.rs", "#[serde(untagged)]\nenum A {}"),
            ("crates/x/src/a.rs", "#[serde(default, flatten)]"),
        ],
        keeps: &[("crates/x/src/a.rs", "#[serde(deny_unknown_fields)]\nfn flatten() {}")],
    },
    Rule {
        name: "unsafe code says why it is sound",
        check: |source| {
            let lines: Vec<_> = source.text.lines().collect();
            source
                .code
                .lines()
                .enumerate()
                .filter(|(_, line)| has_word(line, "unsafe"))
                .filter(|(at, _)| {
                    let above = &lines[at.saturating_sub(8)..=*at];
                    !above.iter().any(|line| line.contains("SAFETY:"))
                })
                .map(|(at, line)| format!("line {}: {}", at + 1, line.trim()))
                .collect()
        },
        breaks: &[("crates/x/src/a.rs", "fn a() {\n    unsafe { b() }\n}")],
        keeps: &[
            ("crates/x/src/a.rs", "fn a() {\n    // SAFETY: b is whole.\n    unsafe { b() }\n}"),
            ("crates/x/src/a.rs", "#![expect(unsafe_code)] // unsafe"),
        ],
    },
];

/// Names that fit anything, and so say nothing.
const EMPTY_NAMES: &[&str] =
    &["common", "data", "helper", "helpers", "manager", "misc", "types", "util", "utils"];

/// The words that begin an item with logic or a shape in it.
const ITEM_WORDS: &[&str] = &[
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules!",
    "static",
    "struct",
    "trait",
    "type",
    "union",
    "unsafe",
];

/// In two parts, so that this file does not break its own rule.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// What a decision may not name. Addresses are values, so `std::net` itself is not among them.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "tracing",
    "nix",
    "reqwest",
    "bollard",
    "rusqlite",
    "inotify",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::os::fd",
    "std::os::unix::fs",
    "std::os::unix::net",
    "std::os::unix::process",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    ".exists()",
    ".is_file()",
    ".is_dir()",
    ".canonicalize()",
    ".read_link()",
    ".read_dir()",
    ".symlink_metadata()",
    "println!",
    "eprintln!",
];

/// 801 lines of code.
const LONG: &str = {
    const LINE: &[u8; 10] = b"fn a() {}\n";
    const BYTES: [u8; 10 * (MOST_LINES + 1)] = {
        let mut bytes = [0; 10 * (MOST_LINES + 1)];
        let mut at = 0;
        while at < bytes.len() {
            bytes[at] = LINE[at % 10];
            at += 1;
        }
        bytes
    };
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => panic!("ASCII is UTF-8"),
    }
};

fn said(broken: bool, what: &str) -> Vec<String> {
    broken.then(|| what.to_owned()).into_iter().collect()
}

fn lines_where(code: &str, broken: impl Fn(&str) -> bool) -> Vec<String> {
    code.lines()
        .enumerate()
        .filter(|(_, line)| broken(line))
        .map(|(at, line)| format!("line {}: {}", at + 1, line.trim()))
        .collect()
}

fn at_line(code: &str, offset: usize) -> String {
    format!("line {}", code[..offset].matches('\n').count() + 1)
}

/// Whether `word` stands in `line` with no identifier running into it on either side.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(start, _)| {
        let free_before = !word.starts_with(inside) || !line[..start].ends_with(inside);
        let free_after = !word.ends_with(inside) || !line[start + word.len()..].starts_with(inside);
        free_before && free_after
    })
}

/// The lines, counted from 0, with a sleep outside a loop: not between two looks, so a guess.
fn sleeps_outside_polls(code: &str) -> Vec<usize> {
    // For each open brace, whether it is a loop's.
    let mut blocks: Vec<bool> = Vec::new();
    let mut statement = String::new();
    let mut found = Vec::new();
    for (at, character) in code.char_indices() {
        match character {
            '{' => {
                let is_loop =
                    ["loop", "while", "for"].iter().any(|&word| has_word(&statement, word));
                blocks.push(is_loop);
                statement.clear();
            }
            '}' => {
                blocks.pop();
                statement.clear();
            }
            ';' => statement.clear(),
            '(' if has_word(&statement, "sleep") && statement.ends_with("sleep") => {
                if !blocks.contains(&true) {
                    found.push(code[..at].matches('\n').count());
                }
                statement.push(character);
            }
            character => statement.push(character),
        }
    }
    found
}

#[test]
fn every_source_keeps_the_rules() {
    let mut violations = Vec::new();
    let paths: Vec<_> = ["crates", "tests"]
        .into_iter()
        .flat_map(files_below)
        .filter(|path| has_extension(path, "rs"))
        .collect();
    assert!(paths.len() > 20, "only {} sources were found", paths.len());
    for path in paths {
        // The samples below break every rule.
        let samples = path.ends_with("house/rules.rs");
        let source = Source::new(path.clone(), if samples { String::new() } else { read(&path) });
        for rule in RULES {
            let found = (rule.check)(&source);
            violations
                .extend(found.into_iter().map(|what| format!("{path}: {} ({what})", rule.name)));
        }
    }
    assert_none(&violations);
}

#[test]
fn every_rule_sees_what_breaks_it_and_nothing_else() {
    for rule in RULES {
        assert!(!rule.breaks.is_empty() && !rule.keeps.is_empty(), "{} has no sample", rule.name);
        for &(path, text) in rule.breaks {
            let found = (rule.check)(&Source::new(path, text));
            assert!(!found.is_empty(), "{}: {path} breaks it unseen:\n{text}", rule.name);
        }
        for &(path, text) in rule.keeps {
            let found = (rule.check)(&Source::new(path, text));
            assert!(found.is_empty(), "{}: {path} keeps it: {found:?}\n{text}", rule.name);
        }
    }
}
