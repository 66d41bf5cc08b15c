//! What an operator sees of volumes and does with them, through the `belay` command and belayd.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use belay_harness::{Node, NodeOptions, binary, is_full, until};
use belay_protocol::{CheckOutcome, VolumeFate, VolumeLevel, WorkloadPhase};

const SOON: Duration = Duration::from_secs(90);

/// Within which a volume that refuses writes must be noticed.
const NOTICED: Duration = Duration::from_secs(10);

/// A workload that does nothing on one volume.
fn idle(name: &str, size: &str) -> String {
    format!(
        "name = \"{name}\"\nimage = \"file:busybox.tar\"\nstop_grace = \"0s\"\n\
         command = [\"/bin/sleep\", \"100000\"]\n\
         [volumes.data]\nsize = \"{size}\"\nmount = \"/data\"\n"
    )
}

/// How a command of `belay` ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    /// What it printed, when it ended well.
    fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// What it said, when it was refused with this code and said all of this.
    fn refused(self, code: i32, words: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {}", self.err);
        }
        self.err
    }
}

/// Runs `belay volume` against the node.
fn volume(node: &Node, arguments: &[&str]) -> Ended {
    let output = Command::new(binary("belay"))
        .env("BELAY_SOCKET", node.socket())
        .arg("volume")
        .args(arguments)
        .output()
        .expect("belay runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
}

/// Where the images of a node's volumes lie.
fn image(node: &Node, workload: &str, volume: &str) -> PathBuf {
    node.directory().join("state/volumes/images").join(workload).join(volume).join("volume.img")
}

/// Whether the kernel lets this process, and so its belayd, grow a mounted ext4.
fn may_grow_mounted_ext4() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it is there");
    let set = u64::from_str_radix(set.trim(), 16).expect("hexadecimal");
    set & (1 << SYS_RESOURCE) != 0
}

/// KiB of the file system, as the container's own df says.
fn size_inside(data: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(data.join("df")).map_err(|error| error.to_string())?;
    let words = text.lines().nth(1).map(|line| line.split_whitespace().nth(1));
    words.flatten().and_then(|size| size.parse().ok()).ok_or(text)
}

