//! What a spec needs of the host, looked at before anything is changed.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use belay_volumes::ByteSize;

use crate::core::sockets::{self, Holder};
use crate::core::spec::{PortSpec, Transport};

/// Bytes of a process's arguments that are read to name it.
const ARGUMENTS_MAX: u64 = 64 << 10;

/// Which of these ports something on this host holds already, each with who holds it.
///
/// The answer can be out of date as soon as it is given; the engine's own bind decides. It is asked
/// so that a deploy that cannot work is refused before the version that runs is stopped.
pub(crate) async fn taken_ports(ports: Vec<PortSpec>) -> Vec<String> {
    let look = move || {
        let taken = ports.iter().filter(|port| is_taken(port));
        taken
            .map(|port| {
                format!(
                    "port {}:{}/{} of this host is held by {}",
                    port.address,
                    port.host,
                    port.transport.as_str(),
                    holder_of(port)
                )
            })
            .collect()
    };
    // A look that panicked is none: the engine's own bind decides.
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

fn is_taken(port: &PortSpec) -> bool {
    let address = SocketAddr::new(port.address, port.host);
    let bound = match port.transport {
        Transport::Tcp => TcpListener::bind(address).map(drop),
        Transport::Udp => UdpSocket::bind(address).map(drop),
    };
    bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Who holds a port, as a person would look for it. Best effort: the socket may be gone by now, may
/// be of another network namespace's tables, or its process may not be seen from here.
fn holder_of(port: &PortSpec) -> String {
    let tables = sockets::tables(port.transport);
    let found = tables.iter().find_map(|path| {
        let table = std::fs::read_to_string(path).ok()?;
        let holders = sockets::holders(&table, port.transport);
        holders.into_iter().find(|holder| sockets::is_in_the_way(holder, port))
    });
    found.as_ref().and_then(process_of).unwrap_or_else(|| "an unknown process".to_owned())
}

fn process_of(holder: &Holder) -> Option<String> {
    let socket = format!("socket:[{}]", holder.inode);
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).find_map(
        |pid| {
            let mut files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
            files
                .any(|file| {
                    file.is_ok_and(|file| {
                        std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == &*socket)
                    })
                })
                .then(|| describe(pid))
        },
    )
}

fn describe(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut arguments = Vec::new();
    if let Ok(file) = std::fs::File::open(format!("/proc/{pid}/cmdline")) {
        let _ = file.take(ARGUMENTS_MAX).read_to_end(&mut arguments);
    }
    sockets::describe(pid, name.trim(), &arguments)
}

/// Bytes that can still be promised on the file system of a directory.
pub(crate) fn free_space(directory: &Path) -> std::io::Result<ByteSize> {
    let found = nix::sys::statvfs::statvfs(directory)?;
    let unit: u64 = found.fragment_size();
    Ok(ByteSize::bytes(found.blocks_available().saturating_mul(unit)))
}
