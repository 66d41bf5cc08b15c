//! A test's side of belayd's socket.

use std::path::Path;
use std::time::Duration;

use belay_protocol::{
    DeployRequest, EventPage, HistoryEntry, NodeStatus, OperationEvent, OperationOutcome, Problem,
    VolumeFate, VolumeStatus, WorkloadPhase, WorkloadStatus,
};
use serde_json::json;

use crate::until;

/// Longest an operation may take in a test.
const OPERATION: Duration = Duration::from_secs(90);

/// Why an operation did not end well.
#[derive(Debug)]
pub enum Refusal {
    /// belayd says why.
    Problem(Box<Problem>),
    /// The connection broke before an end was heard, as when belayd is killed.
    Broken(String),
}

impl Refusal {
    /// belayd's own answer.
    ///
    /// # Panics
    /// When the connection broke instead.
    pub fn problem(self) -> Problem {
        match self {
            Self::Problem(problem) => *problem,
            Self::Broken(error) => panic!("the connection broke: {error}"),
        }
    }
}

/// Talks to one belayd.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// A client of the belayd behind this socket.
    ///
    /// # Panics
    /// When a client cannot be made at all.
    pub fn new(socket: &Path) -> Self {
        let http = reqwest::Client::builder().unix_socket(socket).no_proxy().build();
        Self { http: http.expect("a client without TLS has nothing that can fail") }
    }

    /// The status page.
    pub async fn status(&self) -> Result<NodeStatus, String> {
        let answer = self.http.get("http://belay/v1/status").timeout(Duration::from_secs(5));
        let answer = answer.send().await.map_err(|error| format!("{error:?}"))?;
        answer.json().await.map_err(|error| format!("{error:?}"))
    }

    /// One workload's status.
    pub async fn workload(&self, name: &str) -> Result<WorkloadStatus, String> {
        let status = self.status().await?;
        let found = status.workloads.into_iter().find(|workload| workload.name.as_str() == name);
        found.ok_or_else(|| format!("no workload {name}"))
    }

    /// Waits until a workload is in a phase.
    ///
    /// # Panics
    /// When it is not within the deadline.
    pub async fn wait_for(
        &self,
        name: &str,
        phase: WorkloadPhase,
        deadline: Duration,
    ) -> WorkloadStatus {
        until(&format!("{name} to be {}", phase.as_str()), deadline, || async {
            let found = self.workload(name).await?;
            if found.phase == phase {
                return Ok(found);
            }
            Err(format!("{}: {}; {:?}", found.phase.as_str(), found.reason, found.last_fault))
        })
        .await
    }

    /// Deploys a spec; its relative paths are below `directory`.
    pub async fn deploy(&self, spec: &str, directory: &Path) -> Result<OperationOutcome, Refusal> {
        let request = DeployRequest {
            spec: spec.to_owned(),
            file: "test.toml".to_owned(),
            directory: directory.display().to_string(),
        };
        self.operate(self.http.post("http://belay/v1/workloads").json(&request)).await
    }

    /// `start`, `stop` or `restart`.
    pub async fn act(&self, verb: &str, name: &str) -> Result<OperationOutcome, Refusal> {
        let address = format!("http://belay/v1/workloads/{name}/{verb}");
        self.operate(self.http.post(address)).await
    }

    /// `start`, `stop` or `restart`, waiting so many seconds for its turn and for locks.
    pub async fn act_within(
        &self,
        verb: &str,
        name: &str,
        seconds: u64,
    ) -> Result<OperationOutcome, Refusal> {
        let address = format!("http://belay/v1/workloads/{name}/{verb}?wait={seconds}");
        self.operate(self.http.post(address)).await
    }

    /// Ends all overrides of a workload's environment.
    pub async fn clear_overrides(&self, name: &str) -> Result<OperationOutcome, Refusal> {
        self.operate(self.http.delete(format!("http://belay/v1/workloads/{name}/env"))).await
    }

    /// Removes a workload, whoever depends on it.
    pub async fn remove(
        &self,
        name: &str,
        volumes: VolumeFate,
    ) -> Result<OperationOutcome, Refusal> {
        let fate = match volumes {
            VolumeFate::Keep => "keep",
            VolumeFate::Delete => "delete",
        };
        let query = format!("volumes={fate}&dependants=ignore");
        let address = format!("http://belay/v1/workloads/{name}?{query}");
        self.operate(self.http.delete(address)).await
    }

    /// Removes a workload if no other depends on it, and keeps its volumes.
    pub async fn remove_unless_needed(&self, name: &str) -> Result<OperationOutcome, Refusal> {
        self.operate(self.http.delete(format!("http://belay/v1/workloads/{name}"))).await
    }

    /// Asks for an operation that needs no more than its page.
    pub async fn post(&self, page: &str) -> Result<OperationOutcome, Refusal> {
        self.operate(self.http.post(format!("http://belay{page}"))).await
    }

    /// Publishes paths of a provider.
    pub async fn publish(&self, name: &str, paths: &[&str]) -> Result<OperationOutcome, Refusal> {
        let address = format!("http://belay/v1/workloads/{name}/sync/publish");
        self.operate(self.http.post(address).json(&json!({ "archive_paths": paths }))).await
    }

    /// `pin`, `unpin` or `rm` of an image.
    pub async fn image(&self, verb: &str, image: &str) -> Result<OperationOutcome, Refusal> {
        let address = format!("http://belay/v1/images/{verb}");
        self.operate(self.http.post(address).json(&json!({ "image": image }))).await
    }

    /// Loads an archive of the host.
    pub async fn load(&self, file: &Path) -> Result<OperationOutcome, Refusal> {
        let request = json!({ "file": file.display().to_string() });
        self.operate(self.http.post("http://belay/v1/images/load").json(&request)).await
    }

    /// Removes the images that nobody needs.
    pub async fn prune(&self, dry_run: bool) -> Result<OperationOutcome, Refusal> {
        let request = json!({ "dry_run": dry_run });
        self.operate(self.http.post("http://belay/v1/images/prune").json(&request)).await
    }

    /// Publishes paths of several providers, of none unless all can.
    pub async fn publish_all(
        &self,
        targets: &[(&str, &[&str])],
    ) -> Result<OperationOutcome, Refusal> {
        let targets: Vec<_> = targets
            .iter()
            .map(|(name, paths)| json!({ "workload": name, "request": { "archive_paths": paths } }))
            .collect();
        let request = self.http.post("http://belay/v1/sync/publish");
        self.operate(request.json(&json!({ "targets": targets }))).await
    }

    /// A workload's sync history.
    pub async fn history(&self, name: &str) -> Result<Vec<HistoryEntry>, Refusal> {
        let page = self.page(&format!("/v1/workloads/{name}/sync/history")).await?;
        serde_json::from_str(&page).map_err(|error| Refusal::Broken(format!("{error} in {page}")))
    }

    /// What a workload has written so far, a JSON object a line.
    pub async fn logs(&self, name: &str) -> Result<String, Refusal> {
        self.page(&format!("/v1/workloads/{name}/logs")).await
    }

    async fn page(&self, path: &str) -> Result<String, Refusal> {
        let broken = |error: reqwest::Error| Refusal::Broken(format!("{error:?}"));
        let asked = self.http.get(format!("http://belay{path}")).timeout(OPERATION);
        let answer = asked.send().await.map_err(broken)?;
        let refused = !answer.status().is_success();
        let body = answer.text().await.map_err(broken)?;
        if refused {
            let problem: Problem = serde_json::from_str(&body)
                .map_err(|error| Refusal::Broken(format!("{error} in {body}")))?;
            return Err(Refusal::Problem(Box::new(problem)));
        }
        Ok(body)
    }

    /// One volume's status.
    pub async fn volume(&self, workload: &str, volume: &str) -> Result<VolumeStatus, String> {
        let status = self.status().await?;
        let found = status
            .volumes
            .into_iter()
            .find(|v| v.workload.as_str() == workload && v.name.as_str() == volume);
        found.ok_or_else(|| format!("no volume {workload}/{volume}"))
    }

    /// A page of events; `query` as in `after=0&limit=1000`.
    pub async fn events(&self, query: &str) -> Result<EventPage, String> {
        let address = format!("http://belay/v1/events?{query}");
        let answer = self.http.get(address).timeout(Duration::from_secs(5));
        let answer = answer.send().await.map_err(|error| format!("{error:?}"))?;
        answer.json().await.map_err(|error| format!("{error:?}"))
    }

    /// The page for Prometheus.
    pub async fn metrics(&self) -> Result<String, String> {
        let answer = self.http.get("http://belay/metrics").timeout(Duration::from_secs(5));
        let answer = answer.send().await.map_err(|error| format!("{error:?}"))?;
        answer.text().await.map_err(|error| format!("{error:?}"))
    }

    async fn operate(&self, request: reqwest::RequestBuilder) -> Result<OperationOutcome, Refusal> {
        let broken = |error: reqwest::Error| Refusal::Broken(format!("{error:?}"));
        let answer = request.timeout(OPERATION).send().await.map_err(broken)?;
        let refused = !answer.status().is_success();
        let body = answer.text().await.map_err(broken)?;
        let unread = |error: serde_json::Error| Refusal::Broken(format!("{error} in {body}"));
        if refused {
            let problem: Problem = serde_json::from_str(&body).map_err(unread)?;
            return Err(Refusal::Problem(Box::new(problem)));
        }
        for line in body.lines() {
            match serde_json::from_str(line).map_err(unread)? {
                OperationEvent::Progress(_) => {}
                OperationEvent::Done(outcome) => return Ok(outcome),
                OperationEvent::Failed(problem) => {
                    return Err(Refusal::Problem(Box::new(problem)));
                }
            }
        }
        Err(Refusal::Broken(format!("no end in {body:?}")))
    }
}
