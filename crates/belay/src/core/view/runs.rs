//! Runs, runners and waitpoints.

use std::fmt::Write as _;

use belay_protocol::runner::{
    ArrivalVerdict, CheckpointStatus, CheckpointVersions, DepartureStage, DepartureStatus,
    ImportedCheckpoint, RunDetail, RunPage, RunState, RunStatus, RunnerActivity, RunnerLink,
    RunnerOrigin, RunnerStatus, SnapshotStatus, WaitRequest, WaitStatus, WaitpointPage,
    WaitpointState,
};
use jiff::Timestamp;

use super::Facts;
use crate::core::human;
use crate::core::table::{Cell, Style, Table, Tone};

/// `belay run ls`.
pub(crate) fn runs(page: &RunPage, now: Timestamp, style: Style) -> String {
    if page.runs.is_empty() {
        return "no runs\n".to_owned();
    }
    let mut table = Table::new(&["RUN", "WORKLOAD", "STATE", "AGE", "ATTEMPT", "RUNNER", "NOTE"]);
    for run in &page.runs {
        let attempt = format!("{}/{}", run.attempt, run.max_attempts);
        let runner = run.runner.as_ref().map(ToString::to_string).unwrap_or_default();
        table.row([
            run.run.to_string().into(),
            run.workload.as_str().into(),
            Cell::new(run.state.as_str(), tone(run.state)),
            human::age(now, run.created_at).into(),
            attempt.into(),
            runner.into(),
            note(run, now).into(),
        ]);
    }
    let mut text = table.render(style);
    if let Some(next) = page.next {
        let _ = writeln!(text, "older ones than {next} are not shown");
    }
    text
}

/// `belay run show`.
pub(crate) fn run(detail: &RunDetail, now: Timestamp, style: Style) -> String {
    let run = &detail.status;
    let mut facts = Facts::default();
    facts.add("run", run.run.to_string());
    facts.add("workload", run.workload.as_str());
    facts.add_toned("state", run.state.as_str(), tone(run.state), style);
    facts.add("submitted", ago(now, run.created_at));
    if let Some(ended) = run.ended_at {
        facts.add("ended", ago(now, ended));
    }
    facts.add("attempt", format!("{} of {}", run.attempt, run.max_attempts));
    if run.priority != 0 {
        facts.add("priority", run.priority.to_string());
    }
    if let Some(key) = &run.idempotency_key {
        facts.add("key", key);
    }
    if let Some(runner) = &run.runner {
        facts.add("runner", format!("{runner}, in epoch {}", run.epoch));
    }
    if let Some(not_before) = run.not_before.filter(|not_before| *not_before > now) {
        facts.add("not before", to_come(now, not_before));
    }
    if let Some(until) = run.until {
        facts.add("attempt until", to_come(now, until));
    }
    if let Some(departure) = &run.departure {
        facts.add("departure", departed(departure));
    }
    if let Some(wait) = &run.wait {
        facts.add("waits for", waits_for(wait, now));
    }
    if let Some(snapshot) = &run.snapshot {
        facts.add("snapshot", snapshot_note(snapshot, now));
    }
    if let Some(failure) = &run.snapshot_failure {
        facts.add_toned("not snapshotted", failure, Tone::Doubtful, style);
    }
    if let Some(failure) = &run.failure {
        facts.add_toned("last failure", failure, Tone::Bad, style);
    }
    for waitpoint in &detail.waitpoints {
        let state = waitpoint.state.as_str();
        facts.add("waitpoint", format!("{}, {state}", waitpoint.waitpoint));
    }
    facts.add("payload", cut(&detail.payload));
    if let Some(output) = &detail.output {
        facts.add("result", cut(output));
    }
    facts.render()
}

/// `belay runner ls`.
pub(crate) fn runners(runners: &[RunnerStatus], style: Style) -> String {
    if runners.is_empty() {
        return "no runners\n".to_owned();
    }
    let mut table = Table::new(&["RUNNER", "WORKLOAD", "FROM", "LINK", "ACTIVITY", "RUN"]);
    for runner in runners {
        let from = match runner.origin {
            RunnerOrigin::Hosted => "belayd",
            RunnerOrigin::Foreign => "elsewhere",
        };
        let link = match runner.link {
            RunnerLink::Connected => Cell::new("connected", Tone::Good),
            RunnerLink::Away => Cell::new("away", away_tone(runner.activity)),
        };
        table.row([
            runner.runner.to_string().into(),
            runner.workload.as_str().into(),
            from.into(),
            link,
            runner.activity.as_str().into(),
            runner.run.map(|run| run.to_string()).unwrap_or_default().into(),
        ]);
    }
    table.render(style)
}

