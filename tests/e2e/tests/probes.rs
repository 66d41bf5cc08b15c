//! Readiness, liveness and the ladder of restarts, with a real belayd and real containers.

use std::path::Path;
use std::time::{Duration, Instant};

use belay_harness::{Node, NodeOptions, checked_image, free_port, until};
use belay_protocol::{
    Event, EventDetails, ProbeVerdict, ProblemCode, WorkloadPhase, WorkloadStatus,
};

const SOON: Duration = Duration::from_secs(60);

/// A workload `app` that counts its starts on its volume and then sleeps, with these lines.
fn spec(lines: &str) -> String {
    format!(
        r#"
name = "app"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "echo started >> /data/starts; exec sleep 100000"]
stop_grace = "0s"
{lines}
[volumes.data]
size = "16M"
mount = "/data"
"#
    )
}

async fn app(node: &Node) -> WorkloadStatus {
    node.client().workload("app").await.expect("is there")
}

fn starts(data: &Path) -> usize {
    std::fs::read_to_string(data.join("starts")).unwrap_or_default().lines().count()
}

/// How many processes of the host run this command line.
fn processes(argv: &[&str]) -> usize {
    let wanted = argv.iter().flat_map(|arg| [arg.as_bytes(), b"\0"]).flatten().copied();
    let wanted: Vec<u8> = wanted.collect();
    let all = std::fs::read_dir("/proc").expect("proc is mounted");
    all.filter_map(Result::ok)
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline")).is_ok_and(|found| found == wanted)
        })
        .count()
}

/// The phases that were entered after the event of this number, and why.
async fn turns(node: &Node, after: u64) -> Vec<(WorkloadPhase, String)> {
    let query = format!("after={after}&limit=1000");
    let page = node.client().events(&query).await.expect("a page");
    let turn = |event: Event| match event.details {
        EventDetails::PhaseChanged { to, cause, .. } => Some((to, cause.to_string())),
        _ => None,
    };
    page.events.into_iter().filter_map(turn).collect()
}

/// The number of the newest event.
async fn newest(node: &Node) -> u64 {
    let page = node.client().events("after=0&limit=1000").await.expect("a page");
    page.events.last().map_or(0, |event| event.seq.get())
}

#[tokio::test]
async fn an_unhealthy_workload_is_restarted_on_the_ladder_and_it_says_why() {
    let node = Node::start(NodeOptions::default()).await;
    let spec = spec(
        r#"
[ready]
interval = "100ms"
[live]
exec = { command = ["/bin/test", "!", "-e", "/data/ill"] }
interval = "1s"
failures = 2
"#,
    );
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    let data = node.volume("app", "data").await;
    until("a good answer", SOON, || async {
        let found = node.client().workload("app").await?;
        let live = found.live.clone().ok_or("no liveness yet")?;
        let good = live.verdict == ProbeVerdict::Good && live.counts.good > 0;
        if good { Ok(()) } else { Err(format!("{live:?}")) }
    })
    .await;
    let well = app(&node).await;

    std::fs::write(data.join("ill"), "").expect("makes it ill");
    let ill = until("its second restart", SOON, || async {
        let found = node.client().workload("app").await?;
        match &found.back_off {
            Some(back_off) if back_off.failures >= 2 => Ok(found),
            other => Err(format!("{}: {}; {other:?}", found.phase.as_str(), found.reason)),
        }
    })
    .await;
    let fault = ill.last_fault.clone().expect("it says why");
    assert_eq!(fault.code, "unhealthy");
    let said = "app is unhealthy: 2 failures in a row, 2 make it unhealthy";
    assert!(fault.message.starts_with(said), "{}", fault.message);
    assert!(fault.message.contains("the command exits with 1"), "{}", fault.message);
    assert!(ill.reason.contains(said), "{}", ill.reason);
    let turns = turns(&node, 0).await;
    let restarted = |(_, cause): &(_, String)| cause.starts_with("failure 1 in a row");
    assert!(turns.iter().any(restarted), "{turns:?}");
    assert_eq!(ill.container.map(|c| c.id), well.container.map(|c| c.id), "the same container");

    std::fs::remove_file(data.join("ill")).expect("makes it well");
    let again = node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    assert!(again.restarts >= 2, "{}", again.restarts);
    assert!(starts(&data) >= 3);
    let page = node.client().metrics().await.expect("numbers");
    let line =
        r#"belay_workload_probe_results_total{workload="app",probe="live",result="failing"}"#;
    assert!(page.lines().any(|found| found.starts_with(line)), "{page}");
    node.end().await;
}

