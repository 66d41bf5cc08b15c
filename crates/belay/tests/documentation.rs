//! The documentation names every code and every verb, and no others.

use std::path::Path;
use std::process::Command;

use belay_protocol::ProblemCode;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn headings(page: &str, level: &str) -> Vec<String> {
    let prefix = format!("{level} `");
    let headings = page.lines().filter_map(|line| line.strip_prefix(&prefix));
    headings.map(|heading| heading.trim_end_matches('`').to_owned()).collect()
}

#[test]
fn every_problem_code_has_its_paragraph() {
    let page = page("errors.md");
    let codes: Vec<&str> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(headings(&page, "##"), codes, "one heading a code, in the order of the codes");
    for code in ProblemCode::ALL {
        let heading = format!("## `{}`\n", code.as_str());
        let (_, after) = page.split_once(&heading).expect("it has a heading");
        let paragraph = after.split("\n## ").next().unwrap_or_default();
        let numbers = format!("HTTP {}, exit code {}.", code.status(), code.exit_code());
        assert!(paragraph.contains(&numbers), "{} lacks {numbers:?}", code.as_str());
        assert!(paragraph.len() > 120, "{} says what to do", code.as_str());
    }
}

#[test]
fn every_verb_is_documented() {
    let page = page("commands.md");
    let verbs = |arguments: &[&str]| -> Vec<String> {
        let help = Command::new(env!("CARGO_BIN_EXE_belay")).args(arguments).arg("--help").output();
        let help = String::from_utf8(help.expect("it runs").stdout).expect("UTF-8");
        let (_, after) = help.split_once("Commands:\n").expect("it has verbs");
        let lines = after.lines().take_while(|line| !line.is_empty());
        let words = lines.filter_map(|line| line.split_whitespace().next());
        words.filter(|word| *word != "help").map(str::to_owned).collect()
    };
    let mut expected = Vec::new();
    for verb in verbs(&[]) {
        if ["image", "volume", "lock", "sync", "run", "runner", "waitpoint", "checkpoint"]
            .contains(&verb.as_str())
        {
            expected.extend(verbs(&[&verb]).iter().map(|word| format!("belay {verb} {word}")));
        } else {
            expected.push(format!("belay {verb}"));
        }
    }
    let documented: Vec<String> = headings(&page, "###")
        .iter()
        .map(|heading| {
            let words = heading.split(' ').take_while(|word| word.chars().all(char::is_lowercase));
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(documented, expected);
}
