use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use belay_protocol::control::RESPONSE_FILE;
use rustix::fs::Mode;
use serde_json::json;

use super::*;
use crate::layout::testing::control_volume;

struct Scene {
    _temp: tempfile::TempDir,
    data: PathBuf,
    sync: PathBuf,
    control: ControlDir,
}

fn scene() -> Scene {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let data = temp.path().join("data");
    fs::create_dir(&data).expect("creates");
    fs::write(temp.path().join("secret"), "secret").expect("writes");
    let control = ControlDir::ensure(&control_volume(data.clone())).expect("ensures");
    let sync = data.join("volume-sync");
    Scene { _temp: temp, data, sync, control }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn sx15_sx16_the_directory_is_real_sticky_and_made_again_over_a_link() {
    let scene = scene();
    let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o7777;
    assert_eq!(mode(&scene.sync), 0o1777);
    fs::remove_dir(&scene.sync).expect("removes");
    symlink("/etc", &scene.sync).expect("links");
    assert!(
        ControlDir::open(&control_volume(scene.data.clone())).is_err(),
        "CF03: a link is not the directory"
    );
    ControlDir::ensure(&control_volume(scene.data.clone())).expect("ensures");
    assert!(fs::symlink_metadata(&scene.sync).expect("exists").is_dir());
    assert_eq!(mode(&scene.sync), 0o1777);
}

#[test]
fn cf01_cf19_sm014_to_sm016_results_are_whole_readable_and_leave_nothing_beside_them() {
    let scene = scene();
    for round in 0..2 {
        scene.control.write(RESPONSE_FILE, &json!({"round": round})).expect("writes");
    }
    let text = fs::read_to_string(scene.sync.join(RESPONSE_FILE)).expect("reads");
    assert!(text.contains("\"round\": 1"));
    let mode = fs::metadata(scene.sync.join(RESPONSE_FILE)).expect("exists").permissions().mode();
    assert_eq!(mode & 0o7777, 0o644);
    assert_eq!(names(&scene.sync), [RESPONSE_FILE]);
}

/// What cannot be written as JSON once a part of it was.
struct Fails;

impl serde::Serialize for Fails {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;

        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("begun", &true)?;
        Err(serde::ser::Error::custom("it ends here"))
    }
}

#[test]
fn cf02_a_result_that_cannot_be_written_whole_is_not_written() {
    let scene = scene();
    scene.control.write(RESPONSE_FILE, &Fails).expect_err("it fails half-way");
    assert_eq!(names(&scene.sync), Vec::<String>::new());
    scene.control.write(RESPONSE_FILE, &json!({"round": 1})).expect("writes");
    let before = fs::read(scene.sync.join(RESPONSE_FILE)).expect("reads");
    scene.control.write(RESPONSE_FILE, &Fails).expect_err("it fails half-way");
    assert_eq!(fs::read(scene.sync.join(RESPONSE_FILE)).expect("reads"), before);
    assert_eq!(names(&scene.sync), [RESPONSE_FILE]);
}

#[test]
fn a_result_takes_the_place_of_whatever_the_app_put_there() {
    let scene = scene();
    let target = scene.sync.join(RESPONSE_FILE);
    let secret = scene.data.parent().expect("a parent").join("secret");
    symlink(&secret, &target).expect("links");
    scene.control.write(RESPONSE_FILE, &json!({})).expect("writes");
    assert_eq!(fs::read_to_string(&secret).expect("reads"), "secret");
    assert!(fs::symlink_metadata(&target).expect("exists").is_file());

    fs::remove_file(&target).expect("removes");
    fs::create_dir_all(target.join("full")).expect("creates");
    scene.control.write(RESPONSE_FILE, &json!({})).expect("writes");
    assert!(fs::symlink_metadata(&target).expect("exists").is_file());
    assert!(scene.sync.join("response.json.unsafe.0/full").is_dir());
}

#[test]
fn cf04_cf05_a_request_is_seen_claimed_and_returned() {
    let scene = scene();
    assert!(matches!(scene.control.pending().expect("looks"), Pending::Nothing));
    fs::write(scene.sync.join(REQUEST_FILE), "{}").expect("writes");
    let Pending::Request { bytes, .. } = scene.control.pending().expect("looks") else {
        panic!("a request")
    };
    assert_eq!(bytes, b"{}");
    assert_eq!(scene.control.claim().expect("claims"), b"{}");
    assert_eq!(names(&scene.sync), [PROCESSING_FILE]);
}

