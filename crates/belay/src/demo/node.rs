//! One belayd of the demo.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use belay_protocol::{NodeReadiness, NodeStatus, OperationOutcome, VolumeStatus, WorkloadStatus};
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
        Ok(Self { role, socket, status_port, web_port, client, process, record, log })
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

    /// Deploys its workload; gives the steps that belayd went through.
    pub(crate) async fn deploy(&self, image: &Path) -> Result<Vec<String>, Ending> {
        let home = self.log.parent().expect("the log lies in the node's home");
        let file = home.join(format!("{}.toml", self.role.workload()));
        fs::write(&file, stage::spec(self.role, image, self.web_port)).map_err(|error| {
            Failure::local(format!("cannot write {}", file.display()), &error, "")
        })?;
        let request = crate::command::deploy_request(&file)?;
        let mut steps: Vec<String> = Vec::new();
        let note = |progress: &belay_protocol::OperationProgress| {
            let step = progress::step(progress);
            if steps.last() != Some(&step) {
                steps.push(step);
            }
        };
        let body = Document::of(&request);
        self.client.operate(Method::POST, "/v1/workloads", body, note).await?;
        Ok(steps)
    }

    /// Publishes by the operator's hand.
    pub(crate) async fn publish(
        &self,
        request: &belay_protocol::PublishRequest,
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

    /// Removes every workload with its volumes.
    pub(crate) async fn remove_workloads(&self) -> Result<(), Ending> {
        let workloads: Vec<WorkloadStatus> = self.client.get("/v1/workloads").await?;
        for workload in workloads {
            let path = format!("/v1/workloads/{}?volumes=delete", workload.name);
            self.client.operate(Method::DELETE, &path, Document::none(), |_| {}).await?;
        }
        Ok(())
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

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> Vec<String> {
        let text = last_bytes(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().rev().take(TAIL).rev();
        last.map(|line| format!("{}: {line}", self.word())).collect()
    }

    fn word(&self) -> &'static str {
        self.role.word()
    }
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
