use belay_protocol::record::ArchiveFormat;
use belay_protocol::{DependencyState, SyncRole};

use super::*;

fn read(text: &str) -> Result<WorkloadSpec, Vec<SpecFault>> {
    parse(text, "web.toml", Path::new("/etc/belay/workloads.d"))
}

fn faults(text: &str) -> Vec<String> {
    read(text).expect_err("has faults").iter().map(ToString::to_string).collect()
}

#[test]
fn a_small_spec_has_sound_defaults() {
    let spec = read("name = \"web\"\nimage = \"file:images/web.tar\"").expect("a good spec");
    assert_eq!(spec.image, ImageSource::File("/etc/belay/workloads.d/images/web.tar".into()));
    assert_eq!(spec.restart, RestartPolicy::Always);
    assert_eq!(spec.system_mount, "/belay");
    assert_eq!(spec.ready.consecutive, 3);
    assert_eq!(spec.limits.pids, 4096);
    assert_eq!(spec.stop_grace, Duration::from_secs(10));
}

#[test]
fn a_full_spec_is_read_whole() {
    let spec = read(
        r#"
        name = "db"
        image = "registry.example/db:16"
        pull = "always"
        command = ["serve", "--port", "5432"]
        entrypoint = ["/init"]
        user = "1000:1000"
        working_dir = "/srv/"
        env = { LEVEL = "info", WORKERS = 4, FAST = true }
        restart = "on-failure"
        stop_grace = "1m"
        stop_signal = "SIGINT"
        read_only = true
        [[ports]]
        container = 5432
        host = 15432
        address = "0.0.0.0"
        [volumes.data]
        size = "1.5G"
        mount = "/var/lib/db"
        owner = "999"
        [ready]
        tcp = { port = 5432 }
        consecutive = 2
        interval = "200ms"
        timeout = "1m"
        [limits]
        memory = "512M"
        cpus = 1.5
        pids = 200
        [sync]
        role = "provider"
        key = "db-state"
        poll_interval = "2s"
        archive_format = "tar.gz"
        "#,
    )
    .expect("a good spec");
    assert_eq!(spec.working_dir.as_deref(), Some("/srv"));
    assert_eq!(spec.env["WORKERS"], "4");
    assert_eq!(spec.env["FAST"], "true");
    assert_eq!(spec.ports[0].host, 15432);
    let data = &spec.volumes[&"data".parse::<VolumeName>().expect("a name")];
    assert_eq!(data.size.as_u64(), 3 << 29);
    assert_eq!(data.owner, Some(Owner { uid: 999, gid: 999 }));
    assert_eq!(spec.ready.probe, ProbeSpec::Tcp { port: 5432 });
    assert_eq!(spec.limits.nano_cpus, Some(1_500_000_000));
    let sync = spec.sync.expect("it is declared");
    assert_eq!((sync.poll_interval, sync.format), (Duration::from_secs(2), ArchiveFormat::TarGz));
}

#[test]
fn every_fault_is_listed_with_line_key_found_and_expected() {
    let found = faults(
        r#"name = "Web_1"
imgae = "x"
restart = "allways"
stop_grace = "soon"
[[ports]]
container = 70000
[volumes.data]
size = "64 bananas"
mount = "data"
[ready]
http = { port = 80, path = "healthz" }
"#,
    );
    let expect = [
        "web.toml:1: name: found \"Web_1\", expected a workload name",
        "web.toml:1: image: found nothing, expected an image reference",
        "web.toml:2: imgae: found an unknown key, expected one of the keys",
        "web.toml:3: restart: found \"allways\", expected one of always, on-failure, never (did you mean \"always\"?)",
        "web.toml:4: stop_grace: found \"soon\", expected a duration",
        "web.toml:6: ports[0].container: found 70000, expected a whole number from 1 to 65535",
        "web.toml:8: volumes.data.size: found \"64 bananas\"",
        "web.toml:9: volumes.data.mount: found \"data\", expected an absolute path",
        "web.toml:11: ready.http.path: found \"healthz\", expected a path that begins with '/'",
        "web.toml:11: ready.http.port: found 80, expected a published TCP port; none is published",
    ];
    for line in expect {
        assert!(found.iter().any(|fault| fault.starts_with(line)), "{line:?} not in {found:#?}");
    }
    let unknown = found.iter().find(|fault| fault.contains("imgae")).expect("listed");
    assert!(unknown.ends_with("(did you mean \"image\"?)"), "{unknown}");
    assert_eq!(found.len(), expect.len(), "{found:#?}");
}

