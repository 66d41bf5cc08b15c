//! Configuration: a file, drop-ins, the environment, in that order; every fault found at once.

mod images;
mod runners;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belay_engine::EngineChoice;
use belay_ledger::Retention;
use belay_lifecycle::ImagesConfig;
use belay_lifecycle::core::keys::{self, Faults, Keys};
use belay_protocol::{NodeId, SpecFault};
use belay_volumes::ByteSize;

use images::SaidOfImages;
pub(crate) use runners::RunnersConfig;
use runners::SaidOfRunners;

/// Where the configuration is unless the command line says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/belay/belayd.toml";

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// What belayd is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Name of the node.
    pub node: NodeId,
    /// Durable state.
    pub state_dir: PathBuf,
    /// Sockets; on a file system that is empty after a boot.
    pub runtime_dir: PathBuf,
    /// Specs that the operator keeps in files.
    pub workloads_dir: PathBuf,
    /// Which engine.
    pub engine: EngineChoice,
    /// Its socket, if it is not where it usually is.
    pub engine_socket: Option<PathBuf>,
    /// How long a container of this installation without a workload is left before it is removed.
    pub orphan_grace: Duration,
    /// The operator's socket.
    pub api_socket: PathBuf,
    /// Loopback addresses that answer questions and change nothing.
    pub api_listen: Vec<SocketAddr>,
    /// Group that may use the operator's socket, besides root.
    pub api_group: Option<String>,
    /// Directory of the local store.
    pub store: PathBuf,
    /// Size of the one image that all volumes are kept in, if they are.
    pub pool: Option<ByteSize>,
    /// How much of what happened is kept.
    pub events: Retention,
    /// What is configured about images.
    pub images: ImagesConfig,
    /// What runs and their runners are granted.
    pub runners: RunnersConfig,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Which lines are logged, as a `tracing` filter.
    pub log_level: String,
    /// Longest that ending may take.
    pub shutdown_deadline: Duration,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// To journald when it reads standard error, else text.
    Auto,
    /// Text to standard error.
    Text,
    /// One JSON object a line to standard error.
    Json,
    /// To journald, with fields.
    Journald,
}

/// A piece of configuration and what to call it in faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its file, or the variable it came from.
    pub name: String,
    /// Its text, in TOML.
    pub text: String,
}

/// What one piece says; nothing where it is silent.
#[derive(Debug, Default)]
struct Said {
    node: Option<NodeId>,
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    workloads_dir: Option<PathBuf>,
    engine: Option<EngineChoice>,
    engine_socket: Option<PathBuf>,
    orphan_grace: Option<Duration>,
    api_socket: Option<PathBuf>,
    api_listen: Option<Vec<SocketAddr>>,
    api_group: Option<String>,
    store: Option<PathBuf>,
    pool: Option<ByteSize>,
    events_keep: Option<u64>,
    events_days: Option<u64>,
    images: SaidOfImages,
    runners: SaidOfRunners,
    log_format: Option<LogFormat>,
    log_level: Option<String>,
    shutdown_deadline: Option<Duration>,
}

/// Section and key of everything that can be set, for the environment's sake: the variable is
/// `BELAYD_`, the section, `_`, the key, in capitals.
pub(crate) const KEYS: [(&str, &str); 36] = [
    ("node", "name"),
    ("node", "state_dir"),
    ("node", "runtime_dir"),
    ("node", "workloads_dir"),
    ("engine", "kind"),
    ("engine", "socket"),
    ("engine", "orphan_grace"),
    ("api", "socket"),
    ("api", "listen"),
    ("api", "group"),
    ("store", "kind"),
    ("store", "path"),
    ("pool", "size"),
    ("events", "keep"),
    ("events", "days"),
    ("images", "auth_file"),
    ("images", "stall"),
    ("images", "floor"),
    ("images", "collect_below"),
    ("images", "collect_below_percent"),
    ("images", "collect_until"),
    ("images", "collect_until_percent"),
    ("images", "keep"),
    ("images", "grace"),
    ("runner", "listen"),
    ("runner", "memory"),
    ("runner", "port"),
    ("runner", "checkpoints_size"),
    ("runner", "checkpoints_count"),
    ("runner", "checkpoints_reserve"),
    ("runner", "retention"),
    ("runner", "connections"),
    ("runner", "travel_key"),
    ("log", "format"),
    ("log", "level"),
    ("shutdown", "deadline"),
];

