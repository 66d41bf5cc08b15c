//! Rules about packages: who may depend on whom, and on what from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::{assert_none, read, root};

/// Each package by its folder below `crates/`, with those of ours it may be built from.
///
/// The edges go down only. A crate that is not in this table is not in the house.
const EDGES: &[(&str, &[&str])] = &[
    (
        "belayd",
        &[
            "api",
            "engine",
            "events",
            "hosting",
            "ledger",
            "lifecycle",
            "locks",
            "packs",
            "protocol",
            "runner",
            "store",
            "sync",
            "timer-wheel",
            "volumes",
        ],
    ),
    ("belay", &["protocol", "runner-client"]),
    ("api", &["protocol"]),
    ("hosting", &["engine", "events", "lifecycle", "packs", "protocol", "runner"]),
    ("lifecycle", &["engine", "events", "ledger", "locks", "protocol", "sync", "volumes"]),
    ("events", &["ledger", "protocol"]),
    ("sync", &["packs", "protocol", "store"]),
    ("packs", &["protocol"]),
    ("runner", &["events", "ledger", "protocol", "timer-wheel"]),
    ("runner-client", &["protocol"]),
    ("volumes", &["protocol"]),
    ("engine", &["protocol"]),
    ("store", &["protocol"]),
    ("ledger", &[]),
    ("locks", &[]),
    ("protocol", &[]),
    ("timer-wheel", &[]),
    ("xtask", &[]),
];

/// What the shapes other programs see may be built from.
const PROTOCOL_DEPENDENCIES: &[&str] =
    &["data-encoding", "jiff", "serde", "serde_json", "thiserror"];

/// Features that are for tests: points of failure, suites for others to call, parsers
/// for the fuzzer.
const TEST_FEATURES: &[&str] = &["contract", "failpoints", "fuzzing"];

/// Packages where an error needs no type: it is shown, not matched on.
const BINARIES: &[&str] = &["belay", "belayd"];

/// A package of the workspace, as far as the rules go.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    /// From the root of the workspace.
    folder: String,
    /// What it is built from, its tests apart.
    built_from: BTreeSet<String>,
    /// The features of all of those, and its own default ones.
    built_with: BTreeSet<String>,
    manifest: String,
}

impl Package {
    /// The folder below `crates/`, if it is there.
    fn crate_folder(&self) -> Option<&str> {
        self.folder.strip_prefix("crates/")
    }
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let root = root();
    let root = root.to_str().expect("the path of the workspace is UTF-8");
    metadata["packages"]
        .as_array()
        .expect("metadata lists packages")
        .iter()
        .map(|package| {
            let text = |value: &Value| value.as_str().expect("cargo names it").to_owned();
            let manifest = text(&package["manifest_path"]);
            let manifest = manifest
                .strip_prefix(root)
                .and_then(|path| path.strip_prefix('/'))
                .expect("a package of the workspace is below its root");
            let dependencies = package["dependencies"].as_array().expect("it may be empty");
            let dependencies = || dependencies.iter().filter(|found| found["kind"] != "dev");
            let own = package["features"]["default"].as_array();
            Package {
                name: text(&package["name"]),
                folder: manifest.trim_end_matches("/Cargo.toml").to_owned(),
                built_from: dependencies().map(|dependency| text(&dependency["name"])).collect(),
                built_with: dependencies()
                    .filter_map(|dependency| dependency["features"].as_array())
                    .chain(own)
                    .flatten()
                    .map(text)
                    .collect(),
                manifest: read(manifest),
            }
        })
        .collect()
}

