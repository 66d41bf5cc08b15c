//! `belay explain WORKLOAD`: why it is in the state it is in.

use belay_protocol::{NodeStatus, SyncRole, WorkloadStatus};
use jiff::Timestamp;

use super::{Facts, node, tone};
use crate::core::table::{Cell, Style, Table, Tone};
use crate::core::{advice, human};

/// Desired against observed, what holds it, and how it came to this.
pub(crate) fn page(
    status: &NodeStatus,
    workload: &WorkloadStatus,
    now: Timestamp,
    style: Style,
) -> String {
    let mut facts = Facts::default();
    facts.add("desired", node::desired(workload.desired));
    let observed = format!(
        "{} since {} ({} ago)",
        workload.phase.as_str(),
        human::clock(workload.since),
        human::age(now, workload.since)
    );
    facts.add_toned("observed", &observed, tone(workload.phase), style);
    facts.add("because", &workload.reason);
    facts.add(
        "engine",
        match (status.engine.reachable, &workload.container) {
            (false, _) => "does not answer, so nothing is changed until it does".to_owned(),
            (true, None) => "has no container of it".to_owned(),
            (true, Some(container)) => match (&container.exit, container.started_at) {
                (Some(exit), _) if exit.out_of_memory => {
                    format!("container exited with code {}, out of memory", exit.code)
                }
                (Some(exit), _) => format!("container exited with code {}", exit.code),
                (None, Some(started)) => format!("container runs since {}", human::clock(started)),
                (None, None) => "container was never started".to_owned(),
            },
        },
    );
    for (number, needed) in workload.depends_on.iter().enumerate() {
        let label = if number == 0 { "depends on" } else { "" };
        let until = needed.until.as_str();
        facts.add(
            label,
            match &needed.awaited {
                Some(awaited) => format!("{}, until {until}; it is {awaited}", needed.workload),
                None => format!("{}, until {until}", needed.workload),
            },
        );
    }
    if let Some(back_off) = &workload.back_off {
        let failures = human::count(back_off.failures as usize, "failure");
        let at = human::clock(back_off.next_try_at);
        let due = human::until(now, back_off.next_try_at);
        facts.add("back-off", format!("{failures} in a row, next start at {at} (in {due})"));
    }
    if let Some(sync) = &workload.sync {
        if let Some(halted) = &sync.halted {
            facts.add_toned("held", halted, Tone::Bad, style);
        }
        if sync.stage != "idle" {
            let act = match sync.role {
                SyncRole::Provider => "publish",
                SyncRole::Consumer => "apply",
            };
            facts.add("sync", format!("{act} under way, stage {}", sync.stage));
        }
    }
    if let Some(fault) = &workload.last_fault {
        let message = format!("{} ({})", fault.message, fault.code);
        facts.add_toned("last fault", &message, Tone::Bad, style);
        facts.add("", format!("at {}", human::clock(fault.at)));
    }
    match advice::next(workload) {
        Some(next) => facts.add("next", next),
        None => facts.add("next", "nothing to do"),
    }
    let mut text = facts.render();
    if !workload.transitions.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["WHEN", "FROM", "TO", "CAUSE"]);
        for transition in &workload.transitions {
            table.row([
                human::clock(transition.at).into(),
                transition.from.as_str().into(),
                Cell::new(transition.to.as_str(), tone(transition.to)),
                transition.cause.as_str().into(),
            ]);
        }
        text += &table.render(style);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::sample;

    #[test]
    fn a_failing_workload_is_explained_with_its_past() {
        let status = sample::status();
        let cache = sample::workload("cache");
        assert_eq!(
            page(&status, &cache, sample::now(), Style::Plain),
            "   desired: running\n\
             \x20 observed: back-off since 2026-03-01 11:59:48Z (12s ago)\n\
             \x20  because: exited with code 1, 4 times in a row\n\
             \x20   engine: container exited with code 1\n\
             \x20 back-off: 4 failures in a row, next start at 2026-03-01 12:00:08Z (in 8s)\n\
             last fault: exited with code 1 after 8 s (start-failed)\n\
             \x20           at 2026-03-01 11:59:48Z\n\
             \x20     next: belay logs cache\n\
             \n\
             WHEN                  FROM      TO        CAUSE\n\
             2026-03-01 11:59:40Z  back-off  starting  the wait is over\n\
             2026-03-01 11:59:48Z  starting  back-off  exited with code 1\n"
        );
    }

    #[test]
    fn a_wait_names_what_is_awaited() {
        use belay_protocol::{DependencyState, DependencyStatus, WorkloadPhase};
        let mut web = sample::workload("web");
        web.phase = WorkloadPhase::Waiting;
        let on = |name: &str, until, awaited: Option<&str>| DependencyStatus {
            workload: name.parse().expect("a name"),
            until,
            awaited: awaited.map(str::to_owned),
        };
        web.depends_on = vec![
            on("cache", DependencyState::Started, None),
            on("db", DependencyState::Ready, Some("stopped, an operator stopped it")),
        ];
        let text = page(&sample::status(), &web, sample::now(), Style::Plain);
        assert!(text.contains("depends on: cache, until started\n"), "{text}");
        let awaited = "            db, until ready; it is stopped, an operator stopped it\n";
        assert!(text.contains(awaited), "{text}");
        assert!(text.contains("next: belay explain db\n"), "{text}");
    }

    #[test]
    fn a_hold_is_named() {
        let mut web = sample::workload("web");
        web.phase = belay_protocol::WorkloadPhase::Halted;
        if let Some(sync) = &mut web.sync {
            sync.halted = Some("an apply was cut and data is uncertain".to_owned());
        }
        let text = page(&sample::status(), &web, sample::now(), Style::Plain);
        assert!(text.contains("held: an apply was cut and data is uncertain\n"), "{text}");
        assert!(text.contains("next: look at its volumes first; belay start web clears"), "{text}");
    }
}
