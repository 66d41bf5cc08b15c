//! The environment of a container: whose value wins, and which names are belayd's.

use belay_protocol::{NodeId, SyncRole};

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

/// The container's environment: the spec's entries, then belayd's, which no spec can replace.
///
/// The control paths come under two prefixes, `BELAY_` and `R1_`: applications written for the
/// volume-sync contract elsewhere look for the second.
pub fn environment(spec: &WorkloadSpec, node: &NodeId) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> =
        spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    env.push(("BELAY_NODE".into(), node.to_string()));
    env.push(("BELAY_WORKLOAD".into(), spec.name.to_string()));
    let mount = &spec.system_mount;
    let mut control = vec![
        ("SYSTEM_VOLUME", mount.clone()),
        ("VOLUME_SYNC_DIR", format!("{mount}/volume-sync")),
        ("SYNC_REQUEST_FILE", format!("{mount}/volume-sync/request.json")),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::spec::parse;
    use super::*;

    #[test]
    fn control_names_come_last_and_twice() {
        let spec = parse(
            "name = \"web\"\nimage = \"x\"\nenv = { B = 2, A = \"1\" }\n\
             [sync]\nrole = \"provider\"\nkey = \"k\"",
            "web.toml",
            Path::new("/"),
        )
        .expect("a good spec");
        let env = environment(&spec, &"n1".parse().expect("a node name"));
        let names: Vec<_> = env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..4], ["A", "B", "BELAY_NODE", "BELAY_WORKLOAD"]);
        assert!(
            env.contains(&(
                "R1_SYNC_REQUEST_FILE".into(),
                "/belay/volume-sync/request.json".into()
            ))
        );
        assert!(env.contains(&("BELAY_SYNC_TYPE".into(), "provider".into())));
    }

    #[test]
    fn reserved_and_bad_names_are_known() {
        assert!(is_reserved("BELAY_X") && is_reserved("R1_SYNC_KEY") && !is_reserved("BELAYX"));
        assert!(is_valid_name("_A1") && !is_valid_name("1A") && !is_valid_name("A-B"));
        assert!(!is_valid_name(""));
    }
}
