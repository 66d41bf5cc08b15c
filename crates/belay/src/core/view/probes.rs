//! What workloads answer when they are asked whether they serve.

use belay_protocol::{ProbeStatus, ProbeVerdict, WorkloadStatus};
use jiff::Timestamp;

use super::Facts;
use crate::core::human;
use crate::core::table::{Cell, Style, Tone};

/// The cell of a table for liveness; empty where it is not asked for.
pub(crate) fn live(workload: &WorkloadStatus) -> Cell {
    match &workload.live {
        Some(live) => Cell::new(live.verdict.as_str(), tone(live.verdict)),
        None => "".into(),
    }
}

/// Adds what is asked, what is known by it and what was seen last.
pub(crate) fn add(facts: &mut Facts, workload: &WorkloadStatus, now: Timestamp, style: Style) {
    for (label, probe) in [("ready", &workload.ready), ("live", &workload.live)] {
        if let Some(probe) = probe {
            facts.add_toned(label, &sentence(probe, now), tone(probe.verdict), style);
        }
    }
}

fn sentence(probe: &ProbeStatus, now: Timestamp) -> String {
    let counts = &probe.counts;
    let last = match &probe.last {
        Some(seen) => format!("; {} {} ago", seen.text, human::age(now, seen.at)),
        None => String::new(),
    };
    format!(
        "{} by {} ({} good, {} failing, {} inconclusive{last})",
        probe.verdict.as_str(),
        probe.probe,
        counts.good,
        counts.failing,
        counts.inconclusive
    )
}

fn tone(verdict: ProbeVerdict) -> Tone {
    match verdict {
        ProbeVerdict::Good => Tone::Good,
        ProbeVerdict::Waiting | ProbeVerdict::Unknown => Tone::Doubtful,
        ProbeVerdict::Failing => Tone::Bad,
    }
}

#[cfg(test)]
mod tests {
    use belay_protocol::{ProbeCounts, ProbeSeen};

    use super::*;
    use crate::core::sample;

    #[test]
    fn both_questions_are_shown_with_what_was_seen_last() {
        let mut web = sample::workload("web");
        web.ready = Some(ProbeStatus {
            probe: "http 80/healthz".to_owned(),
            verdict: ProbeVerdict::Good,
            in_a_row: 3,
            counts: ProbeCounts { good: 3, failing: 1, inconclusive: 0 },
            last: None,
        });
        web.live = Some(ProbeStatus {
            probe: "exec /bin/check".to_owned(),
            verdict: ProbeVerdict::Failing,
            in_a_row: 3,
            counts: ProbeCounts { good: 40, failing: 3, inconclusive: 2 },
            last: Some(ProbeSeen {
                text: "the command exits with 1: no disk".to_owned(),
                at: "2026-03-01T11:59:56Z".parse().expect("a time"),
            }),
        });
        let mut facts = Facts::default();
        add(&mut facts, &web, sample::now(), Style::Plain);
        assert_eq!(
            facts.render(),
            "ready: good by http 80/healthz (3 good, 1 failing, 0 inconclusive)\n\
             \x20live: failing by exec /bin/check (40 good, 3 failing, 2 inconclusive; the command \
             exits with 1: no disk 4s ago)\n"
        );
    }
}
