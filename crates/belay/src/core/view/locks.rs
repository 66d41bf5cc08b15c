//! `belay lock ls`, and the locks of one workload.

use belay_protocol::{LockState, LockStatus, WorkloadName};

use crate::core::table::{Cell, Style, Table, Tone};

/// One line a lock.
pub(crate) fn table(locks: &[LockStatus], style: Style) -> String {
    if locks.is_empty() {
        return "no lock is held\n".to_owned();
    }
    rows(locks.iter(), style)
}

/// The locks of one workload and its volumes, below its page; nothing where there are none.
pub(crate) fn about(locks: &[LockStatus], workload: &WorkloadName, style: Style) -> String {
    let about = |lock: &&LockStatus| lock.workload.as_ref() == Some(workload);
    if !locks.iter().any(|lock| about(&lock)) {
        return String::new();
    }
    format!("\n{}", rows(locks.iter().filter(about), style))
}

fn rows<'a>(locks: impl Iterator<Item = &'a LockStatus>, style: Style) -> String {
    let mut table = Table::new(&["LOCK", "STATE", "HOLDER"]);
    for lock in locks {
        let (state, tone) = match lock.state {
            LockState::Own => ("belayd's", Tone::Plain),
            LockState::Foreign => ("held", Tone::Doubtful),
            LockState::CutShort => ("cut short", Tone::Bad),
        };
        table.row([lock.lock.as_str().into(), Cell::new(state, tone), lock.line.as_str().into()]);
    }
    table.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks() -> Vec<LockStatus> {
        let lock = |lock: &str, workload: Option<&str>, state, line: &str| LockStatus {
            lock: lock.to_owned(),
            workload: workload.map(|name| name.parse().expect("a name")),
            state,
            holder: None,
            line: line.to_owned(),
        };
        vec![
            lock("instance", None, LockState::Own, "supervise (daemon, pid 7)"),
            lock("workload web", Some("web"), LockState::Foreign, "mend (rescue, pid 9)"),
            lock("workload db", Some("db"), LockState::CutShort, "start by pid 8 died in creating"),
        ]
    }

    #[test]
    fn all_locks_are_listed_and_those_of_one_workload_found() {
        assert_eq!(
            table(&locks(), Style::Plain),
            "LOCK          STATE      HOLDER\n\
             instance      belayd's   supervise (daemon, pid 7)\n\
             workload web  held       mend (rescue, pid 9)\n\
             workload db   cut short  start by pid 8 died in creating\n"
        );
        let web = "web".parse().expect("a name");
        assert_eq!(
            about(&locks(), &web, Style::Plain),
            "\nLOCK          STATE  HOLDER\nworkload web  held   mend (rescue, pid 9)\n"
        );
        assert_eq!(about(&locks(), &"x".parse().expect("a name"), Style::Plain), "");
        assert_eq!(table(&[], Style::Plain), "no lock is held\n");
    }
}
