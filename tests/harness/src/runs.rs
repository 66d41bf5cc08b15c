//! A node with a workload of runners, and what a test asks of its runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use belay_protocol::runner::{RunDetail, RunId, RunState, SubmitRequest, Submitted};
use serde_json::{Value, json};

use crate::{Node, program_image, until};

/// Longest that a run may take to come to a state in a test.
const SOON: Duration = Duration::from_secs(90);

/// A node whose workload `work` is a test's runner.
pub struct RunBench {
    /// The node.
    pub node: Node,
    /// Speaks to its belayd, also over deaths.
    pub http: reqwest::Client,
    program: String,
}

impl RunBench {
    /// A node whose containers are to run this program; nothing is deployed yet.
    ///
    /// # Panics
    /// When the program cannot be packed.
    pub fn new(node: Node, program: &Path) -> Self {
        program_image(node.directory(), program).expect("an image");
        let program = program.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let http = reqwest::Client::builder().unix_socket(node.socket()).build().expect("a client");
        Self { program: program.to_owned(), node, http }
    }

    /// Deploys `work`; `more` is what its spec says beside what it runs.
    ///
    /// # Panics
    /// When that fails.
    pub async fn deploy(&self, more: &str) {
        let program = &self.program;
        let spec = format!(
            "name = \"work\"\nimage = \"file:{program}.tar\"\ncommand = [\"/{program}\"]\n\
             stop_grace = \"0s\"\n{more}"
        );
        self.node.client().deploy(&spec, self.node.directory()).await.expect("deploys");
    }

    /// Submits a run, and waits until it is taken.
    ///
    /// # Panics
    /// When it is not taken.
    pub async fn submit(&self, payload: Value, max_attempts: u32) -> RunId {
        let wish = json!({ "workload": "work", "payload": payload, "max_attempts": max_attempts });
        let wish: SubmitRequest = serde_json::from_value(wish).expect("a submission");
        // The runner server begins a moment after the node.
        until("the run to be taken", SOON, || async {
            let sent = self.http.post("http://belay/v1/runs").json(&wish).send().await;
            let answer = sent.map_err(|error| format!("{error:?}"))?;
            let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
            let taken: Result<Submitted, _> = serde_json::from_str(&text);
            taken.map(|taken| taken.run).map_err(|error| format!("{error}: {text}"))
        })
        .await
    }

    /// What is known of a run.
    ///
    /// # Errors
    /// What belayd says instead.
    pub async fn run(&self, run: RunId) -> Result<RunDetail, String> {
        let sent = self.http.get(format!("http://belay/v1/runs/{run}")).send().await;
        let answer = sent.map_err(|error| format!("{error:?}"))?;
        let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// Waits until a run is in this state.
    ///
    /// # Panics
    /// When it does not come to it.
    pub async fn is(&self, run: RunId, state: RunState) -> RunDetail {
        until(&format!("{run} to be {}", state.as_str()), SOON, || async {
            let found = self.run(run).await?;
            if found.status.state == state { Ok(found) } else { Err(format!("{found:?}")) }
        })
        .await
    }

    /// Events of this kind so far.
    ///
    /// # Panics
    /// When belayd does not answer.
    pub async fn told(&self, kind: &str) -> Vec<Value> {
        let page = self.node.client().events(&format!("kind={kind}&limit=1000")).await;
        let page = serde_json::to_value(page.expect("belayd answers")).expect("plain data");
        page["events"].as_array().cloned().unwrap_or_default()
    }

    /// Ids of the runners' containers that are there.
    ///
    /// # Panics
    /// When Podman does not say.
    pub fn containers(&self) -> Vec<String> {
        let filter = format!("label=io.belay.node={}", self.node.name());
        let listed = Command::new("/usr/bin/podman")
            .args(["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])
            .output()
            .expect("podman lists");
        String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect()
    }
}
