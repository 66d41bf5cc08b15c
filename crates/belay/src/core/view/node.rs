//! `belay status`: the node, or one workload in full.

use std::fmt::Write;

use belay_protocol::{DesiredState, GenerationStorage, NodeReadiness, NodeStatus, WorkloadStatus};
use jiff::Timestamp;

use super::{Facts, probes, tone, workloads};
use crate::core::table::{Style, Tone};
use crate::core::{advice, human};

/// The node, then its workloads as `ps` shows them.
pub(crate) fn page(status: &NodeStatus, now: Timestamp, style: Style) -> String {
    let mut facts = Facts::default();
    facts.add("node", &status.node);
    match &status.ready {
        NodeReadiness::Ready => facts.add_toned("state", "ready", Tone::Good, style),
        NodeReadiness::NotReady { reason } => {
            facts.add_toned("state", &format!("not ready: {reason}"), Tone::Bad, style);
        }
    }
    let up = human::age(now, status.started_at);
    facts.add("belayd", format!("{}, up {up}", status.version));
    let engine = &status.engine;
    if engine.reachable {
        facts.add("engine", format!("{} {} at {}", engine.kind, engine.version, engine.socket));
        facts.add("snapshot", &engine.snapshot);
    } else {
        let at = if engine.socket.is_empty() { "no socket found" } else { &engine.socket };
        facts.add_toned("engine", &format!("does not answer ({at})"), Tone::Bad, style);
    }
    let promised: u64 = status.volumes.iter().map(|volume| volume.size_bytes).sum();
    let on_disk: u64 = status.volumes.iter().map(|volume| volume.allocated_bytes).sum();
    facts.add(
        "volumes",
        format!(
            "{}, {} promised, {} held on disk",
            status.volumes.len(),
            human::size(promised),
            human::size(on_disk)
        ),
    );
    if let Some(space) = &status.space {
        let free = human::size(space.available_bytes);
        let missing = human::size(space.missing_bytes);
        if space.overcommitted {
            let disk = format!("{free} free, but {missing} are promised and not allocated");
            facts.add_toned("host", &disk, Tone::Bad, style);
        } else {
            facts.add("host", format!("{free} free"));
        }
        match space.generations {
            Some(GenerationStorage::Shared) => {
                facts.add("kept", "generations of volumes share their blocks");
            }
            Some(GenerationStorage::Copied) => {
                facts.add("kept", "generations of volumes are whole copies");
            }
            None => {}
        }
    }
    let mut text = facts.render();
    text.push('\n');
    text += &workloads::table(&status.workloads, now, style);
    for refused in &status.refused_specs {
        let head = format!("refused: {}", refused.file);
        text.push('\n');
        text += &Tone::Bad.paint(style, &head);
        text.push('\n');
        for fault in &refused.faults {
            let _ = writeln!(text, "  {fault}");
        }
    }
    text
}

/// One workload.
pub(crate) fn workload(
    status: &NodeStatus,
    workload: &WorkloadStatus,
    now: Timestamp,
    style: Style,
) -> String {
    let mut facts = Facts::default();
    facts.add("workload", format!("{} on {}", workload.name, status.node));
    let since = human::age(now, workload.since);
    let state = format!("{} for {since}", workload.phase.as_str());
    facts.add_toned("state", &state, tone(workload.phase), style);
    facts.add("", &workload.reason);
    facts.add("desired", desired(workload.desired));
    facts.add("spec", format!("{} ({})", workload.source, workload.spec_hash));
    facts.add("image", &workload.image);
    if let Some(id) = &workload.image_id {
        let digest = workload.image_digest.as_ref();
        facts.add("", digest.map_or(id.clone(), |digest| format!("{id}, pulled as {digest}")));
    }
    if let Some(container) = &workload.container {
        let id: String = container.id.chars().take(12).collect();
        facts.add("container", format!("{} ({id})", container.name));
        if let Some(exit) = &container.exit {
            let memory = if exit.out_of_memory { ", out of memory" } else { "" };
            facts.add("", format!("exited with code {}{memory}", exit.code));
        } else if let Some(started) = container.started_at {
            facts.add("", format!("started {} ago", human::age(now, started)));
        }
    }
    probes::add(&mut facts, workload, now, style);
    if workload.restarts > 0 {
        facts.add("restarts", workload.restarts.to_string());
    }
    if let Some(back_off) = &workload.back_off {
        let due = human::until(now, back_off.next_try_at);
        let failures = human::count(back_off.failures as usize, "failure");
        facts.add("next try", format!("in {due}, after {failures} in a row"));
    }
    if !workload.depends_on.is_empty() {
        let names: Vec<_> = workload.depends_on.iter().map(|on| on.workload.as_str()).collect();
        facts.add("depends on", names.join(", "));
    }
    if !workload.overrides.is_empty() {
        facts.add("overrides", workload.overrides.join(", "));
    }
    if !workload.ports.is_empty() {
        facts.add("ports", workloads::ports(&workload.ports));
    }
    for (index, name) in workload.volumes.iter().enumerate() {
        let label = if index == 0 { "volumes" } else { "" };
        let volume = status
            .volumes
            .iter()
            .find(|volume| volume.workload == workload.name && volume.name == *name);
        facts.add(
            label,
            match volume {
                Some(volume) => super::volumes::sentence(volume),
                None => name.to_string(),
            },
        );
    }
    if let Some(sync) = &workload.sync {
        facts.add("sync", super::sync::sentence(sync, now));
        if let Some(waits) = super::sync::first_content(sync, now) {
            facts.add_toned("waits", &waits, Tone::Doubtful, style);
        }
    }
    if let Some(fault) = &workload.last_fault {
        let when = human::age(now, fault.at);
        let message = format!("{} ({}, {when} ago)", fault.message, fault.code);
        facts.add_toned("last fault", &message, Tone::Bad, style);
    }
    if let Some(next) = advice::next(workload) {
        facts.add("next", next);
    }
    facts.render()
}