async fn wait_for_size(data: &Path, least_kib: u64) {
    until(&format!("df in the container to show {least_kib} KiB"), SOON, || {
        let seen = size_inside(data);
        std::future::ready(match seen {
            Ok(kib) if kib >= least_kib => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
    })
    .await;
}

#[tokio::test]
async fn a_volume_grows_while_its_container_writes_and_stays_grown() {
    let mut node = Node::start(NodeOptions::default()).await;
    let spec = r#"
name = "writer"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "n=0; while true; do n=$((n+1)); echo $n >> /data/log || touch /data/failed; df -k /data > /data/df.new && mv /data/df.new /data/df; sleep 0.05; done"]
stop_grace = "0s"
[volumes.data]
size = "300M"
mount = "/data"
file_system = "xfs"
"#;
    node.client().deploy(spec, node.directory()).await.expect("deploys");
    let data = node.volume("writer", "data").await;
    wait_for_size(&data, 200 * 1024).await;
    assert!(size_inside(&data).is_ok_and(|kib| kib < 300 * 1024), "xfs keeps a part for its log");
    let before = node.client().workload("writer").await.expect("is there").container;
    let lines = || std::fs::read_to_string(data.join("log")).map_or(0, |log| log.lines().count());
    let written = lines();

    let said = volume(&node, &["grow", "writer/data", "400M"]).done();
    assert_eq!(said, "writer/data has 400Mi, 300Mi before; writer went on running\n");
    wait_for_size(&data, 320 * 1024).await;
    until("the container to write on", SOON, || {
        let now = lines();
        std::future::ready(if now > written { Ok(()) } else { Err(format!("{now} lines")) })
    })
    .await;
    assert!(!data.join("failed").exists(), "no write failed meanwhile");
    let after = node.client().workload("writer").await.expect("is there").container;
    assert_eq!(before, after, "the same process of the same container");
    let shown = node.client().volume("writer", "data").await.expect("is listed");
    assert_eq!(shown.size_bytes, 400 << 20, "the page agrees with the answer");
    assert!(shown.allocated_bytes >= shown.size_bytes, "the promise is real: {shown:?}");

    let same = volume(&node, &["grow", "writer/data", "400M"]).done();
    assert_eq!(same, "writer/data has 400Mi already\n");
    volume(&node, &["grow", "writer/data", "350M"]).refused(
        69,
        &["has 400Mi (419430400 bytes) and 350Mi (367001600 bytes)", "never shrinks", "next: "],
    );
    let too_much = volume(&node, &["grow", "writer/data", "900T"]);
    too_much.refused(69, &["900Ti is more than a volume can have (16Ti)"]);
    let too_much = volume(&node, &["grow", "writer/data", "15T"]);
    too_much.refused(69, &["on the host", "to give", "next: free space on the host"]);
    let shown = node.client().volume("writer", "data").await.expect("is listed");
    assert_eq!(shown.size_bytes, 400 << 20, "a refusal changes nothing");

    // The spec still says 300M: neither a restart of belayd nor a deploy of it takes that back.
    node.kill();
    node.launch().await;
    let again = spec.replace("sleep 0.05", "sleep 0.06");
    node.client().deploy(&again, node.directory()).await.expect("deploys what asks for less");
    node.client().act("restart", "writer").await.expect("restarts");
    let shown = node.client().volume("writer", "data").await.expect("is listed");
    assert_eq!(shown.size_bytes, 400 << 20);
    let larger = again.replace("300M", "450M");
    node.client().deploy(&larger, node.directory()).await.expect("a larger spec grows it, too");
    let shown = node.client().volume("writer", "data").await.expect("is listed");
    assert_eq!(shown.size_bytes, 450 << 20);
    node.end().await;
}

#[tokio::test]
async fn an_ext4_volume_grows_online_where_the_kernel_lets_it_and_else_says_how() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("store", "24M"), node.directory()).await.expect("deploys");
    std::fs::write(node.volume("store", "data").await.join("kept"), "this").expect("writes");
    let online = volume(&node, &["grow", "store/data", "48M"]);
    if may_grow_mounted_ext4() {
        assert!(online.done().contains("store went on running"));
    } else {
        online.refused(69, &["CAP_SYS_RESOURCE", "from 24Mi to 48Mi", "next: belay stop store"]);
        let shown = node.client().volume("store", "data").await.expect("is listed");
        assert_eq!(shown.size_bytes, 24 << 20, "a refusal changes nothing");
        let phase = node.client().workload("store").await.expect("is there").phase;
        assert_eq!(phase, WorkloadPhase::Ready);
    }
    node.client().act("stop", "store").await.expect("stops");
    let said = volume(&node, &["grow", "store/data", "64M"]).done();
    assert!(said.starts_with("store/data has 64Mi, "), "{said}");
    let shown = node.client().volume("store", "data").await.expect("is listed");
    assert_eq!((shown.size_bytes, shown.mounted), (64 << 20, false), "released as it was found");
    node.client().act("start", "store").await.expect("starts");
    let data = node.volume("store", "data").await;
    assert_eq!(std::fs::read_to_string(data.join("kept")).expect("is kept"), "this");
    let usage = node.client().volume("store", "data").await.expect("is listed").usage;
    let usage = usage.expect("it is mounted");
    assert!(usage.used_bytes + usage.available_bytes > 48 << 20, "{usage:?}");
    node.end().await;
}

