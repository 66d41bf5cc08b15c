//! Runs that go on at another node, with two real belayds and real checkpoints. Both share one host,
//! so what they listen on is shared as well: the first is down while the second has its runner.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use belay_harness::{Node, NodeOptions, RunBench, binary, until};
use belay_protocol::runner::{
    ArrivalVerdict, CheckpointStatus, DepartureStage, ImportedCheckpoint, RunDetail, RunId,
    RunState, RunnerId,
};
use belay_protocol::{Problem, ProblemCode};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);
const MIB: usize = 1 << 20;

/// Nodes that have one travel key, and a place for archives.
struct Road {
    place: tempfile::TempDir,
}

/// One of these nodes.
struct Stop(RunBench);

impl Deref for Stop {
    type Target = RunBench;

    fn deref(&self) -> &RunBench {
        &self.0
    }
}

impl DerefMut for Stop {
    fn deref_mut(&mut self) -> &mut RunBench {
        &mut self.0
    }
}

impl Road {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().expect("a directory");
        let key = place.path().join("key");
        std::fs::write(&key, "5a".repeat(32)).expect("a key");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("its mode");
        Self { place }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A node that takes runs of `work`; `more` are lines of its spec.
    async fn stop(&self, more: &str) -> Stop {
        let key = self.file("key");
        let config = format!("[runner]\ntravel_key = \"{}\"\n", key.display());
        let node = Node::start(NodeOptions { config, ..NodeOptions::default() }).await;
        let program = PathBuf::from(env!("CARGO_BIN_EXE_test-runner"));
        let stop = Stop(RunBench::new(node, &program));
        stop.take(more).await;
        stop
    }
}

impl Stop {
    /// Takes runs of `work` from now on.
    async fn take(&self, more: &str) {
        let rest = "[limits]\nmemory = \"128M\"\n[runner]\nmax_concurrent = 2\n\
                    snapshot_delay = \"0s\"\n";
        self.deploy(&format!("{more}\n{rest}")).await;
    }

    fn name(&self) -> &str {
        self.node.name()
    }

    /// A run that is on the disk, with its runner.
    async fn suspended(&self, payload: Value) -> (RunId, RunnerId) {
        let run = self.submit(payload, 1).await;
        let found = self.is(run, RunState::Suspended).await;
        (run, found.status.runner.expect("it has a runner"))
    }

    async fn belay(&self, arguments: &[&str]) -> Output {
        let running = tokio::process::Command::new(binary("belay"))
            .arg("--socket")
            .arg(self.node.socket())
            .args(arguments)
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(SOON, running).await.expect("it ends").expect("belay runs")
    }

    async fn does(&self, arguments: &[&str]) -> String {
        let output = self.belay(arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}\n{}", self.node.log_text());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn export(&self, runner: &RunnerId, to: &str, file: &Path) {
        let file = file.to_str().expect("a path");
        self.does(&["checkpoint", "export", runner.as_str(), "--to", to, "--file", file]).await;
    }

    async fn import(&self, archive: Vec<u8>, check: bool) -> Result<ImportedCheckpoint, Problem> {
        let path = format!("http://belay/v1/checkpoints?check={check}");
        let answer = self.http.post(path).body(archive).send().await.expect("belayd answers");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        if status.is_success() {
            Ok(serde_json::from_str(&text).expect("the documented shape"))
        } else {
            Err(serde_json::from_str(&text).expect("a problem"))
        }
    }

    async fn refused(&self, archive: &[u8]) -> (ProblemCode, String) {
        let refused = self.import(archive.to_vec(), false).await.expect_err("it is refused");
        (refused.code, refused.detail)
    }

    async fn post(&self, path: &str, body: Value) -> Result<(), ProblemCode> {
        let sent = self.http.post(format!("http://belay{path}")).json(&body).send().await;
        let answer = sent.expect("belayd answers");
        if answer.status().is_success() {
            return Ok(());
        }
        let problem: Problem = answer.json().await.expect("a problem");
        Err(problem.code)
    }

    /// Completes the one waitpoint of a run.
    async fn tell(&self, run: RunId, what: &str) -> Result<(), ProblemCode> {
        let found = self.run(run).await.expect("it is there");
        let waitpoint = found.waitpoints.first().expect("it has one").waitpoint;
        self.post(&format!("/v1/waitpoints/{waitpoint}/complete"), json!({ "output": what })).await
    }

