//! The stage of the demo: the texts of its configurations, specs and scripts.

use std::path::Path;

/// Where the containers see the replicated volume.
pub(crate) const DATA: &str = "/data";

/// Size of the replicated volume. Small enough to be reserved at once, large enough for a file
/// system with room.
pub(crate) const VOLUME: &str = "64M";

/// Bytes of the file that makes the replication carry something.
pub(crate) const PAYLOAD_BYTES: u64 = 3 * 1024 * 1024;

/// Port of the web server in a container.
const PORT: u16 = 8080;

/// Name of the workload that takes runs.
pub(crate) const RUNS: &str = "chores";

/// How long a run of it waits before its runner is snapshotted.
pub(crate) const SNAPSHOT_DELAY: &str = "2s";

/// Memory that the run with the long wait holds.
pub(crate) const HELD_MIB: u64 = 48;

/// Path of the runner in its image.
pub(crate) const RUNNER: &str = "belay";

/// The two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Provider,
    Consumer,
}

impl Role {
    pub(crate) const BOTH: [Self; 2] = [Self::Provider, Self::Consumer];

    /// The word, and the name of the node's directory.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Consumer => "consumer",
        }
    }

    /// Name of the node, which labels its containers.
    pub(crate) fn node(self) -> &'static str {
        match self {
            Self::Provider => "belay-demo-provider",
            Self::Consumer => "belay-demo-consumer",
        }
    }

    /// Name of the node's one workload.
    pub(crate) fn workload(self) -> &'static str {
        match self {
            Self::Provider => "page",
            Self::Consumer => "replica",
        }
    }
}

/// Configuration of one node.
pub(crate) fn configuration(role: Role, home: &Path, store: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        "# Made by `belay demo`.\n\
         [node]\n\
         name = \"{node}\"\n\
         state_dir = \"{home}/state\"\n\
         runtime_dir = \"{home}/run\"\n\
         workloads_dir = \"{home}/workloads.d\"\n\
         \n\
         [engine]\n\
         kind = \"auto\"\n\
         \n\
         [api]\n\
         socket = \"{home}/run/belay.sock\"\n\
         listen = [\"127.0.0.1:{port}\"]\n\
         \n\
         [store]\n\
         kind = \"local\"\n\
         path = \"{store}\"\n\
         \n\
         [log]\n\
         format = \"text\"\n\
         level = \"info\"\n",
        node = role.node(),
        store = store.display(),
    )
}

/// Spec of one node's workload.
pub(crate) fn spec(role: Role, image: &Path, port: u16) -> String {
    // A provider is ready once it serves its page; a consumer starts without one.
    let probe = match role {
        Role::Provider => format!("http = {{ port = {PORT}, path = \"{DATA}/index.html\" }}"),
        Role::Consumer => format!("tcp = {{ port = {PORT} }}"),
    };
    format!(
        "# Made by `belay demo`.\n\
         name = \"{name}\"\n\
         image = \"file:{image}\"\n\
         command = [\"/bin/{word}\"]\n\
         stop_grace = \"5s\"\n\
         \n\
         [[ports]]\n\
         container = {PORT}\n\
         host = {port}\n\
         \n\
         [volumes.data]\n\
         size = \"{VOLUME}\"\n\
         mount = \"{DATA}\"\n\
         \n\
         [ready]\n\
         {probe}\n\
         consecutive = 2\n\
         interval = \"100ms\"\n\
         \n\
         [sync]\n\
         role = \"{word}\"\n\
         key = \"belay-demo-page\"\n\
         poll_interval = \"2s\"\n",
        name = role.workload(),
        image = image.display(),
        word = role.word(),
    )
}

/// Spec of the workload that takes runs.
pub(crate) fn runner_spec(image: &Path) -> String {
    format!(
        "# Made by `belay demo`.\n\
         name = \"{RUNS}\"\n\
         image = \"file:{image}\"\n\
         command = [\"/{RUNNER}\", \"demo\", \"--as-runner\"]\n\
         stop_grace = \"0s\"\n\
         \n\
         [limits]\n\
         memory = \"256M\"\n\
         \n\
         [runner]\n\
         max_concurrent = 1\n\
         snapshot_delay = \"{SNAPSHOT_DELAY}\"\n",
        image = image.display(),
    )
}

/// Links to busybox in the image's `/bin`; all that the scripts call.
pub(crate) const APPLETS: [&str; 12] = [
    "cat",
    "cut",
    "date",
    "head",
    "httpd",
    "kill",
    "mv",
    "printf",
    "rm",
    "sh",
    "sha256sum",
    "sleep",
];

