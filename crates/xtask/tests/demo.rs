//! `cargo xtask demo` builds both programs and becomes the one with the demonstration.
//!
//! A stand-in for cargo makes the programs; the host is checked for real, so this needs root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Answers what is asked about the workspace, and "builds" a `belay` that shows its arguments.
const STAND_IN: &str = r#"#!/bin/sh
set -eu
case "$1" in
metadata) printf '{"target_directory":"%s"}' "$FAKE_TARGET" ;;
build)
    echo "cargo $*"
    mkdir -p "$FAKE_TARGET/debug"
    printf '#!/bin/sh\necho "belay $*"\nexit 7\n' > "$FAKE_TARGET/debug/belay"
    chmod 755 "$FAKE_TARGET/debug/belay"
    ;;
esac
"#;

#[test]
fn the_demonstration_gets_its_programs_and_arguments_and_its_ending_is_ours() {
    let workspace = tempfile::tempdir().expect("a temporary directory can be made");
    let manifest_dir = workspace.path().join("crates/xtask");
    let target = workspace.path().join("target");
    fs::create_dir_all(&manifest_dir).expect("the directory is ours");
    let cargo = workspace.path().join("cargo");
    fs::write(&cargo, STAND_IN).expect("the directory is ours");
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).expect("the file is ours");

    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["demo", "--yes", "--", "--once"])
        .env("CARGO", &cargo)
        .env("CARGO_MANIFEST_DIR", &manifest_dir)
        .env("FAKE_TARGET", &target)
        .output()
        .expect("the program was built for this test");
    let shown = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{shown}\n{said}");
    assert!(shown.contains("--locked --package belayd --package belay"), "{shown}");
    let belayd = target.join("debug/belayd");
    let demonstration = format!("belay demo --belayd {} --once\n", belayd.display());
    assert!(shown.ends_with(&demonstration), "{demonstration} is not at the end of {shown}");
}
