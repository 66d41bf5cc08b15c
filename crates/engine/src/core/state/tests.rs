use super::*;
use crate::container::{Incarnation, Liveness};

fn container(body: &str) -> Container {
    serde_json::from_str::<InspectBody>(body).expect("an inspect body").into_container()
}

const CREATED: &str = include_str!("../../../tests/bodies/podman-4.3.1/created.json");
const RUNNING: &str = include_str!("../../../tests/bodies/podman-4.3.1/running.json");
const PAUSED: &str = include_str!("../../../tests/bodies/podman-4.3.1/paused.json");
const EXITED: &str = include_str!("../../../tests/bodies/podman-4.3.1/exited.json");
const DOCKER_CREATED: &str = include_str!("../../../tests/bodies/docker-20.10.24/created.json");
const DOCKER_RUNNING: &str = include_str!("../../../tests/bodies/docker-20.10.24/running.json");
const DOCKER_PAUSED: &str = include_str!("../../../tests/bodies/docker-20.10.24/paused.json");
const DOCKER_EXITED: &str = include_str!("../../../tests/bodies/docker-20.10.24/exited.json");
const LIST: &str = include_str!("../../../tests/bodies/podman-4.3.1/list.json");

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

#[test]
fn the_captured_bodies_are_read() {
    let started_at = time("2026-11-22T02:45:42.191605579Z");
    let created = container(CREATED);
    assert_eq!(created.state, ContainerState::Created);
    assert_eq!(created.address, None);
    let running = container(RUNNING);
    assert_eq!(running.state, ContainerState::Running { pid: 20825, started_at });
    let paused = container(PAUSED);
    assert_eq!(paused.state, ContainerState::Paused { pid: 20825, started_at });
    assert_eq!(running.state.incarnation(), Some(Incarnation { pid: 20825, started_at }));
    assert_eq!(running.state.incarnation(), paused.state.incarnation());
    assert_eq!(
        container(EXITED).state,
        ContainerState::Exited {
            exit_code: 3,
            oom_killed: false,
            finished_at: Some(time("2026-11-22T02:45:43.199289619Z")),
            error: None
        }
    );
}

#[test]
fn dockers_bodies_are_read_too() {
    let started_at = time("2026-11-22T03:18:56.697805539Z");
    assert_eq!(container(DOCKER_CREATED).state, ContainerState::Created);
    let running = container(DOCKER_RUNNING);
    assert_eq!(running.state, ContainerState::Running { pid: 5153, started_at });
    assert_eq!(container(DOCKER_PAUSED).state, ContainerState::Paused { pid: 5153, started_at });
    let exited = container(DOCKER_EXITED);
    assert_eq!(
        exited.state,
        ContainerState::Exited {
            exit_code: 3,
            oom_killed: false,
            finished_at: Some(time("2026-11-22T03:18:59.031394698Z")),
            error: None
        }
    );
    // What both were asked for is read the same of both.
    let podman = container(RUNNING);
    for docker in [&running, &exited] {
        assert_eq!(docker.name, podman.name);
        assert_eq!(docker.image, podman.image);
        assert_eq!(docker.labels, podman.labels);
        assert_eq!(docker.limits, podman.limits);
        assert_eq!(docker.ports, podman.ports);
        assert_eq!(docker.mounts, podman.mounts);
        assert_eq!(docker.restart_policy, podman.restart_policy);
        assert_eq!(docker.started_at, Some(started_at));
    }
    assert_eq!(running.address, Some(IpAddr::from([172, 29, 0, 2])));
    assert_eq!(exited.address, None);
}

