//! `belay volume ls` and `belay volume show`.

use belay_protocol::{
    CheckOutcome, VolumeAllocation, VolumeCheck, VolumeLevel, VolumeStatus, VolumeUsage,
};
use jiff::Timestamp;

use super::Facts;
use crate::core::human;
use crate::core::table::{Cell, Style, Table, Tone};

/// One line a volume.
pub(crate) fn table(volumes: &[VolumeStatus], style: Style) -> String {
    if volumes.is_empty() {
        return "no volumes\n".to_owned();
    }
    let mut table = Table::new(&[
        "WORKLOAD",
        "VOLUME",
        "SIZE",
        "USED",
        "FREE",
        "ON DISK",
        "TYPE",
        "IN CONTAINER",
        "STATE",
    ]);
    for volume in volumes {
        let (used, free) = match &volume.usage {
            Some(usage) => (human::size(usage.used_bytes), human::size(usage.available_bytes)),
            None => (String::new(), String::new()),
        };
        let (state, tone) = state(volume);
        table.row([
            volume.workload.as_str().into(),
            volume.name.as_str().into(),
            human::size(volume.size_bytes).into(),
            used.into(),
            free.into(),
            human::size(volume.allocated_bytes).into(),
            volume.file_system.as_str().into(),
            volume.container_path.as_deref().unwrap_or_default().into(),
            Cell::new(state, tone),
        ]);
    }
    table.render(style)
}

/// `data at /data, 57 MiB of 64 MiB used`
pub(crate) fn sentence(volume: &VolumeStatus) -> String {
    let at = volume.container_path.as_ref().map_or(String::new(), |path| format!(" at {path}"));
    let size = human::size(volume.size_bytes);
    let fill = match &volume.usage {
        Some(usage) => format!("{} of {size} used", human::size(usage.used_bytes)),
        None => format!("{size}, not mounted"),
    };
    match &volume.fault {
        Some(fault) => format!("{}{at}, {fill}; {fault}", volume.name),
        None => format!("{}{at}, {fill}", volume.name),
    }
}

/// One volume in full.
pub(crate) fn page(volume: &VolumeStatus, now: Timestamp, style: Style) -> String {
    let mut facts = Facts::default();
    facts.add("volume", format!("{}/{}", volume.workload, volume.name));
    let (state, tone) = state(volume);
    facts.add_toned("state", &state, tone, style);
    if volume.errors > 0 {
        let errors = format!("{} counted by its file system", volume.errors);
        facts.add_toned("errors", &errors, Tone::Bad, style);
    }
    let kind = if volume.file_system.is_empty() { "unknown" } else { &volume.file_system };
    facts.add("file system", kind);
    let promise = match volume.allocation {
        Some(VolumeAllocation::Full) => ", allocated in full",
        Some(VolumeAllocation::Thin) => ", thin: the host can run out under it",
        None => "",
    };
    facts.add("size", format!("{}{promise}", exact(volume.size_bytes)));
    facts.add("on disk", human::size(volume.allocated_bytes));
    if let Some(usage) = &volume.usage {
        facts.add("used", used(usage));
        facts.add("free", human::size(usage.available_bytes));
        if usage.total_inodes > 0 {
            facts.add("inodes", format!("{} of {}", usage.used_inodes, usage.total_inodes));
        }
    }
    if let Some(seconds) = volume.time_to_full_seconds {
        let left = format!("in {}, if it goes on as it does", human::span(seconds));
        facts.add_toned("full", &left, Tone::Doubtful, style);
    }
    facts.add("in container", volume.container_path.as_deref().unwrap_or("nowhere"));
    if let (Some(mount), Some(device)) = (&volume.mount, &volume.device) {
        let direct = match volume.direct_io {
            Some(true) => ", direct i/o",
            Some(false) => ", through the page cache",
            None => "",
        };
        facts.add("on host", format!("{mount} ({device}{direct})"));
    }
    facts.add(
        "last check",
        match &volume.last_check {
            None => "none that is known".to_owned(),
            Some(VolumeCheck { at, outcome }) => {
                let outcome = match outcome {
                    CheckOutcome::Clean => "clean",
                    CheckOutcome::Repaired => "repaired",
                    CheckOutcome::Damaged => "damaged",
                };
                format!("{outcome}, {} ago", human::age(now, *at))
            }
        },
    );
    let kept = match volume.generations.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    facts.add("generations", kept);
    if let Some(next) = next(volume) {
        facts.add("next", next);
    }
    facts.render()
}

