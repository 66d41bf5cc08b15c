use super::*;

const RULES: GateRules = GateRules {
    consecutive: 3,
    interval: Duration::from_millis(500),
    stable: Duration::from_secs(1),
    budget: Duration::from_secs(30),
};

fn seen(class: Class) -> Observation {
    Observation::new(class, format!("{class:?}"))
}

/// Feeds a script of observations, each taking `cost`, and says how it ended and when.
fn run(
    rules: GateRules,
    script: &[(&str, Class)],
    cost: Duration,
) -> (GateVerdict, Duration, Gate) {
    let origin = Duration::from_secs(100);
    let mut now = origin;
    let mut gate = Gate::new(rules, now, "a".into());
    let mut script = script.iter().cycle();
    loop {
        let (incarnation, class) = script.next().expect("a script is not empty");
        now = (now + cost).min(gate.cap());
        let mut verdict = gate.observe(now, incarnation, seen(*class));
        if let GateVerdict::EndsAt(at) = verdict {
            now = at;
            verdict = gate.expire(now);
        }
        match verdict {
            GateVerdict::ProbeAt(at) => now = at,
            verdict => return (verdict, now.saturating_sub(origin), gate),
        }
    }
}

#[test]
fn three_good_in_a_row_are_ready_after_one_second() {
    let (verdict, after, _) = run(RULES, &[("a", Class::Good)], Duration::ZERO);
    assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_secs(1)));
}

#[test]
fn good_observations_must_span_the_stable_time() {
    let quick = GateRules { interval: Duration::from_millis(100), ..RULES };
    let (verdict, after, gate) = run(quick, &[("a", Class::Good)], Duration::ZERO);
    assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_secs(1)));
    assert_eq!(gate.good(), 11);
    let at_once = GateRules { consecutive: 1, stable: Duration::ZERO, ..quick };
    let (verdict, after, _) = run(at_once, &[("a", Class::Good)], Duration::ZERO);
    assert_eq!((verdict, after), (GateVerdict::Ready, Duration::ZERO));
}

#[test]
fn anything_else_starts_the_count_and_the_stable_time_again() {
    use Class::{Failing, Good, Inconclusive};
    let script: Vec<_> = [Good, Good, Failing, Good, Good, Inconclusive, Good, Good, Good]
        .map(|class| ("a", class))
        .into();
    let (verdict, after, _) = run(RULES, &script, Duration::ZERO);
    assert_eq!((verdict, after), (GateVerdict::Ready, Duration::from_secs(4)));
}

#[test]
fn a_restart_during_the_wait_starts_the_count_again() {
    let mut gate = Gate::new(RULES, Duration::ZERO, "a".into());
    for (incarnation, second) in [("a", 1), ("a", 2), ("b", 3)] {
        gate.observe(Duration::from_secs(second), incarnation, seen(Class::Good));
    }
    assert_eq!(gate.good(), 1);
    let report = gate.report(Duration::from_secs(2)).to_string();
    assert!(report.contains(", 1 restarts)") && report.ends_with("; process b"), "{report}");
    let verdict = gate.observe(Duration::from_secs(4), "b", seen(Class::Good));
    assert_eq!(verdict, GateVerdict::ProbeAt(Duration::from_millis(4500)));
    let verdict = gate.observe(Duration::from_secs(5), "b", seen(Class::Good));
    assert_eq!(verdict, GateVerdict::Ready);
}

#[test]
fn the_cap_is_exact_however_long_a_probe_takes() {
    for cost in [0, 1, 130, 499, 2000] {
        for class in [Class::Failing, Class::Inconclusive] {
            let (verdict, after, _) = run(RULES, &[("a", class)], Duration::from_millis(cost));
            assert_eq!((verdict, after), (GateVerdict::TimedOut, RULES.budget), "{cost} {class:?}");
        }
    }
}

#[test]
fn a_wait_that_timed_out_tells_all_that_it_saw() {
    let script = [("0123456789abcdef@t/7", Class::Inconclusive)];
    let (_, _, gate) = run(RULES, &script, Duration::from_secs(2));
    assert_eq!(
        gate.report(Duration::from_secs(130)).to_string(),
        "not ready in time: 0 of 3 good observations in a row after 30.0 s of 30 s (0 good, 0 not \
         yet, 12 inconclusive, 1 restarts); last seen: Inconclusive, Inconclusive, Inconclusive; \
         process 0123456789ab@t/7"
    );
}

#[test]
fn what_can_never_become_ready_ends_the_wait_at_once() {
    let script = [("a", Class::Good), ("a", Class::Good), ("a", Class::Never)];
    let (verdict, after, mut gate) = run(RULES, &script, Duration::ZERO);
    assert_eq!((verdict, after), (GateVerdict::Never, Duration::from_secs(1)));
    assert_eq!(gate.expire(Duration::from_secs(200)), GateVerdict::Never, "it stays so");
    let report = gate.report(Duration::from_secs(101)).to_string();
    assert!(report.starts_with("it can never become ready: 0 of 3"), "{report}");
}

#[test]
fn two_good_and_one_not_for_ever_is_never_ready() {
    let script = [("a", Class::Good), ("a", Class::Good), ("a", Class::Failing)];
    assert_eq!(run(RULES, &script, Duration::ZERO).0, GateVerdict::TimedOut);
}

#[test]
fn good_after_the_cap_is_not_ready() {
    let mut gate = Gate::new(RULES, Duration::ZERO, "a".into());
    let late = Duration::from_secs(31);
    for _ in 0..5 {
        assert_eq!(gate.observe(late, "a", seen(Class::Good)), GateVerdict::TimedOut);
    }
}

proptest::proptest! {
    /// Ready is said only after N good observations of one incarnation that span the stable time,
    /// with nothing else between them, whatever the script.
    #[test]
    fn ready_is_never_said_too_early(
        script in proptest::collection::vec((0_u8..2, 0_u8..3, 0_u64..700), 1..200),
    ) {
        let mut now = Duration::ZERO;
        let mut gate = Gate::new(RULES, now, "0".into());
        let mut run: Vec<Duration> = Vec::new();
        let mut of = 0;
        for (incarnation, class, cost) in script {
            now += Duration::from_millis(cost);
            let class = [Class::Good, Class::Failing, Class::Inconclusive][usize::from(class)];
            if incarnation != of {
                of = incarnation;
                run.clear();
            }
            if class == Class::Good { run.push(now) } else { run.clear() }
            let enough = run.len() >= 3 && now.saturating_sub(run[0]) >= RULES.stable && now <= RULES.budget;
            let verdict = gate.observe(now, &incarnation.to_string(), seen(class));
            proptest::prop_assert_eq!(verdict == GateVerdict::Ready, enough);
            match verdict {
                GateVerdict::ProbeAt(at) => {
                    proptest::prop_assert!(at < RULES.budget);
                    now = at;
                }
                _ => break,
            }
        }
    }
}