#[test]
fn everything_else_of_a_container_is_read() {
    let running = container(RUNNING);
    assert_eq!(running.id.short(), "7889122f74b7");
    assert_eq!(running.name, "web");
    assert_eq!(running.image, "localhost/belay/web:0123456789abcdef");
    assert!(running.image_id.starts_with("sha256:cfbd30d3"));
    assert_eq!(running.labels, BTreeMap::from([("io.belay.node".to_owned(), "lab".to_owned())]));
    assert_eq!(running.created, Some(time("2026-11-22T02:45:41.622723506Z")));
    assert_eq!(running.restart_policy, RestartPolicy::No);
    assert_eq!(
        running.limits,
        Limits { memory: Some(67_108_864), nano_cpus: Some(500_000_000), pids: Some(64) }
    );
    assert_eq!(
        running.ports,
        [PortBinding {
            host_ip: IpAddr::from([127, 0, 0, 1]),
            host_port: 18099,
            container_port: 80,
            protocol: Protocol::Tcp
        }]
    );
    assert_eq!(
        running.mounts,
        [MountSeen {
            source: PathBuf::from("/srv/volumes/data"),
            target: "/data".to_owned(),
            access: Access::ReadOnly
        }]
    );
    assert_eq!(running.address, Some(IpAddr::from([10, 88, 0, 3])));
    assert_eq!(running.health, None);
}

#[test]
fn a_list_gives_ids() {
    let rows: Vec<ListRow> = serde_json::from_str(LIST).expect("a list body");
    assert_eq!(rows.len(), 1);
    assert!(rows[0].id.starts_with("7889122f74b7"));
}

#[test]
fn a_list_alone_tells_whether_a_container_is_still_as_it_was_seen() {
    let row: Vec<ListRow> = serde_json::from_str(LIST).expect("a list body");
    let listed = row.into_iter().next().expect("one").into_listed();
    let running = state_of("running", 7, "2026-01-01T00:00:00Z");
    assert!(listed.agrees_with(&running));
    for other in ["created", "paused", "exited", "stopping", "removing", "levitating"] {
        let other = state_of(other, 7, "2026-01-01T00:00:00Z");
        assert!(!listed.agrees_with(&other), "{other:?}");
        assert!(!agrees("levitating", &other), "what is not known is looked at in full");
    }
    assert!(agrees("exited", &state_of("exited", 0, "2026-01-01T00:00:00Z")));
    assert!(agrees("configured", &state_of("created", 0, "")));
    assert!(agrees("paused", &state_of("paused", 7, "2026-01-01T00:00:00Z")));
    let ends = state_of("stopping", 7, "2026-01-01T00:00:00Z");
    assert!(!agrees("stopping", &ends), "what passes quickly is looked at in full");
}

fn state_of(status: &str, pid: i64, started_at: &str) -> ContainerState {
    let body = serde_json::json!({ "Id": "7889", "State": {
        "Status": status, "Pid": pid, "StartedAt": started_at, "ExitCode": 137, "OOMKilled": true,
        "Error": "boom", "FinishedAt": "0001-01-01T00:00:00Z"
    }});
    container(&body.to_string()).state
}

#[test]
fn every_state_says_whether_a_process_may_write() {
    let now = "2026-11-22T02:45:42Z";
    for (status, liveness) in [
        ("created", Liveness::Stopped),
        ("configured", Liveness::Stopped),
        ("initialized", Liveness::Stopped),
        ("running", Liveness::Running),
        ("paused", Liveness::Running),
        ("stopping", Liveness::Unknown),
        ("stopped", Liveness::Unknown),
        ("exited", Liveness::Stopped),
        ("removing", Liveness::Unknown),
        ("dead", Liveness::Unknown),
        ("restarting", Liveness::Unknown),
        ("improper", Liveness::Unknown),
        ("", Liveness::Unknown),
        ("Running", Liveness::Unknown),
        ("of-the-future", Liveness::Unknown),
    ] {
        assert_eq!(state_of(status, 42, now).liveness(), liveness, "{status:?}");
    }
}

#[test]
fn an_end_that_is_not_cleared_up_after_is_one_once_it_is_recorded() {
    let stopped = |pid: u32, started_at: &str, finished_at: &str| {
        let body = serde_json::json!({"Id": "1", "Name": "n", "State": {
            "Status": "stopped", "Pid": pid, "StartedAt": started_at, "ExitCode": 137,
            "FinishedAt": finished_at
        }});
        container(&body.to_string()).state
    };
    let (before, began, after) =
        ("2026-11-22T02:45:41Z", "2026-11-22T02:45:42Z", "2026-11-22T02:45:43Z");
    let state = stopped(0, began, after);
    let ContainerState::Exited { exit_code, finished_at, .. } = state else { panic!("{state}") };
    assert_eq!((exit_code, finished_at), (137, Some(time(after))));
    // The end of the run before, no end, no begin, and a process.
    for (pid, began, ended) in [
        (0, began, before),
        (0, began, "0001-01-01T00:00:00Z"),
        (0, "0001-01-01T00:00:00Z", after),
        (42, began, after),
    ] {
        assert_eq!(stopped(pid, began, ended), ContainerState::Stopping, "{pid} {began} {ended}");
    }
}

