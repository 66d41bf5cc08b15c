//! The files of the host that a container sees as secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::keys::{Entry, Keys};

/// Directory in the container where secrets are seen.
pub const MOUNT: &str = "/run/secrets";

/// Largest secret, in bytes.
pub const SIZE_MAX: u64 = 512 << 10;

/// Secrets that a workload may have.
const COUNT_MAX: usize = 64;

const EXPECTED: &str = "a name of letters, digits, '-', '_' and '.', which it does not begin with, \
                        and the path of a file of this host";

/// Who may read a secret in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The user with this number, and root.
    User(u32),
    /// Every process of the container: its user has a name, whose number only the image knows.
    Everyone,
}

impl Reader {
    /// Who reads the secrets of a container that runs as `user`, root where none is named.
    pub fn of(user: Option<&str>) -> Self {
        let user = user.unwrap_or_default();
        let user = user.split_once(':').map_or(user, |(user, _)| user);
        match user {
            "" | "root" => Self::User(0),
            user => user.parse().map_or(Self::Everyone, Self::User),
        }
    }
}

/// Reads `secrets`; relative paths are below `directory`.
pub(super) fn read(keys: &mut Keys<'_>, directory: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for (name, entry) in keys.map("secrets", EXPECTED) {
        let shown = format!("secrets.{name}");
        match entry {
            Entry::Text(path) if is_name(name) && is_path(&path) => {
                found.insert(name.to_owned(), directory.join(path));
            }
            // What was written there may be the secret itself, so it is not repeated.
            Entry::Text(_) => keys.fault_at("secrets", &shown, "something else", EXPECTED),
            Entry::Table(table) => table.fault("", "a table", EXPECTED),
        }
    }
    if found.len() > COUNT_MAX {
        let expected = format!("at most {COUNT_MAX} secrets");
        keys.fault("secrets", &found.len().to_string(), &expected);
    }
    found
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(known)
}

/// Whether this can be meant as a path: a secret that was written in its place has no slash or no
/// place below a directory.
fn is_path(path: &str) -> bool {
    path.contains('/') && !path.ends_with('/') && !path.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::super::{WorkloadSpec, parse};
    use super::*;

    fn read(secrets: &str) -> Result<WorkloadSpec, Vec<String>> {
        let text = format!("name = \"web\"\nimage = \"x\"\n{secrets}\n");
        parse(&text, "web.toml", Path::new("/etc/belay"))
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_secret_is_its_users_where_that_has_a_number() {
        for (user, reader) in [
            (None, Reader::User(0)),
            (Some("root:root"), Reader::User(0)),
            (Some("1000"), Reader::User(1000)),
            (Some("1000:50"), Reader::User(1000)),
            (Some("app"), Reader::Everyone),
            (Some("app:1"), Reader::Everyone),
        ] {
            assert_eq!(Reader::of(user), reader, "{user:?}");
        }
    }

    #[test]
    fn secrets_are_files_by_name() {
        let spec =
            read("[secrets]\ndb = \"/root/db\"\n\"tls.key\" = \"./keys/tls\"").expect("good");
        let found: Vec<_> = spec.secrets.iter().map(|(n, p)| (n.as_str(), p.clone())).collect();
        assert_eq!(
            found,
            [("db", "/root/db".into()), ("tls.key", PathBuf::from("/etc/belay/./keys/tls"))]
        );
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_repeated() {
        for wrong in ["db = \"hunter2\"", "\".db\" = \"/a\"", "\"a/b\" = \"/a\"", "db = \"/a/\""] {
            let faults = read(&format!("[secrets]\n{wrong}")).expect_err(wrong);
            assert_eq!(faults.len(), 1, "{wrong}: {faults:?}");
            assert!(!faults[0].contains("hunter2"), "{faults:?}");
        }
    }

    #[test]
    fn nothing_else_is_mounted_where_secrets_are_seen() {
        let secrets = "[secrets]\ndb = \"/root/db\"\n";
        for other in [
            "tmpfs = { \"/run/secrets\" = \"1M\" }",
            "system_volume = { mount = \"/run/secrets\" }",
            "volumes.data = { size = \"16M\", mount = \"/run/secrets/x\" }",
        ] {
            read(other).expect(other);
            let faults = read(&format!("{other}\n{secrets}")).expect_err(other);
            assert!(faults[0].contains(" secrets: "), "{other}: {faults:?}");
        }
        read(&format!("tmpfs = {{ \"/run\" = \"1M\" }}\n{secrets}")).expect("is below it");
    }
}
