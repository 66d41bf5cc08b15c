//! From a fetch that failed to what an operator sees.

use belay_engine::{EngineError, LoadError, PullError, PullFault};
use belay_protocol::{Problem, ProblemCode, WorkloadName};

use super::credentials::CredentialsError;
use crate::core::images::reference::ImageReference;
use crate::problems::with_causes;

/// Why an image was not had, for all who wanted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: ProblemCode,
    pub(super) what: String,
    pub(super) next: String,
}

impl Trouble {
    pub(super) fn new(code: ProblemCode, what: String, next: impl Into<String>) -> Self {
        Self { code, what, next: next.into() }
    }

    /// The problem of one workload that wanted the image.
    pub(super) fn of(&self, workload: &WorkloadName) -> Problem {
        Problem::new(self.code, format!("{workload}: {}", self.what), self.next.clone())
    }

    /// The problem of an operator who wanted it.
    pub(super) fn problem(self) -> Problem {
        Problem::new(self.code, self.what, self.next)
    }
}

fn engine(error: &EngineError, what: String) -> Trouble {
    match error {
        EngineError::Unreachable { .. } | EngineError::TimedOut { .. } => Trouble::new(
            ProblemCode::EngineUnreachable,
            what,
            "see that the container engine runs: belay doctor",
        ),
        EngineError::Absent { .. }
        | EngineError::Conflict { .. }
        | EngineError::Busy { .. }
        | EngineError::Invalid { .. }
        | EngineError::Denied { .. }
        | EngineError::Unsupported { .. }
        | EngineError::Unknown { .. } => Trouble::new(
            ProblemCode::ImageUnavailable,
            what,
            "belay doctor shows what the engine can do",
        ),
    }
}

/// The engine could not say whether it has the image.
pub(super) fn look(source: &str, error: &EngineError) -> Trouble {
    engine(error, format!("image {source}: {}", with_causes(error)))
}

/// A pull failed. `origin` says where the credentials came from.
pub(super) fn pull(
    reference: &ImageReference,
    origin: Option<&str>,
    architecture: &str,
    error: &PullError,
) -> Trouble {
    let what = with_causes(error);
    let registry = reference.registry();
    let (code, next) = match error {
        PullError::Engine(error) => return engine(error, what),
        PullError::Stalled { .. } => (
            ProblemCode::RegistryUnreachable,
            format!("see how this host reaches {registry}; it is tried again by itself"),
        ),
        PullError::Refused { fault, .. } => match fault {
            PullFault::Denied => (
                ProblemCode::ImageDenied,
                match origin {
                    Some(origin) => format!(
                        "correct the name and password for {registry} in {origin}; many \
                         registries say the same of an image that does not exist"
                    ),
                    None => format!(
                        "give credentials for {registry}: [[registries]] in belayd.toml, \
                         registry_auth_file in the spec, or podman login {registry} as root; many \
                         registries say the same of an image that does not exist"
                    ),
                },
            ),
            PullFault::NotFound => (
                ProblemCode::ImageNotFound,
                "correct the image in the spec, or push it to the registry".to_owned(),
            ),
            PullFault::Network => (
                ProblemCode::RegistryUnreachable,
                format!(
                    "see that this host reaches {registry}, and that the engine's registries.conf \
                     trusts it; it is tried again by itself"
                ),
            ),
            PullFault::RateLimited => (
                ProblemCode::RegistryLimited,
                format!(
                    "log in to {registry} for a higher limit, or use a mirror; it is tried again \
                     by itself"
                ),
            ),
            PullFault::DiskFull => (
                ProblemCode::ImageStorageFull,
                "make room: belay image prune --dry-run shows what nobody needs".to_owned(),
            ),
            PullFault::Architecture => (
                ProblemCode::ImageArchitecture,
                format!("give an image that is built for {architecture}"),
            ),
            PullFault::Reference => (
                ProblemCode::InvalidImageReference,
                "write the image with its registry in the spec: docker.io/library/alpine:3.20"
                    .to_owned(),
            ),
            PullFault::Digest => (
                ProblemCode::ImageDigestMismatch,
                "the registry or something before it changes what it sends; nothing of it was \
                 kept, and it is tried again by itself"
                    .to_owned(),
            ),
            PullFault::Other => (
                ProblemCode::ImageUnavailable,
                "check the reference and the registry, or give the image as an archive: image = \
                 \"file:PATH\""
                    .to_owned(),
            ),
        },
    };
    Trouble::new(code, what, next)
}