#[tokio::test]
async fn an_unhealthy_workload_is_only_shown_or_stopped_where_its_spec_says_so() {
    let node = Node::start(NodeOptions::default()).await;
    let live = |action: &str| {
        spec(&format!(
            r#"
[ready]
interval = "100ms"
[live]
exec = {{ command = ["/bin/test", "!", "-e", "/data/ill"] }}
interval = "1s"
failures = 1
action = "{action}"
"#
        ))
    };
    node.client().deploy(&live("none"), node.directory()).await.expect("deploys");
    let data = node.volume("app", "data").await;
    std::fs::write(data.join("ill"), "").expect("makes it ill");
    let shown = node.client().wait_for("app", WorkloadPhase::Unready, SOON).await;
    assert!(shown.reason.starts_with("it is unhealthy: "), "{}", shown.reason);
    std::fs::remove_file(data.join("ill")).expect("makes it well");
    let well = node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    assert_eq!((well.restarts, well.last_fault, starts(&data)), (0, None, 1));

    node.client().deploy(&live("stop"), node.directory()).await.expect("deploys");
    std::fs::write(data.join("ill"), "").expect("makes it ill");
    let stopped = node.client().wait_for("app", WorkloadPhase::Failed, SOON).await;
    assert!(stopped.reason.contains("app is unhealthy: "), "{}", stopped.reason);
    let fault = stopped.last_fault.expect("it says why");
    assert!(fault.next.ends_with("belay start app"), "{}", fault.next);
    let exit = stopped.container.and_then(|container| container.exit);
    assert!(exit.is_some(), "its container stays to be looked at");
    std::fs::remove_file(data.join("ill")).expect("makes it well");
    node.client().act("start", "app").await.expect("an operator may start it");
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    node.end().await;
}

#[tokio::test]
async fn a_command_that_hangs_tells_nothing_and_is_not_left_behind() {
    let node = Node::start(NodeOptions::default()).await;
    // A figure of its own, so that only this test's commands are counted.
    let seconds = format!("8{:06}", std::process::id());
    let spec = spec(&format!(
        r#"
[ready]
exec = {{ command = ["/bin/test", "-s", "/data/starts"] }}
interval = "100ms"
[live]
exec = {{ command = ["/bin/sh", "-c", "/bin/sleep {seconds}; true"] }}
interval = "1s"
failures = 1
probe_timeout = "300ms"
"#
    ));
    let outcome = node.client().deploy(&spec, node.directory()).await.expect("deploys");
    assert_eq!(outcome.summary, "app is deployed and ready");
    let found = until("three answers", SOON, || async {
        let found = node.client().workload("app").await?;
        let live = found.live.clone().ok_or("no liveness yet")?;
        if live.counts.inconclusive >= 3 { Ok(found) } else { Err(format!("{live:?}")) }
    })
    .await;
    let live = found.live.expect("was there");
    assert_eq!((live.counts.failing, live.verdict), (0, ProbeVerdict::Good), "{live:?}");
    assert_eq!(live.last.map(|seen| seen.text).as_deref(), Some("no answer within 0.3 s"));
    assert_eq!((found.phase, found.restarts), (WorkloadPhase::Ready, 0));
    // One may be under way; what was cut off is gone.
    until("the commands that were cut off to be gone", SOON, || async {
        let left = processes(&["/bin/sleep", &seconds]);
        if left <= 1 { Ok(()) } else { Err(format!("{left} processes")) }
    })
    .await;
    node.client().act("stop", "app").await.expect("stops");
    assert_eq!(processes(&["/bin/sleep", &seconds]), 0);
    node.end().await;
}

