//! What `cargo xtask test` runs, in which order, and for how long at most.
//!
//! Every step that compiles selects the whole workspace, and filters afterwards: selecting packages
//! would select features too, and build the dependencies once per selection.

use std::collections::BTreeSet;
use std::time::Duration;

/// A group of checks that can be asked for alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Format, lints, licences and sources of dependencies.
    Lint,
    /// Tests inside the crates, documentation examples.
    Unit,
    /// Tests of each crate against real loop devices, engines and files, and the house rules.
    Integration,
    /// The daemon and the command as a whole.
    E2e,
}

impl Tier {
    pub(crate) const ALL: [Self; 4] = [Self::Lint, Self::Unit, Self::Integration, Self::E2e];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Integration => "integration",
            Self::E2e => "e2e",
        }
    }
}

/// How often the repeating tests repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Within an hour on two cores, the build included.
    Gate,
    /// Every kill, cycle and interleaving; hours.
    Full,
}

/// The variable that tells the tests about [`Counts::Full`], as its value `full`.
pub(crate) const COUNTS_VARIABLE: &str = "BELAY_TEST_COUNTS";

/// All of a gate run.
pub(crate) const GATE_BUDGET: Duration = Duration::from_mins(58);
/// All of a full run.
pub(crate) const FULL_BUDGET: Duration = Duration::from_hours(12);

/// What runs the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    Nextest,
    CargoTest,
}

/// The program of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Cargo,
    /// cargo-deny of the pinned version.
    CargoDeny,
}

/// One child process of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) tool: Tool,
    pub(crate) arguments: Vec<&'static str>,
    pub(crate) deadline: Duration,
}

/// The package of the end to end tests.
const E2E: &str = "belay-e2e";

/// The steps that make up `tiers`, in order.
pub(crate) fn steps(tiers: &BTreeSet<Tier>, counts: Counts, runner: Runner) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut cargo = |name, deadline, arguments: &[&'static str]| {
        let arguments = arguments.to_vec();
        steps.push(Step { name, tool: Tool::Cargo, arguments, deadline });
    };
    let build = Duration::from_mins(40);
    let tests = match counts {
        Counts::Gate => Duration::from_mins(30),
        Counts::Full => Duration::from_hours(6),
    };

    if tiers.contains(&Tier::Lint) {
        cargo("format", Duration::from_mins(2), &["fmt", "--all", "--check"]);
        cargo(
            "lints",
            build,
            &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        );
    }
    if tiers.iter().any(|tier| *tier != Tier::Lint) {
        // The binaries too: the end to end tests run them, and cargo does not build the binaries
        // of one package for the tests of another.
        cargo("build", build, &["build", "--workspace", "--all-targets", "--locked"]);
    }
    match runner {
        Runner::Nextest => {
            let run = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast"];
            let mut nextest = |name, filter| {
                cargo(name, tests, &[run.as_slice(), &["--filterset", filter]].concat());
            };
            if tiers.contains(&Tier::Unit) {
                nextest("unit tests", "kind(lib) + kind(bin)");
            }
            if tiers.contains(&Tier::Integration) {
                nextest("integration tests", "kind(test) - package(belay-e2e)");
            }
            if tiers.contains(&Tier::E2e) {
                nextest("end to end tests", "kind(test) & package(belay-e2e)");
            }
        }
        Runner::CargoTest => {
            let run = ["test", "--workspace", "--locked", "--no-fail-fast"];
            if tiers.contains(&Tier::Unit) {
                cargo("unit tests", tests, &[run.as_slice(), &["--lib", "--bins"]].concat());
            }
            let select: &[_] =
                match (tiers.contains(&Tier::Integration), tiers.contains(&Tier::E2e)) {
                    (true, true) => &["--test", "*"],
                    (true, false) => &["--exclude", E2E, "--test", "*"],
                    (false, true) => &["--package", E2E, "--test", "*"],
                    (false, false) => &[],
                };
            if !select.is_empty() {
                let run: &[_] = if select.contains(&"--package") {
                    &["test", "--locked", "--no-fail-fast"]
                } else {
                    &run
                };
                cargo("integration and end to end tests", tests, &[run, select].concat());
            }
        }
    }
    if tiers.contains(&Tier::Unit) {
        cargo("documentation examples", tests, &["test", "--workspace", "--locked", "--doc"]);
    }
    if tiers.contains(&Tier::Lint) {
        steps.push(Step {
            name: "licences, bans, sources",
            tool: Tool::CargoDeny,
            arguments: vec![
                "--locked",
                "--config",
                ".deny.toml",
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ],
            deadline: Duration::from_mins(3),
        });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tiers: &[Tier], runner: Runner) -> Vec<&'static str> {
        let tiers = tiers.iter().copied().collect();
        steps(&tiers, Counts::Gate, runner).into_iter().map(|step| step.name).collect()
    }

    #[test]
    fn a_whole_run_leaves_nothing_out() {
        let nextest = names(&Tier::ALL, Runner::Nextest);
        assert_eq!(
            nextest,
            [
                "format",
                "lints",
                "build",
                "unit tests",
                "integration tests",
                "end to end tests",
                "documentation examples",
                "licences, bans, sources"
            ]
        );
        let plain = names(&Tier::ALL, Runner::CargoTest);
        assert!(plain.contains(&"integration and end to end tests"), "{plain:?}");
        assert_eq!(plain.len(), nextest.len() - 1);
    }

    #[test]
    fn lints_alone_build_no_tests() {
        let lint = names(&[Tier::Lint], Runner::Nextest);
        assert_eq!(lint, ["format", "lints", "licences, bans, sources"]);
    }

    #[test]
    fn one_tier_runs_its_tests_only() {
        assert_eq!(names(&[Tier::E2e], Runner::Nextest), ["build", "end to end tests"]);
        assert_eq!(
            names(&[Tier::Unit], Runner::CargoTest),
            ["build", "unit tests", "documentation examples"]
        );
        for (tier, words) in [
            (Tier::E2e, ["--package", "belay-e2e"]),
            (Tier::Integration, ["--exclude", "belay-e2e"]),
        ] {
            let steps = steps(&[tier].into(), Counts::Gate, Runner::CargoTest);
            let arguments = &steps[1].arguments;
            assert!(arguments.windows(2).any(|pair| pair == words), "{arguments:?}");
            let both = arguments.contains(&"--package") && arguments.contains(&"--workspace");
            assert!(!both, "cargo ignores --package beside --workspace: {arguments:?}");
        }
    }

    #[test]
    fn every_cargo_step_keeps_the_lock_file() {
        for runner in [Runner::Nextest, Runner::CargoTest] {
            for step in steps(&Tier::ALL.into(), Counts::Full, runner) {
                let exempt = step.name == "format";
                assert!(exempt || step.arguments.contains(&"--locked"), "{step:?}");
            }
        }
    }
}
