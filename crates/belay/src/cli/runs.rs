//! Verbs about runs, runners and waitpoints.

use std::path::PathBuf;
use std::time::Duration;

use belay_protocol::runner::{
    DEFAULT_MAX_ATTEMPTS, IdempotencyKey, PAGE_LIMIT, RunId, RunState, RunnerId, WaitpointId,
    WaitpointState,
};
use belay_protocol::{NodeId, WorkloadName};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Listing, time};

#[derive(Debug, Subcommand)]
pub(crate) enum RunVerb {
    /// Submit a run of a workload and print its id
    #[command(after_help = r#"Example: belay run submit mailer --payload {"invoice":17}"#)]
    Submit {
        /// The workload whose runners take it
        workload: WorkloadName,
        #[command(flatten)]
        run: NewRun,
        /// Wait for its end, as belay run wait does
        #[arg(long)]
        wait: bool,
    },
    /// List the runs, the newest first
    #[command(after_help = "Example: belay run ls --state waiting --state suspended")]
    Ls {
        /// Only those of this workload
        #[arg(long, value_name = "WORKLOAD")]
        workload: Option<WorkloadName>,
        /// Only those in this state; may be repeated
        #[arg(long = "state", value_name = "STATE", value_parser = run_state)]
        states: Vec<RunState>,
        /// Only so many of the newest
        #[arg(long, value_name = "NUMBER", value_parser = count)]
        limit: Option<usize>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one run in full
    #[command(after_help = "Example: belay run show run_06cp9m2k2g000f0e1d2c3b4a50")]
    Show {
        run: RunId,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show what a run wrote
    #[command(after_help = "Example: belay run logs --follow run_06cp9m2k2g000f0e1d2c3b4a50")]
    Logs {
        run: RunId,
        /// Go on with lines as they are written, until the run is over
        #[arg(long, short)]
        follow: bool,
        /// Only so many of the newest lines
        #[arg(long, short = 'n', value_name = "NUMBER",
              value_parser = clap::value_parser!(u32).range(..=10_000))]
        tail: Option<u32>,
        /// With the time of each line
        #[arg(long, short)]
        timestamps: bool,
    },
    /// End a run, whatever it is in
    #[command(after_help = "Example: belay run cancel run_06cp9m2k2g000f0e1d2c3b4a50")]
    Cancel { run: RunId },
    /// Wait until a run is over and print its result
    #[command(after_help = "Example: belay run wait --timeout 5m run_06cp9m2k2g000f0e1d2c3b4a50")]
    Wait {
        run: RunId,
        /// Wait at most so long: 500ms, 30s, 5m, 2h
        #[arg(long, value_name = "TIME", value_parser = time)]
        timeout: Option<Duration>,
    },
}

