//! Limits, read back from the engine and from the kernel, and what came of them.

use std::path::{Path, PathBuf};

use belay_protocol::{EventDetails, Problem, ProblemCode};
use tokio::time::Instant;

use super::state::State;
use crate::core::limits::{self, KernelLimits};
use crate::core::oom::{self, OomTold};

/// A look at the limits of one run of a container.
#[derive(Debug)]
pub(crate) struct LimitsLook {
    incarnation: String,
    at: Instant,
    /// Processes that the kernel ended for want of memory.
    oom_kills: u64,
}

/// What the kernel says of a process's control groups.
struct Kernel {
    limits: KernelLimits,
    /// `None` where it does not count them.
    oom_kills: Option<u64>,
}

impl State {
    /// Reports limits of the running container that are not what its spec says, takes the report
    /// back when they are, and tells of processes that the kernel ended for want of memory.
    pub(crate) async fn read_limits_back(&mut self) {
        let Some(incarnation) = self.running_incarnation() else { return };
        let fresh = self.limits_look.as_ref().is_some_and(|look| {
            look.incarnation == incarnation && Instant::now() < self.next_look(look.at)
        });
        let (Some(known), Some(target), false) = (&self.known, self.target(), fresh) else {
            return;
        };
        let wanted = known.spec.limits;
        let recorded = target.limits;
        // Another generation's container goes on running for a while during a deploy.
        let Some(pid) = target.state.incarnation().map(|running| running.pid) else { return };
        let before = self.oom_kills();
        let look =
            LimitsLook { incarnation: incarnation.clone(), at: Instant::now(), oom_kills: before };
        self.limits_look = Some(look);
        let read = tokio::task::spawn_blocking(move || kernel(pid)).await;
        // The process has gone meanwhile, and its groups with it.
        let Ok(Some(Kernel { limits: kernel, oom_kills })) = read else { return };
        let host = &self.context.engine.info().abilities;
        let found = limits::differences(&wanted, &recorded, &kernel, host);
        let reported = self
            .last_fault
            .as_ref()
            .is_some_and(|fault| fault.code == ProblemCode::LimitNotApplied.as_str());
        if !found.is_empty() {
            let detail = format!("{}: {}", self.name, found.join("; "));
            if !reported {
                tracing::warn!(workload = %self.name, "{detail}");
            }
            let next = format!(
                "belay restart {} applies them anew; see who changes its control group",
                self.name
            );
            self.set_fault(&Problem::new(ProblemCode::LimitNotApplied, detail, next));
        } else if reported {
            self.last_fault = None;
        }
        if let Some(kills) = oom_kills {
            self.count_oom_kills(incarnation, kills).await;
        }
    }

    /// Processes in the running container that the kernel ended for want of memory since it was
    /// started, as last counted.
    pub(crate) fn oom_kills(&self) -> u64 {
        let running = self.running_incarnation();
        let look =
            self.limits_look.as_ref().filter(|look| Some(&look.incarnation) == running.as_ref());
        look.map_or(0, |look| look.oom_kills)
    }

    async fn count_oom_kills(&mut self, incarnation: String, kills: u64) {
        if let Some(look) = &mut self.limits_look {
            look.oom_kills = kills;
        }
        let told = self.known.as_ref().and_then(|known| known.record.oom_told.as_ref());
        let killed = oom::untold(told, &incarnation, kills);
        if killed == 0 {
            return;
        }
        let processes =
            if killed == 1 { "1 process".to_owned() } else { format!("{killed} processes") };
        let message = format!(
            "the kernel ended {processes} in {} for want of memory, and its container runs on",
            self.name
        );
        tracing::warn!(workload = %self.name, killed, total = kills, "{message}");
        self.tell(message, EventDetails::OutOfMemory { killed, total: kills });
        self.keep(|record| record.oom_told = Some(OomTold { incarnation, kills })).await;
    }
}

/// What the kernel enforces on a process, and counts; `None` when it has gone.
fn kernel(pid: u32) -> Option<Kernel> {
    let table_of = || std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let table = table_of()?;
    let groups = Groups { table: &table };
    let kernel = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        groups.unified()
    } else {
        groups.by_controller()
    };
    (table_of().as_deref() == Some(&*table)).then_some(kernel)
}

struct Groups<'t> {
    table: &'t str,
}

impl Groups<'_> {
    fn unified(&self) -> Kernel {
        let read = |file: &str| self.read("/sys/fs/cgroup", "", file);
        let number = |file: &str| read(file).as_deref().and_then(limits::number);
        let memory = number("memory.max");
        let swap = number("memory.swap.max");
        let cpu = read("cpu.max");
        let limits = KernelLimits {
            memory,
            memory_and_swap: memory.zip(swap).map(|(memory, swap)| memory + swap),
            nano_cpus: cpu.as_deref().and_then(|text| {
                let (quota, period) = text.split_once(' ')?;
                limits::share(quota, period)
            }),
            pids: number("pids.max"),
        };
        Kernel { limits, oom_kills: read("memory.events").as_deref().and_then(oom::kills) }
    }

    fn by_controller(&self) -> Kernel {
        let read = |controller: &str, file: &str| {
            let mount = format!("/sys/fs/cgroup/{controller}");
            self.read(&mount, controller, file)
        };
        let number = |controller, file| read(controller, file).as_deref().and_then(limits::number);
        let quota = read("cpu", "cpu.cfs_quota_us");
        let period = read("cpu", "cpu.cfs_period_us");
        let limits = KernelLimits {
            memory: number("memory", "memory.limit_in_bytes"),
            memory_and_swap: number("memory", "memory.memsw.limit_in_bytes"),
            nano_cpus: quota.zip(period).and_then(|(quota, period)| limits::share(&quota, &period)),
            pids: number("pids", "pids.max"),
        };
        let counts = read("memory", "memory.oom_control");
        Kernel { limits, oom_kills: counts.as_deref().and_then(oom::kills) }
    }

    fn read(&self, mount: &str, controller: &str, file: &str) -> Option<String> {
        let group = limits::group(self.table, controller)?;
        let mut path = PathBuf::from(mount);
        path.push(group.trim_start_matches('/'));
        path.push(file);
        std::fs::read_to_string(path).ok()
    }
}
