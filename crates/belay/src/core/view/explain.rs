//! `belay explain WORKLOAD`: why it is in the state it is in.

use belay_protocol::{
    DesiredState, NodeStatus, SyncRole, VolumeStatus, WorkloadPhase, WorkloadStatus,
};
use jiff::Timestamp;
use serde_json::Value;

use super::{Facts, node, probes, tone};
use crate::core::table::{Cell, Style, Table, Tone};
use crate::core::{advice, human};

/// Desired against observed, what holds it, and how it came to this: `transitions` are the events
/// of its phases, oldest first.
pub(crate) fn page(
    status: &NodeStatus,
    workload: &WorkloadStatus,
    transitions: &[Value],
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
    facts.add("engine", engine(status, workload));
    let differences = differences(status, workload);
    if differences.is_empty() {
        facts.add("differs", "nothing");
    }
    for (number, difference) in differences.iter().enumerate() {
        let label = if number == 0 { "differs" } else { "" };
        facts.add_toned(label, difference, Tone::Doubtful, style);
    }
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
    if !workload.overrides.is_empty() {
        let names = workload.overrides.join(", ");
        facts.add("overrides", format!("{names} of its environment, by the app itself"));
    }
    probes::add(&mut facts, workload, now, style);
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
        if let Some(waits) = super::sync::first_content(sync, now) {
            facts.add_toned("waits", &waits, Tone::Doubtful, style);
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
    if !transitions.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["EVENT", "WHEN", "FROM", "TO", "CAUSE"]);
        for transition in transitions {
            let at = transition["at"].as_str().unwrap_or_default();
            let at = at.parse().map_or_else(|_| at.to_owned(), human::clock);
            let details = |name: &str| transition["details"][name].as_str().unwrap_or("-");
            let to = &transition["details"]["to"];
            let tone = serde_json::from_value(to.clone()).map_or(Tone::Plain, tone);
            table.row([
                transition["seq"].to_string().into(),
                at.into(),
                details("from").into(),
                Cell::new(details("to"), tone),
                details("cause").into(),
            ]);
        }
        text += &table.render(style);
    }
    text
}

/// What the engine has of it.
fn engine(status: &NodeStatus, workload: &WorkloadStatus) -> String {
    if !status.engine.reachable {
        return "does not answer, so nothing is changed until it does".to_owned();
    }
    let Some(container) = &workload.container else { return "has no container of it".to_owned() };
    let started = match (&container.exit, container.started_at) {
        (Some(exit), _) if exit.out_of_memory => {
            return format!("container exited with code {}, out of memory", exit.code);
        }
        (Some(exit), _) => return format!("container exited with code {}", exit.code),
        (None, None) => return "container was never started".to_owned(),
        (None, Some(started)) => human::clock(started),
    };
    let ended = match container.oom_kills {
        0 => return format!("container runs since {started}"),
        1 => "1 process".to_owned(),
        many => format!("{many} processes"),
    };
    format!("container runs since {started}; the kernel ended {ended} in it for want of memory")
}

