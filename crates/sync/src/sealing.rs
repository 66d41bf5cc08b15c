//! For whom trees are sealed, and by which key.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use belay_packs::{DataKey, Envelope, Keys, Member, MemberSecret};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::core::root::StoredRoot;
use crate::durable;

/// Larger files are no keys.
const PEM_MAX: u64 = 4_096;

/// How a workload's trees are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealing {
    /// Host path of the workload's own X25519 key, as `openssl genpkey -algorithm X25519` writes it;
    /// a file that root alone may read.
    pub identity: PathBuf,
    /// Who may read what a provider publishes, besides itself.
    pub members: Vec<Member>,
}

/// Why trees cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealingError {
    #[error("the identity {} could not be read", path.display())]
    Identity {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the identity {} is open to others than its owner, root", path.display())]
    Open { path: PathBuf },
    #[error("the identity {} is no X25519 key as openssl writes it", path.display())]
    NoKey { path: PathBuf },
    #[error("the key of this workload's trees could not be kept")]
    Kept(#[source] io::Error),
    #[error("the tree is sealed, and this workload declares no identity to open it with")]
    NoIdentity,
    #[error("the tree is sealed, and {member} is not among its members")]
    NotMember { member: Member },
    #[error("the tree is not sealed, and this workload takes sealed trees only")]
    NotSealed,
}

/// Keys, and the envelopes that carry them.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    pub(crate) keys: Keys,
    pub(crate) envelopes: Vec<Envelope>,
}

impl Seal {
    /// No seal.
    pub(crate) fn none() -> Self {
        Self { keys: Keys::plain(), envelopes: Vec::new() }
    }
}

/// The data key as a provider keeps it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptKey {
    /// Those who have it.
    members: Vec<String>,
    key: String,
}

impl Sealing {
    /// What a provider seals its trees with. Who was a member once has the key, so a key serves
    /// until one of its members is no longer declared.
    pub(crate) fn seal(&self, sync_dir: &Path) -> Result<Seal, SealingError> {
        let mut members = self.members.clone();
        members.push(self.secret()?.member());
        members.sort();
        members.dedup();
        let path = sync_dir.join("data-key.json");
        let declared: Vec<String> = members.iter().map(ToString::to_string).collect();
        let kept: Option<KeptKey> = durable::read_json(&path).map_err(SealingError::Kept)?;
        let kept = kept.filter(|kept| kept.members.iter().all(|member| declared.contains(member)));
        let known = kept.as_ref().and_then(|kept| {
            let key = HEXLOWER.decode(kept.key.as_bytes()).ok()?;
            Some(DataKey::from_bytes(key.try_into().ok()?))
        });
        let key = match known {
            Some(key) => key,
            None => new_key().map_err(SealingError::Kept)?,
        };
        if kept.is_none_or(|kept| kept.members != declared) {
            let key = HEXLOWER.encode(key.as_bytes());
            let kept = KeptKey { members: declared, key };
            durable::write_json(&path, 0o600, &kept).map_err(SealingError::Kept)?;
        }
        let envelopes = members.into_iter().map(|member| Envelope::seal(&key, member)).collect();
        Ok(Seal { keys: Keys::sealed(&key), envelopes })
    }

    /// The keys of a sealed tree.
    fn open(&self, root: &StoredRoot) -> Result<Keys, SealingError> {
        let secret = self.secret()?;
        let key = root.envelopes.iter().find_map(|envelope| envelope.open(&secret));
        let key = key.ok_or_else(|| SealingError::NotMember { member: secret.member() })?;
        Ok(Keys::sealed(&key))
    }

    fn secret(&self) -> Result<MemberSecret, SealingError> {
        let path = || self.identity.clone();
        let failed = |source| SealingError::Identity { path: path(), source };
        let file = File::open(&self.identity).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if found.uid() != 0 || found.permissions().mode() & 0o077 != 0 {
            return Err(SealingError::Open { path: path() });
        }
        let mut text = String::new();
        file.take(PEM_MAX).read_to_string(&mut text).map_err(failed)?;
        MemberSecret::from_pem(&text).map_err(|_| SealingError::NoKey { path: path() })
    }
}

/// The keys of a tree that a consumer found. Who declares an identity takes sealed trees only, so
/// that nobody who writes to the store passes off an open one.
pub(crate) fn keys_of(sealing: Option<&Sealing>, root: &StoredRoot) -> Result<Keys, SealingError> {
    match (sealing, root.envelopes.is_empty()) {
        (None, true) => Ok(Keys::plain()),
        (None, false) => Err(SealingError::NoIdentity),
        (Some(_), true) => Err(SealingError::NotSealed),
        (Some(sealing), false) => sealing.open(root),
    }
}

fn new_key() -> io::Result<DataKey> {
    let mut bytes = [0; 32];
    let mut random = fs::File::open("/dev/urandom")?;
    random.read_exact(&mut bytes)?;
    Ok(DataKey::from_bytes(bytes))
}
