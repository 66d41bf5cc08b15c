//! Asks a workload whether it serves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::core::gate::{Class, Observation};
use crate::core::spec::{NetworkMode, ProbeSpec, Transport, WorkloadSpec};

/// Longest a single probe may take.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// What a workload is asked, resolved to an address of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nothing: its process being there is the answer.
    Process,
    Http {
        address: SocketAddr,
        path: String,
    },
    Tcp {
        address: SocketAddr,
    },
}

impl Target {
    pub(crate) fn of(spec: &WorkloadSpec) -> Self {
        match &spec.ready.probe {
            ProbeSpec::Process => Self::Process,
            ProbeSpec::Http { port, path } => {
                Self::Http { address: published(spec, *port), path: path.clone() }
            }
            ProbeSpec::Tcp { port } => Self::Tcp { address: published(spec, *port) },
        }
    }
}

/// Where a container's TCP port is reached from the host.
fn published(spec: &WorkloadSpec, port: u16) -> SocketAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let published = match spec.network {
        NetworkMode::Bridge | NetworkMode::None => spec
            .ports
            .iter()
            .find(|p| p.container == port && p.transport == Transport::Tcp)
            .map(|p| SocketAddr::new(p.address, p.host)),
        NetworkMode::Host => None,
    };
    let address = published.unwrap_or(SocketAddr::new(loopback, port));
    if address.ip().is_unspecified() { SocketAddr::new(loopback, address.port()) } else { address }
}

/// Probes once, within `limit`.
pub(crate) async fn probe(
    client: &reqwest::Client,
    target: &Target,
    limit: Duration,
) -> Observation {
    let observation = match target {
        Target::Process => {
            return Observation { class: Class::Good, seen: "the process runs".into() };
        }
        Target::Http { address, path } => {
            tokio::time::timeout(limit, http(client, *address, path)).await
        }
        Target::Tcp { address } => tokio::time::timeout(limit, tcp(*address)).await,
    };
    observation.unwrap_or_else(|_| Observation {
        class: Class::Inconclusive,
        seen: format!("no answer within {:.1} s", limit.as_secs_f64()),
    })
}

async fn http(client: &reqwest::Client, address: SocketAddr, path: &str) -> Observation {
    match client.get(format!("http://{address}{path}")).send().await {
        Ok(response) => {
            let status = response.status();
            let class = match status.as_u16() {
                200..=399 => Class::Good,
                _ => Class::NotYet,
            };
            Observation { class, seen: format!("HTTP {}", status.as_u16()) }
        }
        Err(error) if error.is_connect() => {
            Observation { class: Class::NotYet, seen: format!("no connection to {address}") }
        }
        Err(error) => Observation {
            class: Class::Inconclusive,
            seen: crate::problems::with_causes(&error.without_url()),
        },
    }
}

async fn tcp(address: SocketAddr) -> Observation {
    match TcpStream::connect(address).await {
        Ok(_) => Observation { class: Class::Good, seen: format!("{address} accepts") },
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Observation { class: Class::NotYet, seen: format!("{address} refuses") }
        }
        Err(error) => Observation { class: Class::Inconclusive, seen: error.to_string() },
    }
}

/// The client for HTTP probes: follows no redirect (a workload must not steer belayd elsewhere) and
/// uses no proxy of the environment.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client without TLS, proxy or DNS settings has nothing that can fail")
}
