//! Which processes belong to a command, from what the kernel says of all of them.

use std::collections::BTreeSet;

use crate::engine::EngineKind;

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
}

/// Reads a line of `/proc/PID/stat`; `None` for a process that is only waited for (a zombie) and
/// for what cannot be read. The name may hold anything, brackets and spaces included.
pub(crate) fn parse_stat(line: &str) -> Option<Process> {
    let pid = line.split(' ').next()?.parse().ok()?;
    let mut after = line.rsplit_once(") ")?.1.split(' ');
    if after.next()? == "Z" {
        return None;
    }
    let parent = after.next()?.parse().ok()?;
    let _group = after.next()?;
    let session = after.next()?.parse().ok()?;
    Some(Process { pid, parent, session })
}

/// The state in a line of `/proc/PID/stat`; `None` for a zombie, which holds nothing any more, and
/// for what cannot be read.
pub(crate) fn state_of(line: &str) -> Option<char> {
    let state = line.rsplit_once(") ")?.1.chars().next()?;
    (!matches!(state, 'Z' | 'X')).then_some(state)
}

/// Whether a process's control groups (`/proc/PID/cgroup`) are those of the container with this id.
/// The group of Podman's monitor carries the id too, and is another.
pub(crate) fn is_in_container(groups: &str, id: &str) -> bool {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).any(|part| {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        let name = name.strip_prefix("libpod-").or(name.strip_prefix("docker-")).unwrap_or(name);
        !id.is_empty() && name == id
    })
}

/// The id of the container of this engine whose control groups (`/proc/PID/cgroup`) these are, if
/// they are one's. Another engine's containers have other names.
pub(crate) fn container_of(groups: &str, engine: EngineKind) -> Option<&str> {
    let is_id = |name: &&str| name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit());
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/').zip(path.split('/').skip(1))).find_map(|(above, part)| {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        let name = match engine {
            EngineKind::Podman => name.strip_prefix("libpod-")?,
            EngineKind::Docker if above == "docker" => name,
            EngineKind::Docker => name.strip_prefix("docker-")?,
        };
        Some(name).filter(is_id)
    })
}

/// The processes of the command that `leader` began: those of its session, which every engine
/// makes it the leader of, and all that descend from them.
pub(crate) fn of_command(leader: i32, all: &[Process]) -> BTreeSet<i32> {
    let mut found: BTreeSet<i32> = all
        .iter()
        .filter(|process| process.session == leader || process.pid == leader)
        .map(|process| process.pid)
        .collect();
    loop {
        let before = found.len();
        for process in all {
            if found.contains(&process.parent) {
                found.insert(process.pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let line = "12 (a) S 9 (b) S 7 12 11 0 -1 4194304";
        assert_eq!(parse_stat(line), Some(Process { pid: 12, parent: 7, session: 11 }));
        assert_eq!(parse_stat("12 (sh) Z 7 12 11 0"), None);
        for wrong in ["", "12", "12 (sh", "12 (sh) S", "x (sh) S 1 2 3"] {
            assert_eq!(parse_stat(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_container_is_told_by_its_group_and_not_by_its_monitors() {
        for group in [
            "/libpod_parent/libpod-abc",
            "/machine.slice/libpod-abc.scope/container",
            "/system.slice/docker-abc.scope",
            "/docker/abc",
        ] {
            assert!(is_in_container(&format!("0::/x\n4:memory:{group}\n"), "abc"), "{group}");
            assert!(!is_in_container(&format!("0::{group}\n"), "ab"), "{group}");
        }
        assert!(!is_in_container("0::/machine.slice/libpod-conmon-abc.scope", "abc"));
        assert!(!is_in_container("0::/\n", ""));
        assert_eq!(state_of("7 (a) b) D 1 7 7"), Some('D'));
        assert_eq!(state_of("7 (sh) Z 1 7 7"), None);
    }

    #[test]
    fn a_container_is_read_out_of_groups_by_its_whole_id_alone() {
        let id = "7bd045cfb0a94e4b13e1495bd5cd95a7207b9b9419d4241352771392bea822e5";
        let (podman, docker) = (EngineKind::Podman, EngineKind::Docker);
        for (group, engine, other) in [
            ("/libpod_parent/libpod-", podman, docker),
            ("/machine.slice/libpod-", podman, docker),
            ("/system.slice/docker-", docker, podman),
            ("/docker/", docker, podman),
        ] {
            for end in ["", ".scope/container"] {
                let groups = format!("0::/x\n4:memory:{group}{id}{end}\n");
                assert_eq!(container_of(&groups, engine), Some(id), "{groups}");
                assert_eq!(container_of(&groups, other), None, "{groups}");
            }
        }
        for group in [format!("/libpod-conmon-{id}"), format!("/libpod-{}", &id[1..]), "/".into()] {
            assert_eq!(container_of(&format!("0::{group}\n"), podman), None, "{group}");
        }
    }

    #[test]
    fn a_command_is_its_session_and_what_descends_from_it() {
        let process = |pid, parent, session| Process { pid, parent, session };
        let all = [
            process(1, 0, 1),
            process(20, 9, 20),
            process(21, 20, 20),
            // Has begun a session of its own, and a child in it.
            process(22, 21, 22),
            process(23, 22, 22),
            // Was left by its parent, and is still of the session.
            process(24, 1, 20),
            process(30, 1, 30),
        ];
        assert_eq!(of_command(20, &all), BTreeSet::from([20, 21, 22, 23, 24]));
        assert_eq!(of_command(40, &all), BTreeSet::new());
    }
}
