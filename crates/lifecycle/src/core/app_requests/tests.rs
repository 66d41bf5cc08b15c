use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::super::spec::parse as parse_spec;
use super::*;

fn spec(rest: &str) -> WorkloadSpec {
    let text = format!(
        "name = \"web\"\nimage = \"x\"\n{rest}\n[volumes.data]\nsize = \"16M\"\nmount = \"/data\"\n\
         [volumes.keys]\nsize = \"16M\"\nmount = \"/keys\"\napp_reset = false"
    );
    parse_spec(&text, "web.toml", Path::new("/")).expect("a good spec")
}

fn overrides(body: &Value) -> Result<OverridesPlan, Refused> {
    let in_force = [("OLD".to_owned(), "1".to_owned())].into();
    judge_overrides(body.to_string().as_bytes(), &spec(""), &in_force)
}

fn reset(body: &Value) -> Result<ResetPlan, Refused> {
    judge_reset(body.to_string().as_bytes(), &spec(""))
}

#[test]
fn overrides_are_merged_and_every_value_becomes_a_text() {
    let plan = overrides(&json!({
        "schema_version": 1, "request_id": "r", "remove": ["OLD", "OLD", "ABSENT"],
        "set": {"TEXT": "a=b\n\u{e9}", "EMPTY": "", "N": 4.5, "YES": true, "LIST": [1, "x"],
                "MAP": {"b": 1, "a": null}},
    }))
    .expect("is lawful");
    let merged: Vec<_> = plan.merged.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let map = "MAP={\"a\":null,\"b\":1}";
    assert_eq!(merged, ["EMPTY=", "LIST=[1,\"x\"]", map, "N=4.5", "TEXT=a=b\n\u{e9}", "YES=true"]);
    assert_eq!((plan.removed, plan.apply), (vec!["OLD".into()], OverridesApply::NextRestart));
    assert_eq!(plan.request_id.as_deref(), Some("r"));
}

#[test]
fn every_fault_of_overrides_is_named_and_no_value_is_repeated() {
    let refused = overrides(&json!({
        "schema_version": 2, "request_id": "r", "remove": ["BOTH", "1X"],
        "set": {"BOTH": "hush", "A-B": "hush", "R1_X": "hush", "BELAY_X": 1, "EE_A": 1,
                "R1EN_B": 1, "HOST_URL": 1, "NONE": null, "NUL": "hush\u{0}"},
    }))
    .expect_err("has faults");
    for words in [
        "schema_version is 2, expected 1",
        "\"BOTH\" is both set and removed",
        "\"1X\" is not a name",
        "\"A-B\" is not a name",
        "\"R1_X\" is reserved",
        "\"BELAY_X\" is reserved",
        "\"EE_A\" is reserved",
        "\"R1EN_B\" is reserved",
        "\"HOST_URL\" is reserved",
        "the value of \"NONE\" is null",
        "the value of \"NUL\" has a NUL",
    ] {
        assert!(refused.error.contains(words), "{words} in {}", refused.error);
    }
    assert!(!refused.error.contains("hush"), "{}", refused.error);
    assert_eq!((refused.request_id.as_deref(), refused.unfinished), (Some("r"), false));
    for (wrong, words) in [
        (json!({"schema_version": 1, "apply": "hush"}), "unknown variant"),
        (json!({"schema_version": "hush"}), "invalid type, expected u64"),
        (json!({"schema_version": 1, "set": ["hush"]}), "invalid type, expected a map"),
        (json!({"schema_version": 1, "sett": {}}), "unknown field `sett`"),
        (json!([1]), "not a JSON object"),
    ] {
        let refused = overrides(&wrong).expect_err("is refused");
        assert!(refused.error.contains(words), "{words} in {}", refused.error);
        assert!(!refused.unfinished);
    }
    let twice = b"{\"schema_version\":1,\"schema_version\":1}";
    let refused = judge_overrides(twice, &spec(""), &BTreeMap::new()).expect_err("is refused");
    assert!(refused.error.contains("duplicate field"), "{}", refused.error);
}

