use proptest::prelude::*;
use serde_json::json;

use super::*;

fn mounts() -> Mounts {
    let path = |text| ContainerPath::parse(text).expect("a container path");
    Mounts::new(vec![path("/app/data")], path("/belay"))
}

fn judged(body: &Value) -> Result<ValidRequest, Box<RefusedRequest>> {
    judge(body.to_string().as_bytes(), &mounts(), CapturePolicy::Stopped)
}

fn refused(body: &Value) -> RefusedRequest {
    *judged(body).expect_err("refused")
}

#[test]
fn sm028_a_valid_request_is_taken_whole() {
    let valid = judged(&json!({
        "archive_paths": ["/app/data/b/", "/app/data/a", "/app/data/a/x"],
        "metadata": {"epoch": 3},
        "runtime": {"provider_capture": "offline", "consumer_apply": "online_restart"},
        "request_id": "r-1",
    }))
    .expect("valid");
    let roots: Vec<&str> = valid.roots.iter().map(ContainerPath::as_str).collect();
    assert_eq!(roots, ["/app/data/a", "/app/data/b"]);
    assert_eq!(valid.request.archive_paths[0], "/app/data/b/");
    assert_eq!(valid.request.metadata["epoch"], 3);
    assert_eq!(valid.request.runtime.consumer_apply, ConsumerApply::OnlineRestart);
    assert_eq!(valid.request.request_id.as_deref(), Some("r-1"));

    let least = judged(&json!({"archive_paths": ["/app/data"]})).expect("valid");
    assert_eq!(least.request.runtime, RuntimeWishes::default());
    assert!(least.request.metadata.is_empty());
}

#[test]
fn sm030_to_sm034_wishes_that_cannot_be_are_named_with_key_and_value() {
    let with = |runtime: Value| {
        refused(&json!({"archive_paths": ["/app/data"], "runtime": runtime})).error
    };
    assert_eq!(with(json!("fast")), "runtime is a text, expected an object");
    assert!(with(json!({"provider_capture": "warp"})).contains("provider_capture is \"warp\""));
    assert!(with(json!({"consumer_apply": "now"})).contains("consumer_apply is \"now\""));
    assert!(with(json!({"provider_capture": "online"})).contains("not permitted on this node"));
    assert!(with(json!({"provider_capture": []})).contains("provider_capture is a list"));
    assert!(with(json!([])).contains("runtime is a list"));
}

#[test]
fn sm035_cf06_malformed_json_is_given_back_cut() {
    let text = format!("{{\"archive_paths\": {}", "x".repeat(5_000));
    let refused = judge(text.as_bytes(), &mounts(), CapturePolicy::Stopped).expect_err("refused");
    assert!(refused.unfinished && refused.body.is_none());
    assert_eq!(refused.raw_body.as_deref().map(str::len), Some(RAW_BODY_MAX));
}

#[test]
fn cf07_bytes_that_are_not_text_are_not_given_back() {
    let refused = judge(b"\xff\xfe", &mounts(), CapturePolicy::Stopped).expect_err("refused");
    assert_eq!((refused.raw_body, refused.body), (None, None));
}

#[test]
fn sm037_cf08_a_list_is_no_request() {
    let refused = refused(&json!([1]));
    assert_eq!(refused.error, "the request is a list, expected an object");
    assert_eq!(refused.raw_body.as_deref(), Some("[1]"));
}

#[test]
fn sm038_to_sm045_each_fault_is_named_and_the_body_given_back() {
    let error = |body: Value| refused(&body).error;
    assert_eq!(error(json!({})), "archive_paths is missing");
    assert_eq!(error(json!({"archive_paths": []})), "archive_paths is empty");
    assert_eq!(
        error(json!({"archive_paths": "/app/data"})),
        "archive_paths is a text, expected a list"
    );
    assert!(error(json!({"archive_paths": ["/app/data"], "metadata": "x"})).contains("metadata"));
    assert!(error(json!({"archive_paths": ["/app/data"], "metadata": false})).contains("metadata"));
    assert!(error(json!({"archive_paths": ["/app/data/../x"]})).contains("\"..\""));
    assert!(error(json!({"archive_paths": ["/srv"]})).contains("not in a volume"));
    assert!(error(json!({"archive_paths": ["/belay/volume-sync"]})).contains("control volume"));
    assert!(error(json!({"archive_paths": [7]})).contains("a number"));
    assert!(
        error(json!({"archive_paths": ["/app/data"], "archive_path": 1})).contains("archive_path")
    );

    let several =
        refused(&json!({"archive_paths": ["/srv", "x"], "runtime": 1, "request_id": "q"}));
    assert_eq!(several.error.split("; ").count(), 3, "{}", several.error);
    assert_eq!(several.archive_paths(), ["/srv", "x"]);
    assert_eq!(several.request_id().as_deref(), Some("q"));
    assert_eq!(several.body.expect("given back")["runtime"], 1);
}