/// The credentials that go with it cannot be used; the registry was not asked.
pub(super) fn credentials(reference: &ImageReference, error: &CredentialsError) -> Trouble {
    let next = match error {
        CredentialsError::Exposed { path, .. } => {
            format!("chmod 600 {}, and change the password if others have seen it", path.display())
        }
        CredentialsError::Read { .. } | CredentialsError::Unusable { .. } => {
            "correct the file; it is read again at the next try".to_owned()
        }
    };
    let what = format!("credentials for image {}: {}", reference.for_engine(), with_causes(error));
    Trouble::new(ProblemCode::RegistryCredentials, what, next)
}

/// A file did not become an image.
pub(super) fn load(error: &LoadError) -> Trouble {
    let what = with_causes(error);
    match error {
        LoadError::Engine(error) => engine(error, what),
        LoadError::Read { .. }
        | LoadError::NotAnImage { .. }
        | LoadError::SeveralImages { .. }
        | LoadError::Changed { .. } => Trouble::new(
            ProblemCode::ImageUnavailable,
            what,
            "give an image saved by podman or docker, or a tar of a root file system",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_code_and_a_next_act_that_names_what_to_do() {
        let reference = ImageReference::parse("r.example/a:1").expect("good");
        for (fault, code, next) in [
            (PullFault::Denied, ProblemCode::ImageDenied, "podman login r.example"),
            (PullFault::NotFound, ProblemCode::ImageNotFound, "correct the image in the spec"),
            (PullFault::Network, ProblemCode::RegistryUnreachable, "this host reaches r.example"),
            (PullFault::RateLimited, ProblemCode::RegistryLimited, "log in to r.example"),
            (PullFault::DiskFull, ProblemCode::ImageStorageFull, "belay image prune --dry-run"),
            (PullFault::Architecture, ProblemCode::ImageArchitecture, "built for amd64"),
            (PullFault::Reference, ProblemCode::InvalidImageReference, "with its registry"),
            (PullFault::Digest, ProblemCode::ImageDigestMismatch, "nothing of it was kept"),
            (PullFault::Other, ProblemCode::ImageUnavailable, "file:PATH"),
        ] {
            let error = PullError::Refused {
                reference: reference.for_engine(),
                fault,
                detail: "the engine's words".to_owned(),
            };
            let trouble = pull(&reference, None, "amd64", &error);
            assert_eq!(trouble.code, code);
            assert!(trouble.next.contains(next), "{}", trouble.next);
            let problem = trouble.of(&"web".parse().expect("a name"));
            assert_eq!(
                problem.detail, "web: cannot pull image r.example/a:1: the engine's words",
                "what failed, on what and why"
            );
        }
        let error = PullError::Refused {
            reference: reference.for_engine(),
            fault: PullFault::Denied,
            detail: String::new(),
        };
        let next = pull(&reference, Some("/etc/belay/password"), "amd64", &error).next;
        assert!(next.contains("in /etc/belay/password"), "{next}");
        let stalled = PullError::Stalled {
            reference: reference.for_engine(),
            after: Duration::from_secs(120),
        };
        let trouble = pull(&reference, None, "amd64", &stalled);
        assert_eq!(trouble.code, ProblemCode::RegistryUnreachable);
        assert!(trouble.what.ends_with("nothing came for 120s"), "{}", trouble.what);
    }
}
