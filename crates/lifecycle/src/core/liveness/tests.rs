use super::*;

const RULES: LiveRules = LiveRules {
    interval: Duration::from_secs(10),
    failures: 3,
    successes: 1,
    start_period: Duration::from_secs(300),
};

fn seen(class: Class) -> Observation {
    Observation::new(class, format!("{class:?}"))
}

/// Observes once every ten seconds and collects what changed, with the number of the observation.
fn run(live: &mut Liveness, script: &[Class]) -> Vec<(usize, Health)> {
    let mut changes = Vec::new();
    for (number, class) in script.iter().enumerate() {
        let now = Duration::from_secs(10 * (number as u64 + 1));
        changes.extend(live.observe(now, seen(*class)).map(|health| (number + 1, health)));
    }
    changes
}

fn ready() -> Liveness {
    Liveness::new(RULES, Duration::ZERO, "a".into(), Past::Ready)
}

#[test]
fn three_definite_failures_in_a_row_make_it_unhealthy() {
    use Class::{Failing, Good};
    let mut live = ready();
    let script = [Failing, Failing, Good, Failing, Failing, Failing, Failing, Good];
    assert_eq!(run(&mut live, &script), [(6, Health::Unhealthy), (8, Health::Alive)]);
    let mut live = ready();
    run(&mut live, &[Failing, Failing]);
    assert!(!live.is_failed() && live.health() == Health::Alive, "two are not enough");
    live.observe(Duration::from_secs(30), seen(Failing));
    assert!(live.is_failed());
    assert_eq!(
        live.report().to_string(),
        "3 failures in a row, 3 make it unhealthy (0 good, 3 failing, 0 inconclusive); last seen: \
         Failing, Failing, Failing; process a"
    );
}

#[test]
fn what_could_not_be_told_neither_counts_nor_forgives() {
    use Class::{Failing, Inconclusive};
    let mut live = ready();
    let script = [Failing, Inconclusive, Failing, Inconclusive];
    assert_eq!(run(&mut live, &script), []);
    let mut live = ready();
    let script = [Failing, Inconclusive, Failing, Inconclusive, Failing];
    assert_eq!(run(&mut live, &script), [(5, Health::Unhealthy)]);
}

#[test]
fn a_minute_of_nothing_definite_is_shown_and_does_nothing() {
    use Class::{Failing, Good, Inconclusive};
    let mut live = ready();
    let script: Vec<_> = [Inconclusive; 8].into_iter().chain([Good]).collect();
    assert_eq!(run(&mut live, &script), [(6, Health::Unknown), (9, Health::Alive)]);

    let mut live = ready();
    let script: Vec<_> = [Inconclusive; 500].into();
    assert_eq!(run(&mut live, &script), [(6, Health::Unknown)]);
    assert!(!live.is_failed(), "never a restart by itself");

    // What was known before stays what decides once something can be told again.
    let mut live = ready();
    let script: Vec<_> =
        [Failing; 3].into_iter().chain([Inconclusive; 6]).chain([Failing]).collect();
    let changes = [(3, Health::Unhealthy), (9, Health::Unknown), (10, Health::Unhealthy)];
    assert_eq!(run(&mut live, &script), changes);
}

#[test]
fn a_process_that_never_was_good_is_left_alone_for_its_start_period() {
    let past = Past::Starting(Duration::ZERO);
    let mut live = Liveness::new(RULES, Duration::ZERO, "a".into(), past);
    let script = [Class::Failing; 40];
    // The observations at 300, 310 and 320 s count.
    assert_eq!(run(&mut live, &script), [(32, Health::Unhealthy)]);

    let mut live = Liveness::new(RULES, Duration::ZERO, "a".into(), past);
    let script = [
        Class::Failing,
        Class::Failing,
        Class::Good,
        Class::Failing,
        Class::Failing,
        Class::Failing,
    ];
    let changes = [(3, Health::Alive), (6, Health::Unhealthy)];
    assert_eq!(run(&mut live, &script), changes, "its first good answer ends the period");
}

#[test]
fn successes_in_a_row_are_needed_to_be_well_again() {
    use Class::{Failing, Good};
    let rules = LiveRules { successes: 2, ..RULES };
    let mut live = Liveness::new(rules, Duration::ZERO, "a".into(), Past::Ready);
    let script = [Failing, Failing, Failing, Good, Failing, Good, Good];
    assert_eq!(run(&mut live, &script), [(3, Health::Unhealthy), (7, Health::Alive)]);
    let mut live = Liveness::new(rules, Duration::ZERO, "a".into(), Past::Ready);
    run(&mut live, &script[..4]);
    assert!(!live.is_failed(), "one that has just answered well is not restarted");
}

#[test]
fn an_unhealthy_verdict_of_before_is_kept_and_confirmed_before_anything_is_done() {
    let past = Past::Unhealthy;
    let mut live = Liveness::new(RULES, Duration::ZERO, "a".into(), past);
    assert_eq!(live.health(), Health::Unhealthy);
    assert!(!live.is_failed());
    let mut well = live.clone();
    assert_eq!(run(&mut live, &[Class::Failing]), []);
    assert!(live.is_failed());
    assert_eq!(run(&mut well, &[Class::Inconclusive, Class::Good]), [(2, Health::Alive)]);
}

proptest::proptest! {
    #[test]
    fn jitter_stays_within_a_tenth(chance in 0.0_f64..=1.0) {
        let next = ready().next(Duration::from_secs(7), chance).as_secs_f64();
        proptest::prop_assert!((16.0..=18.0).contains(&next));
    }
}