/// Keys whose value is a number, which the environment can only write as text.
const NUMBERS: [(&str, &str); 8] = [
    ("runner", "port"),
    ("runner", "checkpoints_count"),
    ("runner", "connections"),
    ("events", "keep"),
    ("events", "days"),
    ("images", "collect_below_percent"),
    ("images", "collect_until_percent"),
    ("images", "keep"),
];

/// Turns variables of the environment into pieces of configuration. Unknown ones that begin with
/// the prefix are faults, like unknown keys.
pub(crate) fn pieces_of_environment(
    variables: impl Iterator<Item = (String, String)>,
) -> (Vec<Piece>, Vec<SpecFault>) {
    let mut pieces = Vec::new();
    let mut faults = Vec::new();
    let names: Vec<_> = KEYS
        .iter()
        .map(|(section, key)| format!("BELAYD_{section}_{key}").to_ascii_uppercase())
        .collect();
    for (variable, value) in variables.filter(|(name, _)| name.starts_with("BELAYD_")) {
        let Some(at) = names.iter().position(|name| *name == variable) else {
            faults.push(SpecFault {
                file: "environment".into(),
                key: variable.clone(),
                found: "an unknown variable".into(),
                expected: "BELAYD_ with the section and the key of a setting".into(),
                nearest: keys::nearest(&variable, names.iter().map(String::as_str)),
            });
            continue;
        };
        let (section, key) = KEYS[at];
        let value = if key == "listen" {
            let items: Vec<_> =
                value.split(',').filter(|item| !item.is_empty()).map(quote).collect();
            format!("[{}]", items.join(", "))
        } else if NUMBERS.contains(&(section, key))
            && value.bytes().all(|byte| byte.is_ascii_digit())
        {
            value
        } else {
            quote(&value)
        };
        let text = format!("[{section}]\n{key} = {value}\n");
        pieces.push(Piece { name: format!("environment {variable}"), text });
    }
    (pieces, faults)
}

/// A TOML basic string. JSON's escapes are all TOML's too.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Reads all pieces; later ones win. `host` is the node's name where none is given.
pub(crate) fn read(pieces: &[Piece], host: &str) -> Result<Config, Vec<SpecFault>> {
    let mut said = Said::default();
    let mut all = Vec::new();
    for piece in pieces {
        let faults = Faults::new(&piece.name, &piece.text);
        if let Some(document) = keys::parse(&piece.text, &faults) {
            said = said.overlaid_by(read_piece(Keys::root(&document, &faults)));
        }
        all.extend(faults.into_vec());
    }
    let node = said.node.clone().or_else(|| host.to_ascii_lowercase().parse().ok());
    if node.is_none() {
        all.push(SpecFault {
            file: "configuration".into(),
            key: "node.name".into(),
            found: format!("nothing, and the host's name {host:?} will not do"),
            expected: "a node name: lower-case letters, digits and '-'".into(),
            nearest: None,
        });
    }
    match node {
        Some(node) if all.is_empty() => Ok(said.with_defaults(node)),
        _ => Err(all),
    }
}

impl Said {
    fn overlaid_by(self, later: Self) -> Self {
        Self {
            node: later.node.or(self.node),
            state_dir: later.state_dir.or(self.state_dir),
            runtime_dir: later.runtime_dir.or(self.runtime_dir),
            workloads_dir: later.workloads_dir.or(self.workloads_dir),
            engine: later.engine.or(self.engine),
            engine_socket: later.engine_socket.or(self.engine_socket),
            orphan_grace: later.orphan_grace.or(self.orphan_grace),
            api_socket: later.api_socket.or(self.api_socket),
            api_listen: later.api_listen.or(self.api_listen),
            api_group: later.api_group.or(self.api_group),
            store: later.store.or(self.store),
            pool: later.pool.or(self.pool),
            events_keep: later.events_keep.or(self.events_keep),
            events_days: later.events_days.or(self.events_days),
            images: self.images.overlaid_by(later.images),
            runners: self.runners.overlaid_by(later.runners),
            log_format: later.log_format.or(self.log_format),
            log_level: later.log_level.or(self.log_level),
            shutdown_deadline: later.shutdown_deadline.or(self.shutdown_deadline),
        }
    }