#[test]
fn a_syntax_error_says_where() {
    let found = faults("name = \"web\"\nimage = \n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("web.toml:2: (document): found "), "{found:?}");
}

#[test]
fn reserved_and_duplicate_volumes_are_refused() {
    let found = faults(
        r#"name = "web"
image = "x"
[volumes.system]
size = "16M"
mount = "/a"
[volumes.one]
size = "16M"
mount = "/belay"
[volumes.Two]
size = "16M"
mount = "/a/../b"
"#,
    );
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found.iter().any(|f| f.contains("every workload has a system volume already")));
    assert!(found.iter().any(|f| f.contains("volumes.one.mount: found \"/belay\"")));
    assert!(found.iter().any(|f| f.contains("volumes.Two: found \"Two\"")));
    assert!(found.iter().any(|f| f.contains("volumes.Two.mount: found \"/a/../b\"")));
}

#[test]
fn ports_that_collide_are_refused() {
    let found = faults(
        r#"name = "web"
image = "x"
ports = [{ container = 80 }, { container = 81, host = 80, address = "0.0.0.0" },
         { container = 82, host = 80, protocol = "udp" }]
"#,
    );
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("ports[1].host: found 80, which container port 80 has too"));
}

#[test]
fn names_of_belayd_are_refused_in_the_environment() {
    let found = faults(
        "name = \"web\"\nimage = \"x\"\nenv = { BELAY_NODE = \"x\", \"A-B\" = \"y\", R1_X = 1, L = [1] }",
    );
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn a_gate_that_cannot_pass_is_refused() {
    let found = faults(
        "name = \"web\"\nimage = \"x\"\n[ready]\nconsecutive = 10\ninterval = \"10s\"\ntimeout = \"30s\"",
    );
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("ready.timeout: found 30s, expected more than 90s")
            || found[0].contains("1m"),
        "{found:?}"
    );
}

#[test]
fn ports_need_the_bridge() {
    let found =
        faults("name = \"w\"\nimage = \"x\"\nnetwork = \"host\"\nports = [{ container = 80 }]");
    assert_eq!(found.len(), 1, "{found:#?}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,400}") {
        let _ = read(&text);
    }

    #[test]
    fn no_value_makes_the_reader_panic(
        key in proptest::sample::select(vec![
            "name", "image", "command", "env", "ports", "volumes", "ready", "limits", "sync",
            "stop_grace", "system_volume", "network", "volumes.data.size", "ports.container",
        ]),
        value in "[-a-z0-9.\"\\[\\]{}=, ]{0,40}",
    ) {
        let _ = read(&format!("{key} = {value}"));
    }
}

#[test]
fn the_examples_are_good_specs() {
    for (file, text) in [
        ("web.toml", include_str!("../../../../../config/examples/web.toml")),
        ("frontend.toml", include_str!("../../../../../config/examples/frontend.toml")),
        ("replica.toml", include_str!("../../../../../config/examples/replica.toml")),
    ] {
        parse(text, file, Path::new("/etc/belay/workloads.d")).expect(file);
    }
}

#[test]
fn the_example_of_the_readme_is_a_good_spec() {
    let readme = include_str!("../../../../../README.md");
    let from = readme.find("```toml\n").expect("the README shows a spec") + "```toml\n".len();
    let length = readme[from..].find("```").expect("it ends");
    parse(&readme[from..from + length], "README.md", Path::new("/")).expect("it is good");
}

