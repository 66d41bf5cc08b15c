//! What a container is kept from: capabilities, and a file system that it cannot write.

use std::collections::{BTreeMap, BTreeSet};

use belay_volumes::ByteSize;

use super::super::keys::{Entry, Keys, nearest};
use super::{NetworkMode, normal_path};

/// What a spec says about the confinement of its container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// Capabilities that are given beyond the engine's own, or not taken away.
    pub cap_add: BTreeSet<String>,
    /// Capabilities that are taken away; `ALL` is every one that is not given.
    pub cap_drop: BTreeSet<String>,
    /// File systems in memory, by path in the container, with their size.
    pub tmpfs: BTreeMap<String, ByteSize>,
}

/// Capabilities that no workload is given unless its spec asks; what is left suffices to change
/// owners and to bind low ports.
pub const DROPPED: [&str; 4] = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP"];

/// Capabilities with which a container can take the host, or change what lies below its volumes.
const REFUSED: [&str; 11] = [
    "AUDIT_CONTROL",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_RAWIO",
];

/// All other capabilities of Linux.
const GIVEN: [&str; 30] = [
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Every capability at once.
const ALL: &str = "ALL";

impl Confinement {
    /// The capabilities that the engine is told to take away.
    pub fn dropped(&self) -> Vec<String> {
        if self.cap_drop.contains(ALL) {
            return vec![ALL.to_owned()];
        }
        let names = DROPPED.into_iter().map(str::to_owned).chain(self.cap_drop.iter().cloned());
        names
            .filter(|name| !self.cap_add.contains(name))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

pub(super) fn read(keys: &mut Keys<'_>, network: NetworkMode) -> Confinement {
    let cap_add = read_capabilities(keys, "cap_add", |name| {
        if name == ALL || REFUSED.contains(&name) {
            Some("a capability with which a container cannot take the host")
        } else if name == "NET_ADMIN" && network == NetworkMode::Host {
            Some("a network of its own: with NET_ADMIN it would rule the host's")
        } else {
            None
        }
    });
    let cap_drop = read_capabilities(keys, "cap_drop", |_| None);
    if let Some(both) = cap_drop.intersection(&cap_add).next() {
        keys.fault("cap_drop", both, "a capability that cap_add does not name");
    }
    Confinement { cap_add, cap_drop, tmpfs: read_tmpfs(keys) }
}

fn read_capabilities(
    keys: &mut Keys<'_>,
    key: &'static str,
    refused: impl Fn(&str) -> Option<&'static str>,
) -> BTreeSet<String> {
    let listed = keys.texts(key, "a list of capabilities, as in [\"NET_RAW\"]").unwrap_or_default();
    let mut names = BTreeSet::new();
    for given in listed {
        let upper = given.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known = || GIVEN.into_iter().chain(REFUSED).chain([ALL]);
        if !known().any(|known| known == name) {
            let expected = match nearest(name, known()) {
                Some(near) => format!("a capability of Linux; did you mean {near}?"),
                None => "a capability of Linux, as in NET_RAW".to_owned(),
            };
            keys.fault(key, &format!("{given:?}"), &expected);
        } else if let Some(expected) = refused(name) {
            keys.fault(key, name, expected);
        } else {
            names.insert(name.to_owned());
        }
    }
    names
}

fn read_tmpfs(keys: &mut Keys<'_>) -> BTreeMap<String, ByteSize> {
    const EXPECTED: &str = "a size such as \"16M\", by an absolute path in the container";
    let mut found = BTreeMap::new();
    for (path, entry) in keys.map("tmpfs", EXPECTED) {
        let shown = format!("tmpfs.{path}");
        let size = match entry {
            Entry::Text(text) => {
                text.parse::<ByteSize>().ok().filter(|size| *size > ByteSize::ZERO)
            }
            Entry::Table(table) => {
                table.fault("", "a table", EXPECTED);
                continue;
            }
        };
        match (normal_path(path), size) {
            (Some(path), Some(size)) => {
                found.insert(path, size);
            }
            (None, _) => keys.fault_at("tmpfs", &shown, &format!("{path:?}"), EXPECTED),
            (Some(_), None) => keys.fault_at("tmpfs", &shown, "no such size", EXPECTED),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::parse;
    use super::*;

    fn read(text: &str) -> Result<Confinement, Vec<String>> {
        let text = format!("name = \"web\"\nimage = \"x\"\n{text}");
        match parse(&text, "web.toml", Path::new("/")) {
            Ok(spec) => Ok(spec.confinement),
            Err(faults) => Err(faults
                .iter()
                .map(|f| format!("{}: {}: {}", f.key, f.found, f.expected))
                .collect()),
        }
    }

    #[test]
    fn what_is_dropped_by_default_can_be_kept_and_more_can_be_dropped() {
        assert_eq!(read("").expect("good").dropped(), DROPPED);
        let mixed = read("cap_add = [\"cap_net_raw\"]\ncap_drop = [\"CHOWN\", \"KILL\"]");
        let mixed = mixed.expect("good");
        assert_eq!(mixed.dropped(), ["AUDIT_WRITE", "CHOWN", "KILL", "MKNOD", "SETFCAP"]);
        assert_eq!(mixed.cap_add, BTreeSet::from(["NET_RAW".to_owned()]));
        let all = read("cap_drop = [\"ALL\"]\ncap_add = [\"NET_BIND_SERVICE\"]").expect("good");
        assert_eq!(all.dropped(), ["ALL"]);
    }

    #[test]
    fn a_capability_that_gives_the_host_away_is_refused() {
        for name in REFUSED.into_iter().chain([ALL]) {
            let faults = read(&format!("cap_add = [\"{name}\"]")).expect_err(name);
            assert!(faults[0].starts_with(&format!("cap_add: {name}")), "{faults:?}");
            assert!(read(&format!("cap_drop = [\"{name}\"]")).is_ok(), "{name}");
        }
        let faults = read("network = \"host\"\ncap_add = [\"NET_ADMIN\"]").expect_err("refused");
        assert!(faults[0].contains("rule the host's"), "{faults:?}");
        assert!(read("cap_add = [\"NET_ADMIN\"]").is_ok());
        let faults = read("cap_add = [\"NET_ROW\"]").expect_err("unknown");
        assert!(faults[0].contains("did you mean NET_RAW?"), "{faults:?}");
        let faults = read("cap_add = [\"CHOWN\"]\ncap_drop = [\"CHOWN\"]").expect_err("both");
        assert!(faults[0].starts_with("cap_drop: CHOWN"), "{faults:?}");
    }

    #[test]
    fn a_file_system_in_memory_has_a_path_and_a_size() {
        let found = read("tmpfs = { \"/run\" = \"16M\", \"/tmp/\" = \"1M\" }").expect("good");
        let paths: Vec<_> = found.tmpfs.iter().map(|(p, s)| (p.as_str(), s.as_u64())).collect();
        assert_eq!(paths, [("/run", 16 << 20), ("/tmp", 1 << 20)]);
        for wrong in
            ["\"run\" = \"1M\"", "\"/a/../b\" = \"1M\"", "\"/x\" = \"0\"", "\"/x\" = \"much\""]
        {
            assert_eq!(
                read(&format!("tmpfs = {{ {wrong} }}")).expect_err(wrong).len(),
                1,
                "{wrong}"
            );
        }
    }
}
