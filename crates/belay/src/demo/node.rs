//! One belayd of the demo.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use belay_protocol::{
    NodeReadiness, NodeStatus, OperationOutcome, OperationProgress, ProblemCode, PublishRequest,
    VolumeStatus, WorkloadStatus,
};
use reqwest::Method;
use tokio::process::{Child, Command};

use super::leftovers;
use super::place::{Place, ProcessRecord};
use crate::client::{Client, Document};
use crate::core::progress;
use crate::core::stage::{self, Role};
use crate::failure::{self, Ending, Failure};

/// Longest wait until a node answers that it is ready.
const READY: Duration = Duration::from_secs(30);

/// Longest wait for a workload whose deploy was cut short to become known.
const APPEARANCE: Duration = Duration::from_secs(3);

/// Longest wait for a belayd that was asked to end.
const END: Duration = Duration::from_secs(30);

/// Pause between two questions.
const LOOK: Duration = Duration::from_millis(50);

/// Lines of a log that a failure shows.
const TAIL: usize = 12;

/// A running belayd with its ports.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) socket: PathBuf,
    /// Port of its status page.
    pub(crate) status_port: u16,
    /// Host port of its workload's web server.
    pub(crate) web_port: u16,
    client: Client,
    process: Child,
    record: ProcessRecord,
    log: PathBuf,
    declared: Cell<Declared>,
}

/// Whether a node knows its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    /// It was not told yet.
    No,
    /// It was told; the end of that was not heard.
    Asked,
    /// It deployed it.
    Whole,
}

fn is_absent(failure: &Failure) -> bool {
    failure.exit_code == ProblemCode::NoSuchWorkload.exit_code()
}