/// Programs of the image beside busybox, by path, with mode 0755.
pub(crate) fn programs() -> [(&'static str, String); 5] {
    let serve = format!(
        "# As process 1 the web server would ignore SIGTERM; this shell passes it on.\n\
         httpd -f -p {PORT} -h /www &\n\
         server=$!\n\
         trap 'kill $server; exit 0' TERM\n\
         wait $server\n"
    );
    let provider = format!(
        "#!/bin/sh\n\
         # Writes a page and its payload once, then serves them.\n\
         set -eu\n\
         if [ ! -e {DATA}/index.html ]; then\n\
         \x20 head -c {PAYLOAD_BYTES} /dev/urandom > {DATA}/payload.bin\n\
         \x20 echo 'only in the first edition' > {DATA}/first.txt\n\
         \x20 token=$(sha256sum < {DATA}/payload.bin | cut -c1-16)\n\
         \x20 printf '<h1>Edition 1</h1><p>%s</p><p>%s</p>\\n' \"$token\" \"$(date -u)\" \\\n\
         \x20   > {DATA}/index.html\n\
         fi\n\
         {serve}"
    );
    let consumer = format!(
        "#!/bin/sh\n\
         # Serves whatever is on its volume.\n\
         set -eu\n\
         {serve}"
    );
    // The query is echoed into JSON, so only a plain word is taken.
    let publish = format!(
        "#!/bin/sh\n\
         # Asks belayd to publish, as any app does: with a file that appears whole.\n\
         case \"$QUERY_STRING\" in '' | *[!a-z0-9-]*) exit 1 ;; esac\n\
         printf 'Content-Type: text/plain\\r\\n\\r\\nasked\\n'\n\
         printf '{{\"archive_paths\": [\"{DATA}\"], \"metadata\": {{\"edition\": \"1\"}}, \
         \"request_id\": \"%s\"}}\\n' \\\n\
         \x20 \"$QUERY_STRING\" > /belay/volume-sync/request.json.new\n\
         mv /belay/volume-sync/request.json.new /belay/volume-sync/request.json\n"
    );
    let response = "#!/bin/sh\n\
        # What belayd answered to the app.\n\
        printf 'Content-Type: application/json\\r\\n\\r\\n'\n\
        cat /belay/volume-sync/response.json 2> /dev/null\n"
        .to_owned();
    let revise = format!(
        "#!/bin/sh\n\
         # A second edition: the page changes, a file goes.\n\
         printf 'Content-Type: text/plain\\r\\n\\r\\n'\n\
         token=$(head -c 64 /dev/urandom | sha256sum | cut -c1-16)\n\
         printf '<h1>Edition 2</h1><p>%s</p><p>%s</p>\\n' \"$token\" \"$(date -u)\" \\\n\
         \x20 > {DATA}/index.html.new\n\
         mv {DATA}/index.html.new {DATA}/index.html\n\
         rm {DATA}/first.txt\n\
         printf 'revised\\n'\n"
    );
    [
        ("bin/provider", provider),
        ("bin/consumer", consumer),
        ("www/cgi-bin/publish", publish),
        ("www/cgi-bin/response", response),
        ("www/cgi-bin/revise", revise),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_a_shell_script_that_calls_only_what_the_image_has() {
        const BUILT_IN: [&str; 11] =
            ["set", "if", "fi", "echo", "case", "exit", "trap", "wait", "server=$!", "#", "[&"];
        for (path, text) in programs() {
            assert!(text.starts_with("#!/bin/sh\n"), "{path}");
            assert!(text.ends_with('\n'), "{path}");
            for line in text.lines().filter(|line| !line.starts_with([' ', '#'])) {
                let word = line.split(' ').next().unwrap_or_default();
                let known = APPLETS.contains(&word)
                    || BUILT_IN.contains(&word)
                    || word.starts_with("token=$(");
                assert!(known, "{path}: {line}");
            }
        }
    }

    #[test]
    fn a_node_keeps_everything_below_its_home() {
        let home = Path::new("/var/lib/belay-demo/provider");
        let store = Path::new("/var/lib/belay-demo/store");
        let text = configuration(Role::Provider, home, store, 4321);
        for line in text.lines().filter(|line| line.contains('/')) {
            assert!(line.contains("/var/lib/belay-demo/"), "{line}");
        }
        assert!(text.contains("listen = [\"127.0.0.1:4321\"]\n"));
        assert!(text.contains("name = \"belay-demo-provider\"\n"));
    }

    #[test]
    fn the_two_specs_share_key_and_volume_and_differ_in_role() {
        let [provider, consumer] =
            Role::BOTH.map(|role| spec(role, Path::new("/x/image.tar"), 1234));
        for text in [&provider, &consumer] {
            assert!(text.contains("key = \"belay-demo-page\"\n"));
            assert!(text.contains("size = \"64M\"\n"));
            assert!(text.contains("image = \"file:/x/image.tar\"\n"));
            assert!(text.contains("host = 1234\n"));
        }
        assert!(provider.contains("role = \"provider\"\n"));
        assert!(consumer.contains("role = \"consumer\"\n"));
    }
}
