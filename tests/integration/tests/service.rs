//! The service file: systemd understands every line of it, and none of its lines takes from
//! belayd or its workloads what they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program is not installed where the tests run; another takes its place for the check.
const PROGRAM: &str = "/usr/bin/belayd";
const STAND_IN: &str = "/usr/bin/true";

/// Directives that give the service a mount namespace of its own, by their beginnings: no engine
/// would see the volumes that belayd mounts there.
const MOUNT_NAMESPACE: &[&str] = &[
    "BindPaths",
    "BindReadOnlyPaths",
    "DynamicUser",
    "ExecPaths",
    "ExtensionDirectories",
    "ExtensionImages",
    "InaccessiblePaths",
    "MountFlags",
    "MountImages",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
];

/// Directives that a container inherits from belayd when belayd started the engine, and that
/// break containers.
const BREAKS_CONTAINERS: &[&str] = &[
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "ProtectClock",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
];

/// The highest exposure, in tenths, that `systemd-analyze security` may report: what the rules
/// above leave open is most of what it looks at.
const MOST_EXPOSURE: u32 = 92;

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd/belayd.service");
    fs::read_to_string(path).expect("the service file is part of the sources")
}

/// The directives of a unit as name and value.
fn directives(unit: &str) -> impl Iterator<Item = (&str, &str)> {
    unit.lines()
        .filter(|line| !line.starts_with(['#', '[']))
        .filter_map(|line| line.split_once('='))
}

/// The directives that must not be there.
fn forbidden(unit: &str) -> Vec<&str> {
    let is_off = |value: &str| matches!(value, "no" | "false" | "off" | "0");
    directives(unit)
        .filter(|(name, value)| {
            (MOUNT_NAMESPACE.contains(name) || BREAKS_CONTAINERS.contains(name)) && !is_off(value)
        })
        .map(|(name, _)| name)
        .collect()
}

/// The hardening directives with no line above that says why.
fn without_reason(unit: &str) -> Vec<&str> {
    let (_, hardening) = unit.split_once("\n# Hardening.").expect("the file has that part");
    let (hardening, _) = hardening.split_once("\n[Install]").expect("the part has an end");
    let lines: Vec<_> = hardening.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[1].contains('=') && !pair[1].starts_with('#'))
        .filter(|pair| !pair[0].starts_with('#'))
        .map(|pair| pair[1])
        .collect()
}

/// Runs `systemd-analyze` on a copy of a unit.
fn analyze(arguments: &[&str], unit: &str) -> Output {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path: PathBuf = dir.path().join("belayd.service");
    fs::write(&path, unit.replace(PROGRAM, STAND_IN)).expect("the directory is writable");
    Command::new("/usr/bin/systemd-analyze")
        .args(arguments)
        .arg(&path)
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("systemd-analyze runs: `cargo xtask test` installs it")
}

/// What systemd has to say about a unit. It ends with 0 even when it did not understand a line.
fn complaints(unit: &str) -> String {
    let output = analyze(&["verify", "--man=no"], unit);
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        said.push_str(&output.status.to_string());
    }
    said
}

#[test]
fn systemd_understands_every_line() {
    let unit = unit();
    assert!(unit.contains(&format!("ExecStart={PROGRAM}\n")), "the program moved");
    assert_eq!(complaints(&unit), "");
}

#[test]
fn a_line_that_systemd_does_not_understand_is_seen() {
    let unit = unit().replace("WatchdogSec=", "WatchdogSeconds=");
    assert!(complaints(&unit).contains("WatchdogSeconds"));
}

#[test]
fn nothing_hides_the_volumes_or_breaks_a_container() {
    let unit = unit();
    assert_eq!(forbidden(&unit), Vec::<&str>::new());
    let broken = unit.replace("UMask=", "ProtectSystem=strict\nNoNewPrivileges=yes\nUMask=");
    assert_eq!(forbidden(&broken), ["ProtectSystem", "NoNewPrivileges"]);
}

#[test]
fn every_hardening_line_says_why() {
    let unit = unit();
    assert_eq!(without_reason(&unit), Vec::<&str>::new());
    let broken = unit.replace("UMask=0077", "UMask=0077\nKeyringMode=shared");
    assert_eq!(without_reason(&broken), ["KeyringMode=shared"]);
}

#[test]
fn workloads_outlive_belayd_and_hopeless_restarts_do_not_loop() {
    let unit = unit();
    let value = |wanted: &str| directives(&unit).find(|(name, _)| *name == wanted).map(|(_, v)| v);
    assert_eq!(value("KillMode"), Some("process"));
    assert_eq!(value("Type"), Some("notify"));
    let hopeless = value("RestartPreventExitStatus").expect("it is set");
    let codes: Vec<_> = hopeless.split_whitespace().collect();
    assert_eq!(codes, ["73", "78"]);
}

#[test]
fn the_exposure_is_known_and_does_not_grow() {
    let output = analyze(
        &["security", "--offline=true", "--no-pager", &format!("--threshold={MOST_EXPOSURE}")],
        &unit(),
    );
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("Overall exposure level"), "{report}");
    assert!(output.status.success(), "the exposure is above {MOST_EXPOSURE} tenths:\n{report}");
}