/// The size with its bytes, for whoever compares it with a spec.
fn exact(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", human::size(bytes))
}

fn used(usage: &VolumeUsage) -> String {
    let can_have = usage.used_bytes.saturating_add(usage.available_bytes);
    let used = human::size(usage.used_bytes);
    match (u128::from(usage.used_bytes) * 100).checked_div(u128::from(can_have)) {
        Some(percent) => format!("{used}, {percent} percent of what it can have"),
        None => used,
    }
}

/// What to type about a volume that is not as it should be.
fn next(volume: &VolumeStatus) -> Option<String> {
    let path = format!("{}/{}", volume.workload, volume.name);
    if volume.fault.is_some() || volume.usage.as_ref().is_some_and(|usage| usage.read_only) {
        let workload = &volume.workload;
        return Some(format!(
            "belay stop {workload}, then belay volume check {path}, then belay start {workload}"
        ));
    }
    if volume.orphan {
        return Some(format!("deploy a workload that names it, or belay volume rm {path}"));
    }
    match volume.level {
        VolumeLevel::Normal => None,
        VolumeLevel::Warning | VolumeLevel::Critical => {
            Some(format!("belay volume grow {path} SIZE"))
        }
    }
}

fn state(volume: &VolumeStatus) -> (String, Tone) {
    if let Some(fault) = &volume.fault {
        return (fault.clone(), Tone::Bad);
    }
    if volume.orphan {
        return ("no workload names it".to_owned(), Tone::Doubtful);
    }
    let Some(usage) = &volume.usage else { return ("not mounted".to_owned(), Tone::Faint) };
    if usage.read_only {
        return ("read-only".to_owned(), Tone::Bad);
    }
    let left = volume.time_to_full_seconds;
    let left = left.map_or(String::new(), |left| format!(", full in {}", human::span(left)));
    match volume.level {
        VolumeLevel::Normal => ("mounted".to_owned(), Tone::Good),
        VolumeLevel::Warning => (format!("filling up{left}"), Tone::Doubtful),
        VolumeLevel::Critical => (format!("nearly full{left}"), Tone::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::sample;

    #[test]
    fn a_line_shows_promise_use_and_cost() {
        assert_eq!(
            table(&sample::status().volumes, Style::Plain),
            "WORKLOAD  VOLUME  SIZE    USED    FREE     ON DISK  TYPE  IN CONTAINER  STATE\n\
             old       data    64 MiB                   64 MiB   ext4                no workload \
             names it\n\
             web       data    64 MiB  57 MiB  4.8 MiB  67 MiB   ext4  /data         filling \
             up, full in 6m\n"
        );
    }

    #[test]
    fn a_page_shows_all_that_is_known_of_a_volume() {
        let volumes = sample::status().volumes;
        assert_eq!(
            page(&volumes[1], sample::now(), Style::Plain),
            "      volume: web/data\n\
             \x20      state: filling up, full in 6m\n\
             \x20file system: ext4\n\
             \x20       size: 64 MiB (67108864 bytes), allocated in full\n\
             \x20    on disk: 67 MiB\n\
             \x20       used: 57 MiB, 92 percent of what it can have\n\
             \x20       free: 4.8 MiB\n\
             \x20     inodes: 14 of 16384\n\
             \x20       full: in 6m, if it goes on as it does\n\
             in container: /data\n\
             \x20    on host: /var/lib/belay/volumes/web/data/mount (/dev/loop3, direct i/o)\n\
             \x20 last check: clean, 2h ago\n\
             \x20generations: before-update\n\
             \x20       next: belay volume grow web/data SIZE\n"
        );
        let orphan = page(&volumes[0], sample::now(), Style::Plain);
        assert!(orphan.contains("next: deploy a workload that names it, or belay volume rm old"));
    }

    #[test]
    fn what_harms_is_shown_before_what_warns() {
        let mut volume = sample::status().volumes.swap_remove(1);
        volume.level = VolumeLevel::Critical;
        assert_eq!(state(&volume), ("nearly full, full in 6m".to_owned(), Tone::Bad));
        volume.usage.as_mut().expect("it is mounted").read_only = true;
        assert_eq!(state(&volume), ("read-only".to_owned(), Tone::Bad));
        assert!(next(&volume).expect("it needs something").contains("belay volume check web/data"));
    }
}
