//! The command line.

use std::collections::BTreeSet;
use std::fmt;

use super::suite::{Counts, Tier};

/// What `cargo xtask help` prints.
pub(crate) const USAGE: &str = "\
Usage: cargo xtask COMMAND

  setup [--yes]            check this host, install what is missing, configure the engine
  demo  [--yes] [-- ARG..] setup, build, and run `belay demo ARG..`
  test  [--full] [--tier lint|unit|integration|e2e]..
                           setup, every check and every test, and that nothing is left behind
  fuzz  TARGET [--seconds N|--distil]
                           look for input that a parser does not stand (docs/testing.md)
  help                     this text

  --yes   agree to changes of the host; without it they are asked for on a terminal
  --full  the counts of a night (kills, cycles, interleavings) instead of the gate's
  --tier  only these; it may be given more than once
  --seconds  how long to look, 60 unless told
  --distil   keep in the corpus what is needed to reach all code that was reached
";

/// May the host be changed?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// It was given on the command line.
    Given,
    /// Ask on the terminal, if there is one.
    Ask,
}

/// What is done with a target of the fuzzer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FuzzRun {
    /// Look for new input.
    Search { seconds: u64 },
    /// Make the corpus small.
    Distil,
}

/// The targets of the fuzzer, as `tests/fuzz` has them.
const TARGETS: [&str; 8] =
    ["request", "record", "ack", "root", "manifest", "pack", "archive", "import"];
/// How long is searched unless told.
const SECONDS: u64 = 60;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invocation {
    Help,
    Setup { consent: Consent },
    Demo { consent: Consent, demo_args: Vec<String> },
    Test { tiers: BTreeSet<Tier>, counts: Counts },
    Fuzz { target: String, run: FuzzRun },
}

/// A command line that means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InvocationError {
    NoCommand,
    UnknownCommand(String),
    UnknownArgument { command: &'static str, argument: String },
    NoTier,
    UnknownTier(String),
    NoTarget,
    UnknownTarget(String),
    NoSeconds,
}

impl fmt::Display for InvocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => write!(f, "no command was given"),
            Self::UnknownCommand(command) => write!(f, "`{command}` is not a command"),
            Self::UnknownArgument { command, argument } => {
                write!(f, "`{command}` does not take `{argument}`")
            }
            Self::NoTier => write!(f, "`--tier` needs a name"),
            Self::UnknownTier(tier) => {
                write!(f, "`{tier}` is not a tier: lint, unit, integration, e2e")
            }
            Self::NoTarget => write!(f, "`fuzz` needs a target: {}", TARGETS.join(", ")),
            Self::UnknownTarget(target) => {
                write!(f, "`{target}` is not a target: {}", TARGETS.join(", "))
            }
            Self::NoSeconds => write!(f, "`--seconds` needs a number"),
        }
    }
}

impl std::error::Error for InvocationError {}

/// Parses the arguments after the program's name.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = String>,
) -> Result<Invocation, InvocationError> {
    let mut arguments = arguments.into_iter();
    let command = arguments.next().ok_or(InvocationError::NoCommand)?;
    match command.as_str() {
        "help" | "--help" | "-h" => Ok(Invocation::Help),
        "setup" => parse_setup(arguments),
        "demo" => parse_demo(arguments),
        "test" => parse_test(arguments),
        "fuzz" => parse_fuzz(arguments),
        _ => Err(InvocationError::UnknownCommand(command)),
    }
}

fn parse_setup(arguments: impl Iterator<Item = String>) -> Result<Invocation, InvocationError> {
    let mut consent = Consent::Ask;
    for argument in arguments {
        match argument.as_str() {
            "--yes" | "-y" => consent = Consent::Given,
            _ => return Err(InvocationError::UnknownArgument { command: "setup", argument }),
        }
    }
    Ok(Invocation::Setup { consent })
}

fn parse_demo(mut arguments: impl Iterator<Item = String>) -> Result<Invocation, InvocationError> {
    let mut consent = Consent::Ask;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--yes" | "-y" => consent = Consent::Given,
            "--" => return Ok(Invocation::Demo { consent, demo_args: arguments.collect() }),
            _ => return Err(InvocationError::UnknownArgument { command: "demo", argument }),
        }
    }
    Ok(Invocation::Demo { consent, demo_args: Vec::new() })
}

