//! What the kernel's log says about an end for want of memory.
//!
//! conmon learns of it from the control group's event file, and on version 1 groups of recent
//! kernels it does not: Podman then shows a plain exit with 137. The kernel's log names the group.

use std::time::Duration;

use jiff::Timestamp;

use crate::container::{Container, ContainerState};

/// Time between a kill and its line in the log or its exit in the engine's books, at most.
const SLACK: Duration = Duration::from_secs(2);
/// Exit code of a process that was ended by `SIGKILL`.
const KILLED: i32 = 137;

/// The life of a container for which the kernel's log is worth reading: it ended by `SIGKILL` and
/// the engine does not say why.
pub(crate) fn unexplained(container: &Container) -> Option<(Timestamp, Timestamp)> {
    match container.state {
        ContainerState::Exited {
            exit_code: KILLED,
            oom_killed: false,
            finished_at: Some(finished_at),
            ..
        } => Some((container.started_at?, finished_at)),
        _ => None,
    }
}

/// Whether a record of `/dev/kmsg` tells that a process of this container was ended for want of
/// memory in the container's own group, and when, counted from boot. The shape is
/// `6,1234,5140900,-;oom-kill:constraint=CONSTRAINT_MEMCG,...,task_memcg=/x/libpod-<id>,task=sh,...`.
pub(crate) fn end_of(record: &str, id: &str) -> Option<Duration> {
    let (prefix, message) = record.split_once(';')?;
    let fields = message.strip_prefix("oom-kill:")?;
    let field = |name: &str| fields.split(',').find_map(|field| field.strip_prefix(name));
    // An end for want of the whole machine's memory is not the container's limit.
    if field("constraint=")? != "CONSTRAINT_MEMCG" || !field("task_memcg=")?.contains(id) {
        return None;
    }
    prefix.split(',').nth(2)?.parse().ok().map(Duration::from_micros)
}

/// Whether an end at this time belongs to this life.
pub(crate) fn belongs(at: Timestamp, life: (Timestamp, Timestamp)) -> bool {
    let (from, to) = (life.0.checked_sub(SLACK), life.1.checked_add(SLACK));
    from.is_ok_and(|from| from <= at) && to.is_ok_and(|to| at <= to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "7bd045cfb0a94e4b13e1495bd5cd95a7207b9b9419d4241352771392bea822e5";

    fn record(constraint: &str, group: &str) -> String {
        format!(
            "6,1234,2433770448,-;oom-kill:constraint={constraint},nodemask=(null),cpuset={ID},\
             mems_allowed=0,oom_memcg={group},task_memcg={group},task=sh,pid=573,uid=0"
        )
    }

    #[test]
    fn the_record_of_a_container_is_found() {
        let at = Some(Duration::from_micros(2_433_770_448));
        for group in [
            format!("/libpod_parent/libpod-{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/docker/{ID}"),
        ] {
            assert_eq!(end_of(&record("CONSTRAINT_MEMCG", &group), ID), at, "{group}");
        }
    }

    #[test]
    fn other_records_are_not() {
        let own = format!("/docker/{ID}");
        for record in [
            record("CONSTRAINT_MEMCG", "/docker/another"),
            record("CONSTRAINT_NONE", &own),
            format!("6,1,2,-;Memory cgroup out of memory: Killed process 573 (sh) {ID}"),
            format!("6,1,x,-;oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg={own}"),
            format!("oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg={own}"),
            // A process cannot write such a record: what it writes begins with its own text.
            format!("12,1,2,-;say oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg={own}"),
            String::new(),
        ] {
            assert_eq!(end_of(&record, ID), None, "{record}");
        }
    }

    #[test]
    fn an_end_belongs_to_the_life_it_fell_into() {
        let time = |second| Timestamp::from_second(second).expect("in range");
        for (at, expected) in [(97, false), (98, true), (150, true), (202, true), (203, false)] {
            assert_eq!(belongs(time(at), (time(100), time(200))), expected, "{at}");
        }
    }
}
