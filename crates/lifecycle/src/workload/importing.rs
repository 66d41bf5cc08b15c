//! Hands an archive to the sync task of a workload.

use belay_protocol::{
    OperationOutcome, Problem, ProblemCode, PublishOutcome, SyncRole, SyncUpload, WorkloadName,
};
use belay_sync::SyncHandle;
use tokio::sync::mpsc;

use super::state::State;
use super::sync::publish_problem;
use super::sync_acts::is_paused;
use crate::reporter::{Progress, Reporter};

/// Pieces between the one who sends and the sync task.
const PIECES: usize = 4;
/// Bytes of an archive after which its sender is told how many came.
const TELL_EVERY: u64 = 16 * 1024 * 1024;

impl State {
    /// It needs mounted volumes, which say where paths lie, and no running app: neither is touched.
    pub(crate) fn ask_import(&mut self, pieces: mpsc::Receiver<SyncUpload>, reporter: Reporter) {
        let handle = match self.import_handle() {
            Ok(handle) => handle,
            Err(problem) => return reporter.finish(Err(problem)),
        };
        let name = self.name.clone();
        self.answers.spawn(async move {
            reporter.progress("import", "the archive is coming in");
            let (counted, taken) = mpsc::channel(PIECES);
            let counting = count(pieces, counted, reporter.progress_end());
            let ((), imported) = tokio::join!(counting, handle.import(taken));
            reporter.finish(match imported {
                Ok(outcome) => {
                    let summary = told(&name, &outcome);
                    Ok(OperationOutcome { summary, publish: Some(outcome) })
                }
                Err(error) => Err(publish_problem(&name, &error)),
            });
        });
    }

    fn import_handle(&self) -> Result<SyncHandle, Problem> {
        let name = &self.name;
        let Some(known) = &self.known else { return Err(self.unknown()) };
        match known.spec.sync.as_ref().map(|sync| sync.role) {
            Some(SyncRole::Provider) => {}
            Some(SyncRole::Consumer) => {
                return Err(Problem::new(
                    ProblemCode::NoSync,
                    format!("{name} is a consumer of its key and publishes nothing"),
                    "import on the node whose workload is the provider",
                ));
            }
            None => {
                return Err(Problem::new(
                    ProblemCode::NoSync,
                    format!("{name} has no volume-sync"),
                    "add a [sync] table with role = \"provider\" and a key to its spec and deploy it",
                ));
            }
        }
        let Some(sync) = &self.sync else {
            return Err(Problem::new(
                ProblemCode::NotRunning,
                format!("the volumes of {name} are not mounted"),
                format!("belay start {name}"),
            ));
        };
        if sync.status.borrow().paused.is_some() {
            return Err(is_paused(name));
        }
        Ok(sync.handle.clone())
    }
}

/// Passes an archive on and says how much of it came. Ends with it, or once nobody takes more.
async fn count(
    mut pieces: mpsc::Receiver<SyncUpload>,
    counted: mpsc::Sender<SyncUpload>,
    progress: Progress,
) {
    let (mut bytes, mut told) = (0, 0);
    while let Some(piece) = pieces.recv().await {
        match &piece {
            SyncUpload::Bytes(more) => bytes += more.len() as u64,
            SyncUpload::End => progress.say("import", "the archive is here, and is unpacked"),
        }
        if bytes - told >= TELL_EVERY {
            told = bytes;
            progress.say_bytes("import", "the archive is coming in", Some(bytes), None);
        }
        if counted.send(piece).await.is_err() {
            return;
        }
    }
}

fn told(name: &WorkloadName, outcome: &PublishOutcome) -> String {
    if outcome.unchanged {
        return format!("{name} has published {} already: unchanged", outcome.cid);
    }
    format!(
        "{name} published {} ({} bytes) from an archive; its volumes are as they were, and its next \
         publish takes the place of this one",
        outcome.cid, outcome.bytes
    )
}