/// `belay checkpoint ls`.
pub(crate) fn checkpoints(kept: &[CheckpointStatus], now: Timestamp, style: Style) -> String {
    if kept.is_empty() {
        return "no checkpoints\n".to_owned();
    }
    let mut table = Table::new(&["RUNNER", "WORKLOAD", "RUN", "AGE", "SIZE", "TAKEN WITH", "NOTE"]);
    for checkpoint in kept {
        let CheckpointVersions { engine, engine_version, runtime, criu, .. } =
            &checkpoint.taken_with;
        let criu = criu.as_ref().map(|version| format!(", CRIU {version}")).unwrap_or_default();
        table.row([
            checkpoint.runner.to_string().into(),
            checkpoint.workload.as_str().into(),
            checkpoint.run.to_string().into(),
            human::age(now, checkpoint.taken_at).into(),
            human::size(checkpoint.bytes).into(),
            format!("{engine} {engine_version}, {runtime}{criu}").into(),
            match (&checkpoint.departure, &checkpoint.incompatible) {
                (Some(departure), _) => departed(departure).into(),
                (None, Some(why)) => Cell::new(why.as_str(), Tone::Bad),
                (None, None) => "".into(),
            },
        ]);
    }
    table.render(style)
}

/// What came of an import.
pub(crate) fn imported(imported: &ImportedCheckpoint) -> String {
    let ImportedCheckpoint { run, from, runner, .. } = imported;
    let size = human::size(imported.bytes);
    match imported.verdict {
        ArrivalVerdict::Taken => {
            format!("{run} has come from {from} and is suspended: {runner}, {size}\n")
        }
        ArrivalVerdict::WouldBeTaken => {
            format!("{run} from {from} would be taken: {runner}, {size}\n")
        }
    }
}

/// Where a checkpoint is on its way to, or went.
fn departed(departure: &DepartureStatus) -> String {
    match (departure.stage, departure.until) {
        (DepartureStage::Leaving, _) => format!("is being exported to {}", departure.to),
        (DepartureStage::Exported, Some(until)) => {
            format!("exported to {}; kept until {}", departure.to, human::clock(until))
        }
        (DepartureStage::Exported, None) => format!("moved to {}", departure.to),
    }
}

/// `belay waitpoint ls`.
pub(crate) fn waitpoints(page: &WaitpointPage, now: Timestamp, style: Style) -> String {
    if page.waitpoints.is_empty() {
        return "no waitpoints\n".to_owned();
    }
    let mut table = Table::new(&["WAITPOINT", "WORKLOAD", "RUN", "STATE", "AGE"]);
    for waitpoint in &page.waitpoints {
        let tone = match waitpoint.state {
            WaitpointState::Awaited => Tone::Doubtful,
            WaitpointState::Open | WaitpointState::Completed => Tone::Plain,
            WaitpointState::Abandoned => Tone::Faint,
        };
        table.row([
            waitpoint.waitpoint.to_string().into(),
            waitpoint.workload.as_str().into(),
            waitpoint.run.to_string().into(),
            Cell::new(waitpoint.state.as_str(), tone),
            human::age(now, waitpoint.created_at).into(),
        ]);
    }
    let mut text = table.render(style);
    if let Some(next) = page.next {
        let _ = writeln!(text, "older ones than {next} are not shown");
    }
    text
}

fn tone(state: RunState) -> Tone {
    match state {
        RunState::Executing | RunState::Finished => Tone::Good,
        RunState::Queued
        | RunState::Assigned
        | RunState::Waiting
        | RunState::Suspended
        | RunState::Restoring => Tone::Doubtful,
        RunState::Failed => Tone::Bad,
        RunState::Cancelled | RunState::Moved => Tone::Faint,
    }
}

/// That a snapshotted runner is away is as it should be.
fn away_tone(activity: RunnerActivity) -> Tone {
    match activity {
        RunnerActivity::Suspended | RunnerActivity::Restoring | RunnerActivity::Stopping => {
            Tone::Plain
        }
        RunnerActivity::Idle
        | RunnerActivity::Unready
        | RunnerActivity::Assigned
        | RunnerActivity::Executing
        | RunnerActivity::Waiting => Tone::Doubtful,
    }
}