/// The names of the environment that a workload has overridden, one a line.
pub(crate) fn overrides(workload: &WorkloadStatus) -> String {
    if workload.overrides.is_empty() {
        return format!("{} has no overrides of its environment\n", workload.name);
    }
    workload.overrides.join("\n") + "\n"
}

/// The words for what should be.
pub(crate) fn desired(desired: DesiredState) -> &'static str {
    match desired {
        DesiredState::Running => "running",
        DesiredState::Stopped => "stopped, as an operator asked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::sample;

    #[test]
    fn the_node_is_one_page() {
        let page = page(&sample::status(), sample::now(), Style::Plain);
        let (node, workloads) = page.split_once("\n\n").expect("two parts");
        assert_eq!(
            node,
            "    node: north\n\
             \x20  state: ready\n\
             \x20 belayd: 0.1.0, up 3h20m\n\
             \x20 engine: podman 4.3.1 at /run/belay/podman.sock\n\
             snapshot: freeze\n\
             \x20volumes: 2, 128 MiB promised, 131 MiB held on disk\n\
             \x20   host: 1 GiB free\n\
             \x20   kept: generations of volumes share their blocks"
        );
        assert!(workloads.contains("back-off"));
        assert!(page.ends_with(
            "\nrefused: /etc/belay/workloads.d/bad.toml\n  /etc/belay/workloads.d/bad.toml:3: \
             imagee: found a key, expected a known key (did you mean \"image\"?)\n"
        ));
    }

    #[test]
    fn a_node_that_is_not_ready_says_why() {
        let mut status = sample::status();
        status.ready = NodeReadiness::NotReady { reason: "the engine is away".to_owned() };
        status.engine.reachable = false;
        let page = page(&status, sample::now(), Style::Plain);
        assert!(page.contains("state: not ready: the engine is away\n"), "{page}");
        assert!(page.contains("engine: does not answer (/run/belay/podman.sock)\n"), "{page}");
    }

    #[test]
    fn a_failing_workload_says_why_when_and_what_to_type() {
        let status = sample::status();
        let cache = sample::workload("cache");
        assert_eq!(
            workload(&status, &cache, sample::now(), Style::Plain),
            "  workload: cache on north\n\
             \x20    state: back-off for 12s\n\
             \x20           exited with code 1, 4 times in a row\n\
             \x20  desired: running\n\
             \x20     spec: /etc/belay/workloads.d/cache.toml (aaaabbbbcccc)\n\
             \x20    image: docker.io/library/redis:7\n\
             \x20container: belay-north-cache-2 (0123456789ab)\n\
             \x20           exited with code 1\n\
             \x20 restarts: 4\n\
             \x20 next try: in 8s, after 4 failures in a row\n\
             last fault: exited with code 1 after 8 s (start-failed, 12s ago)\n\
             \x20     next: belay logs cache\n"
        );
    }

    #[test]
    fn a_healthy_workload_shows_its_volumes_and_its_sync() {
        let status = sample::status();
        let web = sample::workload("web");
        let text = workload(&status, &web, sample::now(), Style::Plain);
        assert!(text.contains("volumes: data at /data, 57 MiB of 64 MiB used\n"), "{text}");
        assert!(text.contains("sync: provider of page, idle, published bafkr4iaha4d"), "{text}");
        assert!(!text.contains("next:"), "{text}");
    }
}
