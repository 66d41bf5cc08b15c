use belay_protocol::VolumeFate;

use super::super::record::{Declaration, Source};
use super::*;

fn record(change: impl FnOnce(&mut WorkloadRecord)) -> WorkloadRecord {
    let mut record = WorkloadRecord::first(Declaration {
        spec: String::new(),
        file: String::new(),
        directory: String::new(),
        source: Source::Api,
    });
    change(&mut record);
    record
}

fn said(
    record: &WorkloadRecord,
    process: Process,
    window: WindowDemand,
    phase: WorkloadPhase,
) -> Option<Problem> {
    let name = "web".parse().expect("a name");
    refusal(standing(record, process, window), &name, record, phase, "the reason")
}

/// Every combination of what should be, what is, and a window: only what runs and is meant to is
/// acted on.
#[test]
fn only_what_runs_and_is_meant_to_is_acted_on() {
    let meant = [
        (record(|_| {}), true),
        (record(|record| record.run = DesiredState::Stopped), false),
        (record(|record| record.halted = Some("torn".into())), false),
        (record(|record| record.removing = Some(VolumeFate::Keep)), false),
    ];
    for (record, meant_to_run) in meant {
        for process in [Process::Runs, Process::None, Process::Untold] {
            for window in [WindowDemand::Closed, WindowDemand::Open] {
                let found = standing(&record, process, window);
                let expect = match (meant_to_run, window, process) {
                    (false, _, _) | (true, WindowDemand::Closed, Process::None) => Standing::Down,
                    (true, WindowDemand::Open, _) => Standing::Paused,
                    (true, WindowDemand::Closed, Process::Untold) => Standing::Untold,
                    (true, WindowDemand::Closed, Process::Runs) => Standing::Runs,
                };
                assert_eq!(found, expect, "{record:?} {process:?} {window:?}");
                let refused = said(&record, process, window, WorkloadPhase::Stopped);
                assert_eq!(refused.is_none(), found == Standing::Runs, "{found:?}");
            }
        }
    }
}

#[test]
fn a_refusal_names_the_state_the_reason_and_the_way_out() {
    let plain = record(|_| {});
    let stopped = record(|record| record.run = DesiredState::Stopped);
    let halted = record(|record| record.halted = Some("torn".into()));
    let removing = record(|record| record.removing = Some(VolumeFate::Keep));
    let start = "start it and try again: belay start web";
    let table = [
        (&plain, Process::None, WorkloadPhase::BackOff, "web is back-off: the reason", start),
        (&plain, Process::None, WorkloadPhase::Completed, "web is completed: the reason", start),
        (&plain, Process::None, WorkloadPhase::Ready, "web is ending: its process is gone", start),
        (&stopped, Process::None, WorkloadPhase::Stopped, "web is stopped: the reason", start),
        (&stopped, Process::Runs, WorkloadPhase::Stopping, "web is stopping: the reason", start),
        (
            &stopped,
            Process::Runs,
            WorkloadPhase::Ready,
            "web is stopping: an operator stopped it",
            start,
        ),
        (&halted, Process::Runs, WorkloadPhase::Unready, "web is halted: torn", start),
        (
            &removing,
            Process::Runs,
            WorkloadPhase::Probing,
            "web is removing: an operator removed it",
            "deploy it anew once it is gone: belay deploy FILE",
        ),
        (
            &plain,
            Process::Untold,
            WorkloadPhase::Unknown,
            "web is unknown: the reason",
            "see what the engine lacks: belay doctor; once it answers, and if it does not run, \
             start it and try again: belay start web",
        ),
    ];
    for (record, process, phase, detail, next) in table {
        let problem = said(record, process, WindowDemand::Closed, phase).expect("is refused");
        assert_eq!(problem.code, ProblemCode::NotRunning);
        assert_eq!((problem.detail.as_str(), problem.next.as_str()), (detail, next));
    }
    let paused = said(&plain, Process::None, WindowDemand::Open, WorkloadPhase::PausedForSync);
    let paused = paused.expect("is refused");
    assert_eq!(paused.code, ProblemCode::Busy);
    assert_eq!(paused.detail, "web is paused for sync and comes back by itself");
}
