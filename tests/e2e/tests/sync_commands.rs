//! `belay sync` against real nodes: what an operator asks of volume-sync beside a publish.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use belay_harness::{Node, NodeOptions, binary, sync_spec, until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Ended {
    #[track_caller]
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.err);
        String::from_utf8(self.out).expect("text")
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.done()).expect("JSON")
    }

    #[track_caller]
    fn refused(self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(self.err.contains(words), "{}", self.err);
    }
}

/// Runs `belay sync` against the node.
fn sync(node: &Node, arguments: &[&str]) -> Ended {
    let output = Command::new(binary("belay"))
        .env("BELAY_SOCKET", node.socket())
        .arg("sync")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("belay runs");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ended { code: output.status.code(), out: output.stdout, err }
}

async fn pair() -> (Node, Node, tempfile::TempDir) {
    let store = tempfile::tempdir().expect("a directory");
    let options = || NodeOptions { store: Some(store.path().to_owned()), ..NodeOptions::default() };
    let provider = Node::start(options()).await;
    let consumer = Node::start(options()).await;
    provider.client().deploy(&sync_spec("provider"), provider.directory()).await.expect("deploys");
    consumer.client().deploy(&sync_spec("consumer"), consumer.directory()).await.expect("deploys");
    (provider, consumer, store)
}

/// Publishes a state that a mix with another can be told from, and returns its content id.
async fn publish(provider: &Node, state: &str) -> String {
    let data = provider.volume("app", "data").await;
    std::fs::write(data.join("state"), state).expect("writes");
    let outcome = provider.client().publish("app", &["/data"]).await.expect("publishes");
    outcome.publish.expect("says what it published").cid.to_string()
}

