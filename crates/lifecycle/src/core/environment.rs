//! The environment of a container: whose value wins, and which names are belayd's.

use std::collections::BTreeMap;

use belay_protocol::app_request::{OVERRIDES_DIR, RESET_DIR};
use belay_protocol::control::{REQUEST_FILE, RESPONSE_FILE};
use belay_protocol::{NodeId, SyncRole};

use super::providers::Exports;
use super::spec::WorkloadSpec;

/// Where the system volume is mounted unless the spec says otherwise.
pub const SYSTEM_MOUNT: &str = "/belay";

/// What an environment name looks like.
pub const NAME_RULE: &str = "a name of letters, digits and '_' that does not begin with a digit";

/// Whether a name is one that a shell would accept.
pub fn is_valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_')
        && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// Whether belayd sets names like this one itself.
pub fn is_reserved(name: &str) -> bool {
    ["BELAY_", "R1_"].iter().any(|prefix| name.starts_with(prefix))
}

/// What is known of a workload beyond its spec, and goes into its container's environment.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// Values of the workloads that it depends on.
    pub exports: &'a Exports,
    /// What the app itself asked for.
    pub overrides: &'a BTreeMap<String, String>,
}

/// The container's environment, each name once. A later layer wins over an earlier one:
///
/// 1. values of the workloads that it depends on, under belayd's names;
/// 2. the spec's entries, plain ones and those taken from another workload;
/// 3. the app's own overrides;
/// 4. belayd's control names, which nothing replaces.
///
/// Below all of them lies what the image sets, which is the engine's to merge. The control paths
/// come under two prefixes, `BELAY_` and `R1_`: applications written for the volume-sync contract
/// elsewhere look for the second.
pub fn environment(spec: &WorkloadSpec, layers: Layers<'_>) -> Vec<(String, String)> {
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    env.extend(layers.exports.named.iter().cloned());
    env.extend(spec.env.clone());
    env.extend(layers.exports.chosen.iter().cloned());
    env.extend(layers.overrides.clone());
    env.extend(control(spec, layers.node));
    env.into_iter().collect()
}

fn control(spec: &WorkloadSpec, node: &NodeId) -> Vec<(String, String)> {
    let mut env = vec![
        ("BELAY_NODE".into(), node.to_string()),
        ("BELAY_WORKLOAD".into(), spec.name.to_string()),
    ];
    let mount = &spec.system_mount;
    let mut control = vec![
        ("SYSTEM_VOLUME", mount.clone()),
        ("VOLUME_SYNC_DIR", format!("{mount}/volume-sync")),
        ("SYNC_REQUEST_FILE", format!("{mount}/volume-sync/request.json")),
        ("ENV_OVERRIDES_DIR", format!("{mount}/{OVERRIDES_DIR}")),
        ("ENV_OVERRIDES_REQUEST_FILE", format!("{mount}/{OVERRIDES_DIR}/{REQUEST_FILE}")),
        ("ENV_OVERRIDES_RESPONSE_FILE", format!("{mount}/{OVERRIDES_DIR}/{RESPONSE_FILE}")),
        ("RESET_DIR", format!("{mount}/{RESET_DIR}")),
        ("RESET_REQUEST_FILE", format!("{mount}/{RESET_DIR}/{REQUEST_FILE}")),
        ("RESET_RESPONSE_FILE", format!("{mount}/{RESET_DIR}/{RESPONSE_FILE}")),
    ];
    if let Some(sync) = &spec.sync {
        let role = match sync.role {
            SyncRole::Provider => "provider",
            SyncRole::Consumer => "consumer",
        };
        control.push(("SYNC_TYPE", role.to_owned()));
        control.push(("SYNC_KEY", sync.key.to_string()));
    }
    for (name, value) in control {
        env.push((format!("BELAY_{name}"), value.clone()));
        env.push((format!("R1_{name}"), value));
    }
    env
}