fn parse_test(mut arguments: impl Iterator<Item = String>) -> Result<Invocation, InvocationError> {
    let mut tiers = BTreeSet::new();
    let mut counts = Counts::Gate;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--full" => counts = Counts::Full,
            "--tier" => {
                let name = arguments.next().ok_or(InvocationError::NoTier)?;
                let tier = Tier::ALL.into_iter().find(|tier| tier.name() == name);
                tiers.insert(tier.ok_or(InvocationError::UnknownTier(name))?);
            }
            _ => return Err(InvocationError::UnknownArgument { command: "test", argument }),
        }
    }
    if tiers.is_empty() {
        tiers.extend(Tier::ALL);
    }
    Ok(Invocation::Test { tiers, counts })
}

fn parse_fuzz(mut arguments: impl Iterator<Item = String>) -> Result<Invocation, InvocationError> {
    let target = arguments.next().filter(|target| !target.starts_with('-'));
    let target = target.ok_or(InvocationError::NoTarget)?;
    if !TARGETS.contains(&target.as_str()) {
        return Err(InvocationError::UnknownTarget(target));
    }
    let mut run = FuzzRun::Search { seconds: SECONDS };
    while let Some(argument) = arguments.next() {
        run = match argument.as_str() {
            "--seconds" => {
                let seconds = arguments.next().and_then(|text| text.parse().ok());
                FuzzRun::Search { seconds: seconds.ok_or(InvocationError::NoSeconds)? }
            }
            "--distil" => FuzzRun::Distil,
            _ => return Err(InvocationError::UnknownArgument { command: "fuzz", argument }),
        };
    }
    Ok(Invocation::Fuzz { target, run })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, InvocationError> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_readme_commands_are_understood() {
        assert_eq!(
            parsed("demo"),
            Ok(Invocation::Demo { consent: Consent::Ask, demo_args: Vec::new() })
        );
        assert_eq!(
            parsed("test"),
            Ok(Invocation::Test { tiers: Tier::ALL.into(), counts: Counts::Gate })
        );
    }

    #[test]
    fn tiers_add_up_and_counts_are_chosen() {
        assert_eq!(
            parsed("test --tier e2e --full --tier unit"),
            Ok(Invocation::Test { tiers: [Tier::Unit, Tier::E2e].into(), counts: Counts::Full })
        );
    }

    #[test]
    fn the_demo_gets_what_follows_the_dashes() {
        assert_eq!(
            parsed("demo --yes -- --once -v"),
            Ok(Invocation::Demo {
                consent: Consent::Given,
                demo_args: vec!["--once".to_owned(), "-v".to_owned()]
            })
        );
    }

    #[test]
    fn a_target_is_searched_or_its_corpus_made_small() {
        let fuzz = |run| Ok(Invocation::Fuzz { target: "pack".to_owned(), run });
        assert_eq!(parsed("fuzz pack"), fuzz(FuzzRun::Search { seconds: SECONDS }));
        assert_eq!(parsed("fuzz pack --seconds 600"), fuzz(FuzzRun::Search { seconds: 600 }));
        assert_eq!(parsed("fuzz pack --distil"), fuzz(FuzzRun::Distil));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(parsed(""), Err(InvocationError::NoCommand));
        for (line, words) in [
            ("tset", "`tset`"),
            ("setup --force", "`--force`"),
            ("demo --full", "`--full`"),
            ("test --tier", "needs a name"),
            ("test --tier slow", "`slow`"),
            ("fuzz", "needs a target"),
            ("fuzz --seconds 5", "needs a target"),
            ("fuzz packs", "`packs` is not a target: request, record, ack, root, manifest, pack"),
            ("fuzz pack --seconds soon", "needs a number"),
            ("fuzz pack --full", "`--full`"),
        ] {
            let message = parsed(line).expect_err(line).to_string();
            assert!(message.contains(words), "{line}: {message}");
        }
    }
}
