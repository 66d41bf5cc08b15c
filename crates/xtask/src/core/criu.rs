//! The CRIU that checkpoints need, and where it comes from.
//!
//! Kernels from 6.16 on answer one of CRIU's questions about TCP sockets in a way that versions
//! before 4.2 take for a failure, and 3.17, as Debian 12 has it, does not start at all on kernels
//! far newer than itself. No supported release of Debian has 4.2. So it is taken from the suite
//! that has it together with the libraries that it was built with, into a directory of its own:
//! nothing of the system is replaced.

use super::engine_config::MARKER;
use super::needs::Release;

/// Where the engine's helpers find it: first in their `PATH`.
pub(crate) const WRAPPER: &str = "/usr/local/sbin/criu";
/// What the wrapper runs.
pub(crate) const PREFIX: &str = "/opt/belay/criu";
/// What runc hands to CRIU with every container.
pub(crate) const CONFIG: &str = "/etc/criu/runc.conf";
/// The suite whose CRIU is new enough.
const SUITE: &str = "forky";
/// Whose signature the package lists must bear.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Oldest version that works with every kernel.
pub(crate) const OLDEST: (u32, u32) = (4, 2);

/// The CRIU that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CriuFacts {
    /// Version of the one that would be run; `None` when there is none, or it does not start.
    pub(crate) version: Option<(u32, u32)>,
    /// What lies at [`WRAPPER`].
    pub(crate) wrapper: Wrapper,
}

/// What lies where the wrapper goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrapper {
    Absent,
    Ours,
    Foreign,
}

/// What to do about CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CriuStep {
    Keep,
    Install,
    /// It is too old, and its place is taken by somebody else's file.
    LeaveForeign,
}

pub(crate) fn step(facts: CriuFacts) -> CriuStep {
    if facts.version.is_some_and(|version| version >= OLDEST) {
        return CriuStep::Keep;
    }
    match facts.wrapper {
        Wrapper::Absent | Wrapper::Ours => CriuStep::Install,
        Wrapper::Foreign => CriuStep::LeaveForeign,
    }
}

/// Reads what `criu --version` prints.
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let number = text.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The release's name in the package sources.
pub(crate) fn codename(release: Release) -> &'static str {
    match release {
        Release::Bookworm => "bookworm",
        Release::Trixie => "trixie",
    }
}

/// The one line of package sources, for the mirror that the host uses.
pub(crate) fn sources(mirror: &str) -> String {
    format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
}

/// apt's options for working in `directory` and nowhere else, so that the host's own package lists
/// and packages stay as they are.
pub(crate) fn apt_options(directory: &str, architecture: &str) -> Vec<String> {
    [
        format!("Dir::Etc::SourceList={directory}/sources.list"),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        "Dir::Etc::Preferences=/dev/null".to_owned(),
        "Dir::Etc::PreferencesParts=/dev/null".to_owned(),
        format!("Dir::State::Lists={directory}/lists"),
        format!("Dir::State::status={directory}/status"),
        format!("Dir::Cache={directory}/cache"),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
        format!("APT::Architectures={architecture}"),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        // The lists of a suite that moves are valid for a week, and the clock of a host or its
        // mirror may be further off. Their signature is checked all the same.
        "Acquire::Check-Valid-Until=false".to_owned(),
    ]
    .into_iter()
    .flat_map(|option| ["-o".to_owned(), option])
    .collect()
}

/// The program at [`WRAPPER`]: CRIU through the loader and with the libraries it was built with.
/// Paths are absolute.
pub(crate) fn wrapper(loader: &str, libraries: &[&str], program: &str) -> String {
    let libraries = libraries.join(":");
    format!("#!/bin/sh\n{MARKER}\nexec {loader} --library-path {libraries} {program} \"$@\"\n")
}

/// Whether a wrapper is ours to replace.
pub(crate) fn is_ours(text: &str) -> bool {
    text.lines().nth(1) == Some(MARKER)
}

/// The options for every container.
pub(crate) fn config() -> String {
    format!(
        "{MARKER}\n\
         # Open TCP connections are closed at a restore instead of standing in the way of the \
         checkpoint;\n\
         # file locks are carried, and deleted files that are still open up to 64 MiB.\n\
         tcp-close\n\
         file-locks\n\
         ghost-limit 67108864\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_works_with_every_kernel_is_kept() {
        let step = |version, wrapper| step(CriuFacts { version, wrapper });
        for wrapper in [Wrapper::Absent, Wrapper::Ours, Wrapper::Foreign] {
            assert_eq!(step(Some((4, 2)), wrapper), CriuStep::Keep);
            assert_eq!(step(Some((5, 0)), wrapper), CriuStep::Keep);
        }
        for old in [None, Some((3, 17)), Some((4, 1))] {
            assert_eq!(step(old, Wrapper::Absent), CriuStep::Install);
            assert_eq!(step(old, Wrapper::Ours), CriuStep::Install);
            assert_eq!(step(old, Wrapper::Foreign), CriuStep::LeaveForeign);
        }
    }

    #[test]
    fn the_version_is_read_from_its_line() {
        assert_eq!(version("Version: 4.2.1\nGitID: v4.2.1\n"), Some((4, 2)));
        assert_eq!(version("Version: 3.17\n"), Some((3, 17)));
        assert_eq!(version("criu 4.2"), None);
        assert_eq!(version("Version: four\n"), None);
    }

    #[test]
    fn a_wrapper_is_ours_by_its_second_line() {
        let text = wrapper("/p/ld.so", &["/p/lib", "/p/usr/lib"], "/p/sbin/criu");
        assert!(is_ours(&text));
        assert!(
            text.ends_with("exec /p/ld.so --library-path /p/lib:/p/usr/lib /p/sbin/criu \"$@\"\n")
        );
        assert!(!is_ours("#!/bin/sh\nexec /usr/sbin/criu\n"));
        assert!(!is_ours(""));
    }

    #[test]
    fn apt_works_in_its_own_directory_only() {
        let options = apt_options("/tmp/x", "amd64");
        for key in ["Dir::Etc::SourceList", "Dir::State::Lists", "Dir::State::status", "Dir::Cache"]
        {
            let value = options.iter().find_map(|it| it.strip_prefix(key)?.strip_prefix('='));
            assert!(value.is_some_and(|it| it.starts_with("/tmp/x/")), "{key}: {value:?}");
        }
    }
}
