//! The settings of images and registries.

use std::path::PathBuf;
use std::time::Duration;

use belay_engine::PullPatience;
use belay_lifecycle::core::images::collection::{Marks, Rules};
use belay_lifecycle::core::images::reference::ImageReference;
use belay_lifecycle::core::keys::Keys;
use belay_lifecycle::{ImagesConfig, RegistryLogin};
use belay_volumes::ByteSize;

use super::directory;

/// What one piece says of images; nothing where it is silent.
#[derive(Debug, Default)]
pub(super) struct SaidOfImages {
    auth_file: Option<PathBuf>,
    stall: Option<Duration>,
    floor: Option<ByteSize>,
    below: Option<ByteSize>,
    below_percent: Option<u32>,
    until: Option<ByteSize>,
    until_percent: Option<u32>,
    keep: Option<u32>,
    grace: Option<Duration>,
    /// Logins of all pieces; of two for one server the later is in force.
    logins: Vec<RegistryLogin>,
}

impl SaidOfImages {
    pub(super) fn overlaid_by(self, later: Self) -> Self {
        let mut logins = self.logins;
        logins.retain(|login| !later.logins.iter().any(|other| other.server == login.server));
        logins.extend(later.logins);
        Self {
            auth_file: later.auth_file.or(self.auth_file),
            stall: later.stall.or(self.stall),
            floor: later.floor.or(self.floor),
            below: later.below.or(self.below),
            below_percent: later.below_percent.or(self.below_percent),
            until: later.until.or(self.until),
            until_percent: later.until_percent.or(self.until_percent),
            keep: later.keep.or(self.keep),
            grace: later.grace.or(self.grace),
            logins,
        }
    }

    pub(super) fn with_defaults(self) -> ImagesConfig {
        let patience = PullPatience::default();
        let low_bytes = self.below.map_or(1 << 30, ByteSize::as_u64);
        let low_percent = self.below_percent.unwrap_or(5);
        ImagesConfig {
            patience: PullPatience { silence: self.stall.unwrap_or(patience.silence), ..patience },
            floor: self.floor.map_or(512 << 20, ByteSize::as_u64),
            marks: Marks {
                low_bytes,
                low_percent,
                // What ends a collection is never below what begins it.
                high_bytes: self.until.map_or(2 << 30, ByteSize::as_u64).max(low_bytes),
                high_percent: self.until_percent.unwrap_or(10).max(low_percent),
            },
            rules: Rules {
                keep: self.keep.unwrap_or(1),
                grace: self.grace.unwrap_or(Duration::from_hours(1)),
            },
            logins: self.logins,
            auth_file: self.auth_file,
        }
    }
}

/// Reads `[images]`.
pub(super) fn read(keys: &mut Keys<'_>, said: &mut SaidOfImages) {
    const SIZE: &str = "a size such as \"2G\"";
    said.auth_file = directory(keys, "auth_file");
    said.stall = keys.duration("stall", Duration::from_secs(1)..=Duration::from_hours(1));
    said.floor = keys.parsed("floor", SIZE);
    said.below = keys.parsed("collect_below", SIZE);
    said.below_percent = number(keys, "collect_below_percent", 90);
    said.until = keys.parsed("collect_until", SIZE);
    said.until_percent = number(keys, "collect_until_percent", 95);
    said.keep = number(keys, "keep", 100);
    said.grace = keys.duration("grace", Duration::ZERO..=Duration::from_hours(24 * 365));
}

/// A number as it stands in a file, or as a text, which the environment has.
fn number(keys: &mut Keys<'_>, key: &'static str, most: u64) -> Option<u32> {
    keys.integer(key, 0..=most).and_then(|number| u32::try_from(number).ok())
}

/// Reads every `[[registries]]`.
pub(super) fn read_registries(keys: &mut Keys<'_>, said: &mut SaidOfImages) {
    for mut registry in keys.tables("registries") {
        const SERVER: &str = "a registry such as \"registry.example:5000\", with the beginning of \
                              a path if it is for that only";
        let server = registry.text("server", SERVER).filter(|server| {
            let named = ImageReference::parse(&format!("{server}/x"));
            let good = named.is_ok_and(|named| named.full_name() == format!("{server}/x"));
            if !good {
                registry.fault("server", &format!("{server:?}"), SERVER);
            }
            good
        });
        let username = registry.text("username", "the name to log in with");
        let password_file = directory(&mut registry, "password_file");
        for key in ["server", "username", "password_file"] {
            if !registry.has(key) {
                registry.missing(key, "each registry has server, username and password_file");
            }
        }
        if let (Some(server), Some(username), Some(password_file)) =
            (server, username, password_file)
        {
            let login = RegistryLogin {
                server: server.to_owned(),
                username: username.to_owned(),
                password_file,
            };
            said.logins.retain(|other| other.server != login.server);
            said.logins.push(login);
        }
        registry.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Piece, read};

    fn piece(text: &str) -> Piece {
        Piece { name: "belayd.toml".into(), text: text.into() }
    }

    #[test]
    fn logins_of_all_pieces_count_and_later_ones_win() {
        let login = |server: &str, file: &str| {
            format!(
                "[[registries]]\nserver = \"{server}\"\nusername = \"me\"\npassword_file = \"{file}\"\n"
            )
        };
        let config = read(
            &[
                piece(&(login("r.example", "/one") + &login("other.example:5000/team", "/two"))),
                piece(&login("r.example", "/three")),
            ],
            "host",
        )
        .expect("good");
        let files: Vec<_> = config
            .images
            .logins
            .iter()
            .map(|login| (login.server.as_str(), login.password_file.to_str().expect("text")))
            .collect();
        assert_eq!(files, [("other.example:5000/team", "/two"), ("r.example", "/three")]);
    }

    #[test]
    fn faults_of_registries_are_all_named() {
        let text = "[[registries]]\nserver = \"https://r.example\"\nusername = \"me\"\npassword = \"hunter2\"\n";
        let faults = read(&[piece(text)], "host").expect_err("faulty");
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys.len(), 3, "{faults:#?}");
        for key in ["server", "password_file", "password"] {
            assert!(keys.iter().any(|found| found.ends_with(key)), "{key} in {keys:?}");
        }
        assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
    }

    #[test]
    fn collecting_never_ends_before_it_would_begin() {
        let text = "[images]\ncollect_below = \"8G\"\ncollect_below_percent = 20\n";
        let marks = read(&[piece(text)], "host").expect("good").images.marks;
        assert_eq!((marks.high_bytes, marks.high_percent), (8 << 30, 20));
    }
}