#[test]
fn running_without_a_process_is_unknown() {
    for (pid, started) in [
        (0, "2026-11-22T02:45:42Z"),
        (-1, "2026-11-22T02:45:42Z"),
        (42, "0001-01-01T00:00:00Z"),
        (42, ""),
        (42, "yesterday"),
        (1 << 40, "2026-11-22T02:45:42Z"),
    ] {
        for status in ["running", "paused"] {
            let state = state_of(status, pid, started);
            assert_eq!(state, ContainerState::Unknown(status.to_owned()), "{pid} {started:?}");
        }
    }
}

#[test]
fn an_end_keeps_its_reasons() {
    assert_eq!(
        state_of("exited", 0, ""),
        ContainerState::Exited {
            exit_code: 137,
            oom_killed: true,
            finished_at: None,
            error: Some("boom".to_owned())
        }
    );
}

#[test]
fn a_body_with_the_least_is_read() {
    let least = container(r#"{"Id":"7889","State":{"Status":"created"}}"#);
    assert_eq!(
        (least.state, least.ports.len(), least.mounts.len()),
        (ContainerState::Created, 0, 0)
    );
    assert!(serde_json::from_str::<InspectBody>(r#"{"Id":"7889"}"#).is_err());
}

#[test]
fn other_engines_differences_are_levelled() {
    // Docker: null maps, an IPv6 binding beside the IPv4 one, a policy, a health check, an offset.
    let docker = container(
        r#"{"Id":"7889","Name":"/web","Created":"2026-11-22T03:45:41+01:00",
            "State":{"Status":"running","Pid":7,"StartedAt":"2026-11-22T03:45:42+01:00",
                     "Health":{"Status":"healthy","FailingStreak":0,"Log":[]}},
            "Config":{"Image":"web","Labels":null},
            "HostConfig":{"RestartPolicy":{"Name":"always"},"PidsLimit":null,"Memory":0,"NanoCpus":0,
                          "PortBindings":{"80/tcp":[{"HostIp":"","HostPort":""}]}},
            "Mounts":[{"Type":"volume","Destination":"/v","RW":true},
                      {"Type":"bind","Source":"/s","Destination":"/d","RW":true}],
            "NetworkSettings":{"IPAddress":"","Ports":{"53/udp":[
                {"HostIp":"0.0.0.0","HostPort":"5353"},{"HostIp":"::","HostPort":"5353"}],
                "80/tcp":null,"9/sctp":[{"HostIp":"","HostPort":"9"}]},
                "Networks":{"bridge":{"IPAddress":"172.17.0.2"}}}}"#,
    );
    assert_eq!(docker.created, Some(time("2026-11-22T02:45:41Z")));
    assert_eq!(docker.restart_policy, RestartPolicy::Other("always".to_owned()));
    assert_eq!(docker.health, Some(Health::Healthy));
    assert_eq!(docker.limits, Limits::default());
    assert_eq!(docker.address, Some(IpAddr::from([172, 17, 0, 2])));
    assert_eq!(docker.mounts.len(), 1, "only binds are ours");
    let ports: Vec<String> = docker.ports.iter().map(|port| port.host_ip.to_string()).collect();
    assert_eq!(ports, ["0.0.0.0", "::"]);
}

#[test]
fn the_command_of_a_health_check_is_read() {
    let command = |test: &[&str]| {
        super::command_of(&test.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    };
    let expected = Some(vec!["/bin/test".to_owned(), "-e".to_owned(), "/ok".to_owned()]);
    assert_eq!(command(&["CMD", "/bin/test", "-e", "/ok"]), expected);
    let expected = Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), "test -e /ok".to_owned()]);
    assert_eq!(command(&["CMD-SHELL", "test -e /ok"]), expected);
    for none in [&[][..], &["NONE"], &["CMD"], &["CMD-SHELL"]] {
        assert_eq!(command(none), None, "{none:?}");
    }
}
