//! `belay ps`.

use belay_protocol::{PortStatus, SyncRole, WorkloadStatus};
use jiff::Timestamp;

use super::{probes, tone};
use crate::core::human;
use crate::core::table::{Cell, Style, Table, Tone};

/// One line a workload.
pub(crate) fn table(workloads: &[WorkloadStatus], now: Timestamp, style: Style) -> String {
    if workloads.is_empty() {
        return "no workloads; declare one with: belay deploy FILE\n".to_owned();
    }
    let mut table =
        Table::new(&["NAME", "STATE", "FOR", "LIVE", "RESTARTS", "PORTS", "SYNC", "IMAGE"]);
    for workload in workloads {
        let restarts = match workload.restarts {
            0 => Tone::Plain,
            _ => Tone::Doubtful,
        };
        table.row([
            workload.name.as_str().into(),
            Cell::new(workload.phase.as_str(), tone(workload.phase)),
            human::age(now, workload.since).into(),
            probes::live(workload),
            Cell::new(workload.restarts.to_string(), restarts),
            ports(&workload.ports).into(),
            sync(workload).into(),
            workload.image.as_str().into(),
        ]);
    }
    table.render(style)
}

/// `127.0.0.1:8080->80/tcp, ...`
pub(crate) fn ports(ports: &[PortStatus]) -> String {
    let ports = ports.iter().map(|port| {
        let PortStatus { host_address, host_port, container_port, protocol } = port;
        if host_address.contains(':') {
            format!("[{host_address}]:{host_port}->{container_port}/{protocol}")
        } else {
            format!("{host_address}:{host_port}->{container_port}/{protocol}")
        }
    });
    ports.collect::<Vec<_>>().join(", ")
}

/// The word for a role.
pub(crate) fn role(role: SyncRole) -> &'static str {
    match role {
        SyncRole::Provider => "provider",
        SyncRole::Consumer => "consumer",
    }
}

fn sync(workload: &WorkloadStatus) -> String {
    match &workload.sync {
        Some(sync) => format!("{} of {}", role(sync.role), sync.key),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::sample;

    #[test]
    fn a_line_says_what_a_workload_is_in() {
        assert_eq!(
            table(&sample::status().workloads, sample::now(), Style::Plain),
            "NAME   STATE     FOR    LIVE  RESTARTS  PORTS                   SYNC              IMAGE\n\
             cache  back-off  12s          4                                                   \
             docker.io/library/redis:7\n\
             web    ready     5m12s        0         127.0.0.1:8080->80/tcp  provider of page  \
             file:/srv/page.tar\n"
        );
    }

    #[test]
    fn an_ipv6_port_keeps_its_brackets() {
        let port = PortStatus {
            host_address: "::1".to_owned(),
            host_port: 53,
            container_port: 5353,
            protocol: "udp".to_owned(),
        };
        assert_eq!(ports(&[port.clone(), port]), "[::1]:53->5353/udp, [::1]:53->5353/udp");
    }

    #[test]
    fn a_node_without_workloads_says_how_to_get_one() {
        assert!(table(&[], sample::now(), Style::Plain).contains("belay deploy FILE"));
    }
}