#[test]
fn volumes_that_cannot_be_are_refused_before_anything_is_made() {
    let found = faults(
        r#"name = "web"
image = "x"
[volumes.huge]
size = "900T"
mount = "/a"
[volumes.tiny]
size = "1K"
mount = "/b"
[volumes.inner]
size = "16M"
mount = "/a/in"
[volumes.xfs]
size = "64M"
mount = "/c"
file_system = "xfs"
"#,
    );
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found.iter().any(|f| f.contains("volumes.huge.size: found 900Ti")), "{found:#?}");
    assert!(found.iter().any(|f| f.contains("volumes.tiny.size: found 1Ki")), "{found:#?}");
    assert!(
        found.iter().any(|f| f.contains("volumes.xfs.size") && f.contains("300Mi")),
        "{found:#?}"
    );
    assert!(
        found
            .iter()
            .any(|f| f
                .contains("volumes.inner.mount: found \"/a/in\", inside \"/a\" of volume huge")),
        "{found:#?}"
    );
}

#[test]
fn dependencies_are_a_list_or_a_table_each() {
    let spec = read("name = \"web\"\nimage = \"x\"\ndepends_on = [\"db\", \"cache\"]");
    let spec = spec.expect("a good spec");
    let names: Vec<_> = spec.depends_on.keys().map(WorkloadName::as_str).collect();
    assert_eq!(names, ["cache", "db"]);
    let plain = Dependency {
        until: DependencyState::Ready,
        timeout: Duration::from_secs(60),
        restart: ProviderRestart::Ignored,
    };
    assert!(spec.depends_on.values().all(|dependency| *dependency == plain));

    let spec = read(
        "name = \"web\"\nimage = \"x\"\n[depends_on.cache]\n[depends_on.db]\nuntil = \"started\"\n\
         timeout = \"5m\"\nrestart_with_provider = true",
    );
    let spec = spec.expect("a good spec");
    assert_eq!(spec.depends_on[&"cache".parse().expect("a name")], plain);
    assert_eq!(
        spec.depends_on[&"db".parse().expect("a name")],
        Dependency {
            until: DependencyState::Started,
            timeout: Duration::from_secs(300),
            restart: ProviderRestart::Followed,
        }
    );
}

#[test]
fn every_fault_of_dependencies_and_of_what_is_taken_from_them_is_listed() {
    assert_eq!(
        faults(
            "name = \"web\"\nimage = \"x\"\ndepends_on = [\"web\", \"db\", \"db\", \"No\"]\n[env]\n\
             A = { from = \"cache\", port = 1 }\nB = { from = \"db\" }\n\
             C = { from = \"db\", port = 0, value = \"adress\", x = 1 }\nD = []"
        ),
        [
            "web.toml:3: depends_on[0]: found the workload itself, expected other workloads",
            "web.toml:3: depends_on[2]: found db twice, expected each name once",
            "web.toml:3: depends_on[3]: found \"No\", expected a workload name (\"No\" is not a \
             workload name: use lower-case letters, digits and '-', beginning and ending with a \
             letter or digit)",
            "web.toml:5: env.A.from: found \"cache\", expected the name of a workload in depends_on",
            "web.toml:6: env.B.port: found nothing, expected a container port that it publishes",
            "web.toml:7: env.C.port: found 0, expected a whole number from 1 to 65535",
            "web.toml:7: env.C.value: found \"adress\", expected one of address, host, port (did \
             you mean \"address\"?)",
            "web.toml:7: env.C.x: found an unknown key, expected one of the keys from, port, value",
            "web.toml:8: env.D: found a list, expected a text, a number, a boolean, or a table \
             with from and port",
        ]
    );
    assert_eq!(
        faults("name = \"web\"\nimage = \"x\"\ndepends_on = \"db\""),
        [
            "web.toml:3: depends_on: found \"db\", expected a list of workload names, or a table for \
          each of them"
        ]
    );
}

