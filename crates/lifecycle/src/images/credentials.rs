//! Credentials, read from files at the moment they are used.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use belay_engine::RegistryCredentials;

use crate::core::images::credentials::{Found, Login, Secret, covers, look_up};
use crate::core::images::reference::ImageReference;

/// Largest file of secrets that is read.
const FILE_MAX: u64 = 64 << 10;

/// A login for a registry, as belayd's configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryLogin {
    /// Registry, with the port, and with the beginning of a path if it is for that only.
    pub server: String,
    /// Name to log in with.
    pub username: String,
    /// File that holds the password and nothing else.
    pub password_file: PathBuf,
}

/// Credentials, and where they are from.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) credentials: RegistryCredentials,
    pub(super) origin: String,
}

/// Why credentials that were promised cannot be used. Holds nothing of the file's content.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} can be read by every user of this host: its mode is {mode:04o}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is not usable: {what}")]
    Unusable { path: PathBuf, what: String },
}

/// What goes with a pull of `reference`: what the workload's own file says, else the configured
/// logins, else the node's own file. `None` leaves it to the engine, which has what `podman login`
/// of root wrote.
pub(super) fn find(
    reference: &ImageReference,
    own_file: Option<&Path>,
    logins: &[RegistryLogin],
    node_file: Option<&Path>,
) -> Result<Option<Given>, CredentialsError> {
    if let Some(path) = own_file {
        return from_file(path, reference);
    }
    let name = reference.full_name();
    let login = logins.iter().filter(|login| covers(&login.server, &name));
    if let Some(login) = login.max_by_key(|login| login.server.len()) {
        let text = read(&login.password_file)?;
        let password = text.reveal().trim_end_matches(['\n', '\r']);
        if password.is_empty() {
            let path = login.password_file.clone();
            return Err(CredentialsError::Unusable { path, what: "it is empty".to_owned() });
        }
        return Ok(Some(Given {
            credentials: RegistryCredentials {
                username: login.username.clone(),
                password: password.to_owned(),
                registry: None,
            },
            origin: login.password_file.display().to_string(),
        }));
    }
    match node_file {
        Some(path) => from_file(path, reference),
        None => Ok(None),
    }
}

fn from_file(path: &Path, reference: &ImageReference) -> Result<Option<Given>, CredentialsError> {
    let text = read(path)?;
    let unusable = |what: String| CredentialsError::Unusable { path: path.to_owned(), what };
    match look_up(text.reveal(), reference).map_err(|error| unusable(error.0))? {
        Found::Nothing => Ok(None),
        Found::Unusable(what) => {
            let registry = reference.registry();
            Err(unusable(format!("for {registry} it has {what}, and belayd takes name:password")))
        }
        Found::Login(Login { username, password }) => Ok(Some(Given {
            credentials: RegistryCredentials {
                username,
                password: password.reveal().to_owned(),
                registry: None,
            },
            origin: path.display().to_string(),
        })),
    }
}

fn read(path: &Path) -> Result<Secret, CredentialsError> {
    let fail = |source| CredentialsError::Read { path: path.to_owned(), source };
    // Without waiting: a pipe that somebody put there must not hold a pull up.
    let mut options = std::fs::File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nix::libc::O_NONBLOCK);
    let file = options.read(true).open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let unusable = |what: &str| {
        Err(CredentialsError::Unusable { path: path.to_owned(), what: what.to_owned() })
    };
    if !metadata.is_file() {
        return unusable("it is no regular file");
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(CredentialsError::Exposed { path: path.to_owned(), mode });
    }
    if metadata.len() > FILE_MAX {
        return unusable("it is larger than 64 KiB");
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(fail)?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        path
    }

    fn login(server: &str, password_file: PathBuf) -> RegistryLogin {
        RegistryLogin { server: server.to_owned(), username: server.to_owned(), password_file }
    }

    /// `me:hunter2`.
    const AUTH: &str = r#"{"auths":{"r.example":{"auth":"bWU6aHVudGVyMg=="}}}"#;

    #[test]
    fn the_workloads_own_file_goes_before_the_nodes_logins_and_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let auth = file(directory.path(), "auth.json", AUTH, 0o600);
        let empty = file(directory.path(), "empty.json", "{}", 0o600);
        let password = file(directory.path(), "password", "hunter2\n", 0o640);
        let logins =
            [login("r.example", password.clone()), login("r.example/team", password.clone())];
        let image = ImageReference::parse("r.example/team/app:1").expect("good");
        let who = |own: Option<&Path>, logins: &[RegistryLogin], node: Option<&Path>| {
            let given = find(&image, own, logins, node).expect("usable");
            given.map(|given| (given.credentials.username, given.credentials.password))
        };
        let pair = |name: &str| Some((name.to_owned(), "hunter2".to_owned()));
        assert_eq!(who(Some(&auth), &logins, None), pair("me"));
        assert_eq!(who(Some(&empty), &logins, Some(&auth)), None, "its own file is the word");
        assert_eq!(who(None, &logins, Some(&auth)), pair("r.example/team"));
        assert_eq!(who(None, &[], Some(&auth)), pair("me"));
        assert_eq!(who(None, &[login("other.example", password)], None), None);
    }

    #[test]
    fn files_that_others_may_read_are_refused_and_nothing_of_them_is_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = ImageReference::parse("r.example/app").expect("good");
        let exposed = file(directory.path(), "exposed", AUTH, 0o644);
        let broken = file(directory.path(), "broken", r#"{"auths":["hunter2"]}"#, 0o600);
        let large = file(directory.path(), "large", &"hunter2".repeat(20_000), 0o600);
        let helper =
            file(directory.path(), "helper", r#"{"credHelpers":{"r.example":"ecr"}}"#, 0o600);
        for (path, words) in [
            (exposed.as_path(), "its mode is 0644"),
            (&broken, "not JSON of this form"),
            (&large, "larger than 64 KiB"),
            (&helper, "credential helper \"ecr\""),
            (directory.path(), "no regular file"),
            (&directory.path().join("absent"), "cannot read"),
        ] {
            let error = find(&image, Some(path), &[], None).expect_err("unusable");
            let said = crate::problems::with_causes(&error);
            assert!(said.contains(words), "{said}");
            assert!(!format!("{said} {error:?}").contains("hunter2"), "{said}");
        }
        let blank = file(directory.path(), "blank", "\n", 0o600);
        let error = find(&image, None, &[login("r.example", blank)], None).expect_err("empty");
        assert!(error.to_string().ends_with("it is empty"), "{error}");
    }

    #[test]
    fn debug_output_holds_no_password() {
        let directory = tempfile::tempdir().expect("a directory");
        let auth = file(directory.path(), "auth.json", AUTH, 0o600);
        let image = ImageReference::parse("r.example/app").expect("good");
        let given = find(&image, Some(&auth), &[], None).expect("usable").expect("there");
        let said = format!("{given:?}");
        assert!(said.contains("\"me\"") && !said.contains("hunter2"), "{said}");
    }
}
