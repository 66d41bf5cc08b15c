//! The tables `ready` and `live` of a spec.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{NetworkMode, PortSpec, Transport};
use crate::core::keys::{self, Entry, Keys};

/// What makes a workload ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadySpec {
    /// How it is asked.
    pub probe: ProbeSpec,
    /// Longest that one question may take.
    pub probe_timeout: Duration,
    /// Good answers in a row that are needed.
    pub consecutive: u32,
    /// Pause between two questions.
    pub interval: Duration,
    /// Least time between the first and the last of them.
    pub stable: Duration,
    /// Longest the whole wait may take.
    pub timeout: Duration,
}

/// What becomes of a workload that was ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSpec {
    /// How it is asked.
    pub probe: ProbeSpec,
    /// Longest that one question may take.
    pub probe_timeout: Duration,
    /// Pause between two questions.
    pub interval: Duration,
    /// Failing answers in a row that make it unhealthy.
    pub failures: u32,
    /// Good answers in a row that make it well again.
    pub successes: u32,
    /// From the start of its process on: how long it is left alone while it was never ready.
    pub start_period: Duration,
    /// What is done about an unhealthy one.
    pub action: LiveAction,
}

/// What is done about an unhealthy workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveAction {
    /// It is shown.
    None,
    /// It is restarted, on the ladder of crashes.
    Restart,
    /// It is stopped until an operator starts it.
    Stop,
}

/// How a process is asked whether it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeSpec {
    /// Not at all: that its process is still the same one is the answer.
    Process,
    /// A GET with a good status.
    Http(HttpProbe),
    /// A connection that must be accepted.
    Tcp {
        /// Container port, which must be published unless the network is the host's.
        port: u16,
    },
    /// A command in the container that must exit with 0.
    Exec {
        /// Program and arguments; no shell is put in between.
        command: Vec<String>,
        /// User; the container's if not given.
        user: Option<String>,
    },
    /// The health check that the image declares.
    Healthcheck,
}

/// A question over HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Container port, which must be published unless the network is the host's.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Statuses that are good.
    pub status: RangeInclusive<u16>,
    /// `Host` header, instead of the address.
    pub host: Option<String>,
    /// More headers.
    pub headers: BTreeMap<String, String>,
}

impl std::fmt::Debug for HttpProbe {
    /// Leaves the values of the headers out: secrets travel there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpProbe")
            .field("port", &self.port)
            .field("path", &self.path)
            .field("status", &self.status)
            .field("host", &self.host)
            .field("headers", &self.headers.keys())
            .finish()
    }
}

impl std::fmt::Display for ProbeSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process => f.write_str("process"),
            Self::Http(http) => write!(f, "http {}{}", http.port, http.path),
            Self::Tcp { port } => write!(f, "tcp {port}"),
            Self::Exec { command, .. } => write!(f, "exec {}", command.join(" ")),
            Self::Healthcheck => f.write_str("the image's health check"),
        }
    }
}

/// What probes can reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach<'a> {
    pub ports: &'a [PortSpec],
    pub network: NetworkMode,
}

const SECOND: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn read_ready(keys: &mut Keys<'_>, reach: Reach<'_>) -> ReadySpec {
    let mut ready = ReadySpec {
        probe: ProbeSpec::Process,
        probe_timeout: PROBE_TIMEOUT,
        consecutive: 3,
        interval: Duration::from_millis(500),
        stable: SECOND,
        timeout: SECOND * 30,
    };
    let Some(mut table) = keys.table("ready") else { return ready };
    if let Some(probe) = read_probe(&mut table, reach) {
        ready.probe = probe;
    }
    ready.probe_timeout = read_probe_timeout(&mut table);
    if let Some(consecutive) = table.integer("consecutive", 1..=10) {
        ready.consecutive = u32::try_from(consecutive).expect("bounded just above");
    }
    let interval = Duration::from_millis(100)..=SECOND * 60;
    ready.interval = table.duration("interval", interval).unwrap_or(ready.interval);
    // One good answer spans no time.
    let stable = if ready.consecutive == 1 { Duration::ZERO } else { ready.stable };
    ready.stable = table.duration("stable", Duration::ZERO..=SECOND * 600).unwrap_or(stable);
    let timeout = SECOND..=SECOND * 3600;
    ready.timeout = table.duration("timeout", timeout).unwrap_or(ready.timeout);
    let spaced = ready.interval.saturating_mul(ready.consecutive - 1);
    let shortest = spaced.max(ready.stable);
    if shortest >= ready.timeout && spaced >= ready.stable {
        table.fault(
            "timeout",
            &keys::show_duration(ready.timeout),
            &format!(
                "more than {}, which {} answers spaced by the interval take",
                keys::show_duration(shortest),
                ready.consecutive
            ),
        );
    } else if shortest >= ready.timeout {
        table.fault(
            "timeout",
            &keys::show_duration(ready.timeout),
            &format!("more than {}, the stable time", keys::show_duration(shortest)),
        );
    }
    table.finish();
    ready
}