async fn serves(consumer: &Node, state: &str) {
    until(&format!("the consumer to have {state}"), SOON, || async {
        let data = consumer.volume("app", "data").await;
        match std::fs::read_to_string(data.join("state")) {
            Ok(found) if found == state => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_published_while_a_consumer_is_paused_waits_over_a_kill() {
    let (provider, mut consumer, _store) = pair().await;
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    let said = sync(&consumer, &["pause", "app"]).done();
    assert!(said.contains("new records wait for belay sync resume app"), "{said}");
    let second = publish(&provider, "two").await;
    consumer.kill();
    consumer.launch().await;
    let status = until("the record that waits", SOON, || async {
        let status = sync(&consumer, &["status", "-o", "json"]).json();
        if status["app"]["waits"].is_string() { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(status["app"]["stage"], "paused");
    assert_eq!(status["app"]["head"]["cid"], *second);
    let table = sync(&consumer, &["status"]).done();
    assert!(table.contains("by an operator; record 2 of epoch 1 waits"), "{table}");
    serves(&consumer, "one").await;

    // A provider refuses what is asked of it meanwhile, and says what to type.
    sync(&provider, &["pause", "app"]).done();
    sync(&provider, &["publish", "app", "/data"]).refused(75, "belay sync resume app");
    sync(&provider, &["resume", "app"]).done();
    sync(&provider, &["publish", "app", "/data"]).done();

    sync(&consumer, &["resume", "app"]).done();
    serves(&consumer, "two").await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn a_generation_is_shown_by_workload_and_by_content() {
    let (provider, consumer, _store) = pair().await;
    sync(&consumer, &["show", "app"]).refused(66, "nothing is published under state");
    let first = publish(&provider, "one").await;
    serves(&consumer, "one").await;
    let second = publish(&provider, "two").await;
    serves(&consumer, "two").await;
    until("the history entry", SOON, || async {
        let shown = sync(&consumer, &["show", "app", "-o", "json"]).json();
        if shown["applied_at"].is_string() { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let shown = sync(&consumer, &["show", "app", "-o", "json"]).json();
    assert_eq!(shown["record"]["cid"], *second);
    assert_eq!((&shown["standing"], &shown["stored"]), (&"head".into(), &"whole".into()));
    assert_eq!(shown["volumes"], serde_json::json!(["data"]));
    let page = sync(&provider, &["show", &first[..12]]).done();
    assert!(page.contains(&first) && page.contains(", superseded\n"), "{page}");
    assert!(page.contains("published here: "), "{page}");
    sync(&provider, &["show", "app", "bafkr4iaaaa"]).refused(66, "has no record of bafkr4iaaaa");
    sync(&provider, &["show", "bafkr4iaaaa"]).refused(66, "no key of a workload");
    sync(&provider, &["show", "app", "short"]).refused(64, "at least 10 characters");
    provider.end().await;
    consumer.end().await;
}

/// The members of an archive with their contents, as GNU tar reads it.
fn members(archive: &[u8]) -> Vec<(String, String)> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("x.tar.gz");
    std::fs::write(&file, archive).expect("writes");
    let tar = |arguments: &[&str]| {
        let done = Command::new("tar").args(arguments).arg("-f").arg(&file).output();
        let done = done.expect("tar runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    };
    let listed = tar(&["--list", "--gzip"]);
    let files = listed.lines().filter(|line| !line.ends_with('/'));
    files
        .map(|file| (file.to_owned(), tar(&["--extract", "--gzip", "--to-stdout", file])))
        .collect()
}

#[tokio::test]
async fn a_generation_is_exported_as_an_archive_and_held_against_another() {
    let (provider, consumer, store) = pair().await;
    let first = publish(&provider, "one").await;
    let data = provider.volume("app", "data").await;
    std::fs::write(data.join("more"), "new").expect("writes");
    let second = publish(&provider, "two").await;
    serves(&consumer, "two").await;

    let archive = sync(&consumer, &["export", "app"]);
    assert_eq!(archive.code, Some(0), "{}", archive.err);
    let more = ("data/more".to_owned(), "new".to_owned());
    let state = |text: &str| ("data/state".to_owned(), text.to_owned());
    let found = members(&archive.out);
    assert!(found.contains(&more) && found.contains(&state("two")), "{found:?}");
    let older = sync(&provider, &["export", "app", &first[..14]]);
    let found = members(&older.out);
    assert!(found.contains(&state("one")) && !found.contains(&more), "{found:?}");
    assert_eq!(sync(&provider, &["export", "app"]).out, archive.out, "equal on every node");

    let told = sync(&provider, &["diff", "app", &first, &second]).done();
    assert!(told.contains("+ /data/more (3 B)\n~ /data/state (content)\n"), "{told}");
    assert!(told.contains("1 added, 0 removed, 1 changed"), "{told}");
    std::fs::remove_file(data.join("more")).expect("removes");
    let live = sync(&provider, &["diff", "app", &second, "--live", "-o", "json"]).done();
    let lines: Vec<Value> =
        live.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["change"], &lines[0]["path"]), (&"removed".into(), &"/data/more".into()));
    assert_eq!((&lines[1]["line"], &lines[1]["removed"]), (&"compared".into(), &1.into()));

    // What lies in the store is damaged: nothing that looks whole comes out.
    for entry in walk(&store.path().join("blobs")) {
        let mut bytes = std::fs::read(&entry).expect("reads");
        if bytes.starts_with(b"belay pack 1\n") {
            let first = 13;
            bytes[first] ^= 1;
            std::fs::write(&entry, bytes).expect("damages");
        }
    }
    sync(&provider, &["export", "app"]).refused(65, "refused");
    provider.end().await;
    consumer.end().await;
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("lists") {
        let path = entry.expect("reads").path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn a_consumer_goes_back_and_stays_there_over_a_kill_until_there_is_something_newer() {
    let (provider, mut consumer, _store) = pair().await;
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    sync(&consumer, &["rollback", "app"]).refused(66, "no earlier generation");
    publish(&provider, "two").await;
    serves(&consumer, "two").await;
    sync(&provider, &["rollback", "app"]).refused(69, "is the provider of this key");

    let said = sync(&consumer, &["rollback", "app"]).done();
    assert!(
        said.contains("up to record 2 of epoch 1, is held back until a newer record"),
        "{said}"
    );
    serves(&consumer, "one").await;
    consumer.kill();
    consumer.launch().await;
    let table = until("what is held back", SOON, || async {
        let table = sync(&consumer, &["status"]).done();
        if table.contains("records up to 2 of epoch 1 are held back") && table.contains("idle") {
            Ok(table)
        } else {
            Err(table)
        }
    })
    .await;
    assert!(table.contains("by an operator"), "{table}");
    serves(&consumer, "one").await;
    sync(&consumer, &["resume", "app"]).done();
    serves(&consumer, "two").await;

    sync(&consumer, &["rollback", "app"]).done();
    serves(&consumer, "one").await;
    publish(&provider, "three").await;
    serves(&consumer, "three").await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn a_rollback_of_a_node_that_is_killed_comes_to_its_end() {
    let (provider, mut consumer, _store) = pair().await;
    let data = provider.volume("app", "data").await;
    for name in 0..200 {
        std::fs::write(data.join(format!("{name}")), vec![b'x'; 40_000]).expect("writes");
    }
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    for name in 0..200 {
        std::fs::write(data.join(format!("{name}")), vec![b'y'; 40_000]).expect("writes");
    }
    publish(&provider, "two").await;
    serves(&consumer, "two").await;
    for round in 0..4_u64 {
        let asked = Command::new(binary("belay"))
            .env("BELAY_SOCKET", consumer.socket())
            .args(["sync", "rollback", "app"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut asked = asked.expect("belay runs");
        // From before the first write to after the last step, over the rounds.
        tokio::time::sleep(Duration::from_millis(10 + 130 * round)).await;
        consumer.kill();
        asked.wait().expect("belay ends with its connection");
        consumer.launch().await;
        let held = until("one of the two", SOON, || async {
            let status = sync(&consumer, &["status", "-o", "json"]).json();
            match (status["app"]["stage"].as_str(), status["app"]["held"].is_object()) {
                (Some("idle"), held) => Ok(held),
                _ => Err(status.to_string()),
            }
        })
        .await;
        serves(&consumer, if held { "one" } else { "two" }).await;
        sync(&consumer, &["resume", "app"]).done();
        serves(&consumer, "two").await;
    }
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn what_is_kept_is_verified_and_damage_ends_with_an_exit_code_of_its_own() {
    let (provider, consumer, store) = pair().await;
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    publish(&provider, "two").await;
    serves(&consumer, "two").await;
    let whole = sync(&consumer, &["verify", "app"]).done();
    assert!(whole.contains("2 generations") && whole.contains("; 0 damaged"), "{whole}");
    assert!(whole.contains("volumes with a mark: 1"), "{whole}");
    let whole = sync(&consumer, &["verify", "app", "--content"]).done();
    assert!(whole.contains("volumes that hold what their mark says: 1 of 1"), "{whole}");
    let data = consumer.volume("app", "data").await;
    std::fs::write(data.join("state"), "owt").expect("writes");
    let differs = sync(&consumer, &["verify", "app", "--content"]);
    assert!(String::from_utf8_lossy(&differs.out).contains("differs: volume data"), "{differs:?}");
    differs.refused(65, "damaged in 1 place");

    let packs = walk(&store.path().join("blobs"));
    let packs =
        packs.iter().filter(|path| std::fs::read(path).expect("reads").starts_with(b"belay pack"));
    for pack in packs.take(1) {
        std::fs::remove_file(pack).expect("removes");
    }
    let damaged = sync(&provider, &["verify", "app", "-o", "json"]);
    let out = String::from_utf8_lossy(&damaged.out).into_owned();
    let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let told = lines.filter(|line| line["line"] == "damaged" && line["damage"] == "object");
    assert!(told.count() >= 1, "{out}");
    damaged.refused(65, "publish again");
    provider.end().await;
    consumer.end().await;
}

/// Runs `belay sync` with this on its standard input.
fn fed(node: &Node, arguments: &[&str], input: &[u8]) -> Ended {
    let belay = Command::new(binary("belay"))
        .env("BELAY_SOCKET", node.socket())
        .arg("sync")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut belay = belay.expect("belay runs");
    let mut stdin = belay.stdin.take().expect("is piped");
    let input = input.to_vec();
    // Refused early, it reads no further.
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = belay.wait_with_output().expect("belay ends");
    feeding.join().expect("no panic");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    Ended { code: output.status.code(), out: output.stdout, err }
}

/// What GNU tar makes of a directory that looks like the container's root.
fn tar(root: &std::path::Path, paths: &[&str]) -> Vec<u8> {
    let made = Command::new("tar").current_dir(root).arg("-cz").args(paths).output();
    let made = made.expect("tar runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

#[tokio::test]
async fn an_archive_is_published_in_the_place_of_what_a_provider_holds() {
    let (provider, consumer, _store) = pair().await;
    let first = publish(&provider, "one").await;
    serves(&consumer, "one").await;
    let exported = sync(&provider, &["export", "app"]).out;
    publish(&provider, "two").await;
    serves(&consumer, "two").await;
    let started = || async {
        let status = provider.client().workload("app").await.expect("is there");
        status.container.map(|container| (container.id, container.started_at))
    };
    let container = started().await;

    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("app.tar.gz");
    std::fs::write(&file, &exported).expect("writes");
    let file = file.to_str().expect("UTF-8");
    let said = sync(&provider, &["import", "app", file]).done();
    assert!(
        said.contains(&first) && said.contains("from an archive; its volumes are as"),
        "{said}"
    );
    serves(&consumer, "one").await;
    let said = fed(&provider, &["import", "app", "-"], &exported).done();
    assert!(said.contains("unchanged"), "{said}");
    let shown = sync(&consumer, &["show", "app", "-o", "json"]).json();
    assert_eq!(
        (&shown["record"]["capture"], &shown["record"]["seq"]),
        (&"imported".into(), &3.into())
    );
    let held = std::fs::read_to_string(provider.volume("app", "data").await.join("state"));
    assert_eq!(held.expect("reads"), "two", "the provider's own volume is left alone");
    assert_eq!(started().await, container, "and so is its container");

    std::fs::create_dir_all(place.path().join("data/sub")).expect("creates");
    std::fs::write(place.path().join("data/state"), "three").expect("writes");
    std::fs::write(place.path().join("data/sub/more"), vec![7; 300_000]).expect("writes");
    fed(&provider, &["import", "app", "-"], &tar(place.path(), &["data"])).done();
    serves(&consumer, "three").await;

    // A publish of what the volumes hold takes its place again.
    sync(&provider, &["publish", "app", "/data"]).done();
    serves(&consumer, "two").await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn what_cannot_be_imported_is_refused_in_words_however_much_of_it_there_is() {
    let (provider, consumer, _store) = pair().await;
    publish(&provider, "one").await;
    serves(&consumer, "one").await;
    let place = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(place.path().join("etc")).expect("creates");
    std::fs::write(place.path().join("etc/passwd"), "x").expect("writes");
    let outside = tar(place.path(), &["etc"]);
    fed(&provider, &["import", "app", "-"], &outside).refused(65, "/etc is not in a volume");
    let cut = &outside[..outside.len() / 2];
    fed(&provider, &["import", "app", "-"], cut).refused(65, "the archive is refused");
    // Far more than is read before the answer is there.
    let large = vec![0x1f; 48 * 1024 * 1024];
    fed(&consumer, &["import", "app", "-"], &large)
        .refused(69, "import on the node whose workload is the provider");
    fed(&provider, &["import", "nobody", "-"], &large).refused(66, "there is no workload nobody");
    fed(&provider, &["import", "app", "-"], &large).refused(65, "not compressed with gzip");
    sync(&provider, &["import", "app", "/no/such"]).refused(66, "cannot read /no/such");
    sync(&provider, &["pause", "app"]).done();
    fed(&provider, &["import", "app", "-"], &outside).refused(75, "belay sync resume app");
    serves(&consumer, "one").await;
    provider.end().await;
    consumer.end().await;
}

#[tokio::test]
async fn a_node_that_is_killed_while_an_archive_comes_in_keeps_nothing_of_it() {
    let (mut provider, consumer, _store) = pair().await;
    publish(&provider, "one").await;
    let belay = Command::new(binary("belay"))
        .env("BELAY_SOCKET", provider.socket())
        .args(["sync", "import", "app", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut belay = belay.expect("belay runs");
    let mut stdin = belay.stdin.take().expect("is piped");
    // More than pipe and sockets hold: belayd has begun to take it.
    stdin.write_all(&vec![0x1f; 8 * 1024 * 1024]).expect("is taken");
    provider.kill();
    drop(stdin);
    assert_ne!(belay.wait().expect("ends").code(), Some(0));
    provider.launch().await;
    publish(&provider, "two").await;
    serves(&consumer, "two").await;
    let spool = provider.directory().join("state/workloads/app/sync/spool");
    assert_eq!(walk(&spool), Vec::<std::path::PathBuf>::new());
    provider.end().await;
    consumer.end().await;
}
