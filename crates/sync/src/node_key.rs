//! The key with which a node signs what it publishes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use belay_protocol::PublisherKey;
use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::core::signature::publisher;
use crate::durable;

/// Larger files are no keys.
const PEM_MAX: u64 = 4_096;
const PEM_HEAD: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_TAIL: &str = "-----END PRIVATE KEY-----";
/// The structure around 32 bytes of an Ed25519 private key (RFC 8410).
const DER: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Where a node keeps its signing key. It is made when it is first needed, and read each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeKey {
    path: PathBuf,
}

/// Why a node cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum NodeKeyError {
    /// It could not be read.
    #[error("the signing key {} could not be read", path.display())]
    Read {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be made.
    #[error("the signing key {} could not be made", path.display())]
    Make {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("the signing key {} is open to others than its owner", path.display())]
    Open {
        /// Its file.
        path: PathBuf,
    },
    /// It is no key.
    #[error("the signing key {} is no Ed25519 key as openssl writes it", path.display())]
    NoKey {
        /// Its file.
        path: PathBuf,
    },
}

impl NodeKey {
    /// The key of the node whose state directory this is.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("sync-signing-key.pem") }
    }

    /// The public half. Blocks the thread.
    pub fn publisher(&self) -> Result<PublisherKey, NodeKeyError> {
        Ok(publisher(&self.load()?))
    }

    /// The key; it is made if there is none. Blocks the thread.
    pub(crate) fn load(&self) -> Result<SigningKey, NodeKeyError> {
        match self.read() {
            Err(NodeKeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.make()?;
                self.read()
            }
            read => read,
        }
    }

    fn read(&self) -> Result<SigningKey, NodeKeyError> {
        let path = || self.path.clone();
        let failed = |source| NodeKeyError::Read { path: path(), source };
        let file = File::open(&self.path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let me = rustix::process::geteuid().as_raw();
        if found.uid() != me || found.permissions().mode() & 0o077 != 0 {
            return Err(NodeKeyError::Open { path: path() });
        }
        let mut text = String::new();
        file.take(PEM_MAX).read_to_string(&mut text).map_err(failed)?;
        decode(&text).ok_or_else(|| NodeKeyError::NoKey { path: path() })
    }

    /// Makes a key unless another thread or process makes one first: a key is whole and durable
    /// before it has a name, and a name is given once. A process that is killed leaves no half of one:
    /// a file without a name goes with it.
    fn make(&self) -> Result<(), NodeKeyError> {
        self.make_nameless_first()
            .map_err(|source| NodeKeyError::Make { path: self.path.clone(), source })
    }

    fn make_nameless_first(&self) -> io::Result<()> {
        let mut seed = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        let directory = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(encode(&seed).as_bytes())?;
        file.sync_all()?;
        let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(CWD, nameless, CWD, &self.path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) | Err(Errno::EXIST) => durable::sync_parent(&self.path),
            Err(error) => Err(error.into()),
        }
    }
}

fn encode(seed: &[u8; 32]) -> String {
    let body = BASE64.encode(&[&DER[..], seed].concat());
    format!("{PEM_HEAD}\n{body}\n{PEM_TAIL}\n")
}