#[tokio::test]
async fn the_health_check_of_an_image_is_asked() {
    let node = Node::start(NodeOptions::default()).await;
    let test = ["CMD", "/bin/test", "-e", "/data/ok"];
    checked_image(node.directory(), &test).expect("an image");
    let spec = spec("[ready]\nhealthcheck = true\ninterval = \"100ms\"");
    let checked = spec.replace("busybox.tar", "checked.tar");
    let deploy = node.client().deploy(&checked, node.directory());
    let make_well = async {
        let data = node.volume("app", "data").await;
        until("an answer that it is not ready", SOON, || async {
            let found = node.client().workload("app").await?;
            let ready = found.ready.clone().ok_or("not asked yet")?;
            if ready.counts.failing > 0 { Ok(()) } else { Err(format!("{ready:?}")) }
        })
        .await;
        std::fs::write(data.join("ok"), "").expect("makes it well");
    };
    let (deployed, ()) = tokio::join!(deploy, make_well);
    assert_eq!(deployed.expect("deploys").summary, "app is deployed and ready");
    let ready = app(&node).await.ready.expect("was asked");
    assert_eq!(ready.probe, "the image's health check");
    assert!(ready.counts.good >= 3 && ready.counts.failing > 0, "{ready:?}");

    // An image without one can never be found ready by it.
    let began = Instant::now();
    let patient = spec.replace("interval", "timeout = \"60s\"\ninterval");
    let refused = node.client().deploy(&patient, node.directory()).await;
    let problem = refused.expect_err("has none").problem();
    assert_eq!(problem.code, ProblemCode::NotReady);
    let said = "it can never become ready";
    assert!(problem.detail.contains(said), "{}", problem.detail);
    assert!(problem.detail.contains("the image declares no health check"), "{}", problem.detail);
    assert!(problem.detail.ends_with("generation 1 was restored and is ready"));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    node.end().await;
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_could_not_be_told() {
    let node = Node::start(NodeOptions::default()).await;
    let port = free_port();
    let web = |tables: &str| {
        format!(
            r#"
name = "app"
image = "file:busybox.tar"
command = ["/bin/sh", "-c", "mkdir -p /tmp/cgi-bin; cd /tmp/cgi-bin; echo '#!/bin/sh' > hang; echo 'sleep 100000' >> hang; cp /bin/busybox x; cat hang > x; rm hang; mv x hang; exec httpd -f -p 8080 -h /tmp"]
stop_grace = "0s"
[[ports]]
container = 8080
host = {port}
{tables}
"#
        )
    };
    let hangs = "http = { port = 8080, path = \"/cgi-bin/hang\" }\nprobe_timeout = \"300ms\"";
    let live = format!("[live]\n{hangs}\ninterval = \"1s\"\nfailures = 1");
    let ready = format!("[ready]\ntcp = {{ port = 8080 }}\ninterval = \"100ms\"\n{live}");
    node.client().deploy(&web(&ready), node.directory()).await.expect("deploys");
    let found = until("three answers", SOON, || async {
        let found = node.client().workload("app").await?;
        let live = found.live.clone().ok_or("no liveness yet")?;
        if live.counts.inconclusive >= 3 { Ok(found) } else { Err(format!("{live:?}")) }
    })
    .await;
    let live = found.live.expect("was there");
    assert_eq!(live.counts.failing, 0, "{live:?}");
    assert_eq!((found.phase, found.restarts), (WorkloadPhase::Ready, 0));

    let ready = format!("[ready]\n{hangs}\ntimeout = \"3s\"");
    let failed = node.client().deploy(&web(&ready), node.directory()).await;
    let problem = failed.expect_err("is never ready").problem();
    assert_eq!(problem.code, ProblemCode::NotReady);
    assert!(problem.detail.contains("app: not ready in time: 0 of 3"), "{}", problem.detail);
    // Before the server listens it refuses, which is "not yet".
    assert!(problem.detail.contains("(0 good, "), "{}", problem.detail);
    assert!(!problem.detail.contains(" 0 inconclusive"), "{}", problem.detail);
    assert!(problem.detail.contains("last seen: no answer within 0.3 s"), "{}", problem.detail);
    node.end().await;
}

#[tokio::test]
async fn what_can_never_become_ready_ends_a_deploy_at_once_and_the_version_before_is_back() {
    let node = Node::start(NodeOptions::default()).await;
    let patient = "[ready]\ninterval = \"100ms\"\ntimeout = \"600s\"";
    node.client().deploy(&spec(patient), node.directory()).await.expect("deploys");
    let before = app(&node).await.container.expect("runs").id;
    let absent = spec(patient).replace("\"/bin/sh\", \"-c\"", "\"/bin/absent\", \"-c\"");
    let probe = patient.replace("interval", "exec = { command = [\"/absent\"] }\ninterval");
    for (bad, code) in [(absent, ProblemCode::StartFailed), (spec(&probe), ProblemCode::NotReady)] {
        let began = Instant::now();
        let failed = node.client().deploy(&bad, node.directory()).await;
        let problem = failed.expect_err("can never run").problem();
        assert_eq!(problem.code, code, "{}", problem.detail);
        assert!(problem.detail.ends_with("was restored and is ready"), "{}", problem.detail);
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
    let found = app(&node).await;
    assert_eq!((found.phase, found.generation), (WorkloadPhase::Ready, 1));
    assert_eq!(found.container.map(|container| container.id), Some(before));
    node.end().await;
}

#[tokio::test]
async fn a_ready_workload_stays_ready_while_belayd_is_killed_until_it_is_disproved() {
    let mut node = Node::start(NodeOptions::default()).await;
    let spec = spec(
        r#"
[ready]
exec = { command = ["/bin/test", "!", "-e", "/data/ill"] }
interval = "100ms"
timeout = "2s"
[live]
interval = "1s"
action = "none"
"#,
    );
    node.client().deploy(&spec, node.directory()).await.expect("deploys");
    let data = node.volume("app", "data").await;
    let before = app(&node).await;
    let told = newest(&node).await;
    node.kill();
    node.launch().await;
    let kept = until("it to be asked again", SOON, || async {
        let found = node.client().workload("app").await?;
        let ready = found.ready.clone().ok_or("not looked at yet")?;
        if ready.counts.good >= 3 { Ok(found) } else { Err(format!("{ready:?}")) }
    })
    .await;
    assert_eq!((kept.phase, kept.container), (WorkloadPhase::Ready, before.container));
    let turns_since = turns(&node, told).await;
    let not = |(phase, _): &(WorkloadPhase, String)| {
        !matches!(phase, WorkloadPhase::Probing | WorkloadPhase::Unready)
    };
    assert!(turns_since.iter().all(not), "{turns_since:?}");

    node.kill();
    std::fs::write(data.join("ill"), "").expect("makes it ill");
    node.launch().await;
    let ill = node.client().wait_for("app", WorkloadPhase::Unready, SOON).await;
    assert_eq!((ill.restarts, starts(&data)), (0, 1), "it is left running");

    // What was found unhealthy is not well for a restart of belayd either.
    std::fs::remove_file(data.join("ill")).expect("makes it well");
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    std::fs::write(data.join("ill"), "").expect("makes it ill");
    node.client().wait_for("app", WorkloadPhase::Unready, SOON).await;
    let told = newest(&node).await;
    node.kill();
    node.launch().await;
    let still = until("it to be asked again", SOON, || async {
        let found = node.client().workload("app").await?;
        let live = found.live.clone().ok_or("not looked at yet")?;
        if live.counts.failing >= 1 { Ok(found) } else { Err(format!("{live:?}")) }
    })
    .await;
    assert_ne!(still.phase, WorkloadPhase::Ready);
    let turns_since = turns(&node, told).await;
    assert!(turns_since.iter().all(|(to, _)| *to != WorkloadPhase::Ready), "{turns_since:?}");
    node.end().await;
}

#[tokio::test]
async fn restarts_that_do_not_help_end_at_their_limit_until_an_operator_starts_it() {
    let mut node = Node::start(NodeOptions::default()).await;
    let spec = spec("restart_limit = 2")
        .replace("exec sleep 100000", "[ -e /data/well ] && exec sleep 100000; exit 3");
    let failed = node.client().deploy(&spec, node.directory()).await;
    assert!(failed.expect_err("crashes").problem().detail.contains("app exited with 3"));
    let ended = node.client().wait_for("app", WorkloadPhase::Failed, SOON).await;
    let data = node.volume("app", "data").await;
    assert_eq!(starts(&data), 3, "one start and two restarts");
    assert!(ended.reason.contains("2 restarts in a row did not help"), "{}", ended.reason);
    assert_eq!(ended.back_off, None);
    let fault = ended.last_fault.expect("it says why");
    assert!(fault.next.ends_with("then belay start app"), "{}", fault.next);

    node.kill();
    node.launch().await;
    node.client().wait_for("app", WorkloadPhase::Failed, SOON).await;
    assert_eq!(starts(&data), 3, "a restart of belayd is no other chance");
    let left = node.volume("app", "data").await;
    std::fs::write(left.join("well"), "").expect("mends it");
    node.client().act("start", "app").await.expect("an operator may start it");
    node.client().wait_for("app", WorkloadPhase::Ready, SOON).await;
    node.end().await;
}
