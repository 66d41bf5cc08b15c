//! The numbers of the runner server.

use belay_protocol::runner::{HostTally, RunnerTally, Spans};

use super::Page;

/// Writes them. What grows has grown since belayd started.
pub(super) fn write(page: &mut Page, tally: &RunnerTally) {
    page.gauge("belay_runner_connections", "Runners that are connected.")
        .value(&[], tally.connections);
    page.gauge("belay_runs", "Runs that are remembered, the ended ones included.")
        .value(&[], tally.runs);
    page.gauge("belay_runner_reserved_bytes", "Memory that containers of runners may use.")
        .value(&[], tally.reserved_memory);
    page.gauge("belay_snapshots_pending", "Snapshots that are scheduled, held or due.")
        .value(&[], tally.pending_snapshots);
    page.gauge("belay_snapshots_dispatching", "Snapshots in the engine's hands.")
        .value(&[], tally.dispatching_snapshots);
    let snapshots = &tally.snapshots;
    page.counter("belay_snapshots_scheduled_total", "Suspensions that armed a snapshot.")
        .value(&[], snapshots.scheduled);
    let omitted = &snapshots.omitted;
    let mut metric =
        page.counter("belay_snapshots_omitted_total", "Suspensions that armed none, by reason.");
    for (reason, count) in [
        ("wait-over", omitted.wait_over),
        ("short-wait", omitted.short_wait),
        ("foreign-runner", omitted.foreign_runner),
        ("unsupported", omitted.unsupported),
    ] {
        metric.value(&[("reason", reason)], count);
    }
    let cancelled = &snapshots.cancelled;
    let mut metric = page.counter(
        "belay_snapshots_cancelled_total",
        "Snapshots that were not wanted any more, by reason.",
    );
    for (reason, count) in [
        ("completed", cancelled.completed),
        ("attempt-ended", cancelled.attempt_ended),
        ("left", cancelled.left),
        ("wait-over", cancelled.wait_over),
        ("run-cancelled", cancelled.run_cancelled),
        ("suspended-anew", cancelled.suspended_anew),
        ("away", cancelled.away),
        ("rebound", cancelled.rebound),
    ] {
        metric.value(&[("reason", reason)], count);
    }
    for (name, help, count) in [
        (
            "belay_snapshots_dispatched_total",
            "Snapshots that were handed to the engine, the further tries included.",
            snapshots.dispatched,
        ),
        ("belay_snapshots_taken_total", "Snapshots that were taken and kept.", snapshots.taken),
        (
            "belay_snapshots_discarded_total",
            "Snapshots that were taken and not wanted any more.",
            snapshots.discarded,
        ),
        ("belay_snapshots_failed_total", "Tries to snapshot that failed.", snapshots.failed),
        (
            "belay_snapshots_given_up_total",
            "Snapshots that failed as often as they may.",
            snapshots.given_up,
        ),
        (
            "belay_snapshots_late_total",
            "Snapshots that were dispatched more than a second after they fell due.",
            snapshots.late,
        ),
        (
            "belay_snapshots_lag_milliseconds_total",
            "Time between falling due and being dispatched, of all together.",
            snapshots.lag_ms,
        ),
    ] {
        page.counter(name, help).value(&[], count);
    }
    page.gauge("belay_snapshots_longest_lag_milliseconds", "The longest of those times.")
        .value(&[], snapshots.longest_lag_ms);
}

/// Writes what was done about the containers of runners since belayd started.
pub(super) fn write_hosted(page: &mut Page, tally: &HostTally) {
    for (name, help, count) in [
        ("belay_runners_started_total", "Runners that were started in containers.", tally.started),
        ("belay_runners_ended_total", "Runners in containers that ended.", tally.ended),
        (
            "belay_runners_out_of_memory_total",
            "Those of them that the kernel ended for want of memory.",
            tally.out_of_memory,
        ),
        (
            "belay_checkpoint_bytes_total",
            "Bytes of the checkpoints that were written.",
            tally.checkpoint_bytes,
        ),
        (
            "belay_snapshot_failures_total",
            "Runners that could not be snapshotted.",
            tally.snapshot_failures,
        ),
        (
            "belay_restore_failures_total",
            "Runners that could not be brought back.",
            tally.restore_failures,
        ),
    ] {
        page.counter(name, help).value(&[], count);
    }
    let acts: [(&str, Spans); 5] = [
        ("checkpoint", tally.checkpointed),
        ("freeze", tally.frozen),
        ("pause", tally.paused),
        ("restore", tally.restored),
        ("thaw", tally.thawed),
    ];
    let help =
        "How often runners were checkpointed, stood still for it, were paused, restored, thawed.";
    let mut metric = page.counter("belay_runner_acts_total", help);
    for (act, spans) in acts {
        metric.value(&[("act", act)], spans.count);
    }
    let mut metric = page
        .counter("belay_runner_acts_milliseconds_total", "How long that took, of all together.");
    for (act, spans) in acts {
        metric.value(&[("act", act)], spans.total_ms);
    }
    let mut metric =
        page.gauge("belay_runner_acts_longest_milliseconds", "The longest of those times.");
    for (act, spans) in acts {
        metric.value(&[("act", act)], spans.longest_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use belay_protocol::runner::SnapshotTally;

    use super::*;

    #[test]
    fn every_count_is_on_the_page_under_its_own_name() {
        let mut snapshots =
            SnapshotTally { scheduled: 11, taken: 12, late: 13, ..SnapshotTally::default() };
        snapshots.omitted.short_wait = 14;
        snapshots.cancelled.rebound = 15;
        snapshots.longest_lag_ms = 16;
        let tally = RunnerTally {
            connections: 17,
            runs: 18,
            pending_snapshots: 19,
            dispatching_snapshots: 20,
            reserved_memory: 21,
            snapshots,
        };
        let mut page = Page::default();
        write(&mut page, &tally);
        for line in [
            "belay_snapshots_scheduled_total 11",
            "belay_snapshots_taken_total 12",
            "belay_snapshots_late_total 13",
            r#"belay_snapshots_omitted_total{reason="short-wait"} 14"#,
            r#"belay_snapshots_cancelled_total{reason="rebound"} 15"#,
            "belay_snapshots_longest_lag_milliseconds 16",
            "belay_runner_connections 17",
            "belay_runs 18",
            "belay_snapshots_pending 19",
            "belay_snapshots_dispatching 20",
            "belay_runner_reserved_bytes 21",
        ] {
            assert!(page.0.lines().any(|found| found == line), "{line} is not in\n{}", page.0);
        }
    }

    #[test]
    fn what_was_done_about_containers_is_on_the_page() {
        let mut tally = HostTally { started: 7, checkpoint_bytes: 8, ..HostTally::default() };
        tally.frozen.add(Duration::from_millis(9));
        tally.frozen.add(Duration::from_millis(2));
        tally.restored.add(Duration::from_millis(5));
        let mut page = Page::default();
        write_hosted(&mut page, &tally);
        for line in [
            "belay_runners_started_total 7",
            "belay_checkpoint_bytes_total 8",
            r#"belay_runner_acts_total{act="freeze"} 2"#,
            r#"belay_runner_acts_milliseconds_total{act="freeze"} 11"#,
            r#"belay_runner_acts_longest_milliseconds{act="freeze"} 9"#,
            r#"belay_runner_acts_total{act="restore"} 1"#,
        ] {
            assert!(page.0.lines().any(|found| found == line), "{line} is not in\n{}", page.0);
        }
    }
}
