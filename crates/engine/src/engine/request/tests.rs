use std::net::IpAddr;
use std::path::PathBuf;

use super::*;
use crate::spec::{BindMount, Limits, LogLimit, PortBinding, Protocol};

fn full() -> ContainerSpec {
    let mut spec = ContainerSpec::new("web", "localhost/belay/web:1");
    spec.command = Some(vec!["serve".to_owned()]);
    spec.env = vec![("A".to_owned(), "b=c".to_owned())];
    spec.labels = [("io.belay.node".to_owned(), "n1".to_owned())].into();
    spec.mounts = vec![BindMount {
        source: PathBuf::from("/srv/data"),
        target: "/data".to_owned(),
        access: Access::ReadOnly,
    }];
    let port = |ip: &str, host_port| PortBinding {
        host_ip: ip.parse::<IpAddr>().expect("an address"),
        host_port,
        container_port: 80,
        protocol: Protocol::Tcp,
    };
    spec.ports = vec![port("127.0.0.1", 8080), port("::1", 8081)];
    spec.limits = Limits { memory: Some(1 << 26), nano_cpus: Some(5), pids: Some(7) };
    spec.log = LogLimit { bytes: 500, files: 2 };
    spec
}

#[test]
fn the_body_of_a_create_request_is_this() {
    let body = create_body(&full(), EngineKind::Podman).expect("it fits");
    let mut json = serde_json::to_value(&body).expect("JSON");
    json["HostConfig"]["PortBindings"]["80/tcp"]
        .as_array_mut()
        .expect("bindings")
        .sort_by_key(|binding| binding["HostPort"].as_str().map(str::to_owned));
    assert_eq!(
        json,
        serde_json::json!({
            "Image": "localhost/belay/web:1",
            "Cmd": ["serve"],
            "Env": ["A=b=c"],
            "Labels": { "io.belay.node": "n1" },
            "ExposedPorts": { "80/tcp": {} },
            "HostConfig": {
                "RestartPolicy": { "Name": "no" },
                "SecurityOpt": ["no-new-privileges"],
                "Mounts": [{
                    "Type": "bind", "Source": "/srv/data", "Target": "/data", "ReadOnly": true,
                    "BindOptions": { "Propagation": "rprivate" }
                }],
                "PortBindings": { "80/tcp": [
                    { "HostIp": "127.0.0.1", "HostPort": "8080" },
                    { "HostIp": "::1", "HostPort": "8081" }
                ]},
                "NetworkMode": "bridge",
                "Memory": 67_108_864,
                "MemorySwap": 67_108_864,
                "NanoCpus": 5,
                "PidsLimit": 7,
                "ReadonlyRootfs": false,
                "LogConfig": { "Type": "k8s-file", "Config": { "max-size": "1000" } }
            }
        })
    );
}

#[test]
fn docker_has_another_name_for_the_log() {
    let body = create_body(&full(), EngineKind::Docker).expect("it fits");
    let log = body.host_config.expect("a host part").log_config.expect("a log");
    assert_eq!(log.typ.as_deref(), Some("json-file"));
}

#[test]
fn ports_are_left_out_where_there_is_no_bridge() {
    for network in [Network::Host, Network::None] {
        let mut spec = full();
        spec.network = network;
        let body = create_body(&spec, EngineKind::Docker).expect("it fits");
        assert_eq!(body.exposed_ports, Some(vec![]));
        assert_eq!(body.host_config.expect("a host part").port_bindings, Some([].into()));
    }
}

#[test]
fn no_ulimit_is_ever_sent() {
    // One that is sent would replace the whole list of the engine's configuration.
    let body = create_body(&full(), EngineKind::Podman).expect("it fits");
    assert_eq!(body.host_config.expect("a host part").ulimits, None);
}

#[test]
fn a_limit_beyond_the_api_is_refused() {
    let mut spec = full();
    spec.limits.memory = Some(u64::MAX);
    assert_eq!(create_body(&spec, EngineKind::Podman), Err(TooLarge("the memory limit")));
}

#[test]
fn a_specification_shows_no_secret() {
    let mut spec = full();
    spec.env = vec![("TOKEN".to_owned(), "hunter2".to_owned())];
    let shown = format!("{spec:?}");
    assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
}
