//! A failure, and a kill, before and after every step of every operation: nothing leaks, nothing is
//! half done, and doing it again succeeds.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use belay_volumes::{ByteSize, MountedVolume, VolumeSpec};

use crate::scratch::{Scratch, spec};

/// The example of this package, which cargo builds beside the tests.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let target = test.parent().and_then(|deps| deps.parent()).expect("deps has a parent");
    let program = target.join("examples/volume");
    assert!(program.is_file(), "cargo builds {} with the tests", program.display());
    program
}

/// Runs one operation in a process of its own that fails, or is killed, at a point.
pub(crate) fn child(scratch: &Scratch, words: &[&str], failpoint: Option<&str>) -> Output {
    let mut command = Command::new(program());
    command.arg(scratch.root()).arg(scratch.minors.start.to_string()).args(words);
    command.env_remove("BELAY_VOLUMES_FAILPOINT");
    if let Some(failpoint) = failpoint {
        command.env("BELAY_VOLUMES_FAILPOINT", failpoint);
    }
    command.output().expect("the example runs")
}

/// Runs it and asserts that it ended at the failpoint and not for another reason.
fn child_ends_at(scratch: &Scratch, words: &[&str], point: &str, effect: &str) {
    let output = child(scratch, words, Some(&format!("{point}={effect}")));
    let said = String::from_utf8_lossy(&output.stderr);
    match effect {
        "kill" => assert_eq!(output.status.signal(), Some(9), "{point}: {said}"),
        _ => assert!(
            !output.status.success() && said.contains("a test made it fail"),
            "{point}: {said}"
        ),
    }
}

fn points(operation: &str, steps: &[&str]) -> Vec<String> {
    steps
        .iter()
        .flat_map(|step| ["before", "after"].map(|moment| format!("{operation}.{step}.{moment}")))
        .collect()
}

fn small() -> VolumeSpec {
    spec("web/store", ByteSize::mib(8))
}

fn files_in(scratch: &Scratch) -> Vec<String> {
    let directory = scratch.root().join("images/web");
    let Ok(listing) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = listing
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII"))
        .collect();
    names.sort();
    names
}

/// The next daemon opens the directory, provides the volume, and everything about it is right.
async fn converges(scratch: &Scratch, wanted: &VolumeSpec, point: &str) -> MountedVolume {
    let volumes = scratch.open().await;
    let mounted = volumes.ensure(wanted).await.expect(point);
    assert_eq!(files_in(scratch), ["store"], "{point}");
    assert_eq!((scratch.mounts().len(), scratch.devices().len()), (1, 1), "{point}");
    let list = volumes.list().await.expect(point);
    assert_eq!(list[0].fault, None, "{point}");
    assert!(list[0].allocated >= list[0].size, "{point}: {:?}", list[0]);
    assert_eq!(list[0].size, wanted.size, "{point}");
    fs::write(mounted.data.join("probe"), "written").expect(point);
    volumes.release(&wanted.id).await.expect(point);
    scratch.assert_nothing_held();
    mounted
}

