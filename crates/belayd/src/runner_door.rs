//! Where runners in containers reach belayd: a port on the host's side of the engine's bridge, and
//! the same one on loopback for containers on the host's own network.
//!
//! Not a Unix socket: CRIU refuses a process that has half of a connection to one outside.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use belay_engine::Engine;
use belay_hosting::{Door, Doors, NoDoor};
use belay_runner::RunnerServer;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// The port that was used before, below the state directory. Runners have it in their environment.
const FILE: &str = "runner-port";

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// Ports that are tried where none was used before.
const TRIES: u32 = 16;

/// Open ports, and how runners are told of them.
pub(crate) struct RunnerDoor {
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) door: Door,
    /// The addresses that are listened on, and the port.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: u16,
}

/// Further ports on the same addresses: runners that came from another node look for belayd on the
/// port that it had there. Clones share them.
#[derive(Clone)]
pub(crate) struct FurtherPorts(Arc<Further>);

struct Further {
    addresses: Vec<IpAddr>,
    server: RunnerServer,
    /// Held for the moment in which one is opened, never while anything is waited for.
    open: Mutex<Open>,
}

struct Open {
    ports: BTreeSet<u16>,
    listening: JoinSet<()>,
}

impl FurtherPorts {
    /// `ports` are listened on already.
    pub(crate) fn new(addresses: Vec<IpAddr>, ports: BTreeSet<u16>, server: RunnerServer) -> Self {
        let open = Open { ports, listening: JoinSet::new() };
        Self(Arc::new(Further { addresses, server, open: Mutex::new(open) }))
    }

    /// Listens on a port from now on, if it does not yet. It stays open until belayd ends.
    pub(crate) fn listen(&self, address: SocketAddr) -> Result<(), NoDoor> {
        let Further { addresses, server, open } = &*self.0;
        let port = address.port();
        if !addresses.contains(&address.ip()) {
            let ours: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let ours = ours.join(" and ");
            return Err(NoDoor(format!(
                "this host does not have that address; runners are listened for on {ours}"
            )));
        }
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.ports.contains(&port) {
            return Ok(());
        }
        let listeners = bind_all(addresses, port)
            .map_err(|error| NoDoor(format!("port {port} cannot be listened on: {error}")))?;
        for listener in listeners {
            tracing::info!(address = ?listener.local_addr().ok(), "listens for runners that came");
            let server = server.clone();
            open.listening.spawn(async move { server.serve_tcp(listener).await });
        }
        open.ports.insert(port);
        Ok(())
    }

    /// Waits until nobody listens any more, once the server has ended.
    pub(crate) async fn ended(&self) {
        let mut listening = {
            let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut open.listening)
        };
        while listening.join_next().await.is_some() {}
    }
}

impl Doors for FurtherPorts {
    fn open(
        &self,
        address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Result<(), NoDoor>> + Send + '_>> {
        Box::pin(std::future::ready(self.listen(address)))
    }
}

/// Opens the ports. `configured` is the port that the operator wants.
pub(crate) async fn open(
    engine: &Engine,
    state_dir: &Path,
    configured: Option<u16>,
) -> anyhow::Result<RunnerDoor> {
    let gateway = match engine.bridge_gateway().await {
        Ok(gateway) => gateway,
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(
                "the engine's bridge is not known, so that no runner is on it: {error:#}"
            );
            None
        }
    };
    let addresses: Vec<IpAddr> =
        gateway.into_iter().chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]).collect();
    let file = state_dir.join(FILE);
    let kept = || std::fs::read_to_string(&file).ok()?.trim().parse().ok();
    let (port, listeners) = match configured.or_else(kept) {
        Some(port) => {
            let listeners = bind_all(&addresses, port);
            let listeners = listeners.with_context(|| {
                format!("cannot listen for runners on port {port}, which they know; free it")
            })?;
            (port, listeners)
        }
        None => choose(&addresses).context("cannot find a port for runners")?,
    };
    if configured.is_none() && kept() != Some(port) {
        keep(&file, port).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let url = |address: IpAddr| format!("ws://{}", SocketAddr::new(address, port));
    let door = Door { bridge: gateway.map(url), host: url(Ipv4Addr::LOCALHOST.into()) };
    Ok(RunnerDoor { listeners, door, addresses, port })
}

fn choose(addresses: &[IpAddr]) -> io::Result<(u16, Vec<TcpListener>)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        // The kernel's choice on the first address must be free on the others as well.
        let first = bind(SocketAddr::new(addresses[0], 0))?;
        let port = first.local_addr()?.port();
        match bind_all(&addresses[1..], port) {
            Ok(others) => return Ok((port, [first].into_iter().chain(others).collect())),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Listens on a port of each of these addresses.
pub(crate) fn bind_all(addresses: &[IpAddr], port: u16) -> io::Result<Vec<TcpListener>> {
    addresses.iter().map(|address| bind(SocketAddr::new(*address, port))).collect()
}

/// Binds an address, also one that this host does not have yet: the bridge comes with its first
/// container.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn keep(file: &Path, port: u16) -> io::Result<()> {
    use std::io::Write as _;
    let partial = file.with_extension("partial");
    let mut written = std::fs::File::create(&partial)?;
    writeln!(written, "{port}")?;
    written.sync_all()?;
    std::fs::rename(&partial, file)?;
    let directory = file.parent().expect("it lies in the state directory");
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    /// Of the block for documentation: no host has it.
    const NOBODYS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));

    #[tokio::test]
    async fn one_port_is_found_for_all_addresses_also_for_one_that_is_not_there_yet() {
        let (port, listeners) = choose(&[NOBODYS, HOME]).expect("there is a port");
        let bound: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound")).collect();
        assert_eq!(bound, [SocketAddr::new(NOBODYS, port), SocketAddr::new(HOME, port)]);
        let taken = bind_all(&[HOME], port).expect_err("it is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        bind_all(&[NOBODYS, HOME], port).expect("the same one is free for the next belayd");
    }

    #[test]
    fn a_port_is_kept_for_the_next_start() {
        let place = tempfile::tempdir().expect("a directory");
        let file = place.path().join(FILE);
        for port in [1, 65_535] {
            keep(&file, port).expect("written");
            assert_eq!(std::fs::read_to_string(&file).expect("reads"), format!("{port}\n"));
        }
        assert_eq!(std::fs::read_dir(place.path()).expect("lists").count(), 1);
    }
}
