//! The life of a container, its refusals, and that what was asked for is what runs.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use belay_engine::{
    Access, BindMount, ContainerState, EngineError, ExecSpec, Limits, Liveness, Network, Object,
    PortBinding, Protocol, Removal, RestartPolicy, RootAccess,
};

use crate::world::{World, eventually};

const GRACE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_from_create_to_remove() {
    let world = World::new().await;
    let engine = &world.engine;
    let spec = world.obedient("life");
    let id = engine.create(&spec).await.expect("made");
    let made = engine.inspect(&spec.name).await.expect("looked up").expect("there");
    assert_eq!((&made.id, &made.state), (&id, &ContainerState::Created));
    assert_eq!((&made.name, &made.image_id), (&spec.name, &world.image.id));
    assert_eq!(
        (made.labels.clone(), made.restart_policy),
        (spec.labels.clone(), RestartPolicy::No)
    );
    assert!(made.created.is_some());

    engine.start(&id).await.expect("started");
    engine.start(&id).await.expect("starting a running one does nothing");
    let running = engine.inspect(&id).await.expect("looked up").expect("there");
    let first = running.state.incarnation().expect("it runs");
    assert_eq!(running.state.liveness(), Liveness::Running);
    assert!(crate::world::proc_path(first.pid).exists(), "the pid is the host's");

    let listed = engine.list(&[world.label()]).await.expect("listed");
    assert_eq!(listed, std::slice::from_ref(&running));

    engine.pause(&id).await.expect("frozen");
    let again = engine.pause(&id).await.expect_err("frozen already");
    assert!(matches!(again, EngineError::Conflict { .. }), "{again:?}");
    let frozen = engine.inspect(&id).await.expect("looked up").expect("there");
    assert!(matches!(frozen.state, ContainerState::Paused { .. }), "{:?}", frozen.state);
    assert_eq!(frozen.state.incarnation(), Some(first), "a freeze is no new process");
    engine.unpause(&id).await.expect("thawed");

    let new_name = world.named("renamed");
    engine.rename(&id, &new_name).await.expect("renamed");
    assert_eq!(engine.inspect(&spec.name).await.expect("looked up"), None);

    engine.stop(&new_name, GRACE).await.expect("stopped");
    engine.stop(&new_name, GRACE).await.expect("stopping a stopped one does nothing");
    let stopped = engine.inspect(&id).await.expect("looked up").expect("there");
    assert!(
        matches!(
            stopped.state,
            ContainerState::Exited { exit_code: 3, oom_killed: false, finished_at: Some(_), .. }
        ),
        "{:?}",
        stopped.state
    );

    engine.start(&id).await.expect("started again");
    let second = engine.inspect(&id).await.expect("looked up").expect("there").state.incarnation();
    assert!(second.is_some_and(|second| second != first), "{second:?} follows {first:?}");
    engine.kill(&id, "SIGKILL").await.expect("killed");
    let end = engine.wait(&id, GRACE).await.expect("it ends");
    assert!(matches!(end, ContainerState::Exited { exit_code: 137, .. }), "{end:?}");

    engine.remove(&id, Removal::Stopped).await.expect("removed");
    assert_eq!(engine.inspect(&id).await.expect("looked up"), None);
    engine.remove(&id, Removal::Force).await.expect("removing what is gone does nothing");
    assert_eq!(engine.list(&[world.label()]).await.expect("listed"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_kind_it_is() {
    let world = World::new().await;
    let engine = &world.engine;
    let first = world.obedient("first");
    let running = world.run(&first).await;

    let error = engine.create(&first).await.expect_err("the name is taken");
    assert!(matches!(error, EngineError::Conflict { .. }), "{error:?}");

    let mut spec = world.obedient("second");
    spec.image = "localhost/belay/no-such-image:1".to_owned();
    let error = engine.create(&spec).await.expect_err("no image");
    assert!(
        matches!(&error, EngineError::Absent { object: Object::Image(name), .. } if *name == spec.image),
        "{error:?}"
    );

    let mut spec = world.obedient("second");
    spec.name = "no/name".to_owned();
    let error = engine.create(&spec).await.expect_err("a bad name");
    assert!(matches!(error, EngineError::Invalid { .. }), "{error:?}");

    let mut spec = world.obedient("second");
    spec.cap_add = vec!["NO_SUCH".to_owned()];
    let error = engine.create(&spec).await.expect_err("a bad capability");
    assert!(matches!(error, EngineError::Invalid { .. }), "{error:?}");

    let mut spec = world.spec("second", &["/bin/no-such-program"]);
    spec.network = Network::None;
    let id = engine.create(&spec).await.expect("made");
    let error = engine.start(&id).await.expect_err("no program");
    assert!(matches!(error, EngineError::Invalid { .. }), "{error:?}");
    engine.remove(&id, Removal::Stopped).await.expect("removed");

    let error = engine.remove(&running, Removal::Stopped).await.expect_err("it runs");
    assert!(matches!(error, EngineError::Conflict { .. }), "{error:?}");
    let error = engine.kill(&running, "SIGNONSENSE").await.expect_err("no signal");
    assert!(matches!(error, EngineError::Invalid { .. }), "{error:?}");
    let mut other = world.obedient("other");
    other.network = Network::None;
    let other = engine.create(&other).await.expect("made");
    let error = engine.rename(&other, &first.name).await.expect_err("the name is taken");
    assert!(matches!(error, EngineError::Conflict { .. }), "{error:?}");

    for error in [
        engine.kill(&other, "SIGTERM").await.expect_err("it does not run"),
        engine.pause(&other).await.expect_err("it does not run"),
        engine.exec(&other, &ExecSpec::new(["/bin/true"])).await.expect_err("it does not run"),
    ] {
        assert!(matches!(error, EngineError::Conflict { .. }), "{error:?}");
    }

    let absent = world.named("absent");
    for error in [
        engine.start(&absent).await.expect_err("absent"),
        engine.stop(&absent, GRACE).await.expect_err("absent"),
        engine.kill(&absent, "SIGTERM").await.expect_err("absent"),
        engine.wait(&absent, GRACE).await.expect_err("absent"),
        engine.exec(&absent, &ExecSpec::new(["/bin/true"])).await.expect_err("absent"),
    ] {
        assert!(error.is_absent(), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_mount_source_is_refused_and_not_made() {
    let world = World::new().await;
    let source = world.dir.path().join("no-volume-here");
    let mut spec = world.obedient("mount");
    spec.mounts = vec![BindMount {
        source: source.clone(),
        target: "/data".to_owned(),
        access: Access::ReadWrite,
    }];
    let error = world.engine.create(&spec).await.expect_err("no source");
    assert!(matches!(error, EngineError::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains("no-volume-here"), "{error}");
    assert!(!source.exists(), "the engine would have made it");
    assert_eq!(world.engine.inspect(&spec.name).await.expect("looked up"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_busy_and_may_come_free() {
    let world = World::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let mut spec = world.obedient("port");
    spec.ports = vec![published(port, 80)];
    let id = world.engine.create(&spec).await.expect("made");
    let error = world.engine.start(&id).await.expect_err("the port is taken");
    assert!(matches!(error, EngineError::Busy { .. }), "{error:?}");
    assert!(error.is_retryable());
    drop(taken);
    world.engine.start(&id).await.expect("the port is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_is_what_runs() {
    let world = World::new().await;
    let engine = &world.engine;
    let (writable, readable) = (world.dir.path().join("rw"), world.dir.path().join("ro"));
    for folder in [&writable, &readable] {
        std::fs::create_dir(folder).expect("a folder");
        std::fs::write(folder.join("index.html"), "hello\n").expect("a file");
    }
    let mut spec = world.spec("asked", &["/bin/httpd", "-f", "-p", "8080", "-h", "/ro"]);
    spec.env = vec![("SECRET".to_owned(), "a=b c".to_owned())];
    spec.mounts = vec![
        BindMount { source: writable.clone(), target: "/rw".to_owned(), access: Access::ReadWrite },
        BindMount { source: readable.clone(), target: "/ro".to_owned(), access: Access::ReadOnly },
    ];
    spec.ports = vec![published(0, 8080)];
    spec.hostname = Some("asked".to_owned());
    spec.working_dir = Some("/tmp".to_owned());
    spec.limits = Limits { memory: Some(64 << 20), nano_cpus: Some(500_000_000), pids: Some(32) };
    spec.root = RootAccess::ReadOnly;
    spec.cap_drop = vec!["ALL".to_owned()];
    spec.tmpfs = [("/scratch".to_owned(), "size=1m".to_owned())].into();
    let id = world.run(&spec).await;

    let seen = engine.inspect(&id).await.expect("looked up").expect("there");
    assert_eq!(seen.limits, spec.limits);
    assert_eq!(seen.mounts.len(), 2);
    for mount in &spec.mounts {
        assert!(
            seen.mounts.iter().any(|seen| seen.source == mount.source
                && seen.target == mount.target
                && seen.access == mount.access),
            "{mount:?} in {:?}",
            seen.mounts
        );
    }
    let [port] = seen.ports[..] else { panic!("one port: {:?}", seen.ports) };
    assert_ne!(port.host_port, 0, "the engine chose a port and tells which");
    let page = eventually("the page over the published port", || async {
        let mut stream = TcpStream::connect(("127.0.0.1", port.host_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    })
    .await;
    assert!(page.ends_with("hello\n"), "{page}");
    assert!(matches!(seen.address, Some(IpAddr::V4(_))), "{:?}", seen.address);

    let script = "cat /proc/self/status; echo SECRET=$SECRET; cat /proc/sys/kernel/hostname; pwd; \
                  touch /rw/made && echo rw-written; touch /ro/made && echo ro-written; \
                  touch /root-made && echo root-written; touch /scratch/x && echo scratch-written; \
                  grep ' /rw ' /proc/self/mountinfo";
    let out = engine.exec(&id, &ExecSpec::new(["/bin/sh", "-c", script])).await.expect("run");
    let said = String::from_utf8(out.stdout.to_vec()).expect("text");
    for line in [
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "SECRET=a=b c",
        "asked",
        "/tmp",
        "rw-written",
        "scratch-written",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} in {said}");
    }
    for line in ["ro-written", "root-written"] {
        assert!(!said.contains(line), "{line:?} in {said}");
    }
    let mount = said.lines().find(|line| line.contains(" /rw ")).expect("the mount");
    assert!(!mount.contains("shared:") && !mount.contains("master:"), "rprivate: {mount}");
    assert!(writable.join("made").exists());

    // The limits are the kernel's too, under either version of control groups.
    let pid = seen.state.incarnation().expect("it runs").pid;
    assert_eq!(limit_of(pid, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(limit_of(pid, "pids", "pids.max", "pids.max"), "32");
}

/// Reads a limit of a process from the control group file system.
fn limit_of(pid: u32, controller: &str, v1: &str, v2: &str) -> String {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
    let path = groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            if controllers.split(',').any(|name| name == controller) {
                Some(format!("/sys/fs/cgroup/{controller}{path}/{v1}"))
            } else if controllers.is_empty() {
                Some(format!("/sys/fs/cgroup{path}/{v2}"))
            } else {
                None
            }
        })
        .find(|path| std::path::Path::new(path).exists())
        .expect("a limit file");
    std::fs::read_to_string(path).expect("the limit").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_for_want_of_memory_is_told_apart() {
    let world = World::new().await;
    // The shell's own memory grows until the limit.
    let eat = "a=0123456789; while :; do a=$a$a; done";
    let mut spec = world.spec("oom", &["/bin/sh", "-c", eat]);
    spec.limits.memory = Some(16 << 20);
    spec.network = Network::None;
    let id = world.run(&spec).await;
    let end = world.engine.wait(&id, Duration::from_mins(1)).await.expect("it ends");
    assert!(
        matches!(end, ContainerState::Exited { exit_code: 137, oom_killed: true, .. }),
        "{end:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_container_is_killed_after_its_grace() {
    let world = World::new().await;
    let mut spec =
        world.spec("deaf", &["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    spec.network = Network::None;
    let id = world.run(&spec).await;
    let error = world.engine.wait(&id, Duration::from_millis(300)).await.expect_err("it runs");
    assert!(matches!(error, EngineError::TimedOut { .. }), "{error:?}");
    let begun = std::time::Instant::now();
    world.engine.stop(&id, Duration::from_millis(1200)).await.expect("stopped");
    assert!(begun.elapsed() >= Duration::from_secs(2), "the grace is rounded up to 2 s");
    let end = world.engine.inspect(&id).await.expect("looked up").expect("there");
    assert!(matches!(end.state, ContainerState::Exited { exit_code: 137, .. }), "{:?}", end.state);
}

fn published(host_port: u16, container_port: u16) -> PortBinding {
    PortBinding {
        host_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        host_port,
        container_port,
        protocol: Protocol::Tcp,
    }
}
