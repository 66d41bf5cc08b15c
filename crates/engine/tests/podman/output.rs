//! Output: logs, commands, files.

use std::io::Read;
use std::time::Duration;

use belay_engine::{EngineError, EngineKind, ExecSpec, LogLine, LogOptions, LogStream, Network};
use futures_util::{StreamExt, TryStreamExt};

use crate::world::{World, eventually};

async fn all(world: &World, name: &str, options: LogOptions) -> Vec<LogLine> {
    let lines = world.engine.logs(name, &options).try_collect();
    tokio::time::timeout(Duration::from_secs(30), lines)
        .await
        .expect("the log ends")
        .expect("the log can be read")
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|line| line.text().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_what_was_written_where_and_when() {
    let world = World::new().await;
    let script = "echo one; echo two >&2; echo; printf 'no end'; sleep 0.2";
    let mut spec = world.spec("log", &["/bin/sh", "-c", script]);
    spec.network = Network::None;
    let begun = jiff::Timestamp::now();
    let id = world.run(&spec).await;
    world.engine.wait(&id, Duration::from_secs(20)).await.expect("it ends");

    let lines = all(&world, &spec.name, LogOptions::default()).await;
    let mut seen = texts(&lines);
    seen.sort();
    assert_eq!(seen, ["", "no end", "one", "two"], "each line once");
    for line in &lines {
        let expected = if line.text() == "two" { LogStream::Stderr } else { LogStream::Stdout };
        assert_eq!(line.stream, expected, "{line:?}");
        let time = line.time.expect("a time");
        assert!(time.as_second() >= begun.as_second() - 1, "{line:?}");
    }
    let tail = all(&world, &spec.name, LogOptions { tail: Some(1), ..LogOptions::default() }).await;
    assert_eq!(tail.len(), 1);
    let since = Some(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60));
    let later = all(&world, &spec.name, LogOptions { since, ..LogOptions::default() }).await;
    assert_eq!(texts(&later), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_on_with_times_that_tell_lines_of_one_second_apart() {
    let world = World::new().await;
    let script = "echo one; sleep 0.05; echo two >&2; read x < /go; echo three; printf 'no end'";
    let script = format!("mkfifo /go; {script}");
    let mut spec = world.spec("timed", &["/bin/sh", "-c", &script]);
    spec.network = Network::None;
    let id = world.run(&spec).await;
    let mut log = world.engine.timed_log(&id).await.expect("it has one");
    let gather = |lines: &mut Vec<LogLine>, line: LogLine| lines.push(line);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut first = Vec::new();
    while first.len() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "{first:?}");
        first = log.read(first, gather).await.expect("read");
        tokio::task::yield_now().await;
    }
    assert_eq!(texts(&first), ["one", "two"]);
    let times: Vec<jiff::Timestamp> = first.iter().map(|line| line.time.expect("a time")).collect();
    let apart = times[1].duration_since(times[0]);
    assert!(apart >= jiff::SignedDuration::from_millis(40), "{apart}");
    assert!(log.size().await > Some(0) || world.engine.info().kind == EngineKind::Docker);

    let go = ExecSpec::new(["/bin/sh", "-c", "echo > /go"]);
    world.engine.exec(&id, &go).await.expect("it goes on");
    world.engine.wait(&id, Duration::from_secs(20)).await.expect("it ends");
    let mut last = log.read(Vec::new(), gather).await.expect("read");
    last.extend(log.rest());
    assert_eq!(texts(&last), ["three", "no end"], "and nothing a second time");
    world.engine.remove(&id, belay_engine::Removal::Stopped).await.expect("removed");
    assert!(log.read(Vec::new(), gather).await.expect("nothing more").is_empty());
    assert!(world.engine.timed_log(&id).await.is_err(), "there is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_ends_with_the_container_and_can_be_dropped() {
    let world = World::new().await;
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let spec = world.spec("follow", &["/bin/sh", "-c", script]);
    let id = world.run(&spec).await;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut dropped = world.engine.logs(&id, &options);
    let mut followed = world.engine.logs(&id, &options);
    for log in [&mut dropped, &mut followed] {
        let line = tokio::time::timeout(Duration::from_secs(20), log.next()).await;
        assert_eq!(line.expect("in time").expect("a line").expect("read").text(), "ready");
    }
    drop(dropped);
    world.engine.stop(&id, Duration::from_secs(10)).await.expect("stopped");
    let rest: Vec<LogLine> = tokio::time::timeout(Duration::from_secs(20), followed.try_collect())
        .await
        .expect("it ends with the container")
        .expect("read");
    assert_eq!(texts(&rest), ["bye"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_container_that_writes_without_end_is_bounded() {
    let world = World::new().await;
    let mut spec =
        world.spec("flood", &["/bin/sh", "-c", "yes 0123456789abcdef | head -c 30000000"]);
    spec.network = Network::None;
    spec.log = belay_engine::LogLimit { bytes: 256 << 10, files: 4 };
    let id = world.run(&spec).await;
    world.engine.wait(&id, Duration::from_mins(1)).await.expect("it ends");
    let format = match world.engine.info().kind {
        EngineKind::Podman => "{{.HostConfig.LogConfig.Path}}",
        EngineKind::Docker => "{{.LogPath}}",
    };
    let path = crate::world::command_line(&["inspect", "--format", format, id.as_str()]);
    let path = String::from_utf8(path).expect("text");
    let kept = std::fs::metadata(path.trim()).expect("the log file").len();
    assert!(kept <= 2 << 20, "{kept} bytes are kept of 30 MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_does_not_fill_the_memory() {
    let world = World::new().await;
    let script = "yes | tr -d '\\n' | head -c 1000000; echo; echo last";
    let mut spec = world.spec("line", &["/bin/sh", "-c", script]);
    spec.network = Network::None;
    let id = world.run(&spec).await;
    world.engine.wait(&id, Duration::from_mins(1)).await.expect("it ends");
    let lines = all(&world, &spec.name, LogOptions::default()).await;
    assert!(lines.iter().all(|line| line.bytes.len() <= LogLine::BYTES_MAX));
    let kept: usize = lines.iter().map(|line| line.text().matches('y').count()).sum();
    assert_eq!(kept, 1_000_000, "it comes in pieces, of which none is lost");
    assert_eq!(lines.last().expect("lines").text(), "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_an_absent_container_is_one_error() {
    let world = World::new().await;
    let mut log = world.engine.logs(world.named("absent"), &LogOptions::default());
    let error = log.next().await.expect("an item").expect_err("absent");
    assert!(error.is_absent(), "{error:?}");
    let mut files = world.engine.archive_out(world.named("absent"), "/etc");
    let error = files.next().await.expect("an item").expect_err("absent");
    assert!(error.is_absent(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_gives_its_code_and_both_outputs() {
    let world = World::new().await;
    let id = world.run(&world.obedient("exec")).await;
    let mut spec = ExecSpec::new(["/bin/sh", "-c", "echo $A; id -u; pwd; echo err >&2; exit 7"]);
    spec.env = vec![("A".to_owned(), "x y".to_owned())];
    spec.user = Some("app".to_owned());
    spec.working_dir = Some("/tmp".to_owned());
    let out = world.engine.exec(&id, &spec).await.expect("run");
    assert_eq!((out.exit_code, out.dropped), (7, 0));
    assert_eq!((&out.stdout[..], &out.stderr[..]), (&b"x y\n1000\n/tmp\n"[..], &b"err\n"[..]));

    let out = world.engine.exec(&id, &ExecSpec::new(["/bin/true"])).await.expect("run");
    assert_eq!((out.exit_code, out.stdout.len(), out.stderr.len()), (0, 0, 0));

    let mut flood = ExecSpec::new(["/bin/sh", "-c", "yes | head -c 300000"]);
    flood.output_max = 1000;
    let out = world.engine.exec(&id, &flood).await.expect("run");
    assert_eq!((out.exit_code, out.stdout.len(), out.dropped), (0, 1000, 299_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_there_is_no_success() {
    let world = World::new().await;
    let id = world.run(&world.obedient("exec")).await;
    match world.engine.exec(&id, &ExecSpec::new(["/bin/no-such-program"])).await {
        Ok(out) => assert!(out.exit_code == 126 || out.exit_code == 127, "{out:?}"),
        Err(error) => assert!(matches!(error, EngineError::Invalid { .. }), "{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_killed() {
    let world = World::new().await;
    let id = world.run(&world.obedient("slow")).await;
    let mut spec = ExecSpec::new(["/bin/sleep", "1234"]);
    spec.deadline = Duration::from_millis(700);
    let error = world.engine.exec(&id, &spec).await.expect_err("too long");
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error:?}");
    eventually("the command is gone", || async {
        let out = world.engine.exec(&id, &ExecSpec::new(["/bin/ps"])).await.ok()?;
        (!String::from_utf8_lossy(&out.stdout).contains("sleep 1234")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_out_as_a_tar_also_of_a_stopped_container() {
    let world = World::new().await;
    let mut spec = world.spec("files", &["/bin/sh", "-c", "echo content > /data/file"]);
    spec.network = Network::None;
    let id = world.run(&spec).await;
    world.engine.wait(&id, Duration::from_secs(20)).await.expect("it ends");
    let pieces: Vec<bytes::Bytes> =
        world.engine.archive_out(&id, "/data").try_collect().await.expect("read");
    let bytes = pieces.concat();
    let mut archive = tar::Archive::new(&bytes[..]);
    let found = archive.entries().expect("a tar").find_map(|entry| {
        let mut entry = entry.expect("whole");
        let is_it = entry.path().expect("a path").ends_with("data/file");
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("read");
        is_it.then_some(text)
    });
    assert_eq!(found.as_deref(), Some("content\n"));
    let error = world.engine.archive_out(&id, "/no/such").try_collect::<Vec<_>>().await;
    assert!(error.as_ref().is_err_and(EngineError::is_absent), "{error:?}");
}