#[test]
fn a_request_is_read_no_further_than_its_bound() {
    let scene = scene();
    let file = fs::File::create(scene.sync.join(REQUEST_FILE)).expect("creates");
    file.set_len(1 << 40).expect("grows");
    let Pending::Request { bytes, .. } = scene.control.pending().expect("looks") else {
        panic!("a request")
    };
    assert_eq!(bytes.len(), REQUEST_MAX + 1);
}

#[test]
fn cf09_cf10_cf11_what_is_no_file_is_taken_away_unread() {
    let scene = scene();
    let request = scene.sync.join(REQUEST_FILE);
    let unsafe_kind = || match scene.control.pending().expect("looks") {
        Pending::Unsafe { what } => what,
        other => panic!("unsafe, not {other:?}"),
    };
    symlink(scene.data.parent().expect("a parent").join("secret"), &request).expect("links");
    assert_eq!(unsafe_kind(), "a symlink");

    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &request, FileType::Fifo, mode, 0).expect("a FIFO");
    assert_eq!(unsafe_kind(), "a FIFO");

    fs::create_dir(&request).expect("creates");
    assert_eq!(unsafe_kind(), "a directory");
    assert_eq!(names(&scene.sync), Vec::<String>::new());

    fs::create_dir(&request).expect("creates");
    fs::write(request.join("kept"), "").expect("writes");
    assert_eq!(unsafe_kind(), "a directory");
    assert_eq!(names(&scene.sync), ["request.json.unsafe.0"]);
    assert!(scene.sync.join("request.json.unsafe.0/kept").exists());
}

#[test]
fn b31_directories_in_the_way_do_not_pile_up_for_ever() {
    let scene = scene();
    let request = scene.sync.join(REQUEST_FILE);
    let mut refused = false;
    for _ in 0..20 {
        if !request.exists() {
            fs::create_dir_all(request.join("full")).expect("creates");
        }
        refused |= scene.control.pending().is_err();
    }
    assert!(refused);
    assert_eq!(names(&scene.sync).len(), 9);
}

#[test]
fn cf12_to_cf14_a_claimed_request_is_discarded_whatever_it_became() {
    let scene = scene();
    let processing = scene.sync.join(PROCESSING_FILE);
    fs::write(&processing, "{}").expect("writes");
    scene.control.clear(PROCESSING_FILE).expect("clears");
    symlink("/nowhere", &processing).expect("links");
    scene.control.clear(PROCESSING_FILE).expect("clears");
    assert_eq!(names(&scene.sync), Vec::<String>::new());
    fs::create_dir_all(processing.join("kept")).expect("creates");
    scene.control.clear(PROCESSING_FILE).expect("clears");
    assert_eq!(names(&scene.sync), ["request.json.processing.unsafe.0"]);
}

#[test]
fn cf15_to_cf18_an_orphan_becomes_a_request_again_only_if_it_is_a_file_and_alone() {
    let scene = scene();
    let (request, processing) = (scene.sync.join(REQUEST_FILE), scene.sync.join(PROCESSING_FILE));
    assert!(!scene.control.unclaim().expect("SX18: none"));
    symlink("/etc/passwd", &processing).expect("links");
    assert!(!scene.control.unclaim().expect("a link is removed"));
    fs::write(&processing, "old").expect("writes");
    assert!(scene.control.unclaim().expect("an orphan"));
    assert_eq!(fs::read_to_string(&request).expect("reads"), "old");
    fs::write(&processing, "older").expect("writes");
    assert!(!scene.control.unclaim().expect("both"));
    assert_eq!(fs::read_to_string(&request).expect("reads"), "old");
    assert_eq!(fs::read_to_string(&processing).expect("reads"), "older");
    fs::remove_file(&processing).expect("removes");
    fs::create_dir_all(processing.join("kept")).expect("creates");
    assert!(!scene.control.unclaim().expect("a directory is moved aside"));
    assert!(scene.sync.join("request.json.processing.unsafe.0/kept").is_dir());
}
