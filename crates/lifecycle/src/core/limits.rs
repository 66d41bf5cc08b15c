//! Whether limits hold: what the spec says, what the engine recorded, what the kernel enforces.

use belay_engine::{Abilities, Limits};

use super::spec::LimitSpec;

/// Limits as the kernel's control groups have them; absent is none, or not to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelLimits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Memory and swap together, in bytes; absent where the kernel does not count swap.
    pub memory_and_swap: Option<u64>,
    /// Processor time, in billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// What this host cannot apply of a spec's limits, each in words.
pub fn unsupported(limits: &LimitSpec, host: &Abilities) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if limits.memory.is_some() && !host.memory_limit {
        missing.push("limits.memory needs the memory controller");
    }
    if limits.nano_cpus.is_some() && !host.cpu_limit {
        missing.push("limits.cpus needs the cpu controller");
    }
    // A number of processes stands in every spec; only one that was asked for can be missed.
    if limits.pids_asked && !host.pids_limit {
        missing.push("limits.pids needs the pids controller");
    }
    missing
}

/// Every difference between what a spec says and what holds, each in words.
pub fn differences(
    wanted: &LimitSpec,
    recorded: &Limits,
    kernel: &KernelLimits,
    host: &Abilities,
) -> Vec<String> {
    // The kernel counts memory in pages, and rounds down.
    const PAGE: u64 = 64 << 10;
    // Time is given out in periods of 100 ms, so that the last digits of a share are lost.
    const CPU_STEP: u64 = 100_000;
    let mut found = Vec::new();
    let mut compare = |what: &str, wanted: u64, seen: Option<u64>, step: u64, by: &str| {
        let holds = seen.is_some_and(|seen| seen.abs_diff(wanted) <= step);
        if !holds {
            let seen = seen.map_or_else(|| "none".to_owned(), |seen| seen.to_string());
            found.push(format!("{what} should be {wanted} and is {seen} {by}"));
        }
    };
    if let Some(memory) = wanted.memory {
        compare("memory", memory, recorded.memory, PAGE, "in the engine");
        compare("memory", memory, kernel.memory, PAGE, "in the kernel");
        if host.swap_limit {
            compare("memory with swap", memory, kernel.memory_and_swap, PAGE, "in the kernel");
        }
    }
    if let Some(cpus) = wanted.nano_cpus {
        compare("processor time", cpus, recorded.nano_cpus, CPU_STEP, "in the engine");
        compare("processor time", cpus, kernel.nano_cpus, CPU_STEP, "in the kernel");
    }
    if host.pids_limit {
        let pids = u64::from(wanted.pids);
        compare("pids", pids, recorded.pids.map(u64::from), 0, "in the engine");
        compare("pids", pids, kernel.pids, 0, "in the kernel");
    }
    found
}

/// Reads a number of a control group's file; `max` and the huge numbers of version 1 are none.
pub fn number(text: &str) -> Option<u64> {
    // Version 1 says "no limit" with the largest multiple of a page.
    const NONE: u64 = 1 << 62;
    text.trim().parse().ok().filter(|number| *number < NONE)
}

/// Reads a share of the processors from a quota and its period, both in microseconds.
pub fn share(quota: &str, period: &str) -> Option<u64> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok().filter(|period| *period > 0)?;
    u64::try_from(u128::from(quota) * 1_000_000_000 / u128::from(period)).ok()
}

/// The directory of a process's control group for a controller, below that controller's mount, from
/// `/proc/PID/cgroup`. The one of version 2 has no controller's name.
pub fn group<'t>(table: &'t str, controller: &str) -> Option<&'t str> {
    table.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let controllers = parts.nth(1)?;
        let path = parts.next()?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Abilities {
        Abilities {
            checkpoint: false,
            freeze: true,
            memory_limit: true,
            swap_limit: true,
            pids_limit: true,
            cpu_limit: true,
            containers_outlive_engine: true,
            runtime: String::new(),
            cgroup_driver: String::new(),
            storage_driver: String::new(),
        }
    }

    const WANTED: LimitSpec = LimitSpec {
        memory: Some(64 << 20),
        nano_cpus: Some(500_000_000),
        pids: 100,
        pids_asked: true,
    };

    #[test]
    fn limits_that_hold_have_no_difference_and_others_are_named() {
        let recorded =
            Limits { memory: WANTED.memory, nano_cpus: WANTED.nano_cpus, pids: Some(100) };
        let kernel = KernelLimits {
            memory: WANTED.memory,
            memory_and_swap: WANTED.memory,
            nano_cpus: WANTED.nano_cpus,
            pids: Some(100),
        };
        assert_eq!(differences(&WANTED, &recorded, &kernel, &host()), [""; 0]);
        let found = differences(&WANTED, &recorded, &KernelLimits::default(), &host());
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[0], "memory should be 67108864 and is none in the kernel");
        let raised = KernelLimits { pids: Some(101), ..kernel };
        let found = differences(&WANTED, &recorded, &raised, &host());
        assert_eq!(found, ["pids should be 100 and is 101 in the kernel"]);
        let no_swap = KernelLimits { memory_and_swap: None, ..kernel };
        let poor = Abilities { swap_limit: false, ..host() };
        assert_eq!(differences(&WANTED, &recorded, &no_swap, &poor), [""; 0]);
    }

    #[test]
    fn what_the_host_cannot_apply_is_named() {
        let none = Abilities { memory_limit: false, cpu_limit: false, pids_limit: false, ..host() };
        assert_eq!(unsupported(&WANTED, &none).len(), 3);
        assert_eq!(unsupported(&WANTED, &host()), [""; 0]);
        let bare = LimitSpec { memory: None, nano_cpus: None, pids: 4096, pids_asked: false };
        assert_eq!(unsupported(&bare, &none), [""; 0]);
    }

    #[test]
    fn files_of_control_groups_are_read() {
        assert_eq!(number("67108864\n"), Some(64 << 20));
        for none in ["max\n", "9223372036854771712\n", "-1", ""] {
            assert_eq!(number(none), None, "{none}");
        }
        assert_eq!(share("50000\n", "100000"), Some(500_000_000));
        for none in [("-1", "100000"), ("max", "100000"), ("1", "0")] {
            assert_eq!(share(none.0, none.1), None, "{none:?}");
        }
        let table = "8:pids:/p/a\n4:memory:/p/b\n2:cpu,cpuacct:/p/c\n0::/p/d\n";
        assert_eq!(group(table, "memory"), Some("/p/b"));
        assert_eq!(group(table, "cpu"), Some("/p/c"));
        assert_eq!(group(table, ""), Some("/p/d"));
        assert_eq!(group(table, "freezer"), None);
    }
}