/// What a run is submitted with.
#[derive(Debug, Clone, Args)]
pub(crate) struct NewRun {
    /// What it is about, as JSON
    #[arg(long, value_name = "JSON", value_parser = json, conflicts_with = "payload_file")]
    pub(crate) payload: Option<Value>,
    /// The same, from a file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Equal submissions under one key are one run
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(crate) key: Option<IdempotencyKey>,
    /// Greater ones go first
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i32,
    /// Not before so long has passed: 500ms, 30s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) delay: Option<Duration>,
    /// An attempt may execute so long, its waits apart
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) attempt_timeout: Option<Duration>,
    /// How many attempts it is worth
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_MAX_ATTEMPTS,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunnerVerb {
    /// List the runners that are connected or kept
    #[command(after_help = "Example: belay runner ls")]
    Ls(Listing),
    /// Make a token with which a runner that belayd does not start may connect
    #[command(after_help = "Example: belay runner token laptop --workload mailer --ttl 8h")]
    Token {
        /// The name under which it connects, one on the node
        runner: RunnerId,
        /// The workload whose runs it takes
        #[arg(long, value_name = "WORKLOAD")]
        workload: WorkloadName,
        /// How long it may connect with it [default: 720h]
        #[arg(long, value_name = "TIME", value_parser = time)]
        ttl: Option<Duration>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Make the tokens of a runner worthless; a connection that is open stays
    #[command(after_help = "Example: belay runner revoke laptop")]
    Revoke { runner: RunnerId },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WaitpointVerb {
    /// List what runs wait for until somebody completes it, the newest first
    #[command(after_help = "Example: belay waitpoint ls --state awaited")]
    Ls {
        /// Only those of this workload
        #[arg(long, value_name = "WORKLOAD")]
        workload: Option<WorkloadName>,
        /// Only those of this run
        #[arg(long, value_name = "RUN")]
        run: Option<RunId>,
        /// Only those in this state; may be repeated
        #[arg(long = "state", value_name = "STATE", value_parser = waitpoint_state)]
        states: Vec<WaitpointState>,
        /// Only so many of the newest
        #[arg(long, value_name = "NUMBER", value_parser = count)]
        limit: Option<usize>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Complete a waitpoint, so that its run goes on
    #[command(
        after_help = r#"Example: belay waitpoint complete wait_06cp9m34hg000vqtrs6e5c4b20 --output {"ok":true}"#
    )]
    Complete {
        waitpoint: WaitpointId,
        /// What the run is told, as JSON [default: null]
        #[arg(long, value_name = "JSON", value_parser = json)]
        output: Option<Value>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointVerb {
    /// List the runners that wait on the disk
    #[command(after_help = "Example: belay checkpoint ls")]
    Ls(Listing),
    /// Remove one; the run that waits in it is tried again from the start
    #[command(after_help = "Example: belay checkpoint rm run-06cp9m2k2g000f0e1d2c3b4a50-1")]
    Rm { runner: RunnerId },
    /// Give a run up to another node: write all of it to a file that only that node takes
    #[command(
        after_help = "Example: belay checkpoint export run-06cp9m2k2g000f0e1d2c3b4a50-1 --to edge-2 > trip"
    )]
    Export {
        runner: RunnerId,
        /// The node that is to take it
        #[arg(long, value_name = "NODE")]
        to: NodeId,
        /// Write to this file, which must not be there, instead of standard output
        #[arg(long = "file", short = 'f', value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Take a run over that another node has exported for this one
    #[command(after_help = "Example: belay checkpoint import --check trip")]
    Import {
        /// The file; - is standard input
        file: PathBuf,
        /// Only say whether it would be taken
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Take a run back that was exported and that no node has imported or ever will
    #[command(
        after_help = "Example: belay checkpoint reclaim run-06cp9m2k2g000f0e1d2c3b4a50-1 --yes"
    )]
    Reclaim {
        runner: RunnerId,
        /// It is certain that its archive was not imported, and that nobody will import it
        #[arg(long)]
        yes: bool,
    },
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("this is not JSON: {error}"))
}

fn key(text: &str) -> Result<IdempotencyKey, String> {
    IdempotencyKey::try_from(text.to_owned()).map_err(|error| error.to_string())
}

fn count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=PAGE_LIMIT).contains(number));
    number.ok_or_else(|| format!("expected a number from 1 to {PAGE_LIMIT}"))
}

fn run_state(text: &str) -> Result<RunState, String> {
    let found = RunState::ALL.iter().find(|state| state.as_str() == text);
    let words = || RunState::ALL.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(", ");
    found.copied().ok_or_else(|| format!("expected one of {}", words()))
}

fn waitpoint_state(text: &str) -> Result<WaitpointState, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "expected one of awaited, open, completed, abandoned".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Verb};
    use super::*;

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.verb)
    }

    #[test]
    fn a_submission_has_what_it_needs_by_default() {
        let Ok(Verb::Run(RunVerb::Submit { run, wait, .. })) = parse("belay run submit mailer")
        else {
            panic!("it parses");
        };
        assert!(run.payload.is_none() && run.key.is_none() && !wait);
        assert_eq!((run.priority, run.max_attempts), (0, 3));
        let all = "belay run submit mailer --payload [1] --key a --priority -7 --delay 5m \
                   --attempt-timeout 30s --max-attempts 1 --wait";
        let Ok(Verb::Run(RunVerb::Submit { run, wait, .. })) = parse(all) else {
            panic!("it parses");
        };
        assert_eq!(run.payload, Some(serde_json::json!([1])));
        assert_eq!((run.priority, run.max_attempts, wait), (-7, 1, true));
        assert_eq!(run.delay, Some(Duration::from_secs(300)));
        assert_eq!(run.attempt_timeout, Some(Duration::from_secs(30)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_could() {
        let id = "run_06cp9m2k2g000f0e1d2c3b4a50";
        for (line, words) in [
            ("belay run submit mailer --payload {", "this is not JSON"),
            ("belay run submit mailer --payload 1 --payload-file x", "cannot be used with"),
            ("belay run submit mailer --max-attempts 0", "0 is not in 1.."),
            ("belay run submit mailer --delay 5", "with its unit"),
            ("belay run ls --state done", "expected one of queued, assigned"),
            ("belay run ls --limit 501", "from 1 to 500"),
            ("belay run show 17", "is not a run id"),
            (&format!("belay waitpoint complete {id}"), "is not a waitpoint id"),
            ("belay waitpoint ls --state waiting", "expected one of awaited"),
            ("belay runner token laptop", "--workload"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
        let long = format!("belay run submit mailer --key {}", "k".repeat(256));
        assert!(parse(&long).expect_err("too long").to_string().contains("1 to 255 bytes"));
    }
}
