//! One belayd in a directory of its own.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use belay_protocol::{NodeReadiness, VolumeFate};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cloning::CloningDisk;
use crate::{Client, Leavings, busybox_image, until};

/// How long belayd may take to be ready, its own Podman service included, on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// How long belayd may take to end, the one of its deadline and a little more.
const END: Duration = Duration::from_secs(40);

/// Counts the nodes of this process, for names of their own.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What may differ between nodes.
#[derive(Debug, Default)]
pub struct NodeOptions {
    /// A store that is shared with another node.
    pub store: Option<PathBuf>,
    /// The engine's socket; belayd starts a Podman service of its own where none is given.
    pub engine: Option<PathBuf>,
    /// More of its configuration, in TOML.
    pub config: String,
    /// Variables of its environment.
    pub environment: Vec<(String, PathBuf)>,
    /// MiB of a disk of its own under its volumes, which clones by reference; none leaves them on
    /// the host's.
    pub cloning: Option<u64>,
}

/// A belayd, its directory, and all that it makes.
#[derive(Debug)]
pub struct Node {
    name: String,
    directory: tempfile::TempDir,
    environment: Vec<(String, PathBuf)>,
    disk: Option<CloningDisk>,
    daemon: Option<Child>,
    client: Client,
}

/// Path of a binary of this workspace, built beside the test's own.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    // Tests lie in target/PROFILE/deps, programs beside what they look for.
    let places = test.ancestors().skip(1).take(2).map(|place| place.join(name));
    let mut built = places.filter(|place| place.is_file());
    built.next().unwrap_or_else(|| panic!("{name} is not built; run: cargo build -p {name}"))
}

impl Node {
    /// Starts a belayd and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready; its log is in the message.
    pub async fn start(options: NodeOptions) -> Self {
        let mut node = Self::prepare(options);
        node.launch().await;
        node
    }