impl Node {
    /// Writes its configuration and starts it.
    pub(crate) fn start(
        role: Role,
        belayd: &Path,
        place: &Place,
        [status_port, web_port]: [u16; 2],
    ) -> Result<Self, Ending> {
        let home = place.home(role);
        let config = home.join("belayd.toml");
        let log = home.join("belayd.log");
        let failed = |what: String| {
            move |error: std::io::Error| Ending::from(Failure::local(what, &error, ""))
        };
        let text = stage::configuration(role, &home, &place.store(), status_port);
        fs::write(&config, text).map_err(failed(format!("cannot write {}", config.display())))?;
        let file = File::create_new(&log);
        let file = file.map_err(failed(format!("cannot write {}", log.display())))?;
        let second = file.try_clone().map_err(failed("cannot share a log".to_owned()))?;
        let mut command = Command::new(belayd);
        command.arg("--config").arg(&config).current_dir("/").stdin(Stdio::null());
        command.stdout(file).stderr(second);
        // belayd takes settings from these too; the demo's are in its file.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"BELAYD_") {
                command.env_remove(name);
            }
        }
        // Ctrl-C goes to the terminal's foreground group. belayd must not be in it: it is still
        // needed to remove the workloads.
        command.process_group(0);
        let process =
            command.spawn().map_err(failed(format!("cannot run {}", belayd.display())))?;
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
        let record = pid.and_then(ProcessRecord::of).ok_or_else(|| {
            let what = format!("{} ended at once", belayd.display());
            Failure::new(failure::SOFTWARE, what, format!("look into {}", log.display()))
        })?;
        place.record(record.clone())?;
        let socket = home.join("run/belay.sock");
        let client = Client::new(&socket)?;
        let declared = Cell::new(Declared::No);
        Ok(Self { role, socket, status_port, web_port, client, process, record, log, declared })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&mut self) -> Result<NodeStatus, Ending> {
        let deadline = Instant::now() + READY;
        loop {
            self.alive()?;
            let why = match self.client.get::<NodeStatus>("/v1/status").await {
                Ok(status) => match &status.ready {
                    NodeReadiness::Ready => return Ok(status),
                    NodeReadiness::NotReady { reason } => reason.clone(),
                },
                Err(Ending::Failed(failure)) => failure.what,
                Err(ended @ Ending::PipeClosed) => return Err(ended),
            };
            if Instant::now() > deadline {
                let seconds = READY.as_secs();
                let what = format!("the {} is not ready after {seconds} s: {why}", self.word());
                return Err(Failure::new(failure::SOFTWARE, what, "belay doctor").into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Fails if its process ended by itself.
    pub(crate) fn alive(&mut self) -> Result<(), Ending> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let what = format!("belayd of the {} ended by itself: {status}", self.word());
                Err(Failure::new(failure::SOFTWARE, what, "belay doctor").into())
            }
            Err(error) => Err(Failure::local("cannot wait for belayd", &error, "").into()),
        }
    }

    /// Waits until it ended by itself, which is a failure.
    pub(crate) async fn ended(&mut self) -> Result<(), Ending> {
        let _ = self.process.wait().await;
        self.alive()
    }

    /// Deploys its workload; `tell` hears each step that belayd goes through.
    pub(crate) async fn deploy(
        &self,
        image: &Path,
        mut tell: impl FnMut(&str),
    ) -> Result<OperationOutcome, Ending> {
        let home = self.log.parent().expect("the log lies in the node's home");
        let file = home.join(format!("{}.toml", self.role.workload()));
        fs::write(&file, stage::spec(self.role, image, self.web_port)).map_err(|error| {
            Failure::local(format!("cannot write {}", file.display()), &error, "")
        })?;
        let request = crate::command::deploy_request(&file)?;
        let mut last = String::new();
        let note = |progress: &OperationProgress| {
            let step = progress::step(progress);
            if step != last {
                tell(&step);
                last = step;
            }
        };
        self.declared.set(Declared::Asked);
        let body = Document::of(&request);
        let deployed = self.client.operate(Method::POST, "/v1/workloads", body, note).await?;
        self.declared.set(Declared::Whole);
        Ok(deployed)
    }

    /// Deploys the workload that takes runs.
    pub(crate) async fn deploy_runner(&self, spec: &str) -> Result<OperationOutcome, Ending> {
        let home = self.log.parent().expect("the log lies in the node's home");
        let file = home.join(format!("{}.toml", stage::RUNS));
        fs::write(&file, spec).map_err(|error| {
            Failure::local(format!("cannot write {}", file.display()), &error, "")
        })?;
        let body = Document::of(&crate::command::deploy_request(&file)?);
        self.client.operate(Method::POST, "/v1/workloads", body, |_| {}).await
    }

    /// Talks to it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Publishes by the operator's hand.
    pub(crate) async fn publish(
        &self,
        request: &PublishRequest,
    ) -> Result<OperationOutcome, Ending> {
        let path = format!("/v1/workloads/{}/sync/publish", self.role.workload());
        self.client.operate(Method::POST, &path, Document::of(request), |_| {}).await
    }

    pub(crate) async fn workload(&self) -> Result<WorkloadStatus, Ending> {
        self.client.get(&format!("/v1/workloads/{}", self.role.workload())).await
    }

    pub(crate) async fn volumes(&self) -> Result<Vec<VolumeStatus>, Ending> {
        self.client.get("/v1/volumes").await
    }

    /// Removes every workload with its volumes: its own, and what an operator added meanwhile.
    pub(crate) async fn remove_workloads(&self) -> Result<(), Ending> {
        let own = self.role.workload();
        let deadline = Instant::now() + APPEARANCE;
        while let Err(refused) = self.remove(own).await {
            match (self.declared.get(), refused) {
                // An operator may have removed it already.
                (Declared::No | Declared::Whole, Ending::Failed(failure))
                    if is_absent(&failure) =>
                {
                    break;
                }
                // A deploy that was cut short goes on in belayd; its workload may yet appear.
                (Declared::Asked, Ending::Failed(failure)) if is_absent(&failure) => {
                    if Instant::now() > deadline {
                        break;
                    }
                    tokio::time::sleep(LOOK).await;
                }
                (_, failed) => return Err(failed),
            }
        }
        let workloads: Vec<WorkloadStatus> = self.client.get("/v1/workloads").await?;
        for other in workloads.iter().filter(|workload| workload.name.as_str() != own) {
            self.remove(other.name.as_str()).await?;
        }
        Ok(())
    }

    async fn remove(&self, workload: &str) -> Result<OperationOutcome, Ending> {
        let path = format!("/v1/workloads/{workload}?volumes=delete");
        self.client.operate(Method::DELETE, &path, Document::none(), |_| {}).await
    }

    /// Asks belayd to end and waits for it; gives how long it took.
    pub(crate) async fn end(mut self) -> Result<Duration, Ending> {
        let began = Instant::now();
        let asked = leftovers::end(&self.record, END);
        // The end is seen only once the process is reaped, so both go on together.
        let (asked, status) = tokio::join!(asked, self.process.wait());
        asked?;
        let status =
            status.map_err(|error| Failure::local("cannot wait for belayd", &error, ""))?;
        if status.success() {
            return Ok(began.elapsed());
        }
        let what = format!("belayd of the {} ended with {status}", self.role.word());
        Err(Failure::new(failure::SOFTWARE, what, "report this as a bug").into())
    }

    /// Where its log lies.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    fn word(&self) -> &'static str {
        self.role.word()
    }
}

/// The last lines of a node's log, each with the node's word.
pub(crate) fn log_tail(word: &str, log: &Path) -> Vec<String> {
    let text = last_bytes(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().rev().take(TAIL).rev();
    last.map(|line| format!("{word}: {line}")).collect()
}

/// The last 16 KiB of a file.
fn last_bytes(path: &Path) -> std::io::Result<String> {
    const WINDOW: u64 = 16 * 1024;
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(length.min(WINDOW)).unwrap_or_default()];
    file.read_exact_at(&mut bytes, length.saturating_sub(WINDOW))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
