//! What a test run left behind.

use std::collections::BTreeSet;

/// What of Belay's is on a host at one moment, each thing described for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Belongings(pub(crate) BTreeSet<String>);

impl Belongings {
    /// What is there now and was not there `before`, in order.
    pub(crate) fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Where the tests of this run keep their files, and what the build made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Territory {
    /// The directory that tests are given for temporary files.
    pub(crate) scratch: String,
    /// The build's directory, which holds the binaries under test.
    pub(crate) target_dir: String,
}

impl Territory {
    /// Whether a path is one of ours: below the scratch directory, or with a part that carries
    /// our name, for tests that choose their own place.
    pub(crate) fn owns_path(&self, path: &str) -> bool {
        is_below(path, &self.scratch)
            || path.split('/').any(|part| part.trim_start_matches('.').starts_with("belay"))
    }

    /// Whether a process is one of ours: a binary of this build, or one that works on our files.
    pub(crate) fn owns_process(&self, executable: &str, arguments: &[String]) -> bool {
        let name = executable.trim_end_matches(" (deleted)").rsplit('/').next().unwrap_or_default();
        let built = is_below(executable, &self.target_dir) && matches!(name, "belayd" | "belay");
        built || arguments.iter().any(|argument| argument.contains(&self.scratch))
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn territory() -> Territory {
        Territory {
            scratch: "/var/tmp/belay-test-7".to_owned(),
            target_dir: "/src/target".to_owned(),
        }
    }

    #[test]
    fn only_what_is_new_is_a_leak() {
        let of =
            |things: &[&str]| Belongings(things.iter().map(|&thing| thing.to_owned()).collect());
        let before = of(&["loop0", "mount a"]);
        assert_eq!(of(&["loop0"]).since(&before), Vec::<String>::new());
        assert_eq!(of(&["loop0", "loop1", "mount a"]).since(&before), ["loop1"]);
    }

    #[test]
    fn paths_are_ours_by_place_or_by_name() {
        let territory = territory();
        for ours in ["/var/tmp/belay-test-7/a.img", "/tmp/belay-volumes-1/a.img", "/tmp/.belay/x"] {
            assert!(territory.owns_path(ours), "{ours}");
        }
        for other in ["/var/lib/snapd/a.img", "/var/tmp/other", "/tmp/unbelayed"] {
            assert!(!territory.owns_path(other), "{other}");
        }
    }

    #[test]
    fn processes_are_ours_by_binary_or_by_file() {
        let territory = territory();
        let with = |argument: &str| [argument.to_owned()];
        assert!(territory.owns_process("/src/target/debug/belayd", &[]));
        assert!(territory.owns_process("/src/target/debug/belayd (deleted)", &[]));
        assert!(territory.owns_process("/usr/bin/podman", &with("unix:///var/tmp/belay-test-7/s")));
        assert!(!territory.owns_process("/usr/bin/belayd", &[]));
        assert!(!territory.owns_process("/src/target/debug/xtask", &with("test")));
        assert!(!territory.owns_process("/usr/bin/podman", &with("unix:///run/podman.sock")));
    }
}