    fn with_defaults(self, node: NodeId) -> Config {
        let state_dir = self.state_dir.unwrap_or_else(|| "/var/lib/belay".into());
        let runtime_dir = self.runtime_dir.unwrap_or_else(|| "/run/belay".into());
        let usual = Retention::default();
        Config {
            node,
            workloads_dir: self.workloads_dir.unwrap_or_else(|| "/etc/belay/workloads.d".into()),
            engine: self.engine.unwrap_or(EngineChoice::Auto),
            engine_socket: self.engine_socket,
            orphan_grace: self.orphan_grace.unwrap_or(Duration::from_secs(300)),
            api_socket: self.api_socket.unwrap_or_else(|| runtime_dir.join("belay.sock")),
            api_listen: self.api_listen.unwrap_or_default(),
            api_group: self.api_group,
            store: self.store.unwrap_or_else(|| state_dir.join("store")),
            pool: self.pool,
            events: Retention {
                entries: self.events_keep.unwrap_or(usual.entries),
                age: self.events_days.map_or(usual.age, |days| Duration::from_secs(days * DAY)),
            },
            images: self.images.with_defaults(),
            runners: self.runners.with_defaults(),
            log_format: self.log_format.unwrap_or(LogFormat::Auto),
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
            shutdown_deadline: self.shutdown_deadline.unwrap_or(Duration::from_secs(20)),
            state_dir,
            runtime_dir,
        }
    }
}

fn read_piece(mut keys: Keys<'_>) -> Said {
    let mut said = Said::default();
    if let Some(mut node) = keys.table("node") {
        said.node = node.parsed("name", "a node name");
        said.state_dir = directory(&mut node, "state_dir");
        said.runtime_dir = directory(&mut node, "runtime_dir");
        said.workloads_dir = directory(&mut node, "workloads_dir");
        node.finish();
    }
    if let Some(mut engine) = keys.table("engine") {
        said.engine = engine.choice(
            "kind",
            &[
                ("auto", EngineChoice::Auto),
                ("podman", EngineChoice::Podman),
                ("docker", EngineChoice::Docker),
            ],
        );
        said.engine_socket = directory(&mut engine, "socket");
        let bounds = Duration::from_secs(1)..=Duration::from_secs(86_400);
        said.orphan_grace = engine.duration("orphan_grace", bounds);
        engine.finish();
    }
    if let Some(mut api) = keys.table("api") {
        said.api_socket = directory(&mut api, "socket");
        said.api_listen = read_listen(&mut api);
        said.api_group = api.text("group", "the name of a group").map(str::to_owned);
        api.finish();
    }
    if let Some(mut store) = keys.table("store") {
        store.choice("kind", &[("local", ())]);
        said.store = directory(&mut store, "path");
        store.finish();
    }
    if let Some(mut pool) = keys.table("pool") {
        said.pool = pool.parsed("size", "a size such as \"20G\"");
        pool.finish();
    }
    if let Some(mut events) = keys.table("events") {
        said.events_keep = events.integer("keep", 100..=100_000);
        said.events_days = events.integer("days", 1..=3_650);
        events.finish();
    }
    if let Some(mut images) = keys.table("images") {
        images::read(&mut images, &mut said.images);
        images.finish();
    }
    if let Some(mut runner) = keys.table("runner") {
        runners::read(&mut runner, &mut said.runners);
        runner.finish();
    }
    images::read_registries(&mut keys, &mut said.images);
    if let Some(mut log) = keys.table("log") {
        said.log_format = log.choice(
            "format",
            &[
                ("auto", LogFormat::Auto),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
                ("journald", LogFormat::Journald),
            ],
        );
        said.log_level = read_level(&mut log);
        log.finish();
    }
    if let Some(mut shutdown) = keys.table("shutdown") {
        let bounds = Duration::from_secs(1)..=Duration::from_secs(600);
        said.shutdown_deadline = shutdown.duration("deadline", bounds);
        shutdown.finish();
    }
    keys.finish();
    said
}

fn directory(keys: &mut Keys<'_>, key: &'static str) -> Option<PathBuf> {
    let text = keys.text(key, "an absolute path")?;
    if Path::new(text).is_absolute() {
        return Some(text.into());
    }
    keys.fault(key, &format!("{text:?}"), "an absolute path");
    None
}

fn read_listen(keys: &mut Keys<'_>) -> Option<Vec<SocketAddr>> {
    const EXPECTED: &str = "loopback addresses with a port, as in [\"127.0.0.1:7480\"]; what \
                            listens beyond this host would need tokens and TLS";
    let texts = keys.texts("listen", EXPECTED)?;
    let mut addresses = Vec::new();
    for text in texts {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => addresses.push(address),
            Ok(_) | Err(_) => keys.fault("listen", &format!("{text:?}"), EXPECTED),
        }
    }
    Some(addresses)
}

