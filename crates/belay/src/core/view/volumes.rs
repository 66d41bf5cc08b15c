//! `belay volume ls`.

use belay_protocol::{VolumeStatus, VolumeUsage};

use crate::core::human;
use crate::core::table::{Cell, Style, Table, Tone};

/// Share of a volume's bytes or inodes in use from which it is shown as filling up.
const FILLING_PERCENT: u64 = 85;

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
        table.row([
            volume.workload.as_str().into(),
            volume.name.as_str().into(),
            human::size(volume.size_bytes).into(),
            used.into(),
            free.into(),
            human::size(volume.allocated_bytes).into(),
            volume.file_system.as_str().into(),
            volume.container_path.as_deref().unwrap_or_default().into(),
            state(volume),
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

fn state(volume: &VolumeStatus) -> Cell {
    if let Some(fault) = &volume.fault {
        return Cell::new(fault, Tone::Bad);
    }
    if volume.orphan {
        return Cell::new("no workload names it", Tone::Doubtful);
    }
    match &volume.usage {
        Some(usage) if usage.read_only => Cell::new("read-only", Tone::Bad),
        Some(usage) if is_filling(usage) => Cell::new("filling up", Tone::Doubtful),
        Some(_) => Cell::new("mounted", Tone::Good),
        None => Cell::new("not mounted", Tone::Faint),
    }
}

fn is_filling(usage: &VolumeUsage) -> bool {
    let above = |used: u64, total: u64| {
        u128::from(used) * 100 >= u128::from(total) * u128::from(FILLING_PERCENT) && total > 0
    };
    above(usage.used_bytes, usage.used_bytes.saturating_add(usage.available_bytes))
        || above(usage.used_inodes, usage.total_inodes)
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
             web       data    64 MiB  57 MiB  4.8 MiB  67 MiB   ext4  /data         filling up\n"
        );
    }

    #[test]
    fn few_inodes_left_count_as_filling_up() {
        let mut usage = VolumeUsage {
            used_bytes: 0,
            available_bytes: 1 << 30,
            used_inodes: 84,
            total_inodes: 100,
            read_only: false,
        };
        assert!(!is_filling(&usage));
        usage.used_inodes = 85;
        assert!(is_filling(&usage));
    }
}
