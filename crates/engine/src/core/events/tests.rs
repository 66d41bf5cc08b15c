use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::event::Health;

const PODMAN: &str = include_str!("../../../tests/bodies/podman-4.3.1/events.jsonl");

const DOCKER: &str = include_str!("../../../tests/bodies/docker-20.10.24/events.jsonl");

fn read(line: &str) -> Option<EngineEvent> {
    serde_json::from_str::<EventBody>(line).expect("an event body").into_event()
}

#[test]
fn the_captured_events_are_read() {
    let events: Vec<EngineEvent> = PODMAN.lines().filter_map(read).collect();
    let actions: Vec<&Action> = events.iter().map(|event| &event.action).collect();
    let other = |name: &str| Action::Other(name.to_owned());
    assert_eq!(
        actions,
        [
            &Action::Created,
            &other("init"),
            &Action::Started,
            &Action::Paused,
            &Action::Unpaused,
            &Action::Renamed,
            &Action::Died { exit_code: Some(3) },
            &other("cleanup"),
            &other("cleanup"),
            &Action::Removed,
        ]
    );
    for event in &events {
        assert_eq!(event.container.short(), "7889122f74b7");
        assert_eq!(event.name, "web");
        let labels = BTreeMap::from([("io.belay.node".to_owned(), "lab".to_owned())]);
        assert_eq!(event.labels, labels, "what the engine adds is no label");
    }
    assert_eq!(events[0].at.as_nanosecond(), 1_795_315_541_650_898_888);
}

#[test]
fn dockers_captured_events_are_read() {
    let events: Vec<EngineEvent> = DOCKER.lines().filter_map(read).collect();
    let told: Vec<&Action> = events
        .iter()
        .map(|event| &event.action)
        .filter(|it| !matches!(it, Action::Other(_)))
        .collect();
    assert_eq!(
        told,
        [
            &Action::Created,
            &Action::Started,
            &Action::Paused,
            &Action::Unpaused,
            &Action::Died { exit_code: Some(3) },
            &Action::Removed,
        ]
    );
    for event in &events {
        assert_eq!(event.labels.len(), 1, "what the engine adds is no label: {event:?}");
    }
}

#[test]
fn dockers_names_mean_the_same() {
    for (name, attributes, action) in [
        ("die", r#"{"exitCode":"137","name":"web"}"#, Action::Died { exit_code: Some(137) }),
        ("die", r#"{"name":"web"}"#, Action::Died { exit_code: None }),
        ("died", r#"{"exitCode":"x"}"#, Action::Died { exit_code: None }),
        ("oom", "{}", Action::Oom),
        ("destroy", "{}", Action::Removed),
        ("checkpoint", "{}", Action::Checkpointed),
        ("restore", "{}", Action::Restored),
        ("health_status: healthy", "{}", Action::Health(Health::Healthy)),
        ("health_status: unhealthy", "{}", Action::Health(Health::Unhealthy)),
        ("health_status", r#"{"health_status":"starting"}"#, Action::Health(Health::Starting)),
        ("health_status: running", "{}", Action::Other("health_status: running".to_owned())),
        ("exec_start: sh -c die", "{}", Action::Other("exec_start: sh -c die".to_owned())),
    ] {
        let line = format!(
            r#"{{"Type":"container","Action":"{name}","timeNano":1795315541650898888,
                "Actor":{{"ID":"7889","Attributes":{attributes}}}}}"#
        );
        assert_eq!(read(&line).expect("a container event").action, action, "{name}");
    }
}

#[test]
fn what_is_no_container_is_no_event() {
    for line in [
        r#"{"Type":"image","Action":"pull","Actor":{"ID":"7889"},"timeNano":1}"#,
        r#"{"Type":"pod","Action":"create","Actor":{"ID":"7889"},"timeNano":1}"#,
        r#"{"Type":"container","Action":"create","Actor":{"ID":""},"timeNano":1}"#,
    ] {
        assert_eq!(read(line), None, "{line}");
    }
    assert!(serde_json::from_str::<EventBody>("{}").is_err());
}

fn event(nanos: i64, container: &str) -> EngineEvent {
    EngineEvent {
        at: Timestamp::from_nanosecond(i128::from(nanos)).expect("in range"),
        container: ContainerId::new(container),
        name: String::new(),
        labels: BTreeMap::new(),
        action: Action::Started,
    }
}

const SECOND: i64 = 1_000_000_000;

#[test]
fn a_marker_asks_for_a_little_more_than_is_new() {
    let start = Timestamp::from_second(1000).expect("in range");
    let mut marker = EventMarker::at(start);
    assert_eq!(marker.since(), 995);
    assert!(marker.admit(&event(2000 * SECOND, "a")));
    assert_eq!(marker.since(), 1995);
}

#[test]
fn a_late_event_within_the_overlap_is_new_once() {
    let mut marker = EventMarker::at(Timestamp::from_second(1000).expect("in range"));
    assert!(marker.admit(&event(1010 * SECOND, "a")));
    assert!(marker.admit(&event(1008 * SECOND, "b")), "written late by another process");
    assert!(!marker.admit(&event(1008 * SECOND, "b")));
    assert!(!marker.admit(&event(1010 * SECOND, "a")));
    assert!(!marker.admit(&event(1004 * SECOND, "c")), "older than the overlap");
}

proptest! {
    /// An engine's history, slightly out of order, is read in pieces: each piece is cut off anywhere
    /// and the next asks from the marker on. Every event is given exactly once.
    #[test]
    fn gaps_neither_lose_nor_repeat(
        steps in proptest::collection::vec((0_i64..3_000, 0_i64..2_000, 0_u8..3), 1..60),
        cuts in proptest::collection::vec(0_usize..60, 0..8),
    ) {
        let mut clock = 10_000 * SECOND;
        let history: Vec<EngineEvent> = steps
            .iter()
            .map(|&(step, late, who)| {
                clock += step * 1_000_000;
                event(clock - late * 1_000_000, &format!("c{who}"))
            })
            .collect();
        let mut marker = EventMarker::at(Timestamp::from_second(9_990).expect("in range"));
        let mut given = Vec::new();
        let mut written = 0;
        let mut ends = cuts;
        ends.sort_unstable();
        ends.push(history.len());
        for end in ends {
            let end = end.min(history.len()).max(written);
            // What a stream opened now gives: the past from the marker's second on, then the rest.
            let since = marker.since();
            let stream: Vec<&EngineEvent> =
                history[..end].iter().filter(|event| event.at.as_second() >= since).collect();
            for event in stream {
                if marker.admit(event) {
                    given.push((event.at, event.container.clone()));
                }
            }
            written = end;
        }
        let naive: BTreeSet<_> =
            history.iter().map(|event| (event.at, event.container.clone())).collect();
        prop_assert_eq!(given.len(), naive.len());
        prop_assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), naive);
    }
}
