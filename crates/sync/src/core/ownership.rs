//! Whom entries belong to, and what a consumer makes of that.
//!
//! A tree that belongs to one user is the same tree on every node, whatever that user's number is
//! there. So what belongs to the owner of the volume's root is recorded as that and not as a number,
//! user and group each for itself; any other id is a number, as the container sees it.

use std::borrow::Cow;

use belay_protocol::control::AlteredEntries;
use serde::{Deserialize, Serialize};

use super::member::{Body, Member};

/// Set-user-id and set-group-id.
pub(crate) const SET_ID: u32 = 0o6000;

/// The id that to the kernel means "leave it as it is".
const NO_ID: u32 = u32::MAX;

/// User and group of something, as numbers.
pub(crate) type Ids = (u32, u32);

/// Whom an entry belongs to. Where there is no number, it is the owner of its volume's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Owner {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

impl Owner {
    /// Whom something belongs to in a volume whose root belongs to `root`.
    pub(crate) fn of(ids: Ids, root: Ids) -> Self {
        Self { user: (ids.0 != root.0).then_some(ids.0), group: (ids.1 != root.1).then_some(ids.1) }
    }

    /// The numbers that this is in such a volume.
    pub(crate) fn ids(self, root: Ids) -> Ids {
        (self.user.unwrap_or(root.0), self.group.unwrap_or(root.1))
    }

    /// Whether it is the volume's owner in both.
    pub(crate) fn is_volumes(self) -> bool {
        self == Self::default()
    }

    /// Whether a file can have it.
    pub(crate) fn is_lawful(self) -> bool {
        self.user != Some(NO_ID) && self.group != Some(NO_ID)
    }
}

/// What a consumer does about entries that belong to others than the owner of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// They belong to whom they belonged in the provider's container, by number.
    Keep,
    /// They belong to the owner of the volume, like everything else.
    Volume,
}

/// What a consumer does about the set-id bits of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetId {
    /// They stay.
    Keep,
    /// They go.
    Clear,
}

/// What a consumer makes of owners and set-id bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnershipPolicy {
    /// Of entries of other owners.
    pub owners: Owners,
    /// Of files with set-id bits.
    pub set_id: SetId,
}

impl Default for OwnershipPolicy {
    /// Owners are part of the state. Set-id bits let who writes the state of one workload act as
    /// others of another, and few states need them.
    fn default() -> Self {
        Self { owners: Owners::Keep, set_id: SetId::Clear }
    }
}

/// Where an entry lies in its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// It is the root directory of the volume.
    Root,
    Below,
}

impl OwnershipPolicy {
    /// An entry as a volume holds it once it is applied there, and as a walk tells it then. The root
    /// of a volume keeps its owner, by whom all others are told.
    pub(crate) fn settle(self, member: &Member, position: Position, root: Ids) -> Cow<'_, Member> {
        if !member.is_owned() {
            return Cow::Borrowed(member);
        }
        let owner = match (position, self.owners) {
            (Position::Below, Owners::Keep) => Owner::of(member.owner.ids(root), root),
            (Position::Root, Owners::Keep | Owners::Volume) | (Position::Below, Owners::Volume) => {
                Owner::default()
            }
        };
        let mode = match (self.set_id, &member.body) {
            (SetId::Clear, Body::File { .. }) => member.mode & !SET_ID,
            (SetId::Keep, Body::File { .. })
            | (_, Body::Directory | Body::Symlink { .. } | Body::HardLink { .. }) => member.mode,
        };
        Cow::Owned(Member { mode, owner, ..member.clone() })
    }
}

/// How many entries a volume holds otherwise than the tree has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Altered {
    /// Entries that belong to another than in the tree.
    pub(crate) owners: u64,
    /// Files without their set-id bits.
    pub(crate) set_id: u64,
}

impl Altered {
    /// The same for others to read; none if nothing was altered.
    pub(crate) fn told(self) -> Option<AlteredEntries> {
        let Self { owners, set_id } = self;
        (owners + set_id > 0).then_some(AlteredEntries { owners, set_id })
    }

