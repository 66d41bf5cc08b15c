//! Asks a workload whether it serves.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use belay_engine::{Container, Engine, EngineError, ExecSpec};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::checks::no_answer;
use crate::core::observation::{Class, Observation};
use crate::core::spec::{HttpProbe, NetworkMode, ProbeSpec, Transport, WorkloadSpec};

/// Commands that probes of one node run at once: each costs the engine a process.
const COMMANDS: usize = 8;

/// Bytes of each output of a command that are kept.
const OUTPUT_MAX: usize = 4 << 10;

/// Characters of a command's output that are shown.
const SHOWN: usize = 120;

/// Who answers questions: the network and the engine, or a script in tests.
pub(crate) trait Prober: std::fmt::Debug + Send + 'static {
    /// Asks once. The answer is of no use after `limit`; a command may need longer to be ended.
    fn ask(
        &self,
        target: Target,
        limit: Duration,
    ) -> impl Future<Output = Observation> + Send + 'static;
}

/// What a workload is asked, resolved to an address of this host or to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nothing: its process being there is the answer.
    Process,
    Http {
        address: SocketAddr,
        http: HttpProbe,
    },
    Tcp {
        address: SocketAddr,
    },
    Exec {
        container: String,
        command: Vec<String>,
        user: Option<String>,
    },
    /// There is nothing to ask, and the answer is why.
    Unaskable(&'static str),
}

impl Target {
    /// What `probe` comes to for this container of the spec.
    pub(crate) fn of(spec: &WorkloadSpec, probe: &ProbeSpec, container: &Container) -> Self {
        let exec = |command: &Vec<String>, user: &Option<String>| Self::Exec {
            container: container.id.to_string(),
            command: command.clone(),
            user: user.clone(),
        };
        match probe {
            ProbeSpec::Process => Self::Process,
            ProbeSpec::Http(http) => {
                Self::Http { address: published(spec, http.port), http: http.clone() }
            }
            ProbeSpec::Tcp { port } => Self::Tcp { address: published(spec, *port) },
            ProbeSpec::Exec { command, user } => exec(command, user),
            // Podman leaves it to systemd to run the check, and cannot cut one short; so belayd runs
            // it, as any other command.
            ProbeSpec::Healthcheck => match &container.healthcheck {
                Some(command) => exec(command, &None),
                None => Self::Unaskable("the image declares no health check"),
            },
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

/// Asks the workloads of a node. Clones share the HTTP client and the bound on commands.
#[derive(Debug, Clone)]
pub struct NodeProber {
    http: reqwest::Client,
    engine: Engine,
    commands: Arc<Semaphore>,
}

impl NodeProber {
    /// A prober of the containers of this engine.
    pub fn new(engine: Engine) -> Self {
        Self { http: client(), engine, commands: Arc::new(Semaphore::new(COMMANDS)) }
    }
}

impl Prober for NodeProber {
    fn ask(
        &self,
        target: Target,
        limit: Duration,
    ) -> impl Future<Output = Observation> + Send + 'static {
        let prober = self.clone();
        async move {
            match target {
                Target::Process => Observation::new(Class::Good, "the process runs"),
                Target::Http { address, http } => {
                    within(limit, ask_http(&prober.http, address, &http)).await
                }
                Target::Tcp { address } => within(limit, ask_tcp(address)).await,
                Target::Exec { container, command, user } => {
                    prober.ask_command(&container, command, user, limit).await
                }
                Target::Unaskable(why) => Observation::new(Class::Never, why),
            }
        }
    }
}

impl NodeProber {
    async fn ask_command(
        &self,
        container: &str,
        argv: Vec<String>,
        user: Option<String>,
        limit: Duration,
    ) -> Observation {
        let Ok(Ok(_slot)) = tokio::time::timeout(limit, self.commands.acquire()).await else {
            return Observation::new(
                Class::Inconclusive,
                format!("{COMMANDS} other commands of probes are under way"),
            );
        };
        let mut spec = ExecSpec::new(argv);
        spec.user = user;
        spec.deadline = limit;
        spec.output_max = OUTPUT_MAX;
        match self.engine.exec(container, &spec).await {
            Ok(output) if output.exit_code == 0 => {
                Observation::new(Class::Good, "the command exits with 0")
            }
            Ok(output) => {
                let said = if output.stderr.is_empty() { output.stdout } else { output.stderr };
                let code = output.exit_code;
                // By custom these say that the program is missing or is none: asking again does not
                // bring it, and a restart does not either.
                let class = if matches!(code, 126 | 127) { Class::Never } else { Class::Failing };
                let seen = match first_line(&said) {
                    Some(line) => format!("the command exits with {code}: {line}"),
                    None => format!("the command exits with {code}"),
                };
                Observation::new(class, seen)
            }
            Err(EngineError::TimedOut { .. }) => no_answer(limit),
            // The engine knows that the program is not there.
            Err(error @ EngineError::Invalid { .. }) => {
                Observation::new(Class::Never, crate::problems::with_causes(&error))
            }
            Err(
                error @ (EngineError::Absent { .. }
                | EngineError::Conflict { .. }
                | EngineError::Busy { .. }
                | EngineError::Denied { .. }
                | EngineError::Unsupported { .. }
                | EngineError::Unreachable { .. }
                | EngineError::Unknown { .. }),
            ) => Observation::new(Class::Inconclusive, crate::problems::with_causes(&error)),
        }
    }
}

async fn within(limit: Duration, asked: impl Future<Output = Observation>) -> Observation {
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| no_answer(limit))
}

/// The first line of an output with something in it, cut and without control characters.
fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let clean = line.chars().filter(|c| !c.is_control()).take(SHOWN).collect::<String>();
    (!clean.is_empty()).then_some(clean)
}