const CREATION: [&str; 8] = [
    "PrepareBuilding",
    "AllocateImage",
    "Format",
    "Mark",
    "Publish",
    "Attach",
    "Mount",
    "PrepareRoot",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_of_creation_is_taken_back() {
    for point in points("ensure", &CREATION) {
        let scratch = Scratch::new();
        child_ends_at(&scratch, &["ensure", "web/store", "8M"], &point, "fail");
        scratch.assert_nothing_held();
        let left = files_in(&scratch);
        assert!(left.is_empty() || left == ["store"], "{point}: {left:?}");
        converges(&scratch, &small(), &point).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_creation_leaves_no_volume_or_a_whole_one() {
    for point in points("ensure", &CREATION) {
        let scratch = Scratch::new();
        child_ends_at(&scratch, &["ensure", "web/store", "8M"], &point, "kill");
        converges(&scratch, &small(), &point).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_or_failure_at_any_step_of_release_and_removal_is_completed_by_the_next() {
    let mut all = points("release", &["Unmount", "Detach", "ConfirmGone", "RemoveMinor"]);
    all.extend(
        ["remove.Rename.before", "remove.Delete.before", "remove.Delete.after"].map(String::from),
    );
    for (point, effect) in all.iter().flat_map(|point| [(point, "kill"), (point, "fail")]) {
        let scratch = Scratch::new();
        let made = child(&scratch, &["ensure", "web/store", "8M"], None);
        assert!(made.status.success(), "{point}: {}", String::from_utf8_lossy(&made.stderr));
        if point.starts_with("remove") {
            assert!(child(&scratch, &["release", "web/store"], None).status.success());
            child_ends_at(&scratch, &["remove", "web/store"], point, effect);
        } else {
            child_ends_at(&scratch, &["release", "web/store"], point, effect);
        }
        let volumes = scratch.open().await;
        volumes.release(&small().id).await.expect(point);
        volumes.remove(&small().id).await.expect(point);
        scratch.assert_nothing_held();
        assert_eq!(files_in(&scratch), Vec::<String>::new(), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_outlives_the_daemon_and_the_next_one_adopts_it() {
    let scratch = Scratch::new();
    assert!(child(&scratch, &["ensure", "web/store", "8M"], None).status.success());
    let (mounts, devices) = (scratch.mounts(), scratch.devices());
    assert_eq!((mounts.len(), devices.len()), (1, 1), "the process ended, the volume stays");
    let data = mounts[0].join("data");
    let held = fs::File::create(data.join("held")).expect("somebody writes");

    let volumes = scratch.open().await;
    assert_eq!(volumes.recovered().mounted, [small().id]);
    assert_eq!((scratch.mounts(), scratch.devices()), (mounts, devices));
    let mounted = volumes.ensure(&small()).await.expect("adopted");
    assert_eq!(mounted.data, data);
    held.sync_all().expect("the writer never noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_deleted_under_its_mount_is_reported_and_released_but_not_replaced() {
    let scratch = Scratch::new();
    assert!(child(&scratch, &["ensure", "web/store", "8M"], None).status.success());
    fs::remove_dir_all(scratch.root().join("images/web/store")).expect("somebody deletes it");
    let volumes = scratch.open().await;
    assert_eq!(volumes.recovered().deleted, [small().id]);
    let error = volumes.ensure(&small()).await.expect_err("its place is taken");
    assert!(error.to_string().contains("mounted in the volume's place"), "{error}");
    volumes.release(&small().id).await.expect("released");
    scratch.assert_nothing_held();
    volumes.ensure(&small()).await.expect("a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_nothing_uses_is_detached_at_start_and_others_are_left_alone() {
    let scratch = Scratch::new();
    assert!(child(&scratch, &["ensure", "web/store", "8M"], None).status.success());
    assert!(child(&scratch, &["release", "web/store"], None).status.success());
    let foreign = scratch.directory.join("foreign.img");
    fs::write(&foreign, vec![0; 1 << 20]).expect("somebody else's image");
    let ours = scratch.attach_foreign(&scratch.image("web/store"));
    let theirs = scratch.attach_foreign(&foreign);
    let volumes = scratch.open().await;
    assert_eq!(volumes.recovered().detached, [ours]);
    assert_eq!(scratch.devices(), [theirs.to_str().expect("ASCII")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_finished_is_cleared_at_start() {
    let scratch = Scratch::new();
    child_ends_at(&scratch, &["ensure", "web/store", "8M"], "ensure.Mark.after", "kill");
    assert_eq!(files_in(&scratch), [".store.new"]);
    let volumes = scratch.open().await;
    assert_eq!(volumes.recovered().discarded, [scratch.root().join("images/web/.store.new")]);
    assert_eq!(files_in(&scratch), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_creation_and_release_converges() {
    let full = std::env::var("BELAY_TEST_COUNTS").is_ok_and(|counts| counts == "full");
    let gate = if full { 1_000 } else { 72 };
    let rounds: u32 =
        std::env::var("BELAY_VOLUMES_KILLS").map_or(gate, |text| text.parse().expect("a number"));
    let scratch = Scratch::new();
    for round in 0..rounds {
        // Delays sweep the whole length of an operation, tools at work included.
        let delay = std::time::Duration::from_micros(u64::from(round % 24) * 800);
        let words: &[&str] =
            if round % 4 == 3 { &["release", "web/store"] } else { &["ensure", "web/store", "8M"] };
        let mut running = Command::new(program())
            .arg(scratch.root())
            .arg(scratch.minors.start.to_string())
            .args(words)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the example runs");
        // The moment of the kill is what is tested, not a wait for something.
        std::thread::sleep(delay);
        running.kill().expect("killed, or over");
        running.wait().expect("reaped");
        if round % 3 == 0 {
            let mounted = converges(&scratch, &small(), &format!("{delay:?} of {words:?}")).await;
            let volumes = scratch.open().await;
            volumes.remove(&mounted.id).await.expect("removed");
        }
    }
}
