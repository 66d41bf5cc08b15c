//! Our own Podman service: its life, its end, and its neighbours.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use belay_engine::{
    ConnectError, EngineChoice, EngineKind, EngineOptions, ServiceStatus, Severity, connect,
    connect_own, examine,
};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{World, eventually, proc_path};

const HOLDER_DIR: &str = "BELAY_ENGINE_TEST_HOLDER_DIR";

fn options(dir: &Path) -> EngineOptions {
    EngineOptions { socket: None, runtime_dir: dir.to_owned(), kind: EngineChoice::Podman }
}

/// Not a test by itself: the process that is killed in the test below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other process of tests here, which start it"]
async fn holds_a_service() {
    let dir = std::env::var_os(HOLDER_DIR).expect("started by the other test");
    let (_engine, _service) = connect_own(Path::new(&dir)).await.expect("Podman comes up");
    std::fs::write(Path::new(&dir).join("ready"), "").expect("told");
    std::future::pending::<()>().await;
}

/// Another process that holds a service in this directory; it is killed when this is dropped.
pub(crate) async fn hold_a_service(dir: &Path, settings: impl FnOnce(&mut Command)) -> Killed {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "service::holds_a_service", "--ignored"])
        .env(HOLDER_DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    settings(&mut command);
    let holder = Killed(command.spawn().expect("the holder starts"));
    let ready = dir.join("ready");
    eventually("the holder has a service", || async { ready.exists().then_some(()) }).await;
    holder
}

