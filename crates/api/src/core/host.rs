//! Which `Host` a loopback listener answers to.
//!
//! A web page may point a name of its own at 127.0.0.1 and have a browser on this machine read the
//! status for it (DNS rebinding). Such a request carries the page's name in `Host`, so a listener
//! that only answers to loopback names is out of its reach.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether `authority` (a `Host` header or the authority of a request target) names this machine's
/// loopback: `localhost`, an address of 127.0.0.0/8 or `[::1]`, each with an optional port.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, rest)) if host.parse() == Ok(Ipv6Addr::LOCALHOST) => ("localhost", rest),
            Some(_) | None => return false,
        },
        None => match authority.find(':') {
            Some(colon) => authority.split_at(colon),
            None => (authority, ""),
        },
    };
    let port_is_good = match rest.strip_prefix(':') {
        Some(port) => port.parse::<u16>().is_ok(),
        None => rest.is_empty(),
    };
    let host_is_loopback = host.eq_ignore_ascii_case("localhost")
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    port_is_good && host_is_loopback
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn loopback_names_are_answered() {
        for good in
            ["localhost", "LocalHost:8480", "127.0.0.1", "127.0.0.1:80", "127.9.9.9:1", "[::1]:80"]
        {
            assert!(is_loopback(good), "{good}");
        }
    }

    #[test]
    fn other_names_are_not() {
        for bad in [
            "",
            ":80",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "127.0.0.1@example.org",
            "example.org@127.0.0.1",
            "127.0.0.1:80@example.org",
            "127.0.0.1:",
            "127.0.0.1:99999",
            "[::2]:80",
            "[::1",
            "[::1]x",
            "::1",
            "0.0.0.0",
            "192.168.1.1",
            "127.1",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
    }
}
