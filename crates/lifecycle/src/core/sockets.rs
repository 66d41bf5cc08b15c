//! Which socket of the host holds a port, from the kernel's tables (`/proc/net/tcp` and its kin).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::spec::{PortSpec, Transport};

/// State of a TCP socket that listens, as the tables write it.
const LISTENING: &str = "0A";

/// A socket that holds a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Address that it is bound to.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The kernel's number of it, as in `socket:[4711]`.
    pub inode: u64,
}

/// The kernel's tables that name the sockets of a transport.
pub fn tables(transport: Transport) -> [&'static str; 2] {
    match transport {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    }
}

/// The sockets of a table that hold a port: those that listen, or all of UDP.
pub fn holders(table: &str, transport: Transport) -> Vec<Holder> {
    table.lines().skip(1).filter_map(|line| holder(line, transport)).collect()
}

fn holder(line: &str, transport: Transport) -> Option<Holder> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    if transport == Transport::Tcp && state != LISTENING {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok().filter(|inode| *inode != 0)?;
    Some(Holder {
        address: read_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode,
    })
}

/// The tables write addresses in words of 32 bits, each in the order of the host's memory.
fn read_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            let address = Ipv6Addr::from(bytes);
            // A socket of the newer kind may hold a port of the older one.
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

/// Whether a socket keeps a published port from being bound.
pub fn is_in_the_way(holder: &Holder, port: &PortSpec) -> bool {
    holder.port == port.host
        && (holder.address == port.address
            || port.address.is_unspecified()
            || holder.address.is_unspecified())
}

/// What a process is called: its program, and for the monitor of a container also which one.
pub fn describe(pid: u32, name: &str, arguments: &[u8]) -> String {
    let process = format!("process {name} (pid {pid})");
    if name != "conmon" {
        return process;
    }
    // Podman's monitor holds the ports of its container, whose name stands after -n.
    let mut arguments = arguments.split(|byte| *byte == 0);
    let container = arguments.by_ref().find(|part| *part == b"-n").and_then(|_| arguments.next());
    match container {
        Some(container) => format!("container {}, {process}", String::from_utf8_lossy(container)),
        None => process,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   1: 0100007F:1F91 0100007F:AAAA 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 0 0 10 -1\n   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
    const TCP6: &str = "  sl  local_address\n   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1\n   1: 0000000000000000FFFF00000100007F:0017 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 98 1\n";

    fn port(address: &str, host: u16) -> PortSpec {
        let address = address.parse().expect("an address");
        PortSpec { address, host, container: 80, transport: Transport::Tcp }
    }

    #[test]
    fn sockets_that_listen_are_read_from_the_kernels_tables() {
        let found = holders(TCP, Transport::Tcp);
        let shown: Vec<_> =
            found.iter().map(|h| (h.address.to_string(), h.port, h.inode)).collect();
        assert_eq!(shown, [("127.0.0.1".to_owned(), 8080, 4711), ("0.0.0.0".to_owned(), 80, 4713)]);
        let found = holders(TCP6, Transport::Tcp);
        let shown: Vec<_> =
            found.iter().map(|h| (h.address.to_string(), h.port, h.inode)).collect();
        assert_eq!(shown, [("::".to_owned(), 22, 99), ("127.0.0.1".to_owned(), 23, 98)]);
        assert_eq!(holders(TCP, Transport::Udp).len(), 3, "every socket of UDP holds its port");
        for wrong in ["", "x", "sl\n", "sl\n 0: zz:1 00 0A", "sl\n 0: 0100007F:1F90"] {
            assert_eq!(holders(wrong, Transport::Tcp), [], "{wrong:?}");
        }
    }

    #[test]
    fn a_socket_is_in_the_way_of_its_own_address_and_of_all() {
        let found = holders(TCP, Transport::Tcp);
        let way = |port: PortSpec| found.iter().filter(|h| is_in_the_way(h, &port)).count();
        assert_eq!(way(port("127.0.0.1", 8080)), 1);
        assert_eq!(way(port("0.0.0.0", 8080)), 1);
        assert_eq!(way(port("10.0.0.1", 8080)), 0);
        assert_eq!(way(port("10.0.0.1", 80)), 1);
        assert_eq!(way(port("127.0.0.1", 8081)), 0);
    }

    #[test]
    fn a_monitor_is_shown_with_its_container() {
        assert_eq!(describe(7, "nginx", b"nginx\0-g\0"), "process nginx (pid 7)");
        let arguments = b"/usr/bin/conmon\0-c\0id\0-n\0belay-n-web-1\0";
        assert_eq!(
            describe(7, "conmon", arguments),
            "container belay-n-web-1, process conmon (pid 7)"
        );
        assert_eq!(describe(7, "conmon", b"conmon\0-n"), "process conmon (pid 7)");
    }
}
