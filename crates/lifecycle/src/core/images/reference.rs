//! Image references, read as the distribution project defines them.

/// An image reference, checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// What a reference has to look like, for errors.
pub const EXPECTED: &str = "an image reference such as \"alpine:3.20\", \
                            \"registry.example:5000/team/app:v1\" or \"team/app@sha256:...\"";

impl ImageReference {
    /// Reads a reference; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{text:?}: {what}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest
            && !is_digest(digest)
        {
            return wrong("the digest is not sha256: and 64 hexadecimal digits");
        }
        // A colon before the last slash is a registry's port.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return wrong("the tag is not letters, digits, '_', '.' and '-', at most 128");
        }
        let (host, path) = split_host(repository);
        if host.is_some_and(|host| !is_host(host)) {
            return wrong("the registry is not a host name with a port if need be");
        }
        if path.bytes().any(|c| c.is_ascii_uppercase()) {
            return wrong("capital letters in the image's name");
        }
        if !path.split('/').all(is_component) {
            return wrong("the image's name is not lower-case letters, digits and '.', '_', '-'");
        }
        if repository.len() > 255 {
            return wrong("the name is longer than 255 characters");
        }
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The reference that the engine is asked for. A digest says all: Podman takes none beside a
    /// tag.
    pub fn for_engine(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository),
            (None, Some(tag)) => format!("{}:{tag}", self.repository),
            (None, None) => format!("{}:latest", self.repository),
        }
    }

    /// The digest that pins it.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Host of its registry, with the port; Docker's own where none is named, as both engines take
    /// it unless they are configured otherwise.
    pub fn registry(&self) -> &str {
        split_host(&self.repository).0.unwrap_or("docker.io")
    }

    /// Registry and path, as credentials are looked up: `docker.io/library/alpine`.
    pub fn full_name(&self) -> String {
        let (host, path) = split_host(&self.repository);
        match host {
            Some(host) => format!("{host}/{path}"),
            None if path.contains('/') => format!("docker.io/{path}"),
            None => format!("docker.io/library/{path}"),
        }
    }

    /// Whether an image with these registry digests is the one that the reference pins; one that
    /// pins nothing takes any.
    pub fn is_met_by(&self, digests: &[String]) -> bool {
        self.digest.as_ref().is_none_or(|wanted| {
            digests.iter().any(|found| found.rsplit_once('@').is_some_and(|(_, d)| d == wanted))
        })
    }
}

/// The digest among those of an image that belongs to a reference's repository, for showing.
pub fn digest_of(reference: &ImageReference, digests: &[String]) -> Option<String> {
    if let Some(pinned) = reference.digest() {
        return Some(pinned.to_owned());
    }
    let name = reference.full_name();
    let of_repository = |found: &&String| {
        found.rsplit_once('@').is_some_and(|(repository, _)| {
            ImageReference::parse(repository).is_ok_and(|other| other.full_name() == name)
        })
    };
    let found = digests.iter().find(of_repository)?;
    found.rsplit_once('@').map(|(_, digest)| digest.to_owned())
}

/// The first component is a host when it could be nothing else.
fn split_host(repository: &str) -> (Option<&str>, &str) {
    match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':', '[']) || host == "localhost" => {
            (Some(host), path)
        }
        Some(_) | None => (None, repository),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("ipv6", rest.strip_prefix(':'))
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn is_component(part: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c))
}

fn is_tag(tag: &str) -> bool {
    let first = tag.bytes().next();
    first.is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_')
        && tag.len() <= 128
        && tag.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
}

fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_read_as_the_engines_read_them() {
        for (text, engine, registry, name) in [
            ("alpine", "alpine:latest", "docker.io", "docker.io/library/alpine"),
            ("alpine:3", "alpine:3", "docker.io", "docker.io/library/alpine"),
            ("team/app:v1", "team/app:v1", "docker.io", "docker.io/team/app"),
            ("localhost/x:y", "localhost/x:y", "localhost", "localhost/x"),
            (
                "r.example:5000/a/b",
                "r.example:5000/a/b:latest",
                "r.example:5000",
                "r.example:5000/a/b",
            ),
            ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000", "[::1]:5000/a"),
            ("10.0.0.1/a__b:C.d", "10.0.0.1/a__b:C.d", "10.0.0.1", "10.0.0.1/a__b"),
        ] {
            let reference = ImageReference::parse(text).expect(text);
            assert_eq!(reference.for_engine(), engine);
            assert_eq!(reference.registry(), registry);
            assert_eq!(reference.full_name(), name);
            assert!(reference.is_met_by(&[]), "nothing is pinned");
        }
    }

    #[test]
    fn a_digest_pins_with_or_without_a_tag() {
        for text in [format!("r.example/a@{DIGEST}"), format!("r.example/a:v1@{DIGEST}")] {
            let reference = ImageReference::parse(&text).expect("good");
            assert_eq!(reference.for_engine(), format!("r.example/a@{DIGEST}"));
            assert_eq!(reference.digest(), Some(DIGEST));
            let other = DIGEST.replace("0123", "ffff");
            assert!(reference.is_met_by(&[format!("mirror/a@{DIGEST}")]));
            assert!(!reference.is_met_by(&[format!("r.example/a@{other}")]));
            assert!(!reference.is_met_by(&[]));
        }
    }

    #[test]
    fn the_digest_that_is_shown_is_the_repositorys_own() {
        let digests =
            [format!("mirror.example/x@{DIGEST}"), format!("docker.io/library/x@{DIGEST}")];
        let shown = |text| digest_of(&ImageReference::parse(text).expect("good"), &digests);
        assert_eq!(shown("x:1").as_deref(), Some(DIGEST));
        assert_eq!(shown("y:1"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "lower-case"),
            ("Team/app", "capital letters"),
            ("team/app:", "the tag"),
            ("team/app:a b", "the tag"),
            ("a@sha256:12", "the digest"),
            ("a@md5:00", "the digest"),
            ("r.example:port/a", "the registry"),
            ("-r.example/a", "the registry"),
            ("a//b", "lower-case"),
            ("a/../b", "lower-case"),
            ("-a", "lower-case"),
            (&"a".repeat(300), "longer than 255"),
        ] {
            let error = ImageReference::parse(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