/// Names a set of entries without telling them; none for no entries.
pub fn digest<'e>(entries: impl Iterator<Item = &'e (String, String)>) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    let mut any = false;
    for (name, value) in entries {
        any = true;
        // Neither can contain a NUL.
        hasher.update(name.as_bytes()).update(&[0]).update(value.as_bytes()).update(&[0]);
    }
    any.then(|| hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::spec::parse;
    use super::*;

    fn spec(text: &str) -> WorkloadSpec {
        let text = format!("name = \"web\"\nimage = \"x\"\n{text}");
        parse(&text, "web.toml", Path::new("/")).expect("a good spec")
    }

    fn entries(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn control_names_come_twice() {
        let spec = spec("env = { B = 2 }\n[sync]\nrole = \"provider\"\nkey = \"k\"");
        let (exports, overrides) = (Exports::default(), BTreeMap::new());
        let node = "n1".parse().expect("a node name");
        let layers = Layers { node: &node, exports: &exports, overrides: &overrides };
        let env = environment(&spec, layers);
        for (name, value) in [
            ("B", "2"),
            ("BELAY_NODE", "n1"),
            ("BELAY_WORKLOAD", "web"),
            ("R1_SYNC_REQUEST_FILE", "/belay/volume-sync/request.json"),
            ("BELAY_SYNC_REQUEST_FILE", "/belay/volume-sync/request.json"),
            ("BELAY_SYNC_TYPE", "provider"),
            ("R1_SYNC_KEY", "k"),
            ("R1_ENV_OVERRIDES_REQUEST_FILE", "/belay/env-overrides/request.json"),
            ("BELAY_RESET_RESPONSE_FILE", "/belay/reset/response.json"),
        ] {
            assert!(env.contains(&(name.into(), value.into())), "{name} in {env:?}");
        }
    }

    #[test]
    fn sx11_without_volume_sync_the_directories_are_named_and_no_role() {
        let (exports, overrides) = (Exports::default(), BTreeMap::new());
        let node = "n1".parse().expect("a node name");
        let layers = Layers { node: &node, exports: &exports, overrides: &overrides };
        let env = environment(&spec(""), layers);
        for name in ["R1_SYSTEM_VOLUME", "R1_VOLUME_SYNC_DIR", "R1_SYNC_REQUEST_FILE"] {
            assert!(env.iter().any(|(known, _)| known == name), "{name} in {env:?}");
        }
        let told = |(name, _): &(String, String)| {
            name.ends_with("SYNC_TYPE") || name.ends_with("SYNC_KEY")
        };
        assert!(!env.iter().any(told), "{env:?}");
    }

    #[test]
    fn each_layer_wins_over_those_before_it() {
        let spec = spec(
            "depends_on = [\"db\"]\n[env]\nBOTH = \"spec\"\nPLAIN = \"spec\"\n\
             TAKEN = { from = \"db\", port = 1 }",
        );
        // Names that no spec and no request can bring here show which layer is asked first.
        let exports = Exports {
            named: entries(&[("PLAIN", "named"), ("TAKEN", "named"), ("BELAY_DEP_DB_NAME", "db")]),
            chosen: entries(&[("TAKEN", "chosen")]),
        };
        let overrides = entries(&[("BOTH", "app"), ("BELAY_NODE", "app"), ("ONLY", "a=b\n\u{e9}")]);
        let overrides = overrides.into_iter().collect();
        let node = "n1".parse().expect("a node name");
        let env =
            environment(&spec, Layers { node: &node, exports: &exports, overrides: &overrides });
        let value = |name: &str| {
            let found: Vec<_> = env.iter().filter(|(other, _)| other == name).collect();
            assert_eq!(found.len(), 1, "{name} once");
            found[0].1.clone()
        };
        for (name, wins) in [
            ("BELAY_DEP_DB_NAME", "db"),
            ("PLAIN", "spec"),
            ("TAKEN", "chosen"),
            ("BOTH", "app"),
            ("ONLY", "a=b\n\u{e9}"),
            ("BELAY_NODE", "n1"),
        ] {
            assert_eq!(value(name), wins, "{name}");
        }
    }

    #[test]
    fn a_digest_tells_entries_apart_and_none_has_none() {
        let of = |list: &[(&str, &str)]| digest(entries(list).iter());
        assert_eq!(of(&[]), None);
        assert_ne!(of(&[("A", "")]), None);
        assert_ne!(of(&[("A", "BC")]), of(&[("AB", "C")]));
        assert_eq!(of(&[("A", "1")]), of(&[("A", "1")]));
    }

    #[test]
    fn reserved_and_bad_names_are_known() {
        assert!(is_reserved("BELAY_X") && is_reserved("R1_SYNC_KEY") && !is_reserved("BELAYX"));
        assert!(is_valid_name("_A1") && !is_valid_name("1A") && !is_valid_name("A-B"));
        assert!(!is_valid_name(""));
    }
}