#[test]
fn b04_deep_nesting_and_huge_numbers_are_refused_without_a_panic() {
    let deep = format!("{{\"metadata\":{}", "[".repeat(60_000));
    assert!(judge(deep.as_bytes(), &mounts(), CapturePolicy::Stopped).is_err());
    let huge = format!(
        "{{\"archive_paths\":[\"/app/data\"],\"metadata\":{{\"n\":{}}}}}",
        "9".repeat(5_000)
    );
    assert!(judge(huge.as_bytes(), &mounts(), CapturePolicy::Stopped).is_err());
}

#[test]
fn bounds_on_size_paths_metadata_and_id_hold() {
    let large = vec![b' '; REQUEST_MAX + 1];
    let refused_size = judge(&large, &mounts(), CapturePolicy::Stopped).expect_err("refused");
    assert!(!refused_size.unfinished && refused_size.error.contains("larger"));
    let many = vec!["/app/data"; PATHS_MAX + 1];
    assert!(refused(&json!({"archive_paths": many})).error.contains("65 paths"));
    let metadata =
        json!({"archive_paths": ["/app/data"], "metadata": {"x": "y".repeat(METADATA_MAX)}});
    assert!(refused(&metadata).error.contains("at most"));
    let id = json!({"archive_paths": ["/app/data"], "request_id": "i".repeat(REQUEST_ID_MAX + 1)});
    assert_eq!(refused(&id).request_id(), None);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[/.a-z]{0,12}".prop_map(Value::from),
        Just(Value::from("/app/data")),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(
                "archive_paths|metadata|runtime|request_id|provider_capture|[a-z]{1,4}",
                inner,
                0..5
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_valid_or_refused_with_a_reason(body in any_json()) {
        match judged(&body) {
            Ok(valid) => prop_assert!(!valid.roots.is_empty()),
            Err(refused) => prop_assert!(!refused.error.is_empty()),
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(judge(&bytes, &mounts(), CapturePolicy::Stopped).is_err());
    }
}

#[test]
fn numbers_of_the_app_travel_as_they_were_written() {
    // Read to the nearest number only by a reader that takes its time.
    for number in ["0.8862269254527579", "1.2345678901234567e-7", "3.0e-44", "-0.0"] {
        let body = format!(r#"{{"archive_paths": ["/app/data"], "metadata": {{"x": {number}}}}}"#);
        let valid = judge(body.as_bytes(), &mounts(), CapturePolicy::Stopped).expect("valid");
        let again = serde_json::to_vec(&valid.request).expect("serialises");
        assert_eq!(judge(&again, &mounts(), CapturePolicy::Stopped), Ok(valid.clone()), "{number}");
        let exact: f64 = number.parse().expect("a number");
        assert_eq!(valid.request.metadata["x"].as_f64().map(f64::to_bits), Some(exact.to_bits()));
    }
}

#[test]
fn the_faults_that_are_told_do_not_outgrow_the_request() {
    let fields: Vec<String> = (0..7_000).map(|number| format!("\"{number}\":1")).collect();
    let body = format!("{{{}}}", fields.join(","));
    let refused = judge(body.as_bytes(), &mounts(), CapturePolicy::Stopped).expect_err("refused");
    assert_eq!(refused.error.matches(" is not a field of a request").count(), FAULTS_MAX);
}

#[test]
fn what_an_app_may_wish_of_its_capture_follows_from_the_spec() {
    use CapturePolicy::{Atomic, Live, Stopped};
    use ProviderCapture::{Offline, Online};
    let wished = |runtime: Value, policy| {
        let body = json!({"archive_paths": ["/app/data"], "runtime": runtime}).to_string();
        let valid = judge(body.as_bytes(), &mounts(), policy).map_err(|refused| refused.error);
        valid.map(|valid| valid.request.runtime.provider_capture)
    };
    for (policy, unsaid) in [(Stopped, Offline), (Atomic, Online), (Live, Online)] {
        assert_eq!(wished(json!({}), policy), Ok(unsaid), "{policy:?}");
        assert_eq!(wished(json!({"provider_capture": "offline"}), policy), Ok(Offline));
        let command = judge_command(vec!["/app/data".into()], Map::new(), &mounts(), policy);
        let request = command.expect("lawful").request;
        assert_eq!(request.runtime.provider_capture, unsaid, "{policy:?}");
    }
    for policy in [Atomic, Live] {
        assert_eq!(wished(json!({"provider_capture": "online"}), policy), Ok(Online));
    }
    let refused = wished(json!({"provider_capture": "online"}), Stopped).expect_err("refused");
    assert!(refused.contains("capture = \"atomic\""), "{refused}");
}
