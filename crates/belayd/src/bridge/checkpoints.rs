//! Checkpoints that travel: from the API to those who carry them, and from their refusals to
//! problems.

use belay_api::ImportMode;
use belay_hosting::core::archive::ArchiveError;
use belay_hosting::core::manifest::Unfit;
use belay_hosting::{TravelError, Travels};
use belay_protocol::runner::{ImportedCheckpoint, RunnerId};
use belay_protocol::{NodeId, Problem, ProblemCode};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::runs::{self, tell};

/// What to do about an archive that is not good.
const AGAIN: &str = "export it again on the node that it comes from, and bring it as it is";
/// What to do about a workload that is another one.
const DEPLOY: &str = "deploy the workload here as it is on the node that it comes from";

/// Answers with the archive of a checkpoint, and goes on until all of it went out.
pub(super) async fn export(
    travels: &Travels,
    runner: RunnerId,
    to: NodeId,
    reply: oneshot::Sender<Result<mpsc::Receiver<Bytes>, Problem>>,
) {
    match travels.export(runner, to).await {
        Ok(outgoing) => {
            let (pieces, sending) = outgoing.send();
            // Nobody reads it if nobody waits for this, which ends the sending too.
            let _ = reply.send(Ok(pieces));
            sending.await;
        }
        Err(error) => tell(reply, Err(problem(&error))),
    }
}

/// Takes an archive in, or says whether it would be.
pub(super) async fn import(
    travels: &Travels,
    mode: ImportMode,
    pieces: mpsc::Receiver<Result<Bytes, String>>,
) -> Result<ImportedCheckpoint, Problem> {
    let imported = match mode {
        ImportMode::Take => travels.import(pieces).await,
        ImportMode::Check => travels.check(pieces).await,
    };
    imported.map_err(|error| problem(&error))
}

fn problem(error: &TravelError) -> Problem {
    if let TravelError::Runs(error) = error {
        return runs::problem(error);
    }
    let (code, next) = refused(error);
    Problem::new(code, error.to_string(), &next)
}

fn refused(error: &TravelError) -> (ProblemCode, String) {
    use ProblemCode as C;
    let said = |code, next: &str| (code, next.to_owned());
    match error {
        TravelError::Runs(_) => unreachable!("it is told as what it is"),
        TravelError::Key(_) => said(
            C::TravelKeyMissing,
            "openssl rand -hex 32 makes a key: put it into a file that root alone can read, on both \
             nodes, and name it as runner.travel_key in belayd.toml",
        ),
        TravelError::SameNode(_) => said(C::InvalidRequest, "name the node that it is for"),
        TravelError::NoCheckpoint(_) => said(C::NoSuchCheckpoint, "belay checkpoint ls"),
        TravelError::HoldsFiles { .. } => said(
            C::CheckpointHoldsFiles,
            "have the workload write below a tmpfs, whose content travels; this run stays here",
        ),
        TravelError::Archive(ArchiveError::Version { .. }) => {
            said(C::ArchiveVersion, "use the same version of belayd on both nodes")
        }
        TravelError::Archive(ArchiveError::Damaged(_))
        | TravelError::Cut(_)
        | TravelError::Passage(_) => said(C::ArchiveDamaged, AGAIN),
        TravelError::Unfit(Unfit::ForAnother { to, .. }) => {
            (C::ArchiveForAnother, format!("import it on {to}"))
        }
        TravelError::Unfit(Unfit::NoWorkload(_)) => said(C::TakesNoRuns, DEPLOY),
        TravelError::Unfit(Unfit::Image { .. } | Unfit::Spec { .. }) => {
            said(C::WorkloadDiffers, DEPLOY)
        }
        TravelError::Unfit(
            Unfit::Architecture { .. } | Unfit::Features(_) | Unfit::Versions(_),
        ) => said(
            C::CheckpointIncompatible,
            "make this host like the one that it comes from, or take it back there: belay \
             checkpoint reclaim",
        ),
        TravelError::Full(_) => said(
            C::NoRoom,
            "belay checkpoint ls shows what is there; runner.checkpoints_size and \
             runner.checkpoints_count say how much may be",
        ),
        TravelError::Address { .. } => said(
            C::RunnerAddress,
            "free that address, or set runner.port alike on the nodes; belay checkpoint reclaim \
             takes it back where it comes from",
        ),
        TravelError::Busy => said(C::Busy, "try again when one of them has ended"),
        TravelError::Ending => said(C::ShuttingDown, "wait until belayd is back, then try again"),
        TravelError::Failed { .. } => {
            said(C::TravelFailed, "belayd's log says more; nothing was changed, try it again")
        }
    }
}