#[tokio::test]
async fn what_would_harm_a_running_workload_waits_for_its_stop() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("keeper", "24M"), node.directory()).await.expect("deploys");
    let data = node.volume("keeper", "data").await;
    std::fs::write(data.join("state"), "old").expect("writes");
    for act in ["check", "reset", "rollback", "adopt"] {
        volume(&node, &[act, "keeper/data"]).refused(
            69,
            &["volume is in use", "keeper is ready", "needs it stopped", "next: belay stop keeper"],
        );
    }
    volume(&node, &["rm", "keeper/data"]).refused(69, &["keeper names volume data"]);
    volume(&node, &["trim", "keeper/data"]).refused(69, &["fully allocated"]);
    assert_eq!(std::fs::read_to_string(data.join("state")).expect("is there"), "old");
    let phase = node.client().workload("keeper").await.expect("is there").phase;
    assert_eq!(phase, WorkloadPhase::Ready, "nothing was stopped for it");

    node.client().act("stop", "keeper").await.expect("stops");
    let said = volume(&node, &["check", "keeper/data"]).done();
    assert_eq!(said, "the file system of keeper/data is clean\n");
    let check = node.client().volume("keeper", "data").await.expect("is listed").last_check;
    assert_eq!(check.expect("it was checked").outcome, CheckOutcome::Clean);
    let page = volume(&node, &["show", "keeper/data"]).done();
    assert!(page.contains("last check: clean, "), "{page}");
    assert!(page.contains("size: 24 MiB (25165824 bytes), allocated in full"), "{page}");

    // An operator keeps a state by copying the image of a stopped workload.
    volume(&node, &["rollback", "keeper/data"]).refused(69, &["no earlier state", "is kept"]);
    let kept = image(&node, "keeper", "data");
    std::fs::copy(&kept, kept.with_file_name("generation-before.img")).expect("copies");
    let state = |node: &Node, expected: &'static str| {
        let client = node.client().clone();
        let directory = node.directory().to_owned();
        async move {
            client.act("start", "keeper").await.expect("starts");
            let state = directory.join("state/volumes/mounts/keeper/data/data/state");
            let found = std::fs::read_to_string(&state).unwrap_or_default();
            assert_eq!(found, expected);
            std::fs::write(&state, "new").expect("writes");
            client.act("stop", "keeper").await.expect("stops");
        }
    };
    state(&node, "old").await;
    let wrong = volume(&node, &["rollback", "keeper/data", "befor"]);
    wrong.refused(69, &["no generation \"befor\", only before", "nothing was changed"]);
    let said = volume(&node, &["rollback", "keeper/data"]).done();
    assert_eq!(said, "keeper/data is generation before; what it was has that name now\n");
    state(&node, "old").await;
    volume(&node, &["rollback", "keeper/data", "before"]).done();
    state(&node, "new").await;
    let shown = node.client().volume("keeper", "data").await.expect("is listed");
    assert_eq!(shown.generations, ["before"]);

    let said = volume(&node, &["reset", "keeper/data"]).done();
    assert_eq!(said, "keeper/data is empty; belay start keeper starts with it\n");
    let shown = node.client().volume("keeper", "data").await.expect("it was made anew");
    assert!(!shown.mounted && shown.allocated_bytes >= 24 << 20, "{shown:?}");
    state(&node, "").await;
    state(&node, "new").await;
    node.end().await;
}

#[tokio::test]
async fn a_damaged_file_system_is_named_repaired_and_used_again() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("worn", "24M"), node.directory()).await.expect("deploys");
    std::fs::write(node.volume("worn", "data").await.join("kept"), "this").expect("writes");
    node.client().act("stop", "worn").await.expect("stops");
    // A count of links that no directory bears out, as after a lost write.
    let lie = ["-w", "-R", "set_inode_field /data/kept links_count 9"];
    let image = image(&node, "worn", "data").display().to_string();
    run("/usr/sbin/debugfs", &[lie[0], lie[1], lie[2], &image]);
    let refused = volume(&node, &["check", "worn/data"]);
    refused.refused(69, &["file system is damaged", "check --repair worn/data"]);
    let check = node.client().volume("worn", "data").await.expect("is listed").last_check;
    assert_eq!(check.expect("it was checked").outcome, CheckOutcome::Damaged);
    let said = volume(&node, &["check", "--repair", "worn/data"]).done();
    assert_eq!(said, "the file system of worn/data was repaired\n");
    assert_eq!(
        volume(&node, &["check", "worn/data"]).done(),
        "the file system of worn/data is clean\n"
    );
    node.client().act("start", "worn").await.expect("starts");
    let data = node.volume("worn", "data").await;
    assert_eq!(std::fs::read_to_string(data.join("kept")).expect("is kept"), "this");
    node.end().await;
}

