//! The workloads that a spec depends on, and the values that it takes from them.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_protocol::{DependencyState, WorkloadName};

use super::super::keys::Keys;

/// How long a start may wait for a workload, unless the spec says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a workload needs of one that it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// What is awaited.
    pub until: DependencyState,
    /// How long a start may wait before it counts as a failure and is told as one; the wait itself
    /// goes on.
    pub timeout: Duration,
    /// What follows when the other one was started anew.
    pub restart: ProviderRestart,
}

/// What follows for a workload that runs when one that it depends on was started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderRestart {
    /// Nothing.
    Ignored,
    /// It is started anew too, once the other one is there again.
    Followed,
}

/// A value that is taken from a workload that this one depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueSource {
    /// Whose.
    pub from: WorkloadName,
    /// Which of its container ports, over TCP.
    pub port: u16,
    /// What of the address under which it is published.
    pub part: AddressPart,
}

/// Part of the address under which a port is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPart {
    /// `HOST:PORT`.
    Address,
    /// The host alone.
    Host,
    /// The port alone.
    Port,
}

/// Reads `depends_on`: a list of names, or a table for each.
pub(super) fn read(
    keys: &mut Keys<'_>,
    own: Option<&WorkloadName>,
) -> BTreeMap<WorkloadName, Dependency> {
    const EXPECTED: &str = "a list of workload names, or a table for each of them";
    let mut found = BTreeMap::new();
    let mut take =
        |keys: &Keys<'_>, path: &str, name: &str, dependency: Dependency| match name
            .parse::<WorkloadName>()
        {
            Ok(name) if own == Some(&name) => {
                keys.fault_at("depends_on", path, "the workload itself", "other workloads");
            }
            Ok(name) if found.contains_key(&name) => {
                let twice = format!("{name} twice");
                keys.fault_at("depends_on", path, &twice, "each name once");
            }
            Ok(name) => _ = found.insert(name, dependency),
            Err(error) => {
                let expected = format!("a workload name ({error})");
                keys.fault_at("depends_on", path, &format!("{name:?}"), &expected);
            }
        };
    let plain = Dependency {
        until: DependencyState::Ready,
        timeout: TIMEOUT,
        restart: ProviderRestart::Ignored,
    };
    if keys.has_no_table("depends_on") {
        for (number, name) in keys.texts("depends_on", EXPECTED).into_iter().flatten().enumerate() {
            take(keys, &format!("depends_on[{number}]"), &name, plain);
        }
        return found;
    }
    for (name, mut table) in keys.named_tables("depends_on") {
        let mut dependency = plain;
        let states = [("ready", DependencyState::Ready), ("started", DependencyState::Started)];
        dependency.until = table.choice("until", &states).unwrap_or(dependency.until);
        let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
        dependency.timeout = table.duration("timeout", bounds).unwrap_or(dependency.timeout);
        if table.boolean("restart_with_provider") == Some(true) {
            dependency.restart = ProviderRestart::Followed;
        }
        table.finish();
        take(keys, &format!("depends_on.{name}"), name, dependency);
    }
    found
}

/// Reads the table of an `env` entry.
pub(super) fn read_source(
    mut table: Keys<'_>,
    depends_on: &BTreeMap<WorkloadName, Dependency>,
) -> Option<ValueSource> {
    const FROM: &str = "the name of a workload in depends_on";
    let from: Option<WorkloadName> = super::required(&mut table, "from", FROM);
    if let Some(from) = &from
        && !depends_on.contains_key(from)
    {
        table.fault("from", &format!("\"{from}\""), FROM);
    }
    if !table.has("port") {
        table.missing("port", "a container port that it publishes");
    }
    let port = table.port("port");
    let parts = [
        ("address", AddressPart::Address),
        ("host", AddressPart::Host),
        ("port", AddressPart::Port),
    ];
    let value = table.choice("value", &parts).unwrap_or(AddressPart::Address);
    table.finish();
    Some(ValueSource { from: from?, port: port?, part: value })
}