#[test]
fn what_is_too_large_too_deep_or_half_written_is_refused() {
    let large = json!({"schema_version": 1, "set": {"A": "x".repeat(MOST_BYTES)}});
    assert!(overrides(&large).expect_err("large").error.contains("larger than 65536 bytes"));
    let brim: BTreeMap<String, String> = [("A".to_owned(), "x".repeat(60_000))].into();
    let more = json!({"schema_version": 1, "set": {"B": "y".repeat(60_000)}});
    let refused = judge_overrides(more.to_string().as_bytes(), &spec(""), &brim);
    assert!(refused.expect_err("in all").error.contains("more than 65536 bytes in all"));
    let deep = format!("{}1{}", "[".repeat(30_000), "]".repeat(30_000));
    let deep = format!("{{\"schema_version\":1,\"set\":{{\"A\":{deep}}}}}");
    assert!(judge_overrides(deep.as_bytes(), &spec(""), &BTreeMap::new()).is_err());
    let half = judge_overrides(b"{\"schema_version\": 1, \"set\": {\"A\": \"hu", &spec(""), &brim);
    let half = half.expect_err("half");
    assert!(
        half.unfinished && half.error == "the request is not JSON, at line 1 column 38",
        "{half:?}"
    );
    assert!(judge_overrides(b"\xff", &spec(""), &brim).expect_err("no text").unfinished);
}

#[test]
fn a_reset_takes_only_volumes_that_the_spec_lets_it() {
    let all = reset(&json!({"schema_version": 1})).expect("is lawful");
    let names: Vec<_> = all.volumes.iter().map(VolumeName::as_str).collect();
    assert_eq!(names, ["data"], "all that it may");
    let twice = json!({"schema_version": 1, "volumes": ["data", "data"], "request_id": "r"});
    assert_eq!(reset(&twice).expect("is lawful").volumes.len(), 1);
    let wrong = json!({
        "schema_version": 1, "preserve": {"env_overrides": false},
        "volumes": ["keys", "system", "absent", "../data", "/data", ""],
    });
    let refused = reset(&wrong).expect_err("is refused").error;
    for words in [
        "preserve.env_overrides is always true",
        "does not let the app reset volume keys",
        "\"system\" is no volume of this workload",
        "\"absent\" is no volume",
        "\"../data\" is no volume",
        "\"/data\" is no volume",
        "\"\" is no volume",
    ] {
        assert!(refused.contains(words), "{words} in {refused}");
    }
    let none = json!({"schema_version": 1, "volumes": []});
    assert_eq!(reset(&none).expect_err("is refused").error, "there is no volume to reset");
}

#[test]
fn a_spec_can_forbid_both() {
    let spec = spec("app_requests = { env_overrides = false, reset = false }");
    let body = b"{\"schema_version\":1}";
    let refused = judge_reset(body, &spec).expect_err("is refused").error;
    assert_eq!(refused, "the spec of this workload does not let it reset its volumes");
    let refused = judge_overrides(body, &spec, &BTreeMap::new()).expect_err("is refused").error;
    assert_eq!(refused, "the spec of this workload does not let it override its environment");
}

#[test]
fn an_app_that_asks_again_and_again_waits_longer_each_time() {
    let mut now = Timestamp::from_second(1_700_000_000).expect("in range");
    let mut pace = Pace::default();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let wait = pace.wait(now);
        waits.push(wait.as_secs());
        now = now.checked_add(jiff::SignedDuration::try_from(wait).expect("short")).expect("soon");
        pace = pace.after(now);
    }
    assert_eq!(waits, [0, 5, 10, 20, 40, 80, 160, 320, 600]);
    let later = now.checked_add(jiff::SignedDuration::from_secs(6_000)).expect("in range");
    assert_eq!(pace.after(later).count, 1, "a quiet time is remembered in its favour");
    let before = now.checked_add(jiff::SignedDuration::from_secs(-60)).expect("in range");
    assert_eq!(pace.wait(before), Duration::ZERO, "a clock that was set back");
}

proptest! {
    /// Whatever an app writes is refused or taken, and taken only with lawful names.
    #[test]
    fn no_bytes_lead_to_a_reserved_name(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = judge_reset(&bytes, &spec(""));
        let _ = judge_overrides(&bytes, &spec(""), &BTreeMap::new());
    }

    #[test]
    fn a_name_is_taken_or_refused_by_its_rule(name in "[A-Z0-9_=\\-é]{0,12}|BELAY_[A-Z]{1,3}|R1_[A-Z]?") {
        let body = json!({"schema_version": 1, "set": {name.clone(): "v"}});
        let lawful = environment::is_valid_name(&name)
            && !["BELAY_", "R1_", "R1EN_", "EE_"].iter().any(|prefix| name.starts_with(prefix))
            && !RESERVED.contains(&&*name);
        prop_assert_eq!(overrides(&body).is_ok(), lawful);
    }
}
