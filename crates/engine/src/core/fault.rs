//! What an engine's refusal means.
//!
//! Docker says most of it by status; Podman's Docker routes answer 500 for nearly everything and
//! the words decide. Podman wraps Go errors, so the text ends with the name of the cause, and those
//! names have been stable from 3.x to 5.x. What is not recognised is `Unknown`, which callers treat
//! as "may have happened, may work later".

/// Kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Absent,
    Conflict,
    Busy,
    Invalid,
    Denied,
    Unsupported,
    Unknown,
}

/// Something that another holder may let go of.
const BUSY: &[&str] = &[
    "address already in use",
    "port is already allocated",
    "device or resource busy",
    "resource temporarily unavailable",
    "is already in progress",
];

const CONFLICT: &[&str] = &[
    "already in use",
    "already exists",
    "container state improper",
    "is not running",
    "is already paused",
    "is not paused",
    "container is paused",
];

const ABSENT: &[&str] = &[
    "no such container",
    "no such image",
    "no such exec session",
    "no such exec instance",
    "image not known",
    "network not found",
    "manifest unknown",
    "could not find the file",
    "repository does not exist",
];

const INVALID: &[&str] = &[
    "invalid argument",
    "invalid reference format",
    "invalid signal",
    "unknown capability",
    "names must match",
    "no command or entrypoint provided",
    "no command specified",
    "command that was not found",
    "executable file not found",
    "command that could not be invoked",
    "no matching entries in passwd file",
    "no matching entries in group file",
    "init binary not found",
    "bind source path does not exist",
    "does not exist: no such file or directory",
];

const DENIED: &[&str] = &[
    "unauthorized",
    "authentication required",
    "access to the resource is denied",
    "invalid username/password",
];

/// Reads a refusal: HTTP status and the engine's message.
pub(crate) fn classify(status: u16, message: &str) -> Fault {
    let message = message.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    match status {
        400 | 409 if says(BUSY) => Fault::Busy,
        400 => Fault::Invalid,
        401 | 403 => Fault::Denied,
        // An unknown route has a plain body; an unknown object has a message that names it.
        404 if message.trim() == "not found" || message.contains("page not found") => {
            Fault::Unsupported
        }
        404 => Fault::Absent,
        409 => Fault::Conflict,
        501 => Fault::Unsupported,
        _ => in_words(says),
    }
}

/// Reads a refusal that comes without a status, in the middle of a stream.
pub(crate) fn classify_words(message: &str) -> Fault {
    let message = message.to_ascii_lowercase();
    in_words(|phrases| phrases.iter().any(|phrase| message.contains(phrase)))
}

/// Busy goes before conflict: "address already in use" holds "already in use" too.
fn in_words(says: impl Fn(&[&str]) -> bool) -> Fault {
    if says(BUSY) {
        Fault::Busy
    } else if says(DENIED) {
        Fault::Denied
    } else if says(CONFLICT) {
        Fault::Conflict
    } else if says(ABSENT) {
        Fault::Absent
    } else if says(INVALID) {
        Fault::Invalid
    } else {
        Fault::Unknown
    }
}

#[cfg(test)]
mod tests;
