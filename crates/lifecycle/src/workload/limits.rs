//! Limits, read back from the engine and from the kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_protocol::{Problem, ProblemCode};
use tokio::time::Instant;

use super::state::State;
use crate::core::limits::{self, KernelLimits};

/// How often limits that hold are looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// A look at the limits of one run of a container.
#[derive(Debug)]
pub(crate) struct LimitsLook {
    incarnation: String,
    at: Instant,
}

impl State {
    /// Reports limits of the running container that are not what its spec says, and takes the
    /// report back when they are.
    pub(crate) async fn read_limits_back(&mut self) {
        let Some(incarnation) = self.running_incarnation() else { return };
        let fresh = self
            .limits_look
            .as_ref()
            .is_some_and(|look| look.incarnation == incarnation && look.at.elapsed() < AGAIN);
        let (Some(known), Some(target), false) = (&self.known, self.target(), fresh) else {
            return;
        };
        let wanted = known.spec.limits;
        let recorded = target.limits;
        // Another generation's container goes on running for a while during a deploy.
        let Some(pid) = target.state.incarnation().map(|running| running.pid) else { return };
        self.limits_look = Some(LimitsLook { incarnation, at: Instant::now() });
        let read = tokio::task::spawn_blocking(move || kernel_limits(pid)).await;
        // The process has gone meanwhile, and its groups with it.
        let Ok(Some(kernel)) = read else { return };
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
    }
}

/// What the kernel enforces on a process; `None` when it has gone.
fn kernel_limits(pid: u32) -> Option<KernelLimits> {
    let table_of = || std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let table = table_of()?;
    let groups = Groups { table: &table };
    let limits = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        groups.unified()
    } else {
        groups.by_controller()
    };
    (table_of().as_deref() == Some(&*table)).then_some(limits)
}

struct Groups<'t> {
    table: &'t str,
}

impl Groups<'_> {
    fn unified(&self) -> KernelLimits {
        let read = |file: &str| self.read("/sys/fs/cgroup", "", file);
        let number = |file: &str| read(file).as_deref().and_then(limits::number);
        let memory = number("memory.max");
        let swap = number("memory.swap.max");
        let cpu = read("cpu.max");
        KernelLimits {
            memory,
            memory_and_swap: memory.zip(swap).map(|(memory, swap)| memory + swap),
            nano_cpus: cpu.as_deref().and_then(|text| {
                let (quota, period) = text.split_once(' ')?;
                limits::share(quota, period)
            }),
            pids: number("pids.max"),
        }
    }

    fn by_controller(&self) -> KernelLimits {
        let read = |controller: &str, file: &str| {
            let mount = format!("/sys/fs/cgroup/{controller}");
            self.read(&mount, controller, file)
        };
        let number = |controller, file| read(controller, file).as_deref().and_then(limits::number);
        let quota = read("cpu", "cpu.cfs_quota_us");
        let period = read("cpu", "cpu.cfs_period_us");
        KernelLimits {
            memory: number("memory", "memory.limit_in_bytes"),
            memory_and_swap: number("memory", "memory.memsw.limit_in_bytes"),
            nano_cpus: quota.zip(period).and_then(|(quota, period)| limits::share(&quota, &period)),
            pids: number("pids", "pids.max"),
        }
    }

    fn read(&self, mount: &str, controller: &str, file: &str) -> Option<String> {
        let group = limits::group(self.table, controller)?;
        let mut path = PathBuf::from(mount);
        path.push(group.trim_start_matches('/'));
        path.push(file);
        std::fs::read_to_string(path).ok()
    }
}