#[tokio::test]
async fn a_foreign_image_is_used_only_once_it_is_adopted() {
    let node = Node::start(NodeOptions::default()).await;
    let image = image(&node, "heir", "data");
    std::fs::create_dir_all(image.parent().expect("a directory")).expect("makes directories");
    std::fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("an image");
    run("/usr/sbin/mkfs.ext4", &["-q", "-F", &image.display().to_string()]);
    let made = std::fs::read(&image).expect("reads");
    let deployed = node.client().deploy(&idle("heir", "32M"), node.directory()).await;
    let problem = deployed.expect_err("is refused").problem();
    assert!(problem.detail.contains("was not made by this daemon"), "{problem:?}");
    assert!(std::fs::read(&image).expect("reads") == made, "the image is untouched");

    volume(&node, &["adopt", "heir/data"]).refused(69, &["needs it stopped"]);
    node.client().act("stop", "heir").await.expect("stops");
    let said = volume(&node, &["adopt", "heir/data"]).done();
    assert_eq!(said, "the image in the place of heir/data is its own from now on\n");
    node.client().act("start", "heir").await.expect("starts on it");
    let shown = node.client().volume("heir", "data").await.expect("is listed");
    assert!(shown.mounted && shown.fault.is_none(), "{shown:?}");
    node.end().await;
}

#[tokio::test]
async fn an_image_that_is_not_whole_is_named_left_alone_and_made_anew_on_request() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("torn", "24M"), node.directory()).await.expect("deploys");
    let image = image(&node, "torn", "data");
    for (harm, words) in [
        ("truncated", &["the image has 12Mi", "spans 24Mi", "truncated"][..]),
        ("overwritten", &["no file system that is known here", "not formatted"]),
    ] {
        node.client().act("stop", "torn").await.expect("stops");
        let file = std::fs::File::options().write(true).open(&image).expect("the test's own");
        match harm {
            "truncated" => file.set_len(12 << 20).expect("truncates"),
            _ => file.write_all_at(&vec![0x5a; 1 << 20], 0).expect("writes"),
        }
        let before = std::fs::read(&image).expect("reads");
        let started = node.client().act("start", "torn").await;
        let problem = started.expect_err("is refused").problem();
        for word in words {
            assert!(problem.detail.contains(word), "{harm}: {word:?} is not in {problem:?}");
        }
        assert!(problem.next.contains("belay volume reset torn/data"), "{problem:?}");
        assert!(std::fs::read(&image).expect("reads") == before, "{harm}: it is untouched");
        node.client().act("stop", "torn").await.expect("stops");
        volume(&node, &["reset", "torn/data"]).done();
        node.client().act("start", "torn").await.expect("starts with an empty one");
        let shown = node.client().volume("torn", "data").await.expect("is listed");
        assert_eq!((shown.size_bytes, shown.fault), (24 << 20, None));
    }
    node.end().await;
}

