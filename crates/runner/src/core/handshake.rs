//! Whether a request for a socket is one.

use axum::http::header::{
    AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use axum::http::{HeaderMap, HeaderName};
use belay_protocol::runner::{RunnerToken, SUBPROTOCOL};

/// A request that asks for a socket as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) token: RunnerToken,
    /// To be answered with what is derived from it (RFC 6455, section 4.2.2).
    pub(crate) key: Vec<u8>,
}

/// Why a request is not answered with a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("this page is a WebSocket, and the request does not ask for one (version 13)")]
    NoUpgrade,
    #[error("the request does not name the subprotocol {SUBPROTOCOL}")]
    OtherSubprotocol,
    #[error("the request has no bearer token")]
    NoToken,
    #[error("the bearer token is not one that belayd makes")]
    NotAToken,
}

/// Reads the head of a request.
pub(crate) fn read(headers: &HeaderMap) -> Result<Asked, Fault> {
    let is_upgrade = lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &UPGRADE, "websocket")
        && headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_upgrade).ok_or(Fault::NoUpgrade)?;
    if !lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err(Fault::OtherSubprotocol);
    }
    let credentials = headers.get(AUTHORIZATION).ok_or(Fault::NoToken)?;
    let credentials = credentials.to_str().map_err(|_| Fault::NotAToken)?;
    let (scheme, token) = credentials.split_once(' ').ok_or(Fault::NoToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Fault::NoToken);
    }
    let token = token.trim().parse().map_err(|_| Fault::NotAToken)?;
    Ok(Asked { token, key: key.as_bytes().to_vec() })
}

/// Whether a header that is a list has this entry.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|entry| entry.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn good() -> HeaderMap {
        let token = RunnerToken::from_entropy([1; 32]).expose();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (SEC_WEBSOCKET_PROTOCOL, "other.v1, belay.runner.v1"),
            (AUTHORIZATION, &format!("Bearer {token}")),
        ] {
            headers.insert(name, HeaderValue::from_str(value).expect("text"));
        }
        headers
    }

    #[test]
    fn a_good_request_is_read() {
        let asked = read(&good()).expect("good");
        assert_eq!(asked.token, RunnerToken::from_entropy([1; 32]));
        assert_eq!(asked.key, b"dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn what_is_missing_or_other_is_named() {
        for (name, value, fault) in [
            (CONNECTION, "keep-alive", Fault::NoUpgrade),
            (UPGRADE, "h2c", Fault::NoUpgrade),
            (SEC_WEBSOCKET_VERSION, "8", Fault::NoUpgrade),
            (SEC_WEBSOCKET_PROTOCOL, "belay.runner.v2", Fault::OtherSubprotocol),
            (AUTHORIZATION, "Basic Zm9v", Fault::NoToken),
            (AUTHORIZATION, "Bearer", Fault::NoToken),
            (AUTHORIZATION, "Bearer belay_runner_short", Fault::NotAToken),
        ] {
            let mut headers = good();
            headers.insert(&name, HeaderValue::from_str(value).expect("text"));
            assert_eq!(read(&headers), Err(fault), "{name}: {value}");
            if fault != Fault::NotAToken {
                headers.remove(&name);
                assert_eq!(read(&headers), Err(fault), "without {name}");
            }
        }
        let mut headers = good();
        headers.remove(SEC_WEBSOCKET_KEY);
        assert_eq!(read(&headers), Err(Fault::NoUpgrade));
    }
}