#[test]
fn every_kind_of_probe_is_read() {
    let web = "name = \"web\"\nimage = \"x\"\n[[ports]]\ncontainer = 80\n";
    let of = |tables: &str| read(&format!("{web}{tables}")).expect("a good spec");
    let spec = of("[ready.http]\nport = 80\nstatus = \"204\"\nhost = \"example.org\"\nheaders = \
                   { Authorization = \"Bearer geheim\" }\n[live]");
    let ProbeSpec::Http(http) = &spec.ready.probe else { panic!("{:?}", spec.ready.probe) };
    assert_eq!((http.path.as_str(), http.status.clone()), ("/", 204..=204));
    assert_eq!(http.host.as_deref(), Some("example.org"));
    assert!(!format!("{spec:?}").contains("geheim"), "what a header holds is not shown");
    let live = spec.live.expect("is asked for");
    assert_eq!(live.probe, spec.ready.probe, "the same question unless it has its own");
    assert_eq!((live.failures, live.successes, live.action), (3, 1, LiveAction::Restart));
    assert_eq!((live.interval, live.start_period), (SECOND * 10, SECOND * 300));

    let spec = of("[ready]\ntcp = { port = 80 }\n[live]\nexec = { command = [\"/up\", \"-q\"] }\n\
                   action = \"none\"\ninterval = \"1s\"\nprobe_timeout = \"5s\"");
    let live = spec.live.expect("is asked for");
    let command = vec!["/up".to_owned(), "-q".to_owned()];
    assert_eq!(live.probe, ProbeSpec::Exec { command, user: None });
    assert_eq!((live.action, live.probe_timeout), (LiveAction::None, SECOND * 5));
    assert_eq!(of("[ready]\nhealthcheck = true").ready.probe, ProbeSpec::Healthcheck);
    assert_eq!(of("").live, None, "nothing is asked where nothing is said");
    let one = of("[ready]\nconsecutive = 1\ntimeout = \"1s\"").ready;
    assert_eq!((one.stable, of("").ready.stable), (Duration::ZERO, SECOND));
}

