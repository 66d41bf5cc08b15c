use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;

fn scratch() -> (tempfile::TempDir, PathBuf, Dir) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root = temp.path().join("root");
    fs::create_dir(&root).expect("creates");
    let dir = Dir::open(&root).expect("opens");
    (temp, root, dir)
}

fn name(text: &str) -> Name<'_> {
    Name::new(text.as_bytes()).expect("a single name")
}

#[test]
fn sm051_no_way_leads_through_a_symlink_or_above() {
    let (temp, root, dir) = scratch();
    fs::create_dir(temp.path().join("outside")).expect("creates");
    symlink(temp.path().join("outside"), root.join("absolute")).expect("links");
    symlink("../outside", root.join("relative")).expect("links");
    fs::create_dir(root.join("real")).expect("creates");
    symlink("real", root.join("inner")).expect("links");
    for below in ["absolute", "relative", "inner", "..", "real/../..", "/", "/etc"] {
        assert!(dir.open_dir(below.as_bytes()).is_err(), "{below}");
    }
    dir.open_dir(b"real").expect("a real directory opens");
}

#[test]
fn cf10_a_fifo_is_refused_without_being_opened() {
    let (_temp, root, dir) = scratch();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o666),
        0,
    )
    .expect("makes a FIFO");
    // Opening its reading end plainly would wait for a writer that never comes.
    let refused = dir.open_file(name("pipe")).map(drop).expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_name_with_a_way_in_it_is_no_name() {
    for text in ["", ".", "..", "a/b", "/a", "a\0"] {
        assert!(Name::new(text.as_bytes()).is_err(), "{text:?}");
    }
    let (parent, last) = Name::split(b"a/b/c").expect("splits");
    assert_eq!((parent, last.0.as_bytes()), (&b"a/b"[..], &b"c"[..]));
    assert!(Name::split(b"a/..").is_err());
}

#[test]
fn listings_are_bounded_and_in_order() {
    let (_temp, root, dir) = scratch();
    for file in ["b", "a", "c"] {
        fs::write(root.join(file), "").expect("writes");
    }
    assert_eq!(dir.names(3, 1_000).expect("lists"), ["a", "b", "c"]);
    assert!(dir.names(2, 1_000).is_err());
    assert!(dir.names(3, 60).is_err(), "bytes are bounded too");
    assert_eq!(dir.names(3, 1_000).expect("lists again from the start").len(), 3);
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let (_temp, root, dir) = scratch();
    dir.make_dir(name("deep")).expect("creates");
    let mut current = dir.open_dir(b"deep").expect("opens");
    let part = "d".repeat(200);
    for _ in 0..300 {
        current.make_dir(name(&part)).expect("creates");
        current.create_new(name("file")).expect("creates");
        current = current.open_dir(part.as_bytes()).expect("opens");
    }
    symlink("/etc", root.join("deep/link")).expect("links");
    remove_tree(&dir, name("deep")).expect("removes");
    assert_eq!(fs::read_dir(&root).expect("lists").count(), 0);
    assert!(fs::metadata("/etc").expect("stays").is_dir());
}

#[test]
fn a_directory_is_emptied_and_stays_itself_and_nothing_outside_is_touched() {
    let (temp, root, _dir) = scratch();
    fs::create_dir(temp.path().join("outside")).expect("creates");
    fs::write(temp.path().join("outside/kept"), "x").expect("writes");
    symlink(temp.path().join("outside"), root.join("link")).expect("links");
    fs::hard_link(temp.path().join("outside/kept"), root.join("hard")).expect("links");
    fs::create_dir_all(root.join("a/b/c")).expect("creates");
    fs::write(root.join("a/b/c/file"), "x").expect("writes");
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), FileType::Fifo, mode, 0)
        .expect("makes");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o2750)).expect("chmods");
    let inode = fs::metadata(&root).expect("exists").ino();

    let interrupted = empty_directory(&root, || true).expect_err("was to end");
    assert_eq!(interrupted.kind(), io::ErrorKind::Interrupted);
    assert_eq!(empty_directory(&root, || false).expect("empties"), 4);
    assert_eq!(fs::read_dir(&root).expect("lists").count(), 0);
    let after = fs::metadata(&root).expect("exists");
    assert_eq!((after.ino(), after.mode() & 0o7777), (inode, 0o2750));
    assert_eq!(fs::read_to_string(temp.path().join("outside/kept")).expect("is there"), "x");
    assert_eq!(empty_directory(&root, || false).expect("is empty already"), 0);
}