fn decode(text: &str) -> Option<SigningKey> {
    let body = text.trim().strip_prefix(PEM_HEAD)?.strip_suffix(PEM_TAIL)?;
    let bytes = BASE64.decode(body.trim().as_bytes()).ok()?;
    let seed: [u8; 32] = bytes.strip_prefix(&DER)?.try_into().ok()?;
    Some(SigningKey::from_bytes(&seed))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_is_the_same_ever_after() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let key = NodeKey::new(temp.path());
        let makers: Vec<_> = (0..8)
            .map(|_| {
                let key = key.clone();
                std::thread::spawn(move || key.publisher().expect("a key"))
            })
            .collect();
        let made: Vec<_> = makers.into_iter().map(|maker| maker.join().expect("joins")).collect();
        assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
        assert_eq!(NodeKey::new(temp.path()).publisher().expect("reads"), made[0]);
        let found = fs::metadata(&key.path).expect("is there").permissions().mode();
        assert_eq!(found & 0o7777, 0o600);
        let left = fs::read_dir(temp.path()).expect("lists").count();
        assert_eq!(left, 1, "nothing but the key");
    }

    #[test]
    fn a_process_that_is_killed_while_it_makes_a_key_leaves_a_whole_one_or_nothing() {
        for after in 0..40 {
            let temp = tempfile::tempdir().expect("a temporary directory");
            let mut child = std::process::Command::new(std::env::current_exe().expect("this file"))
                .args(["--ignored", "--exact", "node_key::tests::makes_keys_until_it_is_killed"])
                .env("BELAY_TEST_DIRECTORY", temp.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("starts");
            let begun = temp.path().join("begun");
            while !begun.exists() {
                assert!(child.try_wait().expect("is asked").is_none(), "it ended by itself");
                std::thread::yield_now();
            }
            std::thread::sleep(std::time::Duration::from_micros(after * 100));
            child.kill().expect("kills");
            child.wait().expect("ends");
            for node in fs::read_dir(temp.path()).expect("lists").map(|entry| entry.expect("one")) {
                let Ok(names) = fs::read_dir(node.path()) else { continue };
                let names: Vec<_> = names.map(|name| name.expect("a name").file_name()).collect();
                match &names[..] {
                    [] => {}
                    [name] => {
                        assert_eq!(name, "sync-signing-key.pem");
                        NodeKey::new(&node.path()).read().expect("a whole one");
                    }
                    more => panic!("{more:?}"),
                }
            }
        }
    }

    #[test]
    #[ignore = "the other process of the test above, which kills it"]
    fn makes_keys_until_it_is_killed() {
        let directory = std::env::var_os("BELAY_TEST_DIRECTORY").expect("a directory");
        let directory = Path::new(&directory);
        for node in 0.. {
            let node = directory.join(node.to_string());
            fs::create_dir(&node).expect("makes");
            fs::write(directory.join("begun"), "").expect("writes");
            NodeKey::new(&node).load().expect("a key");
        }
    }

    #[test]
    fn a_key_is_read_as_openssl_writes_it() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let key = NodeKey::new(temp.path());
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEICs64WKPES6W489/euhMSs3vFVZynLFNLmUhGV8EzLrw\n\
                   -----END PRIVATE KEY-----\n";
        fs::write(&key.path, pem).expect("writes");
        fs::set_permissions(&key.path, fs::Permissions::from_mode(0o600)).expect("modes");
        assert_eq!(
            key.publisher().expect("reads").to_string(),
            "MCowBQYDK2VwAyEAWSCGdhi7ruuczQSp812R56GbUiqXsvBsKPYtL1dMw5I="
        );
        let seed = key.load().expect("reads").to_bytes();
        assert_eq!(encode(&seed), pem);
    }

    #[test]
    fn a_key_that_cannot_be_trusted_is_neither_used_nor_replaced() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let key = NodeKey::new(temp.path());
        fs::write(&key.path, "a password").expect("writes");
        fs::set_permissions(&key.path, fs::Permissions::from_mode(0o600)).expect("modes");
        assert!(matches!(key.load(), Err(NodeKeyError::NoKey { .. })));
        fs::set_permissions(&key.path, fs::Permissions::from_mode(0o640)).expect("modes");
        assert!(matches!(key.load(), Err(NodeKeyError::Open { .. })));
        assert_eq!(fs::read_to_string(&key.path).expect("reads"), "a password");
        fs::remove_file(&key.path).expect("removes");
        fs::create_dir(&key.path).expect("creates");
        assert!(matches!(key.load(), Err(NodeKeyError::Read { .. } | NodeKeyError::Open { .. })));
        let absent = NodeKey::new(&temp.path().join("absent"));
        assert!(matches!(absent.load(), Err(NodeKeyError::Make { .. })));
    }
}
