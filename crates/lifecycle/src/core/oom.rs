//! Processes in a container that the kernel ended for want of memory while the container lives on.
//!
//! The engine tells of the first process alone. The kernel counts all of them in the container's
//! control group, which is made anew with each start.

use serde::{Deserialize, Serialize};

/// How many such ends of one run of a container were told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OomTold {
    /// Which run.
    pub incarnation: String,
    /// The kernel's count at that time.
    pub kills: u64,
}

/// How many of the `kills` that the kernel counts in a run are new since what was told.
pub fn untold(told: Option<&OomTold>, incarnation: &str, kills: u64) -> u64 {
    let before = told.filter(|told| told.incarnation == incarnation).map_or(0, |told| told.kills);
    kills.saturating_sub(before)
}

/// Reads the count out of a control group's file: `memory.events` of version 2,
/// `memory.oom_control` of version 1.
pub fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_either_version() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(kills(events), Some(2));
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        // A kernel before 4.13 has no such line.
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\n"), None);
        assert_eq!(kills(""), None);
    }

    #[test]
    fn each_is_told_once_and_a_new_run_begins_at_none() {
        let told = OomTold { incarnation: "a".into(), kills: 3 };
        assert_eq!(untold(None, "a", 2), 2);
        assert_eq!(untold(Some(&told), "a", 3), 0);
        assert_eq!(untold(Some(&told), "a", 5), 2);
        assert_eq!(untold(Some(&told), "b", 1), 1);
        assert_eq!(untold(Some(&told), "a", 1), 0, "a count that went back is another group's");
    }
}