    async fn kept(&self) -> Vec<CheckpointStatus> {
        let kept = self.http.get("http://belay/v1/checkpoints").send().await;
        kept.expect("belayd answers").json().await.expect("the documented shape")
    }

    /// Shows that nothing of an import is left.
    async fn has_nothing(&self) {
        assert_eq!((self.containers().len(), self.kept().await), (0, Vec::new()));
        let books = self.node.directory().join("state/checkpoints");
        assert_eq!(std::fs::read_dir(books).expect("lists").count(), 0);
    }
}

fn finished(detail: &RunDetail, held: usize, told: &str) {
    let output = detail.output.as_ref().expect("it has a result");
    assert_eq!((&output["held"], &output["whole"]), (&json!(held), &json!(true)));
    assert_eq!((&output["told"], &output["runs"]), (&json!(told), &json!(1)));
    assert_eq!(detail.status.attempt.get(), 1, "it is the attempt that it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_at_another_node_with_its_memory_and_nowhere_else() {
    let road = Road::new();
    let (mut a, mut b) = (road.stop("").await, road.stop("").await);
    let (run, runner) = a.suspended(json!({ "hold_mib": 16, "wait_token": true })).await;
    let trip = road.file("trip");
    a.export(&runner, b.name(), &trip).await;

    // It is not the first node's any more, whoever asks, also after its death.
    for dies in [false, true] {
        if dies {
            a.node.kill();
            a.node.launch().await;
            until("runs to be served", SOON, || a.run(run)).await;
        }
        let moved = a.is(run, RunState::Moved).await.status;
        let departure = moved.departure.expect("it says where to");
        assert_eq!((departure.to.as_str(), departure.stage), (b.name(), DepartureStage::Exported));
        assert_eq!(a.tell(run, "x").await, Err(ProblemCode::RunMoved));
        let cancelled = a.post(&format!("/v1/runs/{run}/cancel"), json!({})).await;
        assert_eq!(cancelled, Err(ProblemCode::RunMoved));
        assert_eq!(a.kept().await[0].departure.as_ref(), Some(&departure));
    }
    assert_eq!(a.told("run-exported").await.len(), 1);

    // The same archive again, and to nobody else.
    let again = road.file("again");
    a.export(&runner, b.name(), &again).await;
    let path = format!("/v1/checkpoints/{runner}/export?to=elsewhere");
    assert_eq!(a.post(&path, Value::Null).await, Err(ProblemCode::RunMoved));
    let archive = std::fs::read(&trip).expect("reads");
    assert!(archive.len() > 16 * MIB);

    // Nobody takes what is not for him, not whole, or not as it was.
    let (code, detail) = a.refused(&archive).await;
    assert_eq!(code, ProblemCode::ArchiveForAnother);
    assert_eq!(detail, format!("it was exported for {}, and this node is {}", b.name(), a.name()));
    let (code, detail) = b.refused(&archive).await;
    assert_eq!(code, ProblemCode::RunnerAddress, "the first node listens there: {detail}");
    a.node.kill();
    for cut in [20, 40, 4096, archive.len() / 2, archive.len() - 1] {
        let (code, detail) = b.refused(&archive[..cut]).await;
        assert_eq!(code, ProblemCode::ArchiveDamaged, "cut at {cut}: {detail}");
    }
    for at in [0, 30, 70, archive.len() / 2, archive.len() - 3] {
        let mut flipped = archive.clone();
        flipped[at] ^= 1;
        let (code, detail) = b.refused(&flipped).await;
        assert_eq!(code, ProblemCode::ArchiveDamaged, "changed at {at}: {detail}");
    }
    let (code, _) = b.refused(b"belay checkpoint archive 9\n and so on").await;
    assert_eq!(code, ProblemCode::ArchiveVersion);
    b.has_nothing().await;

    let checked = b.import(archive.clone(), true).await.expect("it would be taken");
    assert_eq!((checked.verdict, checked.run), (ArrivalVerdict::WouldBeTaken, run));
    b.has_nothing().await;
    let said = b.does(&["checkpoint", "import", trip.to_str().expect("a path")]).await;
    assert!(said.contains(&format!("{run} has come from {}", a.name())), "{said}");
    b.is(run, RunState::Suspended).await;
    for archive in [&archive, &std::fs::read(&again).expect("reads")] {
        let (code, detail) = b.refused(archive).await;
        assert_eq!(code, ProblemCode::ArchiveTaken, "{detail}");
    }
    assert_eq!((b.kept().await.len(), b.containers().len()), (1, 1));

    // Taken is taken, also over a death; then it is told what it waits for.
    b.node.kill();
    b.node.launch().await;
    until("runs to be served", SOON, || b.run(run)).await;
    b.is(run, RunState::Suspended).await;
    b.tell(run, "hello").await.expect("it is told");
    finished(&b.is(run, RunState::Finished).await, 16 * MIB, "hello");
    assert_eq!((b.told("run-imported").await.len(), b.told("run-resumed").await.len()), (1, 1));
    let (code, _) = b.refused(&archive).await;
    assert_eq!(code, ProblemCode::ArchiveTaken, "also when it is over");
    b.0.node.end().await;

    a.node.launch().await;
    until("runs to be served", SOON, || a.run(run)).await;
    a.does(&["checkpoint", "rm", runner.as_str()]).await;
    a.is(run, RunState::Moved).await;
    until("its container to be gone", SOON, || async {
        if a.containers().is_empty() { Ok(()) } else { Err("it is there".to_owned()) }
    })
    .await;
    a.0.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_imported_is_taken_back() {
    let road = Road::new();
    let a = road.stop("").await;
    let (run, runner) = a.suspended(json!({ "wait_token": true })).await;
    let reclaim = ["checkpoint", "reclaim", runner.as_str(), "--yes"];
    let early = a.belay(&reclaim).await;
    assert!(String::from_utf8_lossy(&early.stderr).contains("was not exported"), "{early:?}");
    a.export(&runner, "nowhere", &road.file("trip")).await;
    let doubtful = a.belay(&reclaim[..3]).await;
    assert!(String::from_utf8_lossy(&doubtful.stderr).contains("executes twice"), "{doubtful:?}");
    a.is(run, RunState::Moved).await;
    let before = a.run(run).await.expect("it is there").status.epoch;
    a.does(&reclaim).await;
    let back = a.is(run, RunState::Suspended).await;
    assert!(back.status.epoch > before, "what the archive has is of an older epoch");
    a.tell(run, "back").await.expect("it is told");
    finished(&a.is(run, RunState::Finished).await, 0, "back");
    a.0.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_in_the_middle_leaves_the_run_on_one_node() {
    let road = Road::new();
    let (mut a, mut b) = (road.stop("").await, road.stop("").await);
    let wish = json!({ "hold_mib": 48, "wait_token": true });
    let (run, runner) = a.suspended(wish).await;

    // Of an export, of which nobody reads more than the beginning.
    let path = format!("http://belay/v1/checkpoints/{runner}/export?to={}", b.name());
    let mut begun = a.http.post(&path).send().await.expect("belayd answers");
    begun.chunk().await.expect("it begins").expect("with something");
    let leaving = a.run(run).await.expect("it is there").status;
    assert_eq!(leaving.departure.expect("it leaves").stage, DepartureStage::Leaving);
    let second = a.post(&format!("/v1/checkpoints/{runner}/export?to=c"), Value::Null).await;
    assert_eq!(second, Err(ProblemCode::CheckpointLeaving));
    a.node.kill();
    drop(begun);
    a.node.launch().await;
    until("runs to be served", SOON, || a.run(run)).await;
    assert_eq!(a.is(run, RunState::Suspended).await.status.departure, None);
    // Of its reader.
    let mut begun = a.http.post(&path).send().await.expect("belayd answers");
    begun.chunk().await.expect("it begins").expect("with something");
    drop(begun);
    until("the export to be called off", SOON, || async {
        let found = a.run(run).await?.status;
        if found.departure.is_none() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;

    let trip = road.file("trip");
    a.export(&runner, b.name(), &trip).await;
    a.is(run, RunState::Moved).await;
    a.node.kill();

    // Of an import, of which half has come.
    let archive = std::fs::read(&trip).expect("reads");
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
    let half = std::pin::Pin::from(Box::new(archive[..archive.len() / 2].to_vec()));
    let listener = tokio::net::UnixStream::connect(b.node.socket()).await.expect("connects");
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let mut listener = listener;
        let head = format!(
            "POST /v1/checkpoints HTTP/1.1\r\nHost: belay\r\nContent-Length: {}\r\n\r\n",
            half.len() * 2
        );
        listener.write_all(head.as_bytes()).await.expect("sent");
        listener.write_all(&half).await.expect("sent");
        sender.send(Vec::new()).await.expect("the test goes on");
        listener
    });
    pieces.recv().await.expect("half of it was sent");
    until("its container to be made", SOON, || async {
        if b.containers().len() == 1 { Ok(()) } else { Err("there is none".to_owned()) }
    })
    .await;
    b.node.kill();
    drop(sending.await.expect("no panic"));
    b.node.launch().await;
    until("nothing of it to be left", SOON, || async {
        if b.containers().is_empty() { Ok(()) } else { Err("its container".to_owned()) }
    })
    .await;
    b.has_nothing().await;
    assert!(b.run(run).await.is_err(), "it is not this node's");

    // The same archive is as good as before.
    until("it to be taken", SOON, || async {
        let taken = b.import(archive.clone(), false).await;
        taken.map(drop).map_err(|refused| format!("{refused:?}"))
    })
    .await;
    b.tell(run, "at last").await.expect("it is told");
    finished(&b.is(run, RunState::Finished).await, 48 * MIB, "at last");
    b.0.node.end().await;
    a.node.launch().await;
    a.is(run, RunState::Moved).await;
    a.0.node.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_travel_or_arrive_is_refused_by_name() {
    let road = Road::new();
    let (mut a, b) = (road.stop("").await, road.stop("hostname = \"other\"").await);
    // A timer that ends on the way.
    let (run, runner) = a.suspended(json!({ "hold_mib": 1, "wait_ms": 9000 })).await;
    let trip = road.file("trip");
    a.export(&runner, b.name(), &trip).await;
    let archive = std::fs::read(&trip).expect("reads");
    a.node.kill();
    let (code, detail) = b.refused(&archive).await;
    assert_eq!(code, ProblemCode::WorkloadDiffers);
    assert_eq!(detail, "work has hostname = \"other\" here, and the runner was made with \"work\"");
    b.has_nothing().await;
    b.take("").await;
    let ends = a_moment_after_its_timer(Duration::from_secs(10));
    ends.await;
    b.import(archive, false).await.expect("it is taken");
    let done = b.is(run, RunState::Finished).await;
    assert_eq!(done.output.expect("a result")["whole"], json!(true));
    let elsewhere = b.name().to_owned();
    b.0.node.end().await;
    a.node.launch().await;
    a.is(run, RunState::Moved).await;

    // What it wrote stays where it is.
    let wrote = json!({ "write": "/note", "wait_token": true });
    let (stays, its) = a.suspended(wrote).await;
    let path = format!("http://belay/v1/checkpoints/{its}/export?to={elsewhere}");
    let refused: Problem =
        a.http.post(path).send().await.expect("an answer").json().await.expect("a problem");
    assert_eq!(refused.code, ProblemCode::CheckpointHoldsFiles);
    assert!(refused.detail.ends_with("which does not travel: /note"), "{}", refused.detail);
    assert_eq!(a.run(stays).await.expect("it is there").status.state, RunState::Suspended);
    let own = format!("/v1/checkpoints/{its}/export?to={}", a.name());
    assert_eq!(a.post(&own, Value::Null).await, Err(ProblemCode::InvalidRequest));
    let unknown = format!("/v1/checkpoints/run-unknown/export?to={elsewhere}");
    assert_eq!(a.post(&unknown, Value::Null).await, Err(ProblemCode::NoSuchCheckpoint));
    a.tell(stays, "x").await.expect("it is told");
    a.is(stays, RunState::Finished).await;
    a.0.node.end().await;
}

/// Lets a timer of the runner end while nobody has its run, which is what is shown.
async fn a_moment_after_its_timer(timer: Duration) {
    // Time itself must pass.
    tokio::time::sleep(timer).await;
}
