//! A place to test in: a service of its own, an image of its own, and nothing left afterwards.
//!
//! With `BELAY_TEST_ENGINE_SOCKET` set to a Docker socket the same tests, but those of the Podman
//! service, run against that engine.

use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use belay_engine::{
    ContainerSpec, Engine, EngineChoice, EngineOptions, Image, PodmanService, connect, connect_own,
    labels,
};

const PODMAN: &str = "/usr/bin/podman";
const DOCKER: &str = "/usr/bin/docker";
/// A running engine to test instead of Podman.
const SOCKET: &str = "BELAY_TEST_ENGINE_SOCKET";
/// Marks every container of these tests, with the process that made it.
const OWNER: &str = "io.belay.test.engine";

/// Programs of the image, all busybox.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "true", "grep", "httpd", "yes", "head", "tail", "dd", "id",
    "pwd", "touch", "ps", "kill", "printf", "seq", "env", "test", "tr", "rm", "nc", "mkfifo",
    "stty",
];

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) service: Option<PodmanService>,
    pub(crate) image: Image,
    pub(crate) dir: tempfile::TempDir,
    name: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        sweep();
        let name = unique();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (engine, service) = if let Some(socket) = std::env::var_os(SOCKET) {
            (connect_to(socket.into(), dir.path()).await, None)
        } else {
            let (engine, service) = connect_own(dir.path()).await.expect("Podman comes up");
            (engine, Some(service))
        };
        let tar = dir.path().join(format!("{name}.tar"));
        std::fs::write(&tar, root_tar(&name)).expect("the tar is written");
        let image = engine.load(&tar).await.expect("the root file system loads");
        Self { engine, service, image, dir, name }
    }

    /// A container name of this world.
    pub(crate) fn named(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// The label that all containers of this world carry, as `name=value`.
    pub(crate) fn label(&self) -> String {
        format!("{}={}", labels::INSTANCE, self.name)
    }

    pub(crate) fn spec(&self, part: &str, argv: &[&str]) -> ContainerSpec {
        let mut spec = ContainerSpec::new(self.named(part), &self.image.id);
        spec.command = Some(argv.iter().map(|&word| word.to_owned()).collect());
        spec.labels = [
            (labels::INSTANCE.to_owned(), self.name.clone()),
            (labels::NODE.to_owned(), "test".to_owned()),
            (OWNER.to_owned(), std::process::id().to_string()),
        ]
        .into();
        spec
    }

    /// A container that runs until it is told to end, which it does at once, with code 3.
    pub(crate) fn obedient(&self, part: &str) -> ContainerSpec {
        self.spec(part, &["/bin/sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"])
    }

    pub(crate) async fn run(&self, spec: &ContainerSpec) -> belay_engine::ContainerId {
        let id = self.engine.create(spec).await.expect("the container is made");
        self.engine.start(&id).await.expect("the container starts");
        id
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The service may be gone, and this may be a panic: the command line needs neither.
        let filter = format!("label={}={}", labels::INSTANCE, self.name);
        for id in ids(&filter) {
            command_line(&["kill", &id]);
            remove(&id);
        }
        for tag in &self.image.tags {
            command_line(&["rmi", "--force", tag]);
        }
    }
}

async fn connect_to(socket: PathBuf, dir: &Path) -> Engine {
    let options = EngineOptions {
        socket: Some(socket),
        runtime_dir: dir.to_owned(),
        kind: EngineChoice::Docker,
    };
    let (engine, service) = connect(options).await.expect("Docker answers");
    assert!(service.is_none(), "no service is started beside a configured socket");
    engine
}

/// Removes what runs of these tests that died have left.
fn sweep() {
    let filter = format!("label={OWNER}");
    for id in ids(&filter) {
        let format = format!("{{{{index .Config.Labels \"{OWNER}\"}}}}");
        let owner = command_line(&["inspect", "--format", &format, &id]);
        let owner = String::from_utf8_lossy(&owner).trim().to_owned();
        // Without an answer it is gone already: another run sweeps too.
        if !owner.is_empty() && !Path::new("/proc").join(owner).exists() {
            remove(&id);
        }
    }
}

fn ids(filter: &str) -> Vec<String> {
    let ids = command_line(&["ps", "--all", "--quiet", "--no-trunc", "--filter", filter]);
    String::from_utf8_lossy(&ids).lines().map(str::to_owned).collect()
}

fn remove(id: &str) {
    command_line(&["rm", "--force", "--volumes", id]);
}

/// The engine's own command, which needs nothing of what is tested; gives its standard output.
pub(crate) fn command_line(arguments: &[&str]) -> Vec<u8> {
    let mut command = match std::env::var(SOCKET) {
        Ok(socket) => {
            let mut docker = Command::new(DOCKER);
            docker.arg("--host").arg(format!("unix://{socket}"));
            docker
        }
        Err(_) => Command::new(PODMAN),
    };
    command.args(arguments).output().expect("the engine's command is installed").stdout
}

pub(crate) fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("belay-engine-test-{}-{count}", std::process::id())
}

/// A root file system of busybox, with a file that makes its content its own.
pub(crate) fn root_tar(mark: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for folder in ["bin/", "etc/", "tmp/", "data/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if folder == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, folder, std::io::empty()).expect("a folder");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox-static is installed");
    let mut file = File::open(busybox).expect("busybox can be read");
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(file.metadata().expect("busybox is there").len());
    tar.append_data(&mut header, "bin/busybox", &mut file).expect("busybox fits");
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("a link");
    }
    for (path, text) in
        [("etc/mark", mark), ("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).expect("a file");
    }
    tar.into_inner().expect("the tar is whole")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("memory");
    packed.finish().expect("memory")
}

/// Polls until something holds, and says what did not.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn proc_path(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}
