//! Where belayd is, and who the runner is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use belay_protocol::runner::{InvalidToken, RunnerToken};

/// The environment variable with the endpoint, as belayd sets it in the containers of runners.
pub const URL_VARIABLE: &str = "BELAY_RUNNER_URL";
/// The environment variable with the token.
pub const TOKEN_VARIABLE: &str = "BELAY_RUNNER_TOKEN";

/// How a runner connects.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Where belayd listens for runners.
    pub endpoint: Endpoint,
    /// Who the runner is, and whose runs it takes.
    pub token: RunnerToken,
}

/// Where belayd listens for runners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket: `unix:/path`.
    Unix(PathBuf),
    /// A TCP port: `ws://host:port`.
    Tcp {
        /// Name or address; an IPv6 address without its brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// A text that is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not where a belayd may be: expected unix:/path or ws://host:port")]
pub struct InvalidEndpoint {
    /// The text as found, cut to 200 characters.
    pub found: String,
}

/// Why the environment does not say how to connect.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable is missing, or not text.
    #[error("{0} is not set; belayd sets it in the containers of runners")]
    Missing(&'static str),
    /// The endpoint cannot be read.
    #[error("the endpoint in {URL_VARIABLE} cannot be used")]
    Endpoint(#[source] InvalidEndpoint),
    /// The token cannot be read.
    #[error("the token in {TOKEN_VARIABLE} cannot be used")]
    Token(#[source] InvalidToken),
}

impl RunnerConfig {
    /// The configuration of a runner in a container that belayd started: [`URL_VARIABLE`] and
    /// [`TOKEN_VARIABLE`].
    pub fn from_env() -> Result<Self, ConfigError> {
        let variable =
            |name: &'static str| std::env::var(name).map_err(|_| ConfigError::Missing(name));
        Self::from_texts(&variable(URL_VARIABLE)?, &variable(TOKEN_VARIABLE)?)
    }

    fn from_texts(endpoint: &str, token: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            endpoint: endpoint.parse().map_err(ConfigError::Endpoint)?,
            token: token.trim().parse().map_err(ConfigError::Token)?,
        })
    }
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint { found: text.chars().take(200).collect() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(invalid()) };
        }
        let place = text.strip_prefix("ws://").ok_or_else(invalid)?;
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = place.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().map_err(|_| invalid())?;
        let host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']').ok_or_else(invalid)?,
            None if host.contains(':') => return Err(invalid()),
            None => host,
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '%');
        if host.is_empty() || !host.chars().all(is_plain) {
            return Err(invalid());
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "ws://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "ws://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_path_or_a_place() {
        for text in ["unix:/run/belay/runner.sock", "ws://127.0.0.1:7700", "ws://[::1]:7700"] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), text);
        }
        let slash: Endpoint = "ws://node-7.example:7700/".parse().expect("a slash is no path");
        assert_eq!(slash, Endpoint::Tcp { host: "node-7.example".into(), port: 7700 });
        for text in [
            "",
            "unix:",
            "unix:run/x",
            "ws://",
            "ws://host",
            "ws://host:",
            "ws://:1",
            "ws://h:65536",
            "ws://h:1/v1",
            "ws://::1:80",
            "ws://[::1:80",
            "ws://u@h:1",
            "wss://h:1",
            "http://h:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_configuration_says_which_of_its_texts_is_wrong_and_keeps_the_token_to_itself() {
        let token = RunnerToken::from_entropy([7; 32]).expose();
        let config = RunnerConfig::from_texts("unix:/x", &format!("{token}\n"));
        let config = config.expect("both are good");
        assert!(!format!("{config:?}").contains(&token));
        let wrong = RunnerConfig::from_texts("x", &token).expect_err("no endpoint");
        assert!(matches!(wrong, ConfigError::Endpoint(_)));
        let wrong = RunnerConfig::from_texts("unix:/x", "secret").expect_err("no token");
        assert!(matches!(wrong, ConfigError::Token(_)));
        assert!(!format!("{wrong:?}{wrong}").contains("secret"));
    }
}