/// Everything that is wrong with a set of packages.
fn violations(packages: &[Package]) -> Vec<String> {
    let edges: BTreeMap<_, _> = EDGES.iter().copied().collect();
    let folder_of: BTreeMap<_, _> = packages
        .iter()
        .filter_map(|package| Some((package.name.as_str(), package.crate_folder()?)))
        .collect();
    let mut found = Vec::new();
    for package in packages {
        let name = &package.name;
        let manifest = package.manifest.split_whitespace().collect::<String>();
        if !manifest.contains("[lints]workspace=true") {
            found.push(format!("{name} does not take the lints of the workspace"));
        }
        if package.built_from.contains("anyhow")
            && package.crate_folder().is_some_and(|folder| !BINARIES.contains(&folder))
        {
            found.push(format!("{name} uses anyhow, and is not a program"));
        }
        let Some(folder) = package.crate_folder() else { continue };
        for feature in TEST_FEATURES.iter().filter(|&&found| package.built_with.contains(found)) {
            found.push(format!("{folder} is built with {feature}, which is for tests"));
        }
        let Some(allowed) = edges.get(folder) else {
            found.push(format!("{folder} has no place in the house"));
            continue;
        };
        let plain = [BINARIES, &["xtask"]].concat().contains(&folder);
        let expected = if plain { folder.to_owned() } else { format!("belay-{folder}") };
        if *name != expected {
            found.push(format!("crates/{folder} is named {name}, not {expected}"));
        }
        for dependency in &package.built_from {
            match folder_of.get(dependency.as_str()) {
                Some(below) if !allowed.contains(below) => {
                    found.push(format!("{folder} may not be built from {below}"));
                }
                None if matches!(folder, "timer-wheel" | "xtask") => {
                    found.push(format!("{folder} has no dependency, and now has {dependency}"));
                }
                None if folder == "protocol"
                    && !PROTOCOL_DEPENDENCIES.contains(&dependency.as_str()) =>
                {
                    found.push(format!("protocol is data, and may not use {dependency}"));
                }
                None if dependency.starts_with("belay-") => {
                    found.push(format!("{folder} is built from {dependency}, which is for tests"));
                }
                Some(_) | None => {}
            }
        }
    }
    found
}

/// What breaks a rule.
type Change = fn(&mut Vec<Package>);

/// A package that keeps the rules.
fn sample(folder: &str, built_from: &[&str]) -> Package {
    let short = folder.strip_prefix("crates/").unwrap_or(folder);
    let plain = matches!(short, "belay" | "belayd" | "xtask");
    Package {
        name: if plain { short.to_owned() } else { format!("belay-{short}") },
        folder: folder.to_owned(),
        built_with: BTreeSet::new(),
        built_from: built_from.iter().map(|&name| name.to_owned()).collect(),
        manifest: "[lints]\nworkspace = true\n".to_owned(),
    }
}

#[test]
fn every_package_keeps_its_place() {
    let packages = packages();
    assert!(packages.len() > 10, "only {} packages were found", packages.len());
    assert_none(&violations(&packages));
}

#[test]
fn the_edges_have_no_cycle() {
    // Taking away what depends on nothing that is left must take away everything.
    let mut left: BTreeMap<_, _> = EDGES.iter().copied().collect();
    while !left.is_empty() {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, below)| !below.iter().any(|folder| left.contains_key(folder)))
            .map(|(&folder, _)| folder)
            .collect();
        assert!(!free.is_empty(), "a cycle among {:?}", left.keys());
        for folder in free {
            left.remove(folder);
        }
    }
}

#[test]
fn a_package_out_of_place_is_seen() {
    let house = [
        sample("crates/belayd", &["belay-sync", "anyhow"]),
        sample("crates/sync", &["belay-store", "tokio"]),
        sample("crates/store", &[]),
        sample("crates/protocol", &["serde"]),
        sample("crates/xtask", &[]),
        sample("tests/harness", &["anyhow"]),
    ];
    assert_none(&violations(&house));

    let cases: [(Change, &str); 9] = [
        (|house| house.push(sample("crates/cache", &[])), "cache has no place"),
        (|house| house[1].name = "sync".to_owned(), "named sync, not belay-sync"),
        (|house| house[1].manifest.clear(), "does not take the lints"),
        (
            |house| house.push(sample("crates/store", &["belay-sync"])),
            "store may not be built from sync",
        ),
        (|house| house.push(sample("crates/engine", &["anyhow"])), "belay-engine uses anyhow"),
        (|house| house.push(sample("crates/protocol", &["tokio"])), "may not use tokio"),
        (
            |house| {
                house[1].built_with.insert("failpoints".to_owned());
            },
            "sync is built with failpoints",
        ),
        (|house| house.push(sample("crates/xtask", &["clap"])), "xtask has no dependency"),
        (|house| house.push(sample("crates/engine", &["belay-harness"])), "which is for tests"),
    ];
    for (change, words) in cases {
        let mut house = house.to_vec();
        change(&mut house);
        let found = violations(&house).join("\n");
        assert!(found.contains(words), "{words} is not in: {found}");
    }
}
