//! The command line.

mod runs;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use belay_protocol::{CidPrefix, EventKind, EventSeq, VolumeName, WorkloadName};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::Value;

pub(crate) use runs::{CheckpointVerb, NewRun, RunVerb, RunnerVerb, WaitpointVerb};

/// Where belayd listens unless it is told otherwise.
const DEFAULT_SOCKET: &str = "/run/belay/belay.sock";
const SOCKET_HELP: &str = "belayd's socket [default: $BELAY_SOCKET, else /run/belay/belay.sock]";

/// Operate the workloads, volumes and volume-sync of this node.
#[derive(Debug, Parser)]
#[command(name = "belay", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// belayd's socket
    #[arg(long, help = SOCKET_HELP, value_name = "PATH", global = true)]
    pub(crate) socket: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Arguments {
    /// The socket as given, by the environment, or by default.
    pub(crate) fn socket(&self) -> PathBuf {
        let given = self.socket.clone();
        let environment = || std::env::var_os("BELAY_SOCKET").filter(|path| !path.is_empty());
        given
            .or_else(|| environment().map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Declare a workload, replace it and wait until it is ready
    #[command(after_help = "Example: belay deploy web.toml")]
    Deploy {
        /// Its spec, a TOML file
        file: PathBuf,
        #[command(flatten)]
        wait: Wait,
    },
    /// List the workloads
    #[command(after_help = "Example: belay ps")]
    Ps(Listing),
    /// Show the node, or one workload in full
    #[command(after_help = "Example: belay status web")]
    Status {
        /// The workload; the node when absent
        workload: Option<WorkloadName>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show what a workload wrote
    #[command(after_help = "Example: belay logs -f --tail 20 web")]
    Logs {
        workload: WorkloadName,
        /// Stay and show what is written from now on
        #[arg(short, long)]
        follow: bool,
        /// Only so many of the last lines
        #[arg(long, value_name = "LINES")]
        tail: Option<u32>,
        /// Only what was written since: a time, or how long ago (90s, 5m, 2h)
        #[arg(long, value_name = "TIME", value_parser = since)]
        since: Option<Since>,
        /// The container before, which is gone
        #[arg(short, long, conflicts_with = "follow")]
        previous: bool,
        /// Show when each line was written
        #[arg(short, long)]
        timestamps: bool,
    },
    /// Run a command in a workload that runs
    #[command(after_help = "Example: belay exec -it web -- sh")]
    Exec {
        workload: WorkloadName,
        #[command(flatten)]
        options: ExecOptions,
    },
    /// Make a workload run
    #[command(after_help = "Example: belay start web")]
    Start {
        workload: WorkloadName,
        /// Do not wait for the first content of its key
        #[arg(long)]
        without_content: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop a workload until it is started or deployed again
    #[command(after_help = "Example: belay stop web")]
    Stop {
        workload: WorkloadName,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop and start a workload
    #[command(after_help = "Example: belay restart web")]
    Restart {
        workload: WorkloadName,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop and remove a workload
    #[command(after_help = "Example: belay rm --volumes web")]
    Rm {
        workload: WorkloadName,
        /// Delete its volumes with everything in them
        #[arg(long)]
        volumes: bool,
        /// Remove it although other workloads depend on it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Show which names of its environment a workload has overridden, or end that
    #[command(after_help = "Example: belay env web --clear")]
    Env {
        workload: WorkloadName,
        /// End all of them at its next start
        #[arg(long)]
        clear: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Say why a workload is in the state it is in
    #[command(after_help = "Example: belay explain web")]
    Explain {
        workload: WorkloadName,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show what happened on this node
    #[command(after_help = "Example: belay events -f --workload web")]
    Events(EventsShown),
    /// Images that belayd brought to this node
    #[command(subcommand, after_help = "Example: belay image ls")]
    Image(ImageVerb),
    /// Volumes of this node
    #[command(subcommand, after_help = "Example: belay volume ls")]
    Volume(VolumeVerb),
    /// Locks of this node
    #[command(subcommand, after_help = "Example: belay lock ls")]
    Lock(LockVerb),
    /// Volume-sync of this node
    #[command(subcommand, after_help = "Example: belay sync status")]
    Sync(SyncVerb),
    /// Runs: pieces of work for runners
    #[command(subcommand, after_help = "Example: belay run ls")]
    Run(RunVerb),
    /// Runners: processes that execute runs
    #[command(subcommand, after_help = "Example: belay runner ls")]
    Runner(RunnerVerb),
    /// Waitpoints: what runs wait for until somebody completes it
    #[command(subcommand, after_help = "Example: belay waitpoint ls")]
    Waitpoint(WaitpointVerb),
    /// Checkpoints: runners that wait on the disk
    #[command(subcommand, after_help = "Example: belay checkpoint ls")]
    Checkpoint(CheckpointVerb),
    /// Look at everything belayd needs of this host
    #[command(after_help = "Example: belay doctor")]
    Doctor {
        #[command(flatten)]
        listing: Listing,
        /// The belayd to ask [default: beside this program, else as installed]
        #[arg(long, value_name = "PATH")]
        belayd: Option<PathBuf>,
    },
    /// Run two nodes on this machine and replicate a volume between them
    #[command(after_help = "Example: belay demo --once")]
    Demo {
        /// The belayd to run [default: beside this program, else as installed]
        #[arg(long, value_name = "PATH")]
        belayd: Option<PathBuf>,
        /// Clean up at once instead of staying until interrupted
        #[arg(long)]
        once: bool,
        /// Only remove what a demo that was killed left behind
        #[arg(long, conflicts_with = "once")]
        clean: bool,
        /// Be the runner in the demo's container
        #[arg(long, hide = true, conflicts_with_all = ["once", "clean", "belayd"])]
        as_runner: bool,
    },
}

/// How a command is run.
#[derive(Debug, Args)]
pub(crate) struct ExecOptions {
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it this terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable of its environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Run it as this user of the container
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Run it in this directory of the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// End it after this time: 500ms, 30s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) timeout: Option<Duration>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

/// A moment, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    At(jiff::Timestamp),
    Ago(Duration),
}

impl Since {
    /// The moment, seen from now.
    pub(crate) fn moment(self, now: jiff::Timestamp) -> jiff::Timestamp {
        match self {
            Self::At(moment) => moment,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        }
    }
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = time(text) {
        return Ok(Since::Ago(ago));
    }
    let moment = text.parse().map(Since::At);
    moment.map_err(|_| "expected how long ago (90s, 5m, 2h) or 2026-01-31T12:00:00Z".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a time above 0 with its unit: 500ms, 30s, 5m, 2h";
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| EXPECTED)?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(EXPECTED.to_owned()),
    };
    if number == 0 { Err(EXPECTED.to_owned()) } else { Ok(unit * number) }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// List the images with who uses them and why they stay, and the pulls
    #[command(after_help = "Example: belay image ls -o json")]
    Ls(Listing),
    /// Remove the images that nobody needs
    #[command(after_help = "Example: belay image prune --dry-run")]
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Load an archive, so that specs can name it without a registry, and pin it
    #[command(after_help = "Example: belay image load page.tar")]
    Load {
        /// An image saved by podman or docker, or a tar of a root file system
        file: PathBuf,
    },
    /// Keep an image, whatever becomes of its users
    #[command(after_help = "Example: belay image pin docker.io/library/alpine:3.20")]
    Pin {
        /// Its name, its id, or the first 12 digits of that or more
        image: String,
    },
    /// Treat an image like any other again
    #[command(after_help = "Example: belay image unpin docker.io/library/alpine:3.20")]
    Unpin {
        /// Its name, its id, or the first 12 digits of that or more
        image: String,
    },
    /// Remove an image that nothing uses
    #[command(after_help = "Example: belay image rm 7889122f74b7")]
    Rm {
        /// Its name, its id, or the first 12 digits of that or more
        image: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// List the volumes with their sizes, use and cost
    #[command(after_help = "Example: belay volume ls -o json")]
    Ls(Listing),
    /// Show one volume in full
    #[command(after_help = "Example: belay volume show web/data")]
    Show {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        #[command(flatten)]
        listing: Listing,
    },
    /// Give a volume more space, while its workload runs
    #[command(after_help = "Example: belay volume grow web/data 2G")]
    Grow {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        /// The size that it is to have, as in a spec: 64M, 1.5G
        size: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Check the file system of a volume whose workload is stopped
    #[command(after_help = "Example: belay volume check web/data")]
    Check {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        /// Repair all that can be repaired, which may cost damaged files
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Empty a volume whose workload is stopped
    #[command(after_help = "Example: belay volume reset web/data")]
    Reset {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        #[command(flatten)]
        wait: Wait,
    },
    /// Put a kept earlier state in the place of a volume whose workload is stopped
    #[command(after_help = "Example: belay volume rollback web/data before-update")]
    Rollback {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        /// Name of the state; the only one that is kept when absent
        generation: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take the image that lies in a volume's place for its own
    #[command(after_help = "Example: belay volume adopt web/data")]
    Adopt {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give the free space of a thin volume back to the host
    #[command(after_help = "Example: belay volume trim web/cache")]
    Trim {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete a volume that no workload names, with everything in it
    #[command(after_help = "Example: belay volume rm old/data")]
    Rm {
        /// The volume, as WORKLOAD/VOLUME
        #[arg(value_parser = volume_path)]
        volume: VolumePath,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LockVerb {
    /// List the locks that are held, with who holds them and what for
    #[command(after_help = "Example: belay lock ls")]
    Ls(Listing),
    /// Free the locks of a workload by ending whoever holds them
    #[command(after_help = "Example: belay lock break web --force")]
    Break {
        workload: WorkloadName,
        /// End the holder: an operation of belayd between two steps; another process by asking it,
        /// then by killing it
        #[arg(long)]
        force: bool,
    },
}

/// Who takes over.
#[derive(Debug, clap::Args)]
pub(crate) struct Succession {
    pub(crate) workload: WorkloadName,
    /// It is certain that the other node is dead, or publishes no more
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SyncVerb {
    /// Show who provides and who consumes, and how fresh it is
    #[command(after_help = "Example: belay sync status")]
    Status(Listing),
    /// Publish paths of one provider or of several, or of none unless all can
    #[command(after_help = "Example: belay sync publish web /data --metadata release=7")]
    Publish {
        /// Workloads, and after them their absolute paths in the container, each on a volume
        #[arg(required = true, value_name = "WORKLOAD... PATH...")]
        targets: Vec<String>,
        /// Passed on to consumers; the value is JSON, or else text
        #[arg(long, value_name = "KEY=VALUE", value_parser = metadata)]
        metadata: Vec<(String, Value)>,
    },
    /// Publish and apply nothing until it is resumed; what comes meanwhile waits
    #[command(after_help = "Example: belay sync pause web")]
    Pause { workload: WorkloadName },
    /// Go on after a pause or a rollback
    #[command(after_help = "Example: belay sync resume web")]
    Resume { workload: WorkloadName },
    /// Have a consumer apply the newest record now, whatever holds it back
    #[command(after_help = "Example: belay sync apply web")]
    Apply { workload: WorkloadName },
    /// Take a consumer back to an earlier generation, and hold the later ones back
    #[command(after_help = "Example: belay sync rollback web")]
    Rollback {
        workload: WorkloadName,
        /// Which; the one that was applied before the present one when absent
        cid: Option<CidPrefix>,
    },
    /// Show one published generation: its record, its size, and where it is
    #[command(after_help = "Example: belay sync show web bafkr4iaha4d")]
    Show {
        /// The workload, or the content id of a generation of any
        #[arg(value_name = "WORKLOAD|CID")]
        about: String,
        /// Which generation of the workload; the newest when absent
        cid: Option<CidPrefix>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Write a published generation to standard output, as a tar.gz
    #[command(after_help = "Example: belay sync export web > web.tar.gz")]
    Export {
        workload: WorkloadName,
        /// Which generation; the newest when absent
        cid: Option<CidPrefix>,
    },
    /// Publish a tar.gz of container paths, in the place of what a provider's volumes hold
    #[command(after_help = "Example: belay sync import web web.tar.gz")]
    Import {
        /// A provider; its container and its volumes are not touched
        workload: WorkloadName,
        /// The archive; - for standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// Show what differs between two published generations, or between one and the volumes
    #[command(after_help = "Example: belay sync diff web bafkr4iaha4d --live")]
    Diff {
        workload: WorkloadName,
        /// The first
        #[arg(value_name = "CID")]
        from: CidPrefix,
        /// The second; the newest when absent
        #[arg(value_name = "CID", conflicts_with = "live")]
        to: Option<CidPrefix>,
        /// Compare with what the workload's volumes hold now
        #[arg(long)]
        live: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Publish from now on in the place of the node that does, which cannot any more
    #[command(after_help = "Example: belay sync takeover web --yes")]
    Takeover(Succession),
    /// Print the key by which this node signs what it publishes, and make one if there is none
    #[command(after_help = "Example: belay sync keygen")]
    Keygen,
    /// Read all that the store keeps of a workload's key, and say what is damaged
    #[command(after_help = "Example: belay sync verify web")]
    Verify {
        workload: WorkloadName,
        /// Read every file of its volumes too; what the app has written since is a difference
        #[arg(long)]
        content: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show what was published and applied, newest first
    #[command(after_help = "Example: belay sync history web")]
    History {
        workload: WorkloadName,
        #[command(flatten)]
        listing: Listing,
    },
}

/// One volume of one workload, written `web/data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumePath {
    pub(crate) workload: WorkloadName,
    pub(crate) volume: VolumeName,
}

impl fmt::Display for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workload, self.volume)
    }
}

fn volume_path(text: &str) -> Result<VolumePath, String> {
    let (workload, volume) = text
        .split_once('/')
        .ok_or("expected WORKLOAD/VOLUME, as belay volume ls shows them: web/data")?;
    let workload = workload.parse().map_err(|error| format!("{error}"))?;
    let volume = volume.parse().map_err(|error| format!("{error}"))?;
    Ok(VolumePath { workload, volume })
}

/// Which events are shown, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct EventsShown {
    /// Stay and show what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only those after this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<EventSeq>,
    /// Only those that concern this workload
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) workload: Option<WorkloadName>,
    /// Only those of this kind; may be repeated
    #[arg(long = "kind", value_name = "KIND")]
    pub(crate) kinds: Vec<EventKind>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// How long a command waits for its turn and for the locks of others.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Wait {
    /// Wait at most so long for other operations and for locks [default: 60, a deploy 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    wait: Option<u64>,
    /// Do not wait: give up at once when something else is at work on it
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

impl Wait {
    /// What is added to the address of an operation that has no query yet.
    pub(crate) fn query(self) -> String {
        self.seconds().map_or_else(String::new, |seconds| format!("?wait={seconds}"))
    }

    /// Seconds to wait, if something was said.
    pub(crate) fn seconds(self) -> Option<u64> {
        if self.no_wait { Some(0) } else { self.wait }
    }
}

/// How a page is shown.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Listing {
    /// A table for people, or JSON for programs
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

fn metadata(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((key.to_owned(), value))
        }
        Some(_) | None => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example_that_parses() {
        fn examples(command: &clap::Command, found: &mut Vec<String>) {
            for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
                let help = verb.get_after_help().expect("an example").to_string();
                found.push(help.strip_prefix("Example: ").expect("an example").to_owned());
                examples(verb, found);
            }
        }
        let mut found = Vec::new();
        examples(&Arguments::command(), &mut found);
        assert!(found.len() > 15);
        for example in found {
            // Where its output goes is the shell's affair.
            let words = example.split(' ').take_while(|word| *word != ">");
            let parsed = Arguments::try_parse_from(words);
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }

    #[test]
    fn a_volume_is_named_with_its_workload() {
        assert_eq!(volume_path("web/data").map(|path| path.to_string()), Ok("web/data".into()));
        for (wrong, words) in [
            ("data", "expected WORKLOAD/VOLUME"),
            ("web/", "must not be empty"),
            ("web/data/x", "is not a volume name"),
            ("web/../etc", "is not a volume name"),
            ("Web/data", "is not a workload name"),
            (&format!("web/{}", "x".repeat(300)), "at most 63 characters, this one has 300"),
        ] {
            let error = volume_path(wrong).expect_err(wrong);
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_command_is_told_from_the_options_before_it() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        let parsed = parse("belay exec -it -e A=b=c -u 7 -w /x --timeout 90s web -- ls -l --all");
        let Ok(Arguments { verb: Verb::Exec { options, workload }, .. }) = parsed else {
            panic!("{parsed:?}");
        };
        assert_eq!(workload.as_str(), "web");
        assert_eq!(options.command, ["ls", "-l", "--all"]);
        assert_eq!(options.env, [("A".to_owned(), "b=c".to_owned())]);
        assert!(options.interactive && options.tty);
        assert_eq!(options.timeout, Some(Duration::from_secs(90)));
        for wrong in ["belay exec web", "belay exec web --", "belay exec web ls"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_waits_as_long_as_it_is_told_to() {
        let seconds = |line: &str| {
            let parsed = Arguments::try_parse_from(line.split(' '));
            let Ok(Arguments { verb: Verb::Stop { wait, .. }, .. }) = parsed else {
                panic!("{parsed:?}");
            };
            wait.seconds()
        };
        assert_eq!(seconds("belay stop web"), None, "belayd's own time");
        assert_eq!(seconds("belay stop web --wait 5"), Some(5));
        assert_eq!(seconds("belay stop web --wait 0"), Some(0));
        assert_eq!(seconds("belay stop web --no-wait"), Some(0));
        for wrong in ["--wait -1", "--wait 86401", "--wait 1m", "--wait 5 --no-wait"] {
            let line = format!("belay stop web {wrong}");
            assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn a_log_begins_at_a_moment_or_some_time_ago() {
        let now: jiff::Timestamp = "2026-01-31T12:00:00Z".parse().expect("a time");
        let moment = |text: &str| since(text).map(|since| since.moment(now).to_string());
        assert_eq!(moment("90s"), Ok("2026-01-31T11:58:30Z".to_owned()));
        assert_eq!(moment("2026-01-30T01:00:00+01:00"), Ok("2026-01-30T00:00:00Z".to_owned()));
        assert!(since("noon").is_err());
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "5", "s", "0s", "-1s", "1.5s", "1d", "99999999999s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn metadata_is_json_or_text() {
        assert_eq!(metadata("a=7"), Ok(("a".to_owned(), 7.into())));
        assert_eq!(metadata("a=x=y"), Ok(("a".to_owned(), "x=y".into())));
        assert!(metadata("a").is_err());
        assert!(metadata("=a").is_err());
    }
}