pub(crate) struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Services on this socket, by their arguments.
fn services_on(socket: &Path) -> Vec<u32> {
    let url = format!("unix://{}", socket.display());
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|&pid| {
            let arguments = std::fs::read(proc_path(pid).join("cmdline")).unwrap_or_default();
            arguments.split(|&c| c == 0).any(|argument| argument == url.as_bytes())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_owner_takes_its_service_along_and_no_container() {
    let world = World::new().await;
    let id = world.run(&world.obedient("stays")).await;
    let before = world.engine.inspect(&id).await.expect("looked up").expect("there");

    let dir = tempfile::tempdir().expect("a folder");
    let mut holder = hold_a_service(dir.path(), |_| {}).await;
    let socket = dir.path().join("podman.sock");
    let [service] = services_on(&socket)[..] else { panic!("one service on {}", socket.display()) };

    holder.0.kill().expect("kill -9");
    holder.0.wait().expect("reaped");
    // The next owner does not have to wait for that by itself.
    let (engine, own) = connect_own(dir.path()).await.expect("Podman comes up");
    // Its socket is free first; the process may need a moment more.
    eventually("the service ends with its owner", || async {
        (!services_on(&socket).contains(&service)).then_some(())
    })
    .await;
    engine.ping().await.expect("the new service answers");
    let after = engine.inspect(&id).await.expect("looked up").expect("there");
    assert_eq!(before.state, after.state);
    own.shutdown(Duration::from_secs(10)).await;
    assert_eq!(services_on(&socket), [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_service_leaves_containers_running() {
    let mut world = World::new().await;
    let id = world.run(&world.obedient("stays")).await;
    let before = world.engine.inspect(&id).await.expect("looked up").expect("there");
    let service = world.service.take().expect("our own service");
    let (socket, status) = (service.socket().to_owned(), service.status());
    service.shutdown(Duration::from_secs(10)).await;
    assert_eq!(*status.borrow(), ServiceStatus::Ended);
    assert_eq!(services_on(&socket), [0_u32; 0]);
    let error = world.engine.ping().await.expect_err("nobody answers");
    assert!(error.is_retryable(), "{error:?}");
    let process = before.state.incarnation().expect("it ran").pid;
    assert!(proc_path(process).exists());

    let (engine, service) = connect_own(world.dir.path()).await.expect("Podman comes up");
    let after = engine.inspect(&id).await.expect("looked up").expect("there");
    assert_eq!(before, after);
    service.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_work_side_by_side() {
    let (one, two) = tokio::join!(World::new(), World::new());
    let (first, second) = (one.obedient("one"), two.obedient("two"));
    let (first, second) = tokio::join!(one.run(&first), two.run(&second));
    assert_eq!(one.engine.list(&[one.label()]).await.expect("listed")[0].id, first);
    assert_eq!(two.engine.list(&[two.label()]).await.expect("listed")[0].id, second);
    // One store under both: each sees the other's, which is why labels name the instance.
    assert!(one.engine.inspect(&second).await.expect("looked up").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("podman.sock");
    drop(UnixListener::bind(&socket).expect("bound"));
    assert!(socket.exists(), "a socket on which nothing answers");
    let (engine, service) = connect_own(dir.path()).await.expect("Podman comes up");
    assert_eq!(engine.info().socket, socket);
    service.shutdown(Duration::from_secs(10)).await;

    let listener = UnixListener::bind(&socket).expect("the service took its socket away");
    let error = connect_own(dir.path()).await.expect_err("somebody listens");
    assert!(matches!(error, ConnectError::Service(_) | ConnectError::Engine(_)), "{error:?}");
    assert!(socket.exists(), "it is not ours");
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_outlived_its_owner_is_ended() {
    struct EndServices(PathBuf);
    impl Drop for EndServices {
        fn drop(&mut self) {
            for pid in services_on(&self.0) {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("podman.sock");
    let _end = EndServices(socket.clone());
    // Without the parent death signal, as after a kill in the moment before it was armed.
    let script = format!("/usr/bin/podman system service --time=0 unix://{} &", socket.display());
    let started = Command::new("/bin/sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(started.is_ok_and(|status| status.success()));
    eventually("the orphan listens", || async { UnixStream::connect(&socket).ok() }).await;
    let [orphan] = services_on(&socket)[..] else { panic!("one service") };
    let parent = std::fs::read_to_string(proc_path(orphan).join("status")).expect("it lives");
    assert!(parent.contains("PPid:\t1\n"), "it is an orphan: {parent}");

    let (engine, service) = connect_own(dir.path()).await.expect("Podman comes up");
    eventually("the orphan ends", || async {
        (!services_on(&socket).contains(&orphan)).then_some(())
    })
    .await;
    engine.ping().await.expect("ours answers");
    service.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_says_what_it_is() {
    let world = World::new().await;
    let info = world.engine.info();
    assert_eq!(info.kind, EngineKind::Podman);
    assert!(info.version.at_least(4, 3) && info.api.at_least(1, 40));
    assert!(info.abilities.freeze && info.abilities.containers_outlive_engine);
    assert_eq!(&world.engine.ping().await.expect("it answers"), info);

    let mut wrong = options(world.dir.path());
    wrong.kind = EngineChoice::Docker;
    wrong.socket = Some(info.socket.clone());
    let error = connect(wrong.clone()).await.expect_err("it is Podman");
    assert!(
        matches!(error, ConnectError::WrongKind { found: EngineKind::Podman, .. }),
        "{error:?}"
    );
    let report = examine(&wrong).await;
    assert!(!report.is_usable(), "{report:?}");

    wrong.socket = Some(world.dir.path().join("nobody.sock"));
    let error = connect(wrong).await.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::NotListening { .. }), "{error:?}");
}

/// Where the machine's own service of Podman listens, if it has one.
fn system_service() -> &'static Path {
    Path::new("/run/podman/podman.sock")
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_is_found_without_being_configured() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = options(dir.path());
    options.kind = EngineChoice::Auto;
    let (engine, service) = connect(options).await.expect("Podman is installed");
    assert_eq!(engine.info().kind, EngineKind::Podman);
    if system_service().exists() {
        assert!(service.is_none(), "the machine's own is used");
    } else {
        let service = service.expect("nobody else runs one");
        assert_eq!(engine.info().socket, service.socket());
        service.shutdown(Duration::from_secs(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_this_machine_usable_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let report = examine(&options(dir.path())).await;
    assert!(report.is_usable(), "{:#?}", report.findings);
    let expected = if system_service().exists() { "engine-found" } else { "engine-own-service" };
    assert!(report.findings.iter().any(|finding| finding.code == expected));
    assert!(
        report.findings.iter().all(|it| it.severity == Severity::Note || !it.advice.is_empty()),
        "whatever needs acting on says how: {:#?}",
        report.findings
    );
    assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 0);

    let world = World::new().await;
    let mut options = options(dir.path());
    options.socket = Some(world.engine.info().socket.clone());
    let report = examine(&options).await;
    assert_eq!(report.engine.as_ref(), Some(world.engine.info()));
    assert!(report.is_usable(), "{:#?}", report.findings);
}
