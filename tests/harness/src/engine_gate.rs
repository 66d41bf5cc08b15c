//! A container engine that can be away: a Podman service behind a socket that a test opens and
//! shuts.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::until;

/// How long the service may take to answer.
const READY: Duration = Duration::from_secs(30);

/// A Podman service of a test's own and the gate before it.
#[derive(Debug)]
pub struct EngineGate {
    directory: tempfile::TempDir,
    open: watch::Sender<bool>,
    gate: JoinHandle<()>,
    service: Child,
}

impl EngineGate {
    /// Starts the service and opens the gate.
    ///
    /// # Panics
    /// When the service does not answer.
    pub async fn start() -> Self {
        let directory =
            tempfile::Builder::new().prefix("belay-gate-").tempdir().expect("a directory");
        let behind = directory.path().join("podman.sock");
        let service = Command::new("/usr/bin/podman")
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", behind.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("podman can be started");
        until("the podman service", READY, || async {
            UnixStream::connect(&behind).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        let listener =
            UnixListener::bind(directory.path().join("gate.sock")).expect("a socket can be made");
        let (open, state) = watch::channel(true);
        let gate = tokio::spawn(keep(listener, behind, state));
        Self { directory, open, gate, service }
    }

    /// The socket for belayd.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("gate.sock")
    }

    /// Cuts every connection and lets none in.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections in again.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Ends the service.
    pub async fn end(mut self) {
        self.gate.abort();
        let _ = self.gate.await;
        // It may have ended by itself, which is as good.
        let _ = self.service.kill().await;
    }
}

/// Passes connections on while the gate is open.
async fn keep(listener: UnixListener, behind: PathBuf, open: watch::Receiver<bool>) {
    let mut passing = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((mut outer, _)) = accepted else { return };
                if !*open.borrow() {
                    continue;
                }
                let (behind, mut open) = (behind.clone(), open.clone());
                passing.spawn(async move {
                    let Ok(mut inner) = UnixStream::connect(&behind).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut outer, &mut inner) => {}
                        _ = open.wait_for(|open| !*open) => {}
                    }
                });
            }
            Some(_) = passing.join_next() => {}
        }
    }
}