    /// Takes note of an entry and of how it was settled in a volume whose root belongs to `root`.
    pub(crate) fn note(&mut self, member: &Member, settled: &Member, root: Ids) {
        self.owners += u64::from(member.owner.ids(root) != settled.owner.ids(root));
        self.set_id += u64::from(member.mode != settled.mode);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::member::Mtime;
    use super::*;

    const ROOT: Ids = (999, 998);

    fn member(user: Option<u32>, group: Option<u32>, mode: u32, body: Body) -> Member {
        let mtime = Mtime { seconds: 0, nanos: 0 };
        let owner = Owner { user, group };
        Member { path: b"a".to_vec(), mode, owner, mtime, xattrs: BTreeMap::new(), body }
    }

    fn file(user: Option<u32>, group: Option<u32>, mode: u32) -> Member {
        member(user, group, mode, Body::File { size: 1 })
    }

    #[test]
    fn what_belongs_to_the_owner_of_the_volume_is_told_without_its_number() {
        for (ids, user, group) in [
            (ROOT, None, None),
            ((0, 998), Some(0), None),
            ((999, 0), None, Some(0)),
            ((998, 999), Some(998), Some(999)),
            ((u32::MAX - 1, 998), Some(u32::MAX - 1), None),
        ] {
            let owner = Owner::of(ids, ROOT);
            assert_eq!(owner, Owner { user, group }, "{ids:?}");
            assert_eq!(owner.ids(ROOT), ids);
            assert_eq!(owner.is_volumes(), ids == ROOT);
            assert!(owner.is_lawful());
        }
        // On another node it is whom that volume belongs to.
        assert_eq!(Owner { user: None, group: Some(7) }.ids((0, 0)), (0, 7));
        assert!(!Owner { user: Some(u32::MAX), group: None }.is_lawful());
        assert!(!Owner { user: None, group: Some(u32::MAX) }.is_lawful());
    }

    #[test]
    fn each_policy_alters_what_it_names_and_says_how_much() {
        let policy = |owners, set_id| OwnershipPolicy { owners, set_id };
        let dir = |user, mode| member(user, None, mode, Body::Directory);
        let link = |user| member(user, None, 0o777, Body::Symlink { target: b"x".to_vec() });
        let (keep, volume) = (Owners::Keep, Owners::Volume);
        for (policy, position, member, owner, mode, owners, set_id) in [
            (
                policy(keep, SetId::Keep),
                Position::Below,
                file(Some(7), None, 0o4755),
                (7, 998),
                0o4755,
                0,
                0,
            ),
            (
                policy(keep, SetId::Clear),
                Position::Below,
                file(Some(7), None, 0o6755),
                (7, 998),
                0o755,
                0,
                1,
            ),
            (
                policy(volume, SetId::Keep),
                Position::Below,
                file(Some(7), Some(8), 0o2711),
                ROOT,
                0o2711,
                1,
                0,
            ),
            (
                policy(volume, SetId::Clear),
                Position::Below,
                file(None, Some(0), 0o4700),
                ROOT,
                0o700,
                1,
                1,
            ),
            // Nothing is altered where nothing is to be.
            (
                policy(volume, SetId::Clear),
                Position::Below,
                file(None, None, 0o1644),
                ROOT,
                0o1644,
                0,
                0,
            ),
            // What the group of a directory is for is who owns what is made in it.
            (
                policy(keep, SetId::Clear),
                Position::Below,
                dir(Some(7), 0o2770),
                (7, 998),
                0o2770,
                0,
                0,
            ),
            (policy(volume, SetId::Clear), Position::Below, link(Some(7)), ROOT, 0o777, 1, 0),
            (policy(keep, SetId::Keep), Position::Root, dir(Some(7), 0o755), ROOT, 0o755, 1, 0),
            // A number that is the owner's here is the owner.
            (
                policy(volume, SetId::Keep),
                Position::Below,
                file(Some(999), None, 0o644),
                ROOT,
                0o644,
                0,
                0,
            ),
        ] {
            let settled = policy.settle(&member, position, ROOT);
            assert_eq!(settled.owner.ids(ROOT), owner, "{policy:?} {member:?}");
            assert_eq!(settled.owner, Owner::of(owner, ROOT), "as a walk tells it");
            assert_eq!(settled.mode, mode, "{policy:?} {member:?}");
            let mut altered = Altered::default();
            altered.note(&member, &settled, ROOT);
            assert_eq!(altered, Altered { owners, set_id }, "{policy:?} {member:?}");
        }
    }
}
