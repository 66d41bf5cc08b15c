//! Networks.

use std::net::IpAddr;

use serde::Deserialize;

use super::{Engine, EngineKind};
use crate::deadline;
use crate::error::{EngineError, Object, Operation};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkBody {
    #[serde(rename = "IPAM", default)]
    ipam: Ipam,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Vec<Subnet>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Subnet {
    gateway: Option<String>,
}

impl NetworkBody {
    /// The first address of the fourth version, else the first.
    fn gateway(&self) -> Option<IpAddr> {
        let subnets = self.ipam.config.iter().flatten();
        let gateways =
            || subnets.clone().filter_map(|found| found.gateway.as_deref()?.parse().ok());
        gateways().find(IpAddr::is_ipv4).or_else(|| gateways().next())
    }
}

impl Engine {
    /// The host's address on the bridge that containers are on by default; `None` where there is no
    /// such network. The address is there only while a container is, or was since the host's start.
    /// Deadline: [`deadline::READ`].
    pub async fn bridge_gateway(&self) -> Result<Option<IpAddr>, EngineError> {
        let path = match self.info().kind {
            EngineKind::Podman => "/networks/podman",
            EngineKind::Docker => "/networks/bridge",
        };
        let object = Object::Engine(self.info().socket.clone());
        let found = self
            .http()
            .get::<NetworkBody>(Operation::Inspect, object, deadline::READ, path, &[])
            .await;
        match found {
            Ok(body) => Ok(body.gateway()),
            Err(EngineError::Absent { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(text: &str) -> Option<IpAddr> {
        serde_json::from_str::<NetworkBody>(text).expect("reads").gateway()
    }

    #[test]
    fn the_gateway_is_read() {
        let podman = r#"{"Name":"podman","IPAM":{"Driver":"default","Config":[{"Subnet":"10.88.0.0/16","Gateway":"10.88.0.1"}]}}"#;
        assert_eq!(gateway(podman), Some([10, 88, 0, 1].into()));
        let both = r#"{"IPAM":{"Config":[{"Gateway":"fd00::1"},{"Gateway":"172.17.0.1"}]}}"#;
        assert_eq!(gateway(both), Some([172, 17, 0, 1].into()));
        for none in ["{}", r#"{"IPAM":{"Config":null}}"#, r#"{"IPAM":{"Config":[{}]}}"#] {
            assert_eq!(gateway(none), None, "{none}");
        }
    }
}