async fn ask_http(client: &reqwest::Client, address: SocketAddr, http: &HttpProbe) -> Observation {
    let mut request = client.get(format!("http://{address}{}", http.path));
    for (name, value) in &http.headers {
        request = request.header(name, value);
    }
    if let Some(host) = &http.host {
        request = request.header(reqwest::header::HOST, host);
    }
    match request.send().await {
        Ok(response) => {
            let status = response.status().as_u16();
            let class = if http.status.contains(&status) { Class::Good } else { Class::Failing };
            Observation::new(class, format!("HTTP {status}"))
        }
        Err(error) => {
            let error = error.without_url();
            match io_kind(&error) {
                Some(kind) => transport(address, kind, || crate::problems::with_causes(&error)),
                None => Observation::new(Class::Inconclusive, crate::problems::with_causes(&error)),
            }
        }
    }
}

async fn ask_tcp(address: SocketAddr) -> Observation {
    match TcpStream::connect(address).await {
        Ok(_) => Observation::new(Class::Good, format!("{address} accepts")),
        Err(error) => transport(address, error.kind(), || error.to_string()),
    }
}

/// What a failed connection means. Only an answer of the other side is definite: want of sockets,
/// addresses or routes is this host's.
fn transport(
    address: SocketAddr,
    kind: io::ErrorKind,
    words: impl FnOnce() -> String,
) -> Observation {
    match kind {
        io::ErrorKind::ConnectionRefused => {
            Observation::new(Class::Failing, format!("{address} refuses"))
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            Observation::new(Class::Failing, format!("{address} closes without an answer"))
        }
        _ => Observation::new(Class::Inconclusive, words()),
    }
}

/// The kind of the system's error behind an error, if there is one.
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

/// The client for HTTP probes: follows no redirect (a workload must not steer belayd elsewhere) and
/// uses no proxy of the environment.
fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
        .expect("a client without TLS, proxy or DNS settings has nothing that can fail")
}

#[cfg(test)]
mod tests;
