//! What a spec needs of the host, looked at before anything is changed.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::core::spec::{PortSpec, Transport, WorkloadSpec};

/// The published ports of a spec that something on this host holds already.
///
/// The answer can be out of date as soon as it is given; the engine's own bind decides. It is asked
/// so that a deploy that cannot work is refused before the version that runs is stopped.
pub(crate) fn taken_ports(spec: &WorkloadSpec) -> Vec<PortSpec> {
    spec.ports.iter().copied().filter(is_taken).collect()
}

fn is_taken(port: &PortSpec) -> bool {
    let address = SocketAddr::new(port.address, port.host);
    let bound = match port.transport {
        Transport::Tcp => TcpListener::bind(address).map(drop),
        Transport::Udp => UdpSocket::bind(address).map(drop),
    };
    bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}
