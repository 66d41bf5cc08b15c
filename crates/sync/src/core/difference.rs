//! What differs between two trees, entry by entry.

use belay_protocol::{DifferingPart, EntryKind, SyncDifference, SyncDifferences, TreeEntry};

use super::member::{Body, Member};
use super::ownership::Owner;
use super::tree::parts;

/// An entry of a tree with the BLAKE3 of its content, if it is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) member: Member,
    pub(crate) digest: Option<[u8; 32]>,
}

impl Told {
    /// Whether this comes before another in the order of trees.
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        parts(&self.member.path).lt(parts(&other.member.path))
    }

    /// Whether both have one path.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        self.member.path == other.member.path
    }

    fn path(&self) -> String {
        format!("/{}", String::from_utf8_lossy(&self.member.path))
    }

    fn entry(&self) -> TreeEntry {
        let (kind, size) = match &self.member.body {
            Body::Directory => (EntryKind::Directory, None),
            Body::File { size } => (EntryKind::File, Some(*size)),
            Body::Symlink { .. } => (EntryKind::Symlink, None),
            Body::HardLink { .. } => (EntryKind::HardLink, None),
        };
        let Owner { user, group } = self.member.owner;
        TreeEntry { kind, size, mode: self.member.mode, user, group }
    }
}

/// Counts the differences that it tells.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    sum: SyncDifferences,
}

impl Comparison {
    /// An entry that only the second tree has.
    pub(crate) fn added(&mut self, after: &Told) -> SyncDifference {
        self.sum.added += 1;
        SyncDifference::Added { path: after.path(), after: after.entry() }
    }

    /// An entry that only the first tree has.
    pub(crate) fn removed(&mut self, before: &Told) -> SyncDifference {
        self.sum.removed += 1;
        SyncDifference::Removed { path: before.path(), before: before.entry() }
    }

    /// An entry that both have at one path; none if it is the same. Times do not count, as they do
    /// not enter a tree's content id.
    pub(crate) fn both(&mut self, before: &Told, after: &Told) -> Option<SyncDifference> {
        let parts = differing(before, after);
        if parts.is_empty() {
            self.sum.equal += 1;
            return None;
        }
        self.sum.changed += 1;
        Some(SyncDifference::Changed {
            path: after.path(),
            before: before.entry(),
            after: after.entry(),
            parts,
        })
    }

    pub(crate) fn sum(self) -> SyncDifferences {
        self.sum
    }
}

fn differing(before: &Told, after: &Told) -> Vec<DifferingPart> {
    let mut parts = Vec::new();
    let has_mode = match (&before.member.body, &after.member.body) {
        (Body::File { size: one }, Body::File { size: other }) => {
            if one != other || before.digest != after.digest {
                parts.push(DifferingPart::Content);
            }
            true
        }
        (Body::Directory, Body::Directory) => true,
        (Body::Symlink { target: one }, Body::Symlink { target: other })
        | (Body::HardLink { to: one }, Body::HardLink { to: other }) => {
            if one != other {
                parts.push(DifferingPart::Target);
            }
            false
        }
        (
            Body::Directory | Body::File { .. } | Body::Symlink { .. } | Body::HardLink { .. },
            Body::Directory | Body::File { .. } | Body::Symlink { .. } | Body::HardLink { .. },
        ) => return vec![DifferingPart::Kind],
    };
    if has_mode && before.member.mode != after.member.mode {
        parts.push(DifferingPart::Mode);
    }
    if before.member.owner != after.member.owner {
        parts.push(DifferingPart::Owner);
    }
    if before.member.xattrs != after.member.xattrs {
        parts.push(DifferingPart::Attributes);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::member::Mtime;
    use super::*;

    fn told(path: &str, body: Body) -> Told {
        let digest = matches!(body, Body::File { .. }).then_some([1; 32]);
        let mtime = Mtime { seconds: 0, nanos: 0 };
        let member = Member {
            path: path.into(),
            mode: 0o644,
            owner: Owner::default(),
            mtime,
            xattrs: std::collections::BTreeMap::new(),
            body,
        };
        Told { member, digest }
    }

    fn file(path: &str) -> Told {
        told(path, Body::File { size: 3 })
    }

    #[test]
    fn each_part_of_an_entry_that_differs_is_told() {
        let base = file("data/a");
        let mut content = base.clone();
        content.digest = Some([2; 32]);
        let mut longer = base.clone();
        longer.member.body = Body::File { size: 4 };
        let mut mode = base.clone();
        mode.member.mode = 0o600;
        let mut owner = base.clone();
        owner.member.owner.group = Some(0);
        let mut attributes = content.clone();
        attributes.member.xattrs.insert(b"user.x".to_vec(), b"1".to_vec());
        let link = |target: &str| told("data/a", Body::Symlink { target: target.into() });
        let hard = |to: &str| told("data/b", Body::HardLink { to: to.into() });
        for (before, after, parts) in [
            (&base, &content, &[DifferingPart::Content][..]),
            (&base, &longer, &[DifferingPart::Content]),
            (&base, &mode, &[DifferingPart::Mode]),
            (&base, &owner, &[DifferingPart::Owner]),
            (&base, &attributes, &[DifferingPart::Content, DifferingPart::Attributes]),
            (&base, &link("x"), &[DifferingPart::Kind]),
            (&link("x"), &link("y"), &[DifferingPart::Target]),
            (&hard("data/a"), &hard("data/c"), &[DifferingPart::Target]),
        ] {
            let mut comparison = Comparison::default();
            let Some(SyncDifference::Changed { parts: found, .. }) = comparison.both(before, after)
            else {
                panic!("{before:?} {after:?}")
            };
            assert_eq!(found, parts);
            assert_eq!(comparison.sum().changed, 1);
        }
    }

    #[test]
    fn another_time_is_no_difference() {
        let mut later = file("data/a");
        later.member.mtime = Mtime { seconds: 9, nanos: 9 };
        let mut comparison = Comparison::default();
        assert_eq!(comparison.both(&file("data/a"), &later), None);
        assert_eq!(comparison.sum(), SyncDifferences { equal: 1, ..SyncDifferences::default() });
    }

    #[test]
    fn entries_are_ordered_part_by_part() {
        let (dir, below, beside) = (file("data/a"), file("data/a/z"), file("data/a.b"));
        assert!(dir.precedes(&below) && below.precedes(&beside) && dir.precedes(&beside));
        assert!(!beside.precedes(&below) && dir.is_at(&file("data/a")));
    }
}