fn read_level(keys: &mut Keys<'_>) -> Option<String> {
    const EXPECTED: &str = "a level (error, warn, info, debug, trace) or a filter such as \
                            \"info,belay_sync=debug\"";
    let text = keys.text("level", EXPECTED)?;
    let known = ["error", "warn", "info", "debug", "trace", "off"];
    let plausible = text
        .split(',')
        .all(|part| known.contains(&part.rsplit_once('=').map_or(part, |(_, level)| level)));
    if plausible {
        return Some(text.to_owned());
    }
    keys.fault("level", &format!("{text:?}"), EXPECTED);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str) -> Piece {
        Piece { name: "belayd.toml".into(), text: text.into() }
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let config = read(&[], "Shop-7").expect("the defaults are good");
        assert_eq!(config.node.as_str(), "shop-7");
        assert_eq!(config.api_socket, Path::new("/run/belay/belay.sock"));
        assert_eq!(config.store, Path::new("/var/lib/belay/store"));
        assert!(config.api_listen.is_empty(), "nothing listens unless it is told to");
    }

    #[test]
    fn the_shipped_configuration_is_the_defaults() {
        let shipped = include_str!("../../../config/belayd.toml");
        let config = read(&[piece(shipped)], "shop-7").expect("the shipped file is good");
        assert_eq!(config, read(&[], "shop-7").expect("the defaults are good"));
        // Every key is in it, commented, so that it documents all there is.
        for (section, key) in KEYS {
            assert!(shipped.contains(&format!("[{section}]")), "no [{section}]");
            assert!(shipped.contains(&format!("\n# {key} = ")), "{section}.{key} is not shown");
        }
    }

    #[test]
    fn what_the_shipped_configuration_shows_is_valid() {
        let shipped = include_str!("../../../config/belayd.toml");
        let shown: String = shipped
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.contains(" = ") || setting.starts_with("[[") => {
                    format!("{setting}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        read(&[piece(&shown)], "shop-7").expect("every setting it shows is good");
    }

    #[test]
    fn later_pieces_win_and_the_environment_wins_over_all() {
        let variables = [
            ("BELAYD_NODE_NAME", "env"),
            ("BELAYD_API_LISTEN", "127.0.0.1:1,[::1]:2"),
            ("BELAYD_EVENTS_KEEP", "500"),
            ("BELAYD_IMAGES_KEEP", "3"),
            ("PATH", "x"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (environment, faults) = pieces_of_environment(variables.into_iter());
        assert!(faults.is_empty());
        let mut pieces = vec![
            piece("[node]\nname = \"a\"\nstate_dir = \"/a\"\n[log]\nlevel = \"debug\""),
            piece("[node]\nname = \"b\"\n"),
        ];
        pieces.extend(environment);
        let config = read(&pieces, "host").expect("good");
        assert_eq!(config.node.as_str(), "env");
        assert_eq!(config.state_dir, Path::new("/a"));
        assert_eq!(config.log_level, "debug");
        assert_eq!(config.api_listen.len(), 2);
        assert_eq!(config.events.entries, 500);
        assert_eq!(config.images.rules.keep, 3);
        assert_eq!(config.events.age, Retention::default().age);
    }

    #[test]
    fn all_faults_of_all_pieces_are_listed() {
        let variables = [("BELAYD_NODE_NAMEE".to_owned(), "x".to_owned())];
        let (_, environment) = pieces_of_environment(variables.into_iter());
        let wrong = [("BELAYD_EVENTS_KEEP".to_owned(), "many".to_owned())];
        let (wrong, _) = pieces_of_environment(wrong.into_iter());
        let wrong = read(&wrong, "host").expect_err("no number")[0].to_string();
        assert!(wrong.contains("events.keep: found") && wrong.contains("100"), "{wrong}");
        assert_eq!(environment[0].nearest.as_deref(), Some("BELAYD_NODE_NAME"));
        let faults = read(
            &[
                piece("[node]\nstate_dir = \"relative\"\n[engine]\nkind = \"podmann\""),
                piece("[api]\nlisten = [\"0.0.0.0:80\"]\n[lgo]\n"),
            ],
            "host",
        )
        .expect_err("faulty");
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[0].starts_with("belayd.toml:2: node.state_dir: found \"relative\""));
        assert!(lines[1].ends_with("(did you mean \"podman\"?)"));
        assert!(lines[2].contains("tokens and TLS"));
        assert!(
            lines[3].contains("lgo: found an unknown key")
                && lines[3].ends_with("(did you mean \"log\"?)")
        );
    }

    #[test]
    fn a_host_name_that_will_not_do_is_a_fault() {
        let faults = read(&[], "bad_host").expect_err("no name");
        assert!(faults[0].to_string().contains("node.name"));
    }
}
