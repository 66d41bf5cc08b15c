//! What a spec needs of the host, looked at before anything is changed.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use belay_volumes::ByteSize;

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

/// Bytes that can still be promised on the file system of a directory.
pub(crate) fn free_space(directory: &Path) -> std::io::Result<ByteSize> {
    let found = nix::sys::statvfs::statvfs(directory)?;
    let unit: u64 = found.fragment_size();
    Ok(ByteSize::bytes(found.blocks_available().saturating_mul(unit)))
}
