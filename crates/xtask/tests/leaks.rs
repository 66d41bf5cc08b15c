//! `cargo xtask test` fails when a test leaves something behind, and says what.
//!
//! The leaks are real; what makes them is a stand-in for cargo, which is all that the program
//! calls to build and test. This needs root and a free loop device.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Answers what is asked about the workspace, and as the test run leaves four things behind.
const STAND_IN: &str = r#"#!/bin/sh
set -eu
case "$1" in
metadata) printf '{"target_directory":"%s"}' "$FAKE_TARGET" ;;
nextest) exit 1 ;;
test)
    [ "$2 ${5:-}" = "--workspace --lib" ] || exit 0
    dir="$TMPDIR/left"
    mkdir -p "$dir/mnt"
    echo "$TMPDIR" > "$FAKE_TARGET/scratch"
    truncate -s 1M "$dir/image"
    /sbin/losetup --find "$dir/image"
    /bin/mount -t tmpfs -o size=64k left "$dir/mnt"
    tail -f "$dir/image" >/dev/null 2>&1 &
    echo $! > "$FAKE_TARGET/pid"
    ;;
esac
"#;

/// Takes away what the stand-in left, however the test ends.
struct Cleanup {
    target: PathBuf,
}

impl Cleanup {
    fn scratch(&self) -> Option<PathBuf> {
        let path = fs::read_to_string(self.target.join("scratch")).ok()?;
        Some(PathBuf::from(path.trim()))
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.target.join("pid")) {
            run(
                "/bin/sh",
                &["-c".as_ref(), "kill \"$1\"".as_ref(), "sh".as_ref(), pid.trim().as_ref()],
            );
        }
        let Some(scratch) = self.scratch() else { return };
        let left = scratch.join("left");
        run("/bin/umount", &[&left.join("mnt")]);
        if let Some(device) = loop_device_of(&left.join("image")) {
            run("/sbin/losetup", &["-d".as_ref(), &device]);
        }
        let _ = fs::remove_dir_all(&scratch);
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let _ = Command::new(program).args(arguments).output();
}

fn loop_device_of(image: &Path) -> Option<PathBuf> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|device| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        (Path::new(backing.trim_end()) == image).then(|| Path::new("/dev").join(device.file_name()))
    })
}

#[test]
fn what_a_test_leaves_behind_fails_the_run_and_is_named() {
    let workspace = tempfile::tempdir().expect("a temporary directory can be made");
    let manifest_dir = workspace.path().join("crates/xtask");
    let target = workspace.path().join("target");
    fs::create_dir_all(&manifest_dir).expect("the directory is ours");
    fs::create_dir_all(&target).expect("the directory is ours");
    let cargo = workspace.path().join("cargo");
    fs::write(&cargo, STAND_IN).expect("the directory is ours");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("the file is ours");

    let cleanup = Cleanup { target: target.clone() };
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["test", "--tier", "unit"])
        .env("CARGO", &cargo)
        .env("CARGO_MANIFEST_DIR", &manifest_dir)
        .env("FAKE_TARGET", &target)
        .output()
        .expect("the program was built for this test");
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}\n{said}");

    let scratch = cleanup.scratch().expect("the stand-in was asked to run the tests");
    let scratch = scratch.display();
    for leak in [
        format!(" on {scratch}/left/image"),
        format!("left behind: mount of left at {scratch}/left/mnt"),
        format!(": tail -f {scratch}/left/image"),
        format!("left behind: file {scratch}/left"),
    ] {
        assert!(said.contains(&leak), "{leak} is not named in:\n{said}");
    }
    assert!(said.contains("left behind: loop device /dev/loop"), "{said}");
    assert!(said.trim_end().ends_with(" left behind"), "{said}");
    // The steps themselves passed, and that is said too.
    assert!(
        shown.contains("ok     unit tests") && shown.contains("FAILED nothing left"),
        "{shown}"
    );
}