#[test]
fn probes_that_cannot_be_meant_are_faults() {
    let of = |tables: &str| {
        let text = format!("name = \"web\"\nimage = \"x\"\n[[ports]]\ncontainer = 80\n{tables}");
        faults(&text).join("\n")
    };
    for (tables, said) in [
        ("[live]", "live: found nothing, expected one of http, tcp, exec, healthcheck"),
        (
            "[ready]\ntcp = { port = 80 }\nhttp = { port = 80 }",
            "found a second probe, expected one probe",
        ),
        ("[ready]\nhttp = { port = 80, status = \"399-200\" }", "ready.http.status"),
        ("[ready]\nhttp = { port = 80, status = \"ok\" }", "ready.http.status"),
        ("[ready.http]\nport = 80\nheaders = { Host = \"a\" }", "the key host beside headers"),
        ("[ready.http]\nport = 80\nheaders = { \"a b\" = \"c\" }", "the name of a header"),
        ("[ready]\nexec = { command = [] }", "ready.exec.command: found no program"),
        ("[ready]\nexec = {}", "ready.exec.command: found nothing"),
        ("[ready]\nhealthcheck = false", "ready.healthcheck"),
        ("[live]\ntcp = { port = 81 }", "live.tcp.port: found 81"),
        ("[ready]\nstable = \"40s\"", "more than 40s, the stable time"),
        ("[live]\ntcp = { port = 80 }\naction = \"kill\"", "one of none, restart, stop"),
    ] {
        let found = of(tables);
        assert!(found.contains(said), "{tables}: {found}");
    }
    let never = "name = \"web\"\nimage = \"x\"\nrestart = \"never\"\nrestart_limit = 3";
    assert!(faults(never)[0].contains("restart_limit"));
    let limited = read("name = \"web\"\nimage = \"x\"\nrestart_limit = 3").expect("is good");
    assert_eq!(limited.restart_limit, Some(3));
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_rollback_window_is_five_minutes_none_or_up_to_a_day() {
    let with = |line: &str| read(&format!("name = \"web\"\nimage = \"x\"\n{line}"));
    assert_eq!(with("").expect("is good").rollback_window, 300 * SECOND);
    let none = with("rollback_window = \"0s\"").expect("is good");
    assert_eq!(none.rollback_window, Duration::ZERO);
    let found = faults("name = \"web\"\nimage = \"x\"\nrollback_window = \"25h\"");
    assert!(found[0].contains("from 0s to 1d"), "{found:?}");
}

#[test]
fn a_workload_that_takes_runs_is_read() {
    let text = "name = \"work\"\nimage = \"x\"\n[limits]\nmemory = \"64M\"\n[runner]\n";
    let spec = read(text).expect("a good spec").runner.expect("it takes runs");
    assert_eq!((spec.max_concurrent, spec.snapshot_delay.as_secs()), (1, 30));
    let text = format!("{text}max_concurrent = 8\nsnapshot_delay = \"0s\"\n");
    let spec = read(&text).expect("a good spec").runner.expect("it takes runs");
    assert_eq!((spec.max_concurrent, spec.snapshot_delay), (8, Duration::ZERO));
    assert_eq!(read("name = \"web\"\nimage = \"x\"").expect("a good spec").runner, None);
}

#[test]
fn what_is_of_one_container_is_refused_where_there_are_many() {
    let found = faults(
        "name = \"work\"\nimage = \"x\"\nnetwork = \"none\"\nrestart = \"never\"\n[runner]\n\
         max_concurrent = 0\n[volumes.data]\nsize = \"16M\"\nmount = \"/data\"\n",
    );
    let keys = ["runner.max_concurrent", "restart", "volumes", "network", "limits.memory"];
    assert_eq!(found.len(), keys.len(), "{found:?}");
    for key in keys {
        assert!(found.iter().any(|fault| fault.contains(key)), "{key}: {found:?}");
    }
    assert!(
        found.iter().any(|fault| fault
            .contains("limits.memory: found nothing, expected the memory of one runner")),
        "{found:?}"
    );
}

#[test]
fn sx01_to_sx10_sm096_volume_sync_is_declared_whole_or_not_at_all() {
    let spec = |sync: &str| format!("name = \"web\"\nimage = \"x\"\n{sync}\n");
    assert_eq!(read(&spec("")).expect("good").sync, None, "SX01: not unless it is asked for");
    for (role, text) in [(SyncRole::Provider, "provider"), (SyncRole::Consumer, "consumer")] {
        let sync = read(&spec(&format!("[sync]\nrole = \"{text}\"\nkey = \"k\""))).expect("good");
        let sync = sync.sync.expect("declared");
        assert_eq!((sync.role, sync.poll_interval), (role, Duration::from_secs(10)), "SX02, SX06");
    }
    for (case, lines, words) in [
        ("SX03", "role = \"bogus\"\nkey = \"k\"", "sync.role: found \"bogus\""),
        ("no role", "key = \"k\"", "sync.role"),
        ("SM096", "role = \"consumer\"", "sync.key"),
        ("SM096", "role = \"consumer\"\nkey = \"\"", "sync.key"),
        ("SX04", "role = \"consumer\"\nkey = \"k\"\npoll_interval = \"0s\"", "sync.poll_interval"),
        (
            "SX05",
            "role = \"consumer\"\nkey = \"k\"\npoll_interval = \"soon\"",
            "sync.poll_interval",
        ),
        ("SX07", "role = \"consumer\"\nkey = \"k\"\npoll_interval = \"2h\"", "sync.poll_interval"),
        ("SX08", "role = \"consumer\"\nkey = \"k\"\nhsync = \"text\"", "an unknown key"),
        ("SX09", "role = \"provider\"\nkey = \"k\"\ncapture = false", "sync.capture"),
        ("SX10", "role = \"provider\"\nkey = \"k\"\ncapture = \"true\"", "sync.capture"),
        (
            "SX34, SX35",
            "role = \"consumer\"\nkey = \"k\"\nconsumer_apply = \"online_restart\"",
            "an unknown key",
        ),
    ] {
        let found = faults(&spec(&format!("[sync]\n{lines}")));
        assert!(found.iter().any(|fault| fault.contains(words)), "{case}: {found:#?}");
    }
}