    /// A node whose belayd is not started yet.
    ///
    /// # Panics
    /// When its directory cannot be made.
    pub fn prepare(options: NodeOptions) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{number}", std::process::id());
        let directory = tempfile::Builder::new()
            .prefix(&format!("belay-{name}-"))
            .tempdir()
            .expect("a temporary directory");
        let root = directory.path();
        busybox_image(root).expect("an image");
        std::fs::create_dir(root.join("workloads.d")).expect("a directory");
        let store = options.store.unwrap_or_else(|| root.join("state/store"));
        let engine = options.engine.map_or_else(String::new, |socket| {
            format!("[engine]\nsocket = \"{}\"\n", socket.display())
        });
        let config = format!(
            "[node]\nname = \"{name}\"\nstate_dir = \"{}\"\nruntime_dir = \"{}\"\n\
             workloads_dir = \"{}\"\n[store]\npath = \"{}\"\n[log]\nformat = \"text\"\nlevel = \"debug,h2=off,hyper=off,reqwest=off,bollard=off\"\n\
             {engine}{}",
            root.join("state").display(),
            root.join("run").display(),
            root.join("workloads.d").display(),
            store.display(),
            options.config,
        );
        std::fs::write(root.join("belayd.toml"), config).expect("a configuration");
        let client = Client::new(&root.join("run/belay.sock"));
        let disk = options.cloning.map(|mib| {
            CloningDisk::mount(root, mib, root.join("state/volumes")).expect("a disk that clones")
        });
        Self { name, directory, environment: options.environment, disk, daemon: None, client }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory that holds everything of it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Talks to it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory().join("belayd.toml")
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory().join("run/belay.sock")
    }

    /// The host's side of a volume of a workload, while it is mounted.
    ///
    /// # Panics
    /// When it is not mounted soon.
    pub async fn volume(&self, workload: &str, volume: &str) -> PathBuf {
        until(&format!("{workload}/{volume} to be mounted"), READY, || async {
            let status = self.client.status().await?;
            let found = status
                .volumes
                .iter()
                .find(|v| v.workload.as_str() == workload && v.name.as_str() == volume);
            let mount = found.and_then(|found| found.mount.clone());
            mount.map(|mount| Path::new(&mount).join("data")).ok_or_else(|| format!("{found:?}"))
        })
        .await
    }

    /// Starts belayd, without waiting.
    ///
    /// # Panics
    /// When it runs already, or cannot be started.
    pub fn spawn(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        let log = File::options().append(true).create(true).open(self.log()).expect("a log");
        let child = Command::new(binary("belayd"))
            .arg("--config")
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("belayd can be started");
        self.daemon = Some(child);
    }

    /// Process id of belayd.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("belayd was started").id()
    }

    /// Starts belayd and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn launch(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Waits until belayd is ready.
    ///
    /// # Panics
    /// When it does not become ready; its log is in the message.
    pub async fn ready(&self) {
        let log = self.log();
        until("belayd to be ready", READY, || async {
            let tail = || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                text.lines().rev().take(15).collect::<Vec<_>>().join("\n")
            };
            match self.client.status().await {
                Ok(status) if status.ready == NodeReadiness::Ready => Ok(()),
                Ok(status) => Err(format!("{:?}\n{}", status.ready, tail())),
                Err(error) => Err(format!("{error}\n{}", tail())),
            }
        })
        .await;
    }

    fn log(&self) -> PathBuf {
        self.directory().join("belayd.log")
    }

    /// What belayd has logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let daemon = self.daemon.as_ref().expect("belayd was started");
        let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a pid"));
        kill(pid, signal).expect("belayd takes signals");
    }

    /// Sends SIGHUP.
    ///
    /// # Panics
    /// When belayd does not run.
    pub fn reload(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// Kills belayd as a crash would.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("belayd was started");
        daemon.kill().expect("belayd can be killed");
        let status = daemon.wait().expect("belayd is reaped");
        assert_eq!(status.signal(), Some(9), "belayd had ended by itself: {}", self.log_text());
    }

    /// Asks belayd to end and waits for it.
    ///
    /// # Panics
    /// When it does not end within its deadline.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut daemon = self.daemon.take().expect("belayd was started");
        let log = self.log_text();
        let last = || log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
        until("belayd to end", END, || {
            let state = daemon.try_wait().expect("belayd can be waited for");
            std::future::ready(state.ok_or_else(last))
        })
        .await
    }

    /// Takes every file out of `workloads.d` and waits until what they declared is gone.
    async fn undeclare(&self) {
        let files = std::fs::read_dir(self.directory().join("workloads.d")).expect("can be listed");
        for file in files {
            std::fs::remove_file(file.expect("an entry").path()).expect("can be removed");
        }
        self.reload();
        until("the declared workloads to be gone", READY, || async {
            let status = self.client.status().await?;
            match status.workloads.iter().find(|workload| workload.source != "api") {
                Some(found) => Err(format!("{found:?}")),
                None => Ok(()),
            }
        })
        .await;
    }

    /// Removes every workload with its volumes, ends belayd, and shows that nothing is left.
    ///
    /// # Panics
    /// When something is left.
    pub async fn end(mut self) {
        self.undeclare().await;
        let status = self.client.status().await.expect("belayd answers");
        for workload in status.workloads {
            let name = workload.name.as_str();
            let removed = self.client.remove(name, VolumeFate::Delete).await;
            assert!(removed.is_ok(), "{name}: {removed:?}");
        }
        let ended = self.terminate().await;
        assert!(ended.success(), "belayd ended with {ended}\n{}", self.log_text());
        if let Some(disk) = self.disk.take() {
            disk.unmount().expect("nothing holds the disk any more");
        }
        let left = Leavings::find(&self.name, self.directory());
        assert!(left.is_empty(), "left behind: {left:?}\n{}", self.log_text());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            let mut err = std::io::stderr().lock();
            let text = format!("\nlog of {}:\n{}\n", self.name, self.log_text());
            let _ = std::io::Write::write_all(&mut err, text.as_bytes());
        }
        Leavings::remove(&self.name, self.directory.path());
    }
}