/// What is most worth knowing of a run, in few words.
fn note(run: &RunStatus, now: Timestamp) -> String {
    let mut notes = Vec::new();
    if let Some(not_before) = run.not_before.filter(|not_before| *not_before > now) {
        notes.push(format!("in {}", human::until(now, not_before)));
    }
    if let Some(departure) = &run.departure {
        notes.push(departed(departure));
    }
    if let Some(wait) = &run.wait {
        notes.push(waits_for(wait, now));
    }
    if let Some(snapshot) = &run.snapshot {
        notes.push(snapshot_note(snapshot, now));
    }
    if let Some(failure) = &run.failure {
        notes.push(failure.clone());
    }
    notes.join("; ")
}

fn waits_for(wait: &WaitStatus, now: Timestamp) -> String {
    match wait.wait {
        Some(WaitRequest::Timer { until }) => format!("a timer, {} left", human::until(now, until)),
        Some(WaitRequest::Token { waitpoint }) => waitpoint.to_string(),
        None => "room to be restored".to_owned(),
    }
}

fn snapshot_note(snapshot: &SnapshotStatus, now: Timestamp) -> String {
    match snapshot {
        SnapshotStatus::Pending { due_at, failures: 0 } => {
            format!("snapshot in {}", human::until(now, *due_at))
        }
        SnapshotStatus::Pending { due_at, failures } => format!(
            "snapshot failed {}, again in {}",
            human::count(usize::try_from(*failures).unwrap_or(usize::MAX), "time"),
            human::until(now, *due_at)
        ),
        SnapshotStatus::Dispatching {} => "snapshot under way".to_owned(),
        SnapshotStatus::Checkpointed {} => "checkpointed, its memory is free".to_owned(),
        SnapshotStatus::Paused {} => "paused, its memory is not free".to_owned(),
    }
}

/// The beginning of a value that may be large.
fn cut(value: &serde_json::Value) -> String {
    const MOST: usize = 500;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ... (-o json shows all of it)", &text[..end]),
        None => text,
    }
}

fn ago(now: Timestamp, then: Timestamp) -> String {
    format!("{}, {} ago", human::clock(then), human::age(now, then))
}

