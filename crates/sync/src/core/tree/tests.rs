use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::core::member::Mtime;

const LIMITS: Limits = Limits { members: 1_000, content: 1 << 30 };

fn roots(texts: &[&str]) -> Vec<ContainerPath> {
    texts.iter().map(|text| ContainerPath::parse(text).expect("a container path")).collect()
}

fn member(path: &str, body: Body) -> Member {
    let mtime = Mtime { seconds: 1, nanos: 0 };
    Member { path: path.into(), mode: 0o755, mtime, xattrs: BTreeMap::new(), body }
}

fn dir(path: &str) -> Member {
    member(path, Body::Directory)
}

fn file(path: &str, size: u64) -> Member {
    member(path, Body::File { size })
}

fn summarise(declared: &[&str], members: &[Member]) -> Result<TreeSummary, TreeFault> {
    let mut index = TreeIndex::new(&roots(declared), LIMITS);
    for member in members {
        index.admit(member)?;
        index.record(member, &[0; 32]);
    }
    index.finish()
}

#[test]
fn a_known_tree_has_the_cid_written_down() {
    let mut note = file("app/data/note", 5);
    note.mode = 0o600;
    note.xattrs.insert(b"user.by".to_vec(), b"me".to_vec());
    let tree = [
        dir("app/data"),
        note,
        member("app/data/now", Body::Symlink { target: b"note".to_vec() }),
        member("app/data/same", Body::HardLink { to: b"app/data/note".to_vec() }),
    ];
    let summary = summarise(&["/app/data"], &tree).expect("a tree");
    // The form of the index is a wire format: another value here is another format.
    assert_eq!(
        summary.cid.to_string(),
        "bafkr4iehwct53igltobybaa657l4nqsmnbplpzmtgzssm5c4simkqii4gi"
    );
    assert_eq!((summary.members, summary.content), (4, 5));
}

#[test]
fn times_do_not_enter_the_cid_and_everything_else_does() {
    let base = [dir("a"), file("a/f", 3)];
    let cid = |members: &[Member]| summarise(&["/a"], members).expect("a tree").cid;
    let original = cid(&base);

    let mut later = base.clone();
    later[1].mtime = Mtime { seconds: 99, nanos: 7 };
    assert_eq!(cid(&later), original);

    let mut changed = Vec::new();
    let mut vary = |change: &dyn Fn(&mut Member)| {
        let mut members = base.clone();
        change(&mut members[1]);
        changed.push(cid(&members));
    };
    vary(&|member| member.mode = 0o700);
    vary(&|member| member.body = Body::File { size: 4 });
    vary(&|member| member.body = Body::Symlink { target: b"x".to_vec() });
    vary(&|member| member.path = b"a/g".to_vec());
    vary(&|member| {
        member.xattrs.insert(b"user.x".to_vec(), Vec::new());
    });
    let distinct: BTreeSet<_> = changed.iter().chain([&original]).collect();
    assert_eq!(distinct.len(), changed.len() + 1);
}

#[test]
fn hostile_sequences_are_refused() {
    let refused =
        |declared: &[&str], members: &[Member]| summarise(declared, members).expect_err("refused");
    let link = member("a/l", Body::Symlink { target: b"/etc".to_vec() });
    assert!(matches!(
        refused(&["/a"], &[dir("a"), link.clone(), file("a/l/passwd", 1)]),
        TreeFault::Parent { .. }
    ));
    assert!(matches!(
        refused(&["/a"], &[dir("a"), file("a/f", 1), file("a/f", 1)]),
        TreeFault::Order { .. }
    ));
    assert!(matches!(refused(&["/a"], &[dir("a"), link, dir("a/l")]), TreeFault::Order { .. }));
    for path in ["a/../b", "a//b", "a/./b", "a/", "/a", "", "a/b\0"] {
        assert!(
            matches!(refused(&["/a"], &[dir("a"), file(path, 1)]), TreeFault::Path { .. }),
            "{path:?}"
        );
    }
    assert!(matches!(refused(&["/a"], &[dir("a"), file("b", 1)]), TreeFault::Outside { .. }));
    assert!(matches!(refused(&["/a"], &[dir("a"), file("ab", 1)]), TreeFault::Outside { .. }));
    assert!(matches!(
        refused(&["/a"], &[dir("a"), file("a/missing/f", 1)]),
        TreeFault::Parent { .. }
    ));
    assert!(matches!(refused(&["/a"], &[file("a/f", 1)]), TreeFault::Parent { .. }));
    let forward = member("a/l", Body::HardLink { to: b"a/z".to_vec() });
    assert!(matches!(refused(&["/a"], &[dir("a"), forward]), TreeFault::Attributes { .. }));
    let mut set_id = file("a/f", 1);
    set_id.mode = 0o4755;
    assert!(matches!(refused(&["/a"], &[dir("a"), set_id]), TreeFault::Attributes { .. }));
    let mut trusted = file("a/f", 1);
    trusted.xattrs.insert(b"trusted.overlay.opaque".to_vec(), b"y".to_vec());
    assert!(matches!(refused(&["/a"], &[dir("a"), trusted]), TreeFault::Attributes { .. }));
    assert_eq!(refused(&["/a", "/b"], &[dir("a")]), TreeFault::RootMissing { path: "/b".into() });
}

#[test]
fn limits_hold_before_anything_is_done() {
    let mut index = TreeIndex::new(&roots(&["/a"]), Limits { members: 2, content: 10 });
    index.admit(&dir("a")).expect("within");
    index.admit(&file("a/f", 10)).expect("within");
    let refused = index.admit(&file("a/g", 0));
    assert_eq!(refused, Err(TreeFault::TooManyMembers { limit: 2 }));

    let mut index = TreeIndex::new(&roots(&["/a"]), Limits { members: 9, content: 10 });
    index.admit(&dir("a")).expect("within");
    index.admit(&file("a/f", u64::MAX)).expect_err("too much");
    index.admit(&file("a/g", u64::MAX)).expect_err("the sum does not wrap");
}

proptest! {
    /// The model: a set of directories and files in a sorted map. Whatever tree is drawn, its
    /// canonical sequence is admitted, and any exchange of two of its entries is not.
    #[test]
    fn only_the_canonical_order_is_admitted(
        names in prop::collection::btree_set("[a-c.]{1,2}(/[a-c.]{1,2}){0,2}", 1..12),
        swap in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let mut paths: BTreeSet<Vec<Vec<u8>>> = BTreeSet::new();
        for name in names {
            let parts: Vec<Vec<u8>> = name.split('/').map(|part| part.as_bytes().to_vec()).collect();
            if parts.iter().any(|part| matches!(&part[..], b"." | b"..")) {
                continue;
            }
            for length in 1..=parts.len() {
                paths.insert(parts[..length].to_vec());
            }
        }
        let mut members = vec![dir("r")];
        for path in paths {
            let mut joined = b"r/".to_vec();
            joined.extend(path.join(&b'/'));
            members.push(dir(&String::from_utf8(joined).expect("ascii")));
        }
        prop_assert!(summarise(&["/r"], &members).is_ok());
        let (one, other) = (swap.0.index(members.len()), swap.1.index(members.len()));
        if one != other {
            members.swap(one, other);
            prop_assert!(summarise(&["/r"], &members).is_err());
        }
    }
}