pub(super) fn read_live(
    keys: &mut Keys<'_>,
    reach: Reach<'_>,
    ready: &ProbeSpec,
) -> Option<LiveSpec> {
    let mut table = keys.table("live")?;
    let count = |table: &mut Keys<'_>, key, otherwise| {
        table.integer(key, 1..=100).and_then(|n| u32::try_from(n).ok()).unwrap_or(otherwise)
    };
    let probe = read_probe(&mut table, reach);
    let asked = PROBES.iter().any(|key| table.has(key));
    if !asked && *ready == ProbeSpec::Process {
        table.missing("", "one of http, tcp, exec, healthcheck, here or in the table ready");
    }
    let probe_timeout = read_probe_timeout(&mut table);
    let interval = table.duration("interval", SECOND..=SECOND * 3600).unwrap_or(SECOND * 10);
    let live = LiveSpec {
        probe: probe.unwrap_or_else(|| ready.clone()),
        probe_timeout,
        interval,
        failures: count(&mut table, "failures", 3),
        successes: count(&mut table, "successes", 1),
        start_period: table
            .duration("start_period", Duration::ZERO..=SECOND * 86_400)
            .unwrap_or(SECOND * 300),
        action: table
            .choice(
                "action",
                &[
                    ("none", LiveAction::None),
                    ("restart", LiveAction::Restart),
                    ("stop", LiveAction::Stop),
                ],
            )
            .unwrap_or(LiveAction::Restart),
    };
    table.finish();
    Some(live)
}

fn read_probe_timeout(table: &mut Keys<'_>) -> Duration {
    let bounds = Duration::from_millis(100)..=SECOND * 30;
    table.duration("probe_timeout", bounds).unwrap_or(PROBE_TIMEOUT)
}

/// The keys that each name a kind of probe.
const PROBES: [&str; 4] = ["http", "tcp", "exec", "healthcheck"];

fn read_probe(table: &mut Keys<'_>, reach: Reach<'_>) -> Option<ProbeSpec> {
    let mut probes = Vec::new();
    if let Some(mut http) = table.table("http") {
        probes.extend(read_http(&mut http, reach).map(ProbeSpec::Http));
        http.finish();
    }
    if let Some(mut tcp) = table.table("tcp") {
        probes.extend(probed_port(&mut tcp, reach).map(|port| ProbeSpec::Tcp { port }));
        tcp.finish();
    }
    if let Some(mut exec) = table.table("exec") {
        probes.extend(read_exec(&mut exec));
        exec.finish();
    }
    match table.boolean("healthcheck") {
        Some(true) => probes.push(ProbeSpec::Healthcheck),
        Some(false) => {
            table.fault("healthcheck", "false", "true, or no such key");
        }
        None => {}
    }
    let given: Vec<_> = PROBES.iter().filter(|key| table.has(key)).collect();
    if let [first, second, ..] = given[..] {
        table.fault(second, "a second probe", &format!("one probe; there is {first} already"));
    }
    probes.into_iter().next()
}

fn read_http(http: &mut Keys<'_>, reach: Reach<'_>) -> Option<HttpProbe> {
    const STATUS: &str = "a status or a range of them from 100 to 599, as in \"200-399\"";
    let path = http.text("path", "a path such as \"/healthz\"").unwrap_or("/");
    if !path.starts_with('/') || path.bytes().any(|c| !c.is_ascii_graphic()) {
        http.fault("path", &format!("{path:?}"), "a path that begins with '/'");
    }
    let mut status = 200..=399;
    if let Some(text) = http.text("status", STATUS) {
        match status_range(text) {
            Some(range) => status = range,
            None => http.fault("status", &format!("{text:?}"), STATUS),
        }
    }
    let host = http.text("host", "a host name, as in \"example.org\"");
    if let Some(host) = host
        && !is_header_value(host)
    {
        http.fault("host", &format!("{host:?}"), "a host name, as in \"example.org\"");
    }
    let mut headers = BTreeMap::new();
    for (name, value) in http.map("headers", "a text") {
        let path = format!("headers.{name}");
        let Entry::Text(value) = value else {
            http.fault_at("headers", &path, "a table", "a text");
            continue;
        };
        if name.eq_ignore_ascii_case("host") {
            http.fault_at("headers", &path, "the host", "the key host beside headers");
        } else if !is_header_name(name) {
            http.fault_at("headers", &path, &format!("{name:?}"), "the name of a header");
        } else if !is_header_value(&value) {
            // The value may be a secret and is not repeated.
            http.fault_at("headers", &path, "a value with other characters", "visible ASCII");
        } else {
            headers.insert(name.to_owned(), value);
        }
    }
    let port = probed_port(http, reach)?;
    Some(HttpProbe { port, path: path.to_owned(), status, host: host.map(str::to_owned), headers })
}

fn status_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
    (100 <= from && from <= to && to <= 599).then_some(from..=to)
}

fn is_header_name(text: &str) -> bool {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !text.is_empty() && text.bytes().all(token)
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|c| c == b' ' || c.is_ascii_graphic()) && text.trim() == text
}

fn read_exec(exec: &mut Keys<'_>) -> Option<ProbeSpec> {
    const EXPECTED: &str = "a list of texts, the program and its arguments";
    if !exec.has("command") {
        exec.missing("command", EXPECTED);
    }
    let user = exec.text("user", "a user, as in \"1000\" or \"app\"").map(str::to_owned);
    let command = exec.texts("command", EXPECTED)?;
    if command.first().is_none_or(String::is_empty) {
        exec.fault("command", "no program", EXPECTED);
    }
    Some(ProbeSpec::Exec { command, user })
}

fn probed_port(keys: &mut Keys<'_>, reach: Reach<'_>) -> Option<u16> {
    if !keys.has("port") {
        keys.missing("port", "a container port");
    }
    let port = keys.port("port")?;
    let is_tcp = |p: &&PortSpec| p.transport == Transport::Tcp;
    let published = reach.ports.iter().filter(is_tcp).any(|p| p.container == port);
    if published || reach.network == NetworkMode::Host {
        return Some(port);
    }
    let list: Vec<_> = reach.ports.iter().map(|p| p.container.to_string()).collect();
    let expected = if list.is_empty() {
        "a published TCP port; none is published, add a [[ports]] table".to_owned()
    } else {
        format!("a published TCP port: {}", list.join(", "))
    };
    keys.fault("port", &port.to_string(), &expected);
    None
}