#[cfg(test)]
mod tests {
    use belay_hosting::core::checkpoint::{Full, Incompatible};
    use belay_runner::{AskError, Refusal};

    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table, one entry a refusal")]
    fn every_refusal_has_its_code_and_says_what_to_do() {
        use ProblemCode as C;
        let runner = || "run-7".parse().expect("a name");
        let node = |name: &str| name.parse::<NodeId>().expect("a name");
        let work = || "work".parse().expect("a name");
        let cases = [
            (
                TravelError::Key("runner.travel_key is not set".into()),
                C::TravelKeyMissing,
                "runner.travel_key is not set",
                "openssl rand -hex 32",
            ),
            (
                TravelError::SameNode(node("a")),
                C::InvalidRequest,
                "this node is a",
                "name the node",
            ),
            (
                TravelError::NoCheckpoint(runner()),
                C::NoSuchCheckpoint,
                "run-7 is not on the disk",
                "belay checkpoint ls",
            ),
            (
                TravelError::HoldsFiles { runner: runner(), paths: "/a, /b".into() },
                C::CheckpointHoldsFiles,
                "run-7 wrote to its root file system, which does not travel: /a, /b",
                "below a tmpfs",
            ),
            (
                TravelError::Runs(AskError::Refused(Refusal::NotMoved(runner()))),
                C::NotExported,
                "run-7 was not exported",
                "belay checkpoint ls",
            ),
            (
                ArchiveError::Version { found: "2".into() }.into(),
                C::ArchiveVersion,
                "it is an archive of version 2, and this belayd reads version 1",
                "the same version of belayd",
            ),
            (
                ArchiveError::Damaged("it is cut short: its end is missing").into(),
                C::ArchiveDamaged,
                "it is cut short: its end is missing",
                "export it again",
            ),
            (
                TravelError::Cut("no more of it came for 60 s".into()),
                C::ArchiveDamaged,
                "it did not come to its end: no more of it came for 60 s",
                "export it again",
            ),
            (
                Unfit::ForAnother { to: node("b"), here: node("c") }.into(),
                C::ArchiveForAnother,
                "it was exported for b, and this node is c",
                "import it on b",
            ),
            (
                Unfit::NoWorkload(work()).into(),
                C::TakesNoRuns,
                "no workload work takes runs",
                "deploy the workload here",
            ),
            (
                Unfit::Image { workload: work(), here: "i2".into(), then: "i1".into() }.into(),
                C::WorkloadDiffers,
                "work is of another image here: it is i2, and the runner was made of i1",
                "deploy the workload here",
            ),
            (
                Unfit::Features(vec!["avx2".into()]).into(),
                C::CheckpointIncompatible,
                "the processor here lacks what the one it ran on has: avx2",
                "belay checkpoint reclaim",
            ),
            (
                Unfit::Versions(Incompatible::CriuGone { then: "4.2".into() }).into(),
                C::CheckpointIncompatible,
                "it was taken by CRIU 4.2, and this host has none now; run cargo xtask setup, or \
                 install it",
                "belay checkpoint reclaim",
            ),
            (
                Full::Count { count: 3 }.into(),
                C::NoRoom,
                "the checkpoint store is full: it has 3 checkpoints, which is as many as it may",
                "runner.checkpoints_count",
            ),
            (
                TravelError::Address { url: "ws://10.0.0.1:7".into(), why: "it is taken".into() },
                C::RunnerAddress,
                "the runner looks for belayd at ws://10.0.0.1:7: it is taken",
                "runner.port",
            ),
            (
                TravelError::Busy,
                C::Busy,
                "as many checkpoints are on their way as belayd carries at a time",
                "try again",
            ),
            (TravelError::Ending, C::ShuttingDown, "belayd is ending", "wait until"),
            (
                TravelError::Failed { what: "read the checkpoint", why: "it is gone".into() },
                C::TravelFailed,
                "cannot read the checkpoint: it is gone",
                "nothing was changed",
            ),
        ];
        for (error, code, detail, next) in cases {
            let problem = problem(&error);
            assert_eq!((problem.code, problem.detail.as_str()), (code, detail));
            assert!(problem.next.contains(next), "{}", problem.next);
        }
    }
}