#[tokio::test]
async fn a_thin_volume_gives_back_what_was_deleted() {
    let node = Node::start(NodeOptions::default()).await;
    let thin = idle("light", "64M") + "thin = true\n";
    node.client().deploy(&thin, node.directory()).await.expect("deploys");
    let data = node.volume("light", "data").await;
    let place = data.display().to_string();
    std::fs::write(data.join("much"), vec![7; 30 << 20]).expect("writes");
    run("/usr/bin/sync", &["--file-system", &place]);
    let image = image(&node, "light", "data");
    let allocated = || std::fs::metadata(&image).expect("it is there").blocks() * 512;
    let full = allocated();
    assert!(full >= 30 << 20, "{full} bytes");
    std::fs::remove_file(data.join("much")).expect("deletes");
    run("/usr/bin/sync", &["--file-system", &place]);
    let said = volume(&node, &["trim", "light/data"]).done();
    assert!(said.starts_with("light/data gave ") && said.contains(" back to the host"), "{said}");
    let left = allocated();
    assert!(left + (30 << 20) <= full, "{left} of {full} bytes are still allocated");
    let shown = node.client().volume("light", "data").await.expect("is listed");
    assert_eq!((shown.allocated_bytes, shown.size_bytes), (left, 64 << 20), "the page agrees");
    node.end().await;
}

#[tokio::test]
async fn a_kill_during_a_growth_or_a_reset_leaves_a_volume_that_serves() {
    let rounds = if is_full() { 20 } else { 3 };
    let mut node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("tried", "24M"), node.directory()).await.expect("deploys");
    node.client().act("stop", "tried").await.expect("stops");
    let mut size = 24;
    for round in 0..rounds {
        for act in ["grow", "reset"] {
            let larger = format!("{}M", size + 8);
            let mut command = Command::new(binary("belay"));
            command.env("BELAY_SOCKET", node.socket()).args(["volume", act, "tried/data"]);
            if act == "grow" {
                command.arg(&larger);
            }
            let asked = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let mut asked = asked.expect("belay runs");
            // From before the first step to after the last, over the rounds.
            tokio::time::sleep(Duration::from_millis(4 + 23 * round % 120)).await;
            node.kill();
            asked.wait().expect("belay ends with its connection");
            node.launch().await;
            node.client().act("start", "tried").await.expect("starts on what there is");
            let shown = node.client().volume("tried", "data").await.expect("is listed");
            let now = shown.size_bytes >> 20;
            assert!(now == size || now == size + 8, "{act}: {shown:?}");
            assert!(shown.mounted && shown.fault.is_none(), "{act}: {shown:?}");
            assert!(shown.allocated_bytes >= shown.size_bytes, "{act}: {shown:?}");
            node.client().act("stop", "tried").await.expect("stops");
            // Given again it is done, wherever it was cut off.
            if act == "grow" {
                volume(&node, &["grow", "tried/data", &larger]).done();
                size += 8;
            }
        }
    }
    node.end().await;
}

#[tokio::test]
async fn a_volume_without_a_workload_is_kept_until_it_is_deleted_by_name() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("gone", "16M"), node.directory()).await.expect("deploys");
    node.client().remove("gone", VolumeFate::Keep).await.expect("removes");
    let list = volume(&node, &["ls"]).done();
    assert!(list.contains("no workload names it"), "{list}");
    for act in [&["grow", "gone/data", "32M"][..], &["reset", "gone/data"], &["trim", "gone/data"]]
    {
        volume(&node, act).refused(69, &["no workload names gone/data", "belay volume rm"]);
    }
    let said = volume(&node, &["check", "gone/data"]).done();
    assert_eq!(said, "the file system of gone/data is clean\n");
    let said = volume(&node, &["rm", "gone/data"]).done();
    assert_eq!(said, "gone/data is deleted with everything in it\n");
    assert!(!image(&node, "gone", "data").exists());
    assert!(node.client().volume("gone", "data").await.is_err(), "the page agrees");
    volume(&node, &["rm", "gone/data"]).refused(66, &["there is no volume gone/data"]);
    volume(&node, &["rm", "gone/system"]).done();
    node.end().await;
}

