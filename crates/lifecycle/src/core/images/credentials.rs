//! Whose credentials go with a pull.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde::Deserialize;

use super::reference::ImageReference;

/// A text that nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text out of sight.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whoever has to send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A name and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password or token.
    pub password: Secret,
}

/// What an authentication file has for an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A name and a password.
    Login(Login),
    /// Nothing.
    Nothing,
    /// An entry that belayd does not use, and what it is.
    Unusable(String),
}

/// Why a file is no authentication file.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAnAuthFile(pub String);

/// The form that `podman login` and `docker login` write. Fields of others are let through.
#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

/// Looks an image up in an authentication file. The longest entry wins: `host/team/app`, then
/// `host/team`, then `host`.
pub fn look_up(text: &str, reference: &ImageReference) -> Result<Found, NotAnAuthFile> {
    // The parser quotes what it found, which may be a secret: only the place is passed on.
    let file: AuthFile = serde_json::from_str(text).map_err(|error| {
        NotAnAuthFile(format!(
            "line {}, column {}: not JSON of this form",
            error.line(),
            error.column()
        ))
    })?;
    let name = reference.full_name();
    let mut found: Option<(usize, &Entry)> = None;
    for (key, entry) in &file.auths {
        let server = server_of(key);
        if covers(server, &name) && found.is_none_or(|(length, _)| server.len() > length) {
            found = Some((server.len(), entry));
        }
    }
    let helper = file.helpers.iter().find(|(server, _)| server_of(server) == reference.registry());
    if let Some((_, entry)) = found {
        let empty = entry.auth.as_deref().is_none_or(str::is_empty);
        if entry.identity_token.as_deref().is_some_and(|token| !token.is_empty()) {
            return Ok(Found::Unusable("an identity token".to_owned()));
        }
        if !empty {
            return Ok(entry.auth.as_deref().and_then(decode).map_or_else(
                || Found::Unusable("an entry that is not base64 of name:password".to_owned()),
                Found::Login,
            ));
        }
    }
    let helper = helper.map(|(_, name)| name).or(file.store.as_ref().filter(|_| found.is_some()));
    Ok(match helper {
        Some(helper) => Found::Unusable(format!("the credential helper {helper:?}")),
        None => Found::Nothing,
    })
}

/// Whether credentials for `server` are meant for the image of this full name.
pub fn covers(server: &str, full_name: &str) -> bool {
    let rest = full_name.strip_prefix(server_of(server));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `https://index.docker.io/v1/` is how Docker has always written its own registry.
fn server_of(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

fn decode(auth: &str) -> Option<Login> {
    let text = String::from_utf8(BASE64.decode(auth.trim().as_bytes()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0');
    (!username.is_empty())
        .then(|| Login { username: username.to_owned(), password: Secret::new(password) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, image: &str) -> Found {
        look_up(file, &ImageReference::parse(image).expect("good")).expect("an auth file")
    }

    fn user(found: Found) -> Option<String> {
        match found {
            Found::Login(login) => Some(login.username),
            Found::Nothing | Found::Unusable(_) => None,
        }
    }

    fn entry(user: &str) -> String {
        format!(
            r#"{{"auth":"{}"}}"#,
            BASE64.encode(format!("{user}:secret:with:colons").as_bytes())
        )
    }

    #[test]
    fn the_entry_that_says_most_wins() {
        let file = format!(
            r#"{{"auths":{{"r.example:5000":{},"r.example:5000/team":{},"r.example:5000/team/app":{},
                "https://index.docker.io/v1/":{}}},"HttpHeaders":{{"x":"y"}}}}"#,
            entry("host"),
            entry("team"),
            entry("app"),
            entry("hub")
        );
        for (image, name) in [
            ("r.example:5000/team/app:v1", Some("app")),
            ("r.example:5000/team/application:v1", Some("team")),
            ("r.example:5000/other", Some("host")),
            ("r.example/other", None),
            ("r.example:50000/other", None),
            ("alpine", Some("hub")),
            ("team/app", Some("hub")),
            ("docker.io/team/app", Some("hub")),
        ] {
            assert_eq!(user(found(&file, image)).as_deref(), name, "{image}");
        }
        match found(&file, "alpine") {
            Found::Login(login) => assert_eq!(login.password.reveal(), "secret:with:colons"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let helper = r#"{"auths":{"r.example":{}},"credsStore":"desktop"}"#;
        assert_eq!(
            found(helper, "r.example/a"),
            Found::Unusable("the credential helper \"desktop\"".to_owned())
        );
        assert_eq!(found(helper, "other.example/a"), Found::Nothing);
        let helpers = r#"{"credHelpers":{"r.example":"ecr-login"}}"#;
        assert!(
            matches!(found(helpers, "r.example/a"), Found::Unusable(words) if words.contains("ecr-login"))
        );
        let token = r#"{"auths":{"r.example":{"auth":"YTpi","identitytoken":"x"}}}"#;
        assert!(
            matches!(found(token, "r.example/a"), Found::Unusable(words) if words.contains("token"))
        );
        let broken = r#"{"auths":{"r.example":{"auth":"%%%"}}}"#;
        assert!(matches!(found(broken, "r.example/a"), Found::Unusable(_)));
        assert_eq!(found("{}", "alpine"), Found::Nothing);
    }

    #[test]
    fn neither_errors_nor_debug_output_hold_a_secret() {
        let reference = ImageReference::parse("r.example/a").expect("good");
        let wrong = r#"{"auths":{"r.example":{"auth":["hunter2"]}}}"#;
        let error = look_up(wrong, &reference).expect_err("not of this form");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let login = Login { username: "me".to_owned(), password: Secret::new("hunter2") };
        assert_eq!(format!("{login:?}"), r#"Login { username: "me", password: (secret) }"#);
    }
}
