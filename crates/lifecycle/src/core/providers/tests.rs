use std::path::Path;

use super::super::spec::parse;
use super::*;

fn spec(text: &str) -> WorkloadSpec {
    let text = format!("name = \"web\"\nimage = \"x\"\n{text}");
    parse(&text, "web.toml", Path::new("/")).expect("a good spec")
}

fn port(host_address: &str, host_port: u16, container_port: u16, protocol: &str) -> PortStatus {
    let (host_address, protocol) = (host_address.to_owned(), protocol.to_owned());
    PortStatus { host_address, host_port, container_port, protocol }
}

fn provider(phase: WorkloadPhase, ports: Vec<PortStatus>) -> Provider {
    let incarnation = Some("c1@2026-03-01T12:00:00Z".to_owned());
    Provider { phase, reason: "why".to_owned(), incarnation, ports }
}

fn providers(list: Vec<(&str, Provider)>) -> Providers {
    let named = |(name, found): (&str, _)| (name.parse().expect("a name"), Some(found));
    list.into_iter().map(named).collect()
}

#[test]
fn a_start_waits_until_each_provider_is_as_far_as_the_spec_wants() {
    use WorkloadPhase as P;
    let ready = spec("depends_on = [\"db\"]");
    let started = spec("[depends_on.db]\nuntil = \"started\"");
    for (phase, for_ready, for_started) in [
        (P::Pending, false, false),
        (P::FetchingImage, false, false),
        (P::ProvidingVolumes, false, false),
        (P::Waiting, false, false),
        (P::Starting, false, false),
        (P::Probing, false, true),
        (P::Ready, true, true),
        (P::Unready, false, true),
        (P::Stopping, false, false),
        (P::Stopped, false, false),
        (P::Completed, true, true),
        (P::PausedForSync, false, false),
        (P::BackOff, false, false),
        (P::Halted, false, false),
        (P::Unknown, false, false),
        (P::Removing, false, false),
    ] {
        let seen = providers(vec![("db", provider(phase, vec![]))]);
        assert_eq!(awaited(&ready, &seen).is_empty(), for_ready, "{phase:?}");
        assert_eq!(awaited(&started, &seen).is_empty(), for_started, "{phase:?}");
    }
}

#[test]
fn what_is_awaited_is_said_in_one_line() {
    let spec = spec(
        "depends_on = [\"cache\", \"db\", \"queue\"]\n\
                     env = { Q = { from = \"queue\", port = 5 } }",
    );
    let mut seen = providers(vec![
        ("db", provider(WorkloadPhase::BackOff, vec![])),
        ("queue", provider(WorkloadPhase::Ready, vec![port("0.0.0.0", 5, 5, "udp")])),
    ]);
    seen.insert("cache".parse().expect("a name"), None);
    assert_eq!(
        sentence(&awaited(&spec, &seen)),
        "waiting-for cache: there is no such workload; db: back-off, why; \
         queue: it does not publish its port 5 over tcp"
    );
}

#[test]
fn values_of_a_provider_come_under_belayds_names_and_under_chosen_ones() {
    let spec = spec(
        "depends_on = [\"my-db\", \"job\"]\nnetwork = \"host\"\n[env]\n\
         DB = { from = \"my-db\", port = 5432 }\n\
         DB_HOST = { from = \"my-db\", port = 5432, value = \"host\" }\n\
         DB_ADMIN = { from = \"my-db\", port = 81, value = \"port\" }\n",
    );
    let ports = vec![
        port("0.0.0.0", 15432, 5432, "tcp"),
        port("10.0.0.7", 9999, 53, "udp"),
        port("10.0.0.7", 8081, 81, "tcp"),
    ];
    let seen = providers(vec![
        ("my-db", provider(WorkloadPhase::Ready, ports)),
        ("job", provider(WorkloadPhase::Completed, vec![])),
    ]);
    let exports = exports(&spec, &seen);
    let text = |list: &[(String, String)]| {
        list.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        text(&exports.named),
        [
            "BELAY_DEP_JOB_NAME=job",
            "BELAY_DEP_MY_DB_NAME=my-db",
            "BELAY_DEP_MY_DB_HOST=127.0.0.1",
            "BELAY_DEP_MY_DB_PORT=15432",
            "BELAY_DEP_MY_DB_HOST_5432=127.0.0.1",
            "BELAY_DEP_MY_DB_PORT_5432=15432",
            "BELAY_DEP_MY_DB_HOST_81=10.0.0.7",
            "BELAY_DEP_MY_DB_PORT_81=8081",
        ]
    );
    assert_eq!(text(&exports.chosen), ["DB=127.0.0.1:15432", "DB_ADMIN=8081", "DB_HOST=127.0.0.1"]);
    assert_ne!(exports.digest(), Exports::default().digest());
    assert_eq!(Exports::default().digest(), None);
}

#[test]
fn the_host_of_a_published_port_depends_on_the_consumers_network() {
    for (address, host, bridge) in [
        ("0.0.0.0", "127.0.0.1", HOST_NAME),
        ("::", "::1", HOST_NAME),
        ("192.168.7.1", "192.168.7.1", "192.168.7.1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ] {
        let port = port(address, 1, 1, "tcp");
        assert_eq!(reached(&port, NetworkMode::Host), host);
        assert_eq!(reached(&port, NetworkMode::Bridge), bridge);
    }
    let seen = providers(vec![(
        "db",
        provider(WorkloadPhase::Ready, vec![port("127.0.0.1", 1, 1, "tcp")]),
    )]);
    assert_eq!(unreachable(&spec("depends_on = [\"db\"]"), &seen).len(), 1);
    let on_host = spec("network = \"host\"\ndepends_on = [\"db\"]");
    assert!(unreachable(&on_host, &seen).is_empty());
}

#[test]
fn only_a_provider_that_is_followed_and_runs_anew_restarts_its_dependant() {
    let spec = spec("[depends_on.db]\nrestart_with_provider = true\n[depends_on.log]\n");
    let at = |db: &str| {
        let mut found = provider(WorkloadPhase::Ready, vec![]);
        found.incarnation = Some(db.to_owned());
        providers(vec![("db", found), ("log", provider(WorkloadPhase::Ready, vec![]))])
    };
    let started = followed(&spec, &at("one"));
    assert_eq!(started.len(), 1, "log is not followed");
    assert_eq!(restarted(&started, &followed(&spec, &at("one"))), None);
    let anew = followed(&spec, &at("two"));
    assert_eq!(restarted(&started, &anew).map(WorkloadName::as_str), Some("db"));
    assert_eq!(restarted(&BTreeMap::new(), &anew), None, "nothing is known of the start");
}