#[tokio::test]
async fn a_size_or_a_name_that_cannot_be_is_refused_with_the_next_step() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("plain", "16M"), node.directory()).await.expect("deploys");
    for (size, words) in [
        ("0", "it is zero"),
        ("64MB", "\"MB\" is not a unit"),
        ("1 potato", "is not a unit"),
        ("M", "expected a number"),
        ("99999999999999T", "larger than any disk"),
    ] {
        volume(&node, &["grow", "plain/data", size]).refused(64, &[words, "next: name a size"]);
    }
    let long = format!("plain/{}", "x".repeat(300));
    for (name, words) in [
        ("plain", "expected WORKLOAD/VOLUME"),
        ("plain/../../etc", "is not a volume name"),
        ("plain/da.ta", "is not a volume name"),
        (&long, "at most 63 characters, this one has 300"),
    ] {
        volume(&node, &["reset", name]).refused(64, &[words]);
    }
    volume(&node, &["show", "plain/dat"]).refused(66, &["it has plain/data, plain/system"]);
    let absent = volume(&node, &["grow", "plain/dat", "32M"]);
    absent.refused(66, &["there is no volume plain/dat; plain has data"]);
    volume(&node, &["reset", "plian/data"]).refused(66, &["no workload plian"]);
    let shown = node.client().volume("plain", "data").await.expect("is listed");
    assert_eq!(shown.size_bytes, 16 << 20, "nothing was changed");
    node.end().await;
}

#[tokio::test]
async fn a_volume_that_fills_or_refuses_writes_is_noticed_in_time() {
    let node = Node::start(NodeOptions::default()).await;
    node.client().deploy(&idle("watched", "32M"), node.directory()).await.expect("deploys");
    let data = node.volume("watched", "data").await;
    let look = || async { node.client().volume("watched", "data").await };
    assert_eq!(look().await.expect("is listed").level, VolumeLevel::Normal);
    let usage = look().await.expect("is listed").usage.expect("it is mounted");
    let can_have = usage.used_bytes + usage.available_bytes;
    let fill = usize::try_from(can_have * 86 / 100 - usage.used_bytes).expect("a few MiB");
    std::fs::write(data.join("fill"), vec![1; fill]).expect("writes");
    until("the warning", NOTICED, || async {
        let shown = look().await?;
        if shown.level == VolumeLevel::Warning { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
    assert!(node.log_text().contains("percent of its bytes are used"), "{}", node.log_text());

    let mount = data.parent().expect("the mount").display().to_string();
    let began = Instant::now();
    run("/usr/bin/mount", &["-o", "remount,ro", &mount]);
    let metrics = || async { node.client().metrics().await };
    let line = |name: &str, value: &str| {
        format!("belay_volume_{name}{{workload=\"watched\",volume=\"data\"}} {value}")
    };
    until("the read-only volume to be noticed", NOTICED, || async {
        let page = metrics().await?;
        let wanted = line("read_only", "1");
        if page.lines().any(|found| found == wanted) { Ok(()) } else { Err(page) }
    })
    .await;
    assert!(began.elapsed() < NOTICED, "{:?}", began.elapsed());
    let shown = look().await.expect("is listed");
    assert!(shown.usage.expect("it is mounted").read_only);
    let list = volume(&node, &["ls"]).done();
    assert!(list.lines().any(|line| line.contains("watched") && line.ends_with("read-only")));
    run("/usr/bin/mount", &["-o", "remount,rw", &mount]);
    until("its end to be noticed", NOTICED, || async {
        let page = metrics().await?;
        let wanted = line("read_only", "0");
        if page.lines().any(|found| found == wanted) { Ok(()) } else { Err(page) }
    })
    .await;
    let log = node.log_text();
    for told in ["it refuses writes: read-only", "it takes writes again"] {
        assert_eq!(log.matches(told).count(), 1, "told once: {told}\n{log}");
    }

    let page = metrics().await.expect("answers");
    for wanted in [
        line("size_bytes", &(32 << 20).to_string()),
        "belay_workload_phase{workload=\"watched\",phase=\"ready\"} 1".to_owned(),
        "belay_workload_restarts{workload=\"watched\"} 0".to_owned(),
        "belay_ready 1".to_owned(),
        "belay_host_overcommitted 0".to_owned(),
    ] {
        assert!(page.lines().any(|found| found == wanted), "{wanted} is not in\n{page}");
    }
    node.end().await;
}
