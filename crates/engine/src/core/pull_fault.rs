//! What the words mean with which a pull is refused.
//!
//! Neither engine says the cause of a failed pull but in words. They come from the registry (the
//! codes of the distribution API), from the program that copies images, and from the kernel; those
//! below are what Podman 4.3 and 5.4 and Docker 20.10 pass on.

/// Why a registry, or the way to it, gave no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullFault {
    /// The registry wants other credentials, or does not show the image to these.
    Denied,
    /// The registry has no such image.
    NotFound,
    /// The registry cannot be reached, or the connection broke.
    Network,
    /// The engine's storage is full.
    DiskFull,
    /// The image is not made for this machine.
    Architecture,
    /// The registry was asked too often.
    RateLimited,
    /// The reference cannot be read, or is too short to say which registry is meant.
    Reference,
    /// What came is not what the digest names.
    Digest,
    /// Something else.
    Other,
}

/// The first that matches decides: a full disk breaks connections too, and a registry that limits
/// its callers says so in an answer that is otherwise a refusal.
const WORDS: &[(PullFault, &[&str])] = &[
    (PullFault::DiskFull, &["no space left on device", "disk quota exceeded"]),
    (
        PullFault::Digest,
        &[
            "digest did not match",
            "does not match provided manifest digest",
            "manifest verification failed",
            "layer verification failed",
            "unexpected digest",
            "corrupt blob",
        ],
    ),
    (PullFault::RateLimited, &["toomanyrequests", "too many requests"]),
    (
        PullFault::Architecture,
        &[
            "no image found in manifest list for architecture",
            "no image found in image index for architecture",
            "no matching manifest for",
        ],
    ),
    (
        PullFault::Reference,
        &[
            "invalid reference format",
            "invalid repository name",
            "must be lowercase",
            "short-name",
            "unqualified-search registries",
        ],
    ),
    (
        PullFault::Denied,
        &[
            "unauthorized",
            "authentication required",
            "access to the resource is denied",
            "invalid username/password",
            "403 (forbidden)",
            "403 forbidden",
            "no basic auth credentials",
        ],
    ),
    (
        PullFault::NotFound,
        &[
            "manifest unknown",
            "name unknown",
            "repository name not known",
            "repository does not exist",
            "404 (not found)",
            "404 not found",
        ],
    ),
    (
        PullFault::Network,
        &[
            "no such host",
            "server misbehaving",
            "temporary failure in name resolution",
            "connection refused",
            "connection reset",
            "network is unreachable",
            "no route to host",
            "i/o timeout",
            "handshake timeout",
            "deadline exceeded",
            "client.timeout",
            "unexpected eof",
            ": eof",
            "x509:",
            "server gave http response to https client",
            "502 bad gateway",
            "503 service unavailable",
            "504 gateway timeout",
            "502 (bad gateway)",
            "503 (service unavailable)",
            "504 (gateway timeout)",
        ],
    ),
];

/// Reads the words of a pull that failed.
pub(crate) fn pull_fault(message: &str) -> PullFault {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    WORDS.iter().find(|(_, words)| says(words)).map_or(PullFault::Other, |(fault, _)| *fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_words_are_told_apart() {
        for (words, fault) in [
            (
                "initializing source docker://r.test/a:1: unable to retrieve auth token: invalid \
                 username/password: unauthorized: incorrect username or password",
                PullFault::Denied,
            ),
            (
                "initializing source docker://127.0.0.1:1/a:1: reading manifest 1 in 127.0.0.1:1/a: \
                 manifest unknown: manifest unknown",
                PullFault::NotFound,
            ),
            (
                "initializing source docker://127.0.0.1:1/a:1: pinging container registry \
                 127.0.0.1:1: Get \"https://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: \
                 connection refused",
                PullFault::Network,
            ),
            (
                "initializing source docker://r.invalid/a:1: pinging container registry r.invalid: \
                 Get \"https://r.invalid/v2/\": dial tcp: lookup r.invalid: no such host",
                PullFault::Network,
            ),
            (
                "writing blob: storing blob to file \"/var/tmp/storage1/1\": write \
                 /var/tmp/storage1/1: no space left on device",
                PullFault::DiskFull,
            ),
            (
                "choosing an image from manifest list docker://r.test/a:1: no image found in image \
                 index for architecture amd64, variant \"\", OS linux",
                PullFault::Architecture,
            ),
            (
                "toomanyrequests: You have reached your pull rate limit. You may increase the \
                 limit by authenticating",
                PullFault::RateLimited,
            ),
            ("short-name \"a\" did not resolve to an alias", PullFault::Reference),
            ("invalid reference format", PullFault::Reference),
            (
                "writing blob: Digest did not match, expected sha256:aa, got sha256:bb",
                PullFault::Digest,
            ),
            ("something that no version says", PullFault::Other),
        ] {
            assert_eq!(pull_fault(words), fault, "{words}");
        }
    }
}