/// What is not as it should be, a sentence each.
fn differences(status: &NodeStatus, workload: &WorkloadStatus) -> Vec<String> {
    let mut found = Vec::new();
    let own = |volume: &&VolumeStatus| volume.workload == workload.name;
    match workload.desired {
        DesiredState::Running => {
            let up = matches!(workload.phase, WorkloadPhase::Ready | WorkloadPhase::Completed);
            match &workload.container {
                _ if up => {}
                None => found.push("it should run and has no container".to_owned()),
                Some(container) if container.exit.is_some() => {
                    found.push("it should run and its container has ended".to_owned());
                }
                Some(container) if container.started_at.is_none() => {
                    found.push("it should run and its container was never started".to_owned());
                }
                Some(_) => {
                    found.push(format!("it should be ready and is {}", workload.phase.as_str()));
                }
            }
            for name in &workload.volumes {
                let volume = status.volumes.iter().filter(own).find(|volume| volume.name == *name);
                let refuses = volume
                    .and_then(|volume| volume.usage.as_ref())
                    .is_some_and(|usage| usage.read_only);
                match volume {
                    // Nothing was looked at yet.
                    None if status.volumes.is_empty() => {}
                    None => found.push(format!("volume {name} is not there yet")),
                    Some(VolumeStatus { fault: Some(fault), .. }) => {
                        found.push(format!("volume {name}: {fault}"));
                    }
                    Some(_) if refuses => found.push(format!("volume {name} refuses writes")),
                    Some(volume) if !volume.mounted && !up => {
                        found.push(format!("volume {name} is not mounted"));
                    }
                    Some(_) => {}
                }
            }
        }
        DesiredState::Stopped => {
            if workload.container.is_some() {
                found.push("it should be stopped and its container is still there".to_owned());
            }
            for volume in status.volumes.iter().filter(own).filter(|volume| volume.mounted) {
                found.push(format!("volume {} is still mounted", volume.name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::sample;

    fn transition(seq: u64, at: &str, from: &str, to: &str, cause: &str) -> Value {
        json!({
            "seq": seq, "at": at, "kind": "phase-changed", "severity": "info",
            "subject": {"type": "workload", "workload": "cache"}, "message": cause,
            "details": {"from": from, "to": to, "cause": cause},
        })
    }

    #[test]
    fn processes_that_the_kernel_ended_are_counted() {
        let status = sample::status();
        let mut web = sample::workload("web");
        for (kills, words) in [(1, "1 process"), (3, "3 processes")] {
            web.container.as_mut().expect("it runs").oom_kills = kills;
            let page = page(&status, &web, &[], sample::now(), Style::Plain);
            let line = format!(
                "container runs since 2026-03-01 11:54:46Z; the kernel ended {words} in it for want \
                 of memory\n"
            );
            assert!(page.contains(&line), "{page}");
        }
    }

    #[test]
    fn a_failing_workload_is_explained_with_its_past() {
        let status = sample::status();
        let cache = sample::workload("cache");
        let past = [
            transition(7, "2026-03-01T11:59:40Z", "back-off", "starting", "the wait is over"),
            transition(9, "2026-03-01T11:59:48Z", "starting", "back-off", "exited with code 1"),
        ];
        assert_eq!(
            page(&status, &cache, &past, sample::now(), Style::Plain),
            "   desired: running\n\
             \x20 observed: back-off since 2026-03-01 11:59:48Z (12s ago)\n\
             \x20  because: exited with code 1, 4 times in a row\n\
             \x20   engine: container exited with code 1\n\
             \x20  differs: it should run and its container has ended\n\
             \x20 back-off: 4 failures in a row, next start at 2026-03-01 12:00:08Z (in 8s)\n\
             last fault: exited with code 1 after 8 s (start-failed)\n\
             \x20           at 2026-03-01 11:59:48Z\n\
             \x20     next: belay logs cache\n\
             \n\
             EVENT  WHEN                  FROM      TO        CAUSE\n\
             7      2026-03-01 11:59:40Z  back-off  starting  the wait is over\n\
             9      2026-03-01 11:59:48Z  starting  back-off  exited with code 1\n"
        );
    }

    #[test]
    fn what_differs_is_what_an_operator_would_look_for() {
        let of = |change: fn(&mut NodeStatus, &mut WorkloadStatus)| {
            let (mut status, mut web) = (sample::status(), sample::workload("web"));
            change(&mut status, &mut web);
            differences(&status, &web).join("; ")
        };
        assert_eq!(of(|_, _| {}), "");
        let stopped = of(|_, web| web.desired = DesiredState::Stopped);
        assert_eq!(
            stopped,
            "it should be stopped and its container is still there; volume data is still mounted"
        );
        let unready = of(|_, web| web.phase = WorkloadPhase::Unready);
        assert_eq!(unready, "it should be ready and is unready");
        let gone = of(|status, web| {
            web.phase = WorkloadPhase::BackOff;
            web.container = None;
            status.volumes.retain(|volume| volume.workload != web.name);
        });
        assert_eq!(gone, "it should run and has no container; volume data is not there yet");
        let read_only = of(|status, _| {
            let volume = status.volumes.iter_mut().find(|v| v.workload.as_str() == "web");
            let usage = volume.and_then(|volume| volume.usage.as_mut()).expect("it is mounted");
            usage.read_only = true;
        });
        assert_eq!(read_only, "volume data refuses writes");
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
        let text = page(&sample::status(), &web, &[], sample::now(), Style::Plain);
        assert!(text.contains("depends on: cache, until started\n"), "{text}");
        let awaited = "            db, until ready; it is stopped, an operator stopped it\n";
        assert!(text.contains(awaited), "{text}");
        assert!(text.contains("next: belay explain db\n"), "{text}");
    }

    #[test]
    fn a_wait_for_the_first_content_says_since_when_and_how_to_end_it() {
        use belay_protocol::{FirstContentStatus, WorkloadPhase};
        let mut web = sample::status().workloads.remove(1);
        web.phase = WorkloadPhase::Waiting;
        web.sync.as_mut().expect("it has one").first = Some(FirstContentStatus {
            since: "2026-03-01T11:55:00Z".parse().expect("a time"),
            until: None,
            why: "nothing is published under page".to_owned(),
        });
        let waits = "waits: for the first of page since 2026-03-01 11:55:00Z (5m ago): nothing is \
                     published under page\n";
        let next = "next: belay start web --without-content starts it as it is\n";
        let explained = page(&sample::status(), &web, &[], sample::now(), Style::Plain);
        let shown = super::node::workload(&sample::status(), &web, sample::now(), Style::Plain);
        for text in [explained, shown] {
            assert!(text.contains(waits) && text.contains(next), "{text}");
        }
    }

    #[test]
    fn overrides_are_named_and_no_value_is_there_to_be_shown() {
        let mut web = sample::workload("web");
        assert_eq!(super::node::overrides(&web), "web has no overrides of its environment\n");
        web.overrides = vec!["LEVEL".to_owned(), "TOKEN".to_owned()];
        assert_eq!(super::node::overrides(&web), "LEVEL\nTOKEN\n");
        let text = page(&sample::status(), &web, &[], sample::now(), Style::Plain);
        assert!(text.contains("overrides: LEVEL, TOKEN of its environment"), "{text}");
        let text = super::node::workload(&sample::status(), &web, sample::now(), Style::Plain);
        assert!(text.contains("overrides: LEVEL, TOKEN\n"), "{text}");
    }

    #[test]
    fn a_hold_is_named() {
        let mut web = sample::workload("web");
        web.phase = belay_protocol::WorkloadPhase::Halted;
        if let Some(sync) = &mut web.sync {
            sync.halted = Some("an apply was cut and data is uncertain".to_owned());
        }
        let text = page(&sample::status(), &web, &[], sample::now(), Style::Plain);
        assert!(text.contains("held: an apply was cut and data is uncertain\n"), "{text}");
        assert!(text.contains("next: look at its volumes first; belay start web clears"), "{text}");
    }
}