fn to_come(now: Timestamp, then: Timestamp) -> String {
    format!("{}, in {}", human::clock(then), human::until(now, then))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RUN: &str = "run_06cp9m2k2g000f0e1d2c3b4a50";
    const WAITPOINT: &str = "wait_06cp9m34hg000vqtrs6e5c4b20";

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().expect("a time")
    }

    fn status(more: &serde_json::Value) -> RunStatus {
        let mut status = json!({
            "run": RUN, "workload": "mailer", "state": "queued", "priority": 0,
            "created_at": "2026-03-01T11:55:00Z", "attempt": 0, "max_attempts": 3, "epoch": 0,
        });
        let fields = status.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        serde_json::from_value(status).expect("the shape of a run")
    }

    fn page() -> RunPage {
        let waits = json!({"suspension": 1, "wait": {"on": "token", "waitpoint": WAITPOINT}});
        let timer =
            json!({"suspension": 2, "wait": {"on": "timer", "until": "2026-03-01T12:01:00Z"}});
        let runs = vec![
            status(&json!({"not_before": "2026-03-01T12:00:08Z", "attempt": 1,
                          "failure": "the mail\nserver is away"})),
            status(&json!({"state": "executing", "attempt": 1, "runner": "mailer-1", "epoch": 1})),
            status(&json!({"state": "waiting", "attempt": 1, "runner": "mailer-2", "wait": timer,
                          "snapshot": {"stage": "pending", "due_at": "2026-03-01T12:00:30Z",
                                       "failures": 0}})),
            status(
                &json!({"state": "suspended", "attempt": 1, "runner": "mailer-3", "wait": waits,
                          "snapshot": {"stage": "checkpointed"}}),
            ),
            status(&json!({"state": "failed", "attempt": 3, "failure": "no",
                          "ended_at": "2026-03-01T11:59:00Z"})),
        ];
        RunPage { runs, next: Some(RUN.parse().expect("an id")) }
    }

    #[test]
    fn runs_are_listed_with_what_is_worth_knowing() {
        assert_eq!(
            runs(&page(), now(), Style::Plain),
            "RUN                             WORKLOAD  STATE      AGE  ATTEMPT  RUNNER    NOTE\n\
             run_06cp9m2k2g000f0e1d2c3b4a50  mailer    queued     5m   1/3                in 8s; the mail server is away\n\
             run_06cp9m2k2g000f0e1d2c3b4a50  mailer    executing  5m   1/3      mailer-1\n\
             run_06cp9m2k2g000f0e1d2c3b4a50  mailer    waiting    5m   1/3      mailer-2  a timer, 1m left; snapshot in 30s\n\
             run_06cp9m2k2g000f0e1d2c3b4a50  mailer    suspended  5m   1/3      mailer-3  wait_06cp9m34hg000vqtrs6e5c4b20; checkpointed, its memory is free\n\
             run_06cp9m2k2g000f0e1d2c3b4a50  mailer    failed     5m   3/3                no\n\
             older ones than run_06cp9m2k2g000f0e1d2c3b4a50 are not shown\n"
        );
        assert_eq!(runs(&RunPage::default(), now(), Style::Plain), "no runs\n");
    }

    #[test]
    fn a_run_is_shown_in_full() {
        let waitpoint = json!({"waitpoint": WAITPOINT, "run": RUN, "workload": "mailer",
                               "created_at": "2026-03-01T11:56:00Z", "state": "awaited"});
        let wait = json!({"suspension": 1, "wait": {"on": "token", "waitpoint": WAITPOINT}});
        let detail: RunDetail = serde_json::from_value(json!({
            "status": status(&json!({
                "state": "waiting", "attempt": 1, "runner": "mailer-1", "epoch": 2, "priority": 5,
                "idempotency_key": "invoice-17", "wait": wait,
                "snapshot": {"stage": "pending", "due_at": "2026-03-01T12:00:05Z", "failures": 1},
            })),
            "payload": {"invoice": 17}, "waitpoints": [waitpoint],
        }))
        .expect("the shape of a run");
        assert_eq!(
            run(&detail, now(), Style::Plain),
            "      run: run_06cp9m2k2g000f0e1d2c3b4a50\n \
             workload: mailer\n    \
             state: waiting\n\
             submitted: 2026-03-01 11:55:00Z, 5m ago\n  \
             attempt: 1 of 3\n \
             priority: 5\n      \
             key: invoice-17\n   \
             runner: mailer-1, in epoch 2\n\
             waits for: wait_06cp9m34hg000vqtrs6e5c4b20\n \
             snapshot: snapshot failed 1 time, again in 5s\n\
             waitpoint: wait_06cp9m34hg000vqtrs6e5c4b20, awaited\n  \
             payload: {\"invoice\":17}\n"
        );
        let ended = RunDetail {
            status: status(&json!({"state": "finished", "ended_at": "2026-03-01T11:59:55Z"})),
            payload: serde_json::Value::Null,
            output: Some(json!({"sent": true})),
            waitpoints: Vec::new(),
        };
        let text = run(&ended, now(), Style::Plain);
        assert!(text.contains("    ended: 2026-03-01 11:59:55Z, 5s ago\n"), "{text}");
        assert!(text.ends_with("   result: {\"sent\":true}\n"), "{text}");
        let long = RunDetail { payload: json!("é".repeat(1000)), ..ended };
        let text = run(&long, now(), Style::Plain);
        let payload = format!("  payload: \"{} ... (-o json", "é".repeat(499));
        assert!(text.contains(&payload), "{text}");
    }

    #[test]
    fn runners_are_listed_with_where_they_are() {
        let runner = |name: &str, origin: &str, activity: &str, link: &str, run: Option<&str>| {
            let status = json!({"runner": name, "workload": "mailer", "origin": origin,
                                "activity": activity, "link": link, "run": run});
            serde_json::from_value(status).expect("the shape of a runner")
        };
        let listed = [
            runner("laptop", "foreign", "idle", "connected", None),
            runner("run-1-1", "hosted", "suspended", "away", Some(RUN)),
        ];
        assert_eq!(
            runners(&listed, Style::Plain),
            "RUNNER   WORKLOAD  FROM       LINK       ACTIVITY   RUN\n\
             laptop   mailer    elsewhere  connected  idle\n\
             run-1-1  mailer    belayd     away       suspended  run_06cp9m2k2g000f0e1d2c3b4a50\n"
        );
        assert_eq!(runners(&[], Style::Plain), "no runners\n");
    }

    #[test]
    fn waitpoints_are_listed_with_their_runs() {
        let page: WaitpointPage = serde_json::from_value(json!({"waitpoints": [
            {"waitpoint": WAITPOINT, "run": RUN, "workload": "mailer",
             "created_at": "2026-03-01T11:56:00Z", "state": "awaited"},
        ]}))
        .expect("the shape of a page");
        assert_eq!(
            waitpoints(&page, now(), Style::Plain),
            "WAITPOINT                        WORKLOAD  RUN                             STATE    AGE\n\
             wait_06cp9m34hg000vqtrs6e5c4b20  mailer    run_06cp9m2k2g000f0e1d2c3b4a50  awaited  4m\n"
        );
        assert_eq!(waitpoints(&WaitpointPage::default(), now(), Style::Plain), "no waitpoints\n");
    }
}
