//! A disk that refuses writes: nobody is answered wrongly, nothing is lost, and all goes on when it is
//! mended.

use std::path::Path;
use std::time::Duration;

use belay_protocol::runner::{Acceptance, RunQuery, RunState};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::rig::{Rig, soon, submission, success};

/// A file system of its own, as small as a disk that is nearly full.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Some("size=2m,mode=0700");
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), options)
            .expect("mounts, as root");
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.path().join("ballast")).expect("creates");
        for size in [64 * 1024, 4096] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.path().join("ballast")).expect("removes");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn while_the_disk_is_full_nobody_is_answered_and_nothing_is_lost() {
    let disk = SmallDisk::new();
    let rig = Rig::start(disk.path()).await;
    let mut runner = rig.runner("mailer-1").await;
    let before = rig.submit(json!("before")).await;
    let held = runner.take_run().await;
    disk.fill();

    // Large enough that no page which the ledger has already takes it.
    let payload = "x".repeat(100_000);
    let (handle, request) = (rig.handle.clone(), submission(payload.as_str(), Some("one")));
    let mut accepted = tokio::spawn(async move { handle.submit(request).await });
    let handle = rig.handle.clone();
    let shown = async move { handle.runs(RunQuery::default()).await };
    let mut shown = tokio::spawn(shown);
    let patience = Duration::from_millis(500);
    assert!(tokio::time::timeout(patience, &mut accepted).await.is_err(), "it is on no disk");
    assert!(
        tokio::time::timeout(patience, &mut shown).await.is_err(),
        "what is shown is what is on the disk"
    );
    let asked = runner.ask("complete", held.with(success(json!("done")))).await;
    assert!(tokio::time::timeout(patience, runner.next()).await.is_err());

    disk.make_room();
    let accepted = soon("the answer", accepted).await.expect("no panic").expect("is accepted");
    assert_eq!(accepted.acceptance, Acceptance::New);
    let page = soon("the page", shown).await.expect("no panic").expect("is answered");
    assert!(page.runs.iter().any(|run| run.run == accepted.run));
    let answer = runner.next().await;
    assert_eq!((&answer["id"], &answer["type"]), (&json!(asked), &json!("ok")), "{answer}");
    assert_eq!(rig.state(before).await, "finished");
    rig.stop().await;

    let rig = Rig::start(disk.path()).await;
    let detail = rig.handle.run(accepted.run).await.expect("is answered").expect("is kept");
    assert_eq!(detail.payload, json!(payload));
    let detail = rig.handle.run(before).await.expect("is answered").expect("is kept");
    assert_eq!(detail.status.state, RunState::Finished);
    rig.stop().await;
}

#[tokio::test]
async fn a_full_disk_does_not_keep_belayd_from_ending() {
    let disk = SmallDisk::new();
    let rig = Rig::start(disk.path()).await;
    disk.fill();
    let (handle, request) = (rig.handle.clone(), submission("x".repeat(100_000), None));
    let refused = tokio::spawn(async move { handle.submit(request).await });
    // The question is with the hub before the end begins.
    let mut tally = rig.handle.tally();
    soon("the run", tally.wait_for(|tally| tally.runs == 1)).await.expect("the hub is there");
    rig.stop().await;
    let answer = soon("the answer", refused).await.expect("no panic");
    assert_eq!(answer, Err(belay_runner::AskError::Ended));
    disk.make_room();
    let rig = Rig::start(disk.path()).await;
    let page = rig.handle.runs(RunQuery::default()).await.expect("is answered");
    assert!(page.runs.is_empty(), "what was not answered need not be there");
    rig.stop().await;
}
