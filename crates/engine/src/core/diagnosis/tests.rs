use super::*;

/// A Debian 12 with what belayd needs, under systemd.
fn good() -> Machine {
    Machine {
        is_root: true,
        has_sys_resource: true,
        has_systemd: true,
        has_setpriv: true,
        has_runc: true,
        has_crun: false,
        has_conmon: true,
        has_criu: true,
        has_firewall_tool: true,
        has_init: true,
        has_network_plugin: true,
        settings: Settings::default(),
    }
}

fn codes(machine: &Machine) -> Vec<&'static str> {
    of_machine(machine).iter().map(|finding| finding.code).collect()
}

#[test]
fn a_good_machine_has_no_findings() {
    assert_eq!(of_machine(&good()), []);
}

#[test]
fn each_lack_is_found_and_has_advice() {
    type TakeAway = fn(&mut Machine);
    let lacks: &[(TakeAway, &str, Severity)] = &[
        (|m| m.is_root = false, "engine-not-root", Severity::Fault),
        (|m| m.has_setpriv = false, "engine-tool-absent", Severity::Fault),
        (|m| m.has_conmon = false, "engine-tool-absent", Severity::Fault),
        (|m| m.has_criu = false, "engine-no-criu", Severity::Warning),
        (|m| m.has_init = false, "engine-no-init", Severity::Note),
        (|m| m.has_network_plugin = false, "engine-no-bridge", Severity::Warning),
        (|m| m.has_firewall_tool = false, "engine-no-port-forwarding", Severity::Warning),
        (|m| m.has_sys_resource = false, "engine-ulimits", Severity::Fault),
        (|m| m.settings.runtime = Some("crun".to_owned()), "engine-crun", Severity::Warning),
    ];
    for (take_away, code, severity) in lacks {
        let mut machine = good();
        take_away(&mut machine);
        let found = of_machine(&machine);
        assert_eq!(found.len(), 1, "{code}: {found:?}");
        assert_eq!((found[0].code, found[0].severity), (*code, *severity));
        assert!(!found[0].advice.is_empty(), "{code}");
    }
}

#[test]
fn without_any_runtime_it_is_a_fault_and_with_crun_a_warning() {
    let mut machine = Machine { has_runc: false, ..good() };
    assert_eq!(codes(&machine), ["engine-tool-absent", "engine-crun"]);
    machine.has_crun = true;
    assert_eq!(codes(&machine), ["engine-crun"]);
}

#[test]
fn the_settings_for_a_machine_without_systemd_are_looked_for() {
    let mut machine = Machine { has_systemd: false, has_sys_resource: false, ..good() };
    assert_eq!(codes(&machine), ["engine-ulimits", "engine-cgroup-manager", "engine-events"]);
    machine.settings = Settings::read(&[
        "[engine]\ncgroup_manager = \"systemd\"\nruntime = \"crun\"\n".to_owned(),
        "not = [toml".to_owned(),
        "[containers]\ndefault_ulimits = [\"nofile=20000:20000\"]\n[engine]\nruntime = \"runc\"\n\
         cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n"
            .to_owned(),
    ]);
    assert_eq!(codes(&machine), [""; 0], "later texts win");
}

#[test]
fn capabilities_are_read_from_the_status() {
    let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n";
    assert_eq!(has_capability(status, CAP_SYS_RESOURCE), Some(false));
    assert_eq!(has_capability(status, 21), Some(true));
    assert_eq!(has_capability("Name:\tx\n", 21), None);
}

#[test]
fn an_old_podman_is_a_fault() {
    assert_eq!(own_service(Some("4.3.1")).severity, Severity::Note);
    assert_eq!(own_service(Some("5.4.2")).severity, Severity::Note);
    assert_eq!(own_service(Some("3.0.1")).severity, Severity::Fault);
    assert_eq!(own_service(None).severity, Severity::Fault);
}
