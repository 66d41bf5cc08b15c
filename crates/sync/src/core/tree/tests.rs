use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::core::member::Mtime;
use crate::core::ownership::Owner;

const LIMITS: Limits = Limits { members: 1_000, content: 1 << 30 };

fn roots(texts: &[&str]) -> Vec<ContainerPath> {
    texts.iter().map(|text| ContainerPath::parse(text).expect("a container path")).collect()
}

fn member(path: &str, body: Body) -> Member {
    let mtime = Mtime { seconds: 1, nanos: 0 };
    Member {
        path: path.into(),
        mode: 0o755,
        owner: Owner::default(),
        mtime,
        xattrs: BTreeMap::new(),
        body,
    }
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
fn a_known_tree_of_two_owners_has_the_cid_written_down() {
    let mut wal = file("app/data/wal", 5);
    wal.owner = Owner { user: Some(70), group: Some(0) };
    let mut lock = member("app/data/wal.lock", Body::Symlink { target: b"wal".to_vec() });
    lock.owner = Owner { user: None, group: Some(0x0102_0304) };
    let mut tool = file("app/data/x", 0);
    tool.mode = 0o4755;
    let summary = summarise(&["/app/data"], &[dir("app/data"), wal, lock, tool]).expect("a tree");
    assert_eq!(
        summary.cid.to_string(),
        "bafkr4iajpf4lsb3ffyqdfy4jemp4huc2wyddovw66lrmq7swcqycw6irju"
    );
    assert!(summary.owned);
}

#[test]
fn a_tree_says_whether_it_has_owners_and_what_is_held_of_it() {
    let mut index = TreeIndex::new(&roots(&["/a"]), LIMITS);
    let mut foreign = file("a/f", 1);
    foreign.owner.user = Some(7);
    let tree = [dir("a"), foreign, file("a/g", 1)];
    let settled = [dir("a"), file("a/f", 1), file("a/g", 1)];
    for (member, settled) in tree.iter().zip(&settled) {
        index.admit(member).expect("lawful");
        index.record_settled(member, settled, &[0; 32]);
    }
    let summary = index.finish().expect("a tree");
    let [told, held] = [&tree, &settled].map(|tree| summarise(&["/a"], tree).expect("a tree"));
    assert_eq!((summary.cid, summary.held), (told.cid, held.cid));
    assert_eq!((told.held, told.owned), (told.cid, true));
    assert_eq!((held.held, held.owned), (held.cid, false));
    assert_ne!(told.cid, held.cid);
    let mut set_id = file("a/f", 1);
    set_id.mode = 0o2755;
    assert!(summarise(&["/a"], &[dir("a"), set_id]).expect("a tree").owned);
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
    vary(&|member| member.mode = 0o4755);
    for owner in [(Some(0), None), (None, Some(0)), (Some(0), Some(0)), (Some(1), None)] {
        vary(&|member| member.owner = Owner { user: owner.0, group: owner.1 });
    }
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
    let link = || member("a/l", Body::Symlink { target: b"x".to_vec() });
    let name = || member("a/l", Body::HardLink { to: b"a/f".to_vec() });
    let foreign = Owner { user: Some(7), group: None };
    for other in [
        Member { mode: 0o10_755, ..file("a/l", 1) },
        Member { mode: 0o4777, ..link() },
        Member { mode: 0o2755, ..name() },
        Member { owner: foreign, ..name() },
    ] {
        let tree = [dir("a"), file("a/f", 1), other];
        assert!(matches!(refused(&["/a"], &tree), TreeFault::Attributes { .. }), "{tree:?}");
    }
    for (user, group) in [(Some(u32::MAX), None), (None, Some(u32::MAX))] {
        for other in [file("a/f", 1), dir("a/f"), Member { path: b"a/f".to_vec(), ..link() }] {
            let other = Member { owner: Owner { user, group }, ..other };
            assert!(matches!(refused(&["/a"], &[dir("a"), other]), TreeFault::Owner { .. }));
        }
    }
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
