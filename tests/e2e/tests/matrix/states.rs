//! Bringing a workload into each state that it can be in.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_harness::{Client, free_port};
use belay_protocol::{DesiredState, ProblemCode, WorkloadPhase, WorkloadStatus};
use tokio::task::JoinHandle;

pub(crate) const SOON: Duration = Duration::from_secs(90);

/// How long what ignores its stop signal holds out: long enough to be met in the middle of it.
const GRACE: &str = "4s";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Unready,
    Stopped,
    Stopping,
    BackOff,
    Completed,
    Halted,
    PausedForSync,
}

impl State {
    pub(crate) const ALL: [Self; 8] = [
        Self::Ready,
        Self::Unready,
        Self::Stopped,
        Self::Stopping,
        Self::BackOff,
        Self::Completed,
        Self::Halted,
        Self::PausedForSync,
    ];

    pub(crate) fn phase(self) -> WorkloadPhase {
        match self {
            Self::Ready => WorkloadPhase::Ready,
            Self::Unready => WorkloadPhase::Unready,
            Self::Stopped => WorkloadPhase::Stopped,
            Self::Stopping => WorkloadPhase::Stopping,
            Self::BackOff => WorkloadPhase::BackOff,
            Self::Completed => WorkloadPhase::Completed,
            Self::Halted => WorkloadPhase::Halted,
            Self::PausedForSync => WorkloadPhase::PausedForSync,
        }
    }

    /// Whether it passes by itself.
    pub(crate) fn passes(self) -> bool {
        match self {
            Self::Stopping | Self::PausedForSync => true,
            Self::Ready
            | Self::Unready
            | Self::Stopped
            | Self::BackOff
            | Self::Completed
            | Self::Halted => false,
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::Ready | Self::Unready | Self::Stopped | Self::Halted => {
                "echo started; exec sleep 100000"
            }
            Self::Stopping | Self::PausedForSync => {
                "trap '' TERM; echo started; while :; do sleep 0.2; done"
            }
            Self::BackOff => "echo started; exit 3",
            Self::Completed => "echo started; exit 0",
        }
    }
}

/// A workload that is to be brought into a state, again and again.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) client: Client,
    pub(crate) directory: PathBuf,
    pub(crate) spec: String,
}

impl Subject {
    pub(crate) fn new(client: &Client, directory: &Path, state: State, role: &str) -> Self {
        let name = format!("{role}-{}", state.phase().as_str());
        let (grace, restart) = match state {
            State::Stopping | State::PausedForSync => (GRACE, "always"),
            State::Completed => ("0s", "on-failure"),
            State::Ready | State::Unready | State::Stopped | State::BackOff | State::Halted => {
                ("0s", "always")
            }
        };
        let key = if role == "consumer" { "tick" } else { &name };
        let mut spec = format!(
            "name = \"{name}\"\nimage = \"file:busybox.tar\"\nstop_grace = \"{grace}\"\n\
             restart = \"{restart}\"\ncommand = [\"/bin/sh\", \"-c\", \"{}\"]\n\
             [volumes.data]\nsize = \"16M\"\nmount = \"/data\"\nthin = true\n\
             [sync]\nrole = \"{role}\"\nkey = \"{key}\"\npoll_interval = \"1s\"\n",
            state.script()
        );
        if state == State::Unready {
            let port = free_port();
            let _infallible = write!(
                spec,
                "[[ports]]\ncontainer = 9\nhost = {port}\n\
                 [ready]\nhttp = {{ port = 9, path = \"/\" }}\ninterval = \"100ms\"\n\
                 timeout = \"2s\"\n"
            );
        } else {
            spec.push_str("[ready]\ninterval = \"100ms\"\n");
        }
        Self { name, state, client: client.clone(), directory: directory.to_owned(), spec }
    }

    pub(crate) async fn deploy(
        &self,
    ) -> Result<belay_protocol::OperationOutcome, belay_harness::Refusal> {
        self.client.deploy(&self.spec, &self.directory).await
    }

    pub(crate) async fn status(&self) -> WorkloadStatus {
        self.client.workload(&self.name).await.expect("it is there")
    }

    /// Brings it into its state; what is returned ends with the state, where that passes.
    pub(crate) async fn enter(&self) -> Option<JoinHandle<()>> {
        let mut passing = None;
        match self.state {
            State::Ready | State::Completed => {
                self.deploy().await.expect("deploys");
            }
            State::Unready => self.fail(ProblemCode::NotReady).await,
            State::BackOff => self.fail(ProblemCode::StartFailed).await,
            State::Stopped => {
                self.deploy().await.expect("deploys");
                self.client.act("stop", &self.name).await.expect("stops");
            }
            State::Halted => self.halt().await,
            State::Stopping => {
                self.deploy().await.expect("deploys");
                let (client, name) = (self.client.clone(), self.name.clone());
                passing = Some(tokio::spawn(async move {
                    // A removal may end it before its own end.
                    let _ = client.act("stop", &name).await;
                }));
            }
            State::PausedForSync => {
                self.deploy().await.expect("deploys");
                let (client, name) = (self.client.clone(), self.name.clone());
                passing = Some(tokio::spawn(async move {
                    // What ends it early is another cell's matter.
                    let _ = client.publish(&name, &["/data"]).await;
                }));
            }
        }
        self.client.wait_for(&self.name, self.state.phase(), SOON).await;
        passing
    }

    async fn fail(&self, code: ProblemCode) {
        if self.client.workload(&self.name).await.is_ok_and(|found| {
            found.desired == DesiredState::Running && found.phase == self.state.phase()
        }) {
            return;
        }
        let problem = self.deploy().await.expect_err("it cannot").problem();
        assert_eq!(problem.code, code, "{problem:?}");
    }

    /// A halt as an apply leaves it whose end is not certain.
    async fn halt(&self) {
        match self.client.workload(&self.name).await {
            Ok(found) if found.phase == WorkloadPhase::Halted => return,
            Ok(_) => self.client.act("start", &self.name).await.expect("starts"),
            Err(_) => self.deploy().await.expect("deploys"),
        };
        self.client.act("stop", &self.name).await.expect("stops");
        let halt = self.directory.join("state/workloads").join(&self.name).join("sync/halt.json");
        std::fs::write(halt, "{\"reason\": \"torn by the test\"}").expect("writes");
        let problem =
            self.client.act("start", &self.name).await.expect_err("it is halted").problem();
        assert_eq!(problem.code, ProblemCode::Halted, "{problem:?}");
    }
}
