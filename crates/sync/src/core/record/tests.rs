use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use serde_json::json;

use super::super::signature::{publisher, signed};
use super::*;

fn mounts() -> Mounts {
    let path = |text| ContainerPath::parse(text).expect("a container path");
    Mounts::new(vec![path("/app/data")], path("/belay"))
}

fn key() -> SyncKey {
    "models".parse().expect("a key")
}

fn lawful() -> Value {
    let cid = Cid::from_digest([1; 32]).to_string();
    json!({
        "schema": 1, "key": "models", "epoch": 1, "seq": 4, "cid": cid, "parent_cid": null,
        "node_id": "node-a", "publish_id": "p", "version": 1_700_000_000,
        "timestamp": "2023-11-14T22:13:20Z", "capture": "stopped", "metadata": {"a": 1},
        "runtime": {"provider_capture": "offline", "consumer_apply": "offline_restart"},
        "manifest": {
            "schema_version": 1, "archive_paths": ["/app/data"], "archive_format": "tar.gz",
            "archive_size_bytes": 1000, "encryption": "none", "blob": cid,
            "content_bytes": 5000, "members": 3, "skipped_special": 0,
        },
    })
}

fn reasons(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut record = lawful();
    change(&mut record);
    match judge(record.to_string().as_bytes(), &key(), &mounts(), None) {
        Ok(_) => Vec::new(),
        Err(refused) => refused.reasons,
    }
}

#[test]
fn sm078_a_lawful_record_has_no_reasons_against_it() {
    assert_eq!(reasons(|_| {}), Vec::<String>::new());
}

#[test]
fn sm079_sm080_to_sm084_b35_each_fault_has_one_reason() {
    let one = |change: fn(&mut Value), part: &str| {
        let found = reasons(change);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(part), "{found:?} lacks {part}");
    };
    one(|r| r["manifest"]["archive_paths"] = json!(["/srv"]), "/srv");
    one(|r| r["manifest"]["schema_version"] = json!(999), "999");
    one(|r| r["manifest"]["schema_version"] = json!(0), "manifest.schema_version is 0");
    one(|r| r["manifest"]["schema_version"] = json!(-5), "-5");
    one(|r| r["manifest"]["schema_version"] = json!(true), "a boolean");
    one(|r| r["manifest"]["schema_version"] = json!("1"), "\"1\"");
    one(
        |r| drop(r["manifest"].as_object_mut().expect("object").remove("schema_version")),
        "missing",
    );
    one(|r| r["manifest"]["archive_format"] = json!("zip"), "\"zip\", expected \"tar.gz\"");
    one(|r| r["manifest"]["encryption"] = json!("plaintext"), "\"plaintext\", expected \"none\"");
    one(|r| r["version"] = json!(true), "version");
    one(|r| r["schema"] = json!(2), "not signed");
    one(|r| r["schema"] = json!(4), "schema is 4, expected at most 3: the record is newer");
    one(|r| r["capture"] = json!("imported"), "schema is 1, expected 3 of an import");
    one(|r| r["key"] = json!("other"), "other");
    one(|r| r["seq"] = json!(0), "count from 1");
    one(|r| r["metadata"] = json!([]), "not as it should be");
    one(|r| r["extra"] = json!(1), "extra");
    one(|r| r["manifest"]["archive_paths"] = json!(["/app/data/b", "/app/data/a"]), "in order");
    one(|r| r["manifest"]["archive_paths"] = json!(["/app/data/"]), "normal");
}

/// A lawful record that the key of this seed signed.
fn signed_by(seed: u8) -> Vec<u8> {
    let mut record = lawful();
    record["schema"] = json!(RECORD_SCHEMA);
    let record: SyncRecord = serde_json::from_value(record).expect("a record");
    signed(&record, &secret(seed)).expect("serialises")
}

fn secret(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn from(bytes: &[u8], publishers: Option<&[PublisherKey]>) -> Result<(), ProblemCode> {
    match judge(bytes, &key(), &mounts(), publishers) {
        Ok(_) => Ok(()),
        Err(refused) => {
            assert_eq!(refused.cid, None, "nobody has content held back by naming it");
            assert_eq!(refused.reasons.len(), 1);
            Err(refused.code)
        }
    }
}

#[test]
fn b40_a_record_is_from_a_publisher_that_is_listed_or_is_refused() {
    let listed = [publisher(&secret(1)), publisher(&secret(2))];
    assert_eq!(from(&signed_by(2), Some(&listed)), Ok(()));
    assert_eq!(from(&signed_by(3), Some(&listed)), Err(ProblemCode::PublisherRefused));
    let unsigned = lawful().to_string();
    assert_eq!(from(unsigned.as_bytes(), Some(&listed)), Err(ProblemCode::RecordUnsigned));
    // Without a list whoever writes to the store is believed, and yet must be who he says.
    assert_eq!(from(&signed_by(3), None), Ok(()));
    assert_eq!(from(unsigned.as_bytes(), None), Ok(()));
    for publishers in [None, Some(&listed[..])] {
        let text = String::from_utf8(signed_by(1)).expect("text");
        let other = text.replace("\"seq\":4", "\"seq\":5");
        assert_ne!(other, text);
        assert_eq!(from(other.as_bytes(), publishers), Err(ProblemCode::RecordForged));
        let other = text.replace(&listed[0].to_string(), &listed[1].to_string());
        assert_eq!(from(other.as_bytes(), publishers), Err(ProblemCode::RecordForged));
        let other = text.replace("\"signer\":\"M", "\"signer\":\"N");
        assert_eq!(from(other.as_bytes(), publishers), Err(ProblemCode::RecordForged));
        // Written anew it is another text.
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let other = serde_json::to_string_pretty(&value).expect("serialises");
        assert_eq!(from(other.as_bytes(), publishers), Err(ProblemCode::RecordForged));
    }
}

#[test]
fn a_record_of_another_version_is_not_taken_for_one_of_ours() {
    let mut newer = lawful();
    newer["schema"] = json!(RECORD_SCHEMA + 1);
    newer["signer"] = json!({"form": "unheard of"});
    assert_eq!(from(newer.to_string().as_bytes(), None), Err(ProblemCode::RecordNewer));
    // Stripped of its signature it is not of the version before.
    let mut stripped = lawful();
    stripped["schema"] = json!(RECORD_SCHEMA);
    assert_eq!(from(stripped.to_string().as_bytes(), None), Err(ProblemCode::RecordUnsigned));
    // A signed one of the version before is none either.
    let record: SyncRecord = serde_json::from_value(lawful()).expect("a record");
    let bytes = signed(&record, &secret(1)).expect("serialises");
    let refused = judge(&bytes, &key(), &mounts(), None).expect_err("neither");
    assert_eq!(refused.reasons, ["a record of a schema above 1 is signed, and no other"]);
}

#[test]
fn a_record_that_was_signed_for_another_key_is_no_record_of_this_one() {
    let other: SyncKey = "other".parse().expect("a key");
    let refused = judge(&signed_by(1), &other, &mounts(), None).expect_err("a replay");
    assert_eq!(refused.code, ProblemCode::RecordRefused);
    assert!(refused.reasons[0].contains("is for the key models, found under other"));
}

#[test]
fn sm085_three_faults_have_three_reasons() {
    let found = reasons(|r| {
        r["manifest"]["schema_version"] = json!(999);
        r["manifest"]["archive_format"] = json!("zip");
        r["manifest"]["archive_paths"] = json!(["/srv"]);
    });
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn sm086_to_sm093_shapes_that_are_no_record_are_refused() {
    assert!(reasons(|r| *r = json!({})).len() > 1);
    assert!(reasons(|r| r["manifest"] = json!({})).len() > 1);
    assert_eq!(reasons(|r| r["manifest"] = json!("x")).len(), 1);
    assert_eq!(reasons(|r| r["manifest"]["archive_paths"] = json!([])).len(), 1);
    assert_eq!(reasons(|r| r["manifest"]["archive_paths"] = json!("/app/data")).len(), 1);
    assert_eq!(reasons(|r| r["manifest"]["archive_paths"] = json!([1])).len(), 1);
    assert_eq!(reasons(|r| *r = json!(null)).len(), 1);
    assert_eq!(reasons(|r| *r = json!("x")).len(), 1);
    let both = reasons(|r| {
        r["cid"] = json!("");
        r["version"] = json!("7");
    });
    assert_eq!(both.len(), 2, "{both:?}");
}

#[test]
fn b16_an_impossible_expansion_is_refused_before_anything_is_fetched() {
    let found = reasons(|r| r["manifest"]["content_bytes"] = json!(5_000_000_000_u64));
    assert!(found[0].contains("gzip"), "{found:?}");
    assert_eq!(reasons(|r| r["manifest"]["members"] = json!(2_000_000)).len(), 1);
    // A size at the end of the range must not wrap around.
    assert!(reasons(|r| r["manifest"]["archive_size_bytes"] = json!(u64::MAX)).is_empty());
}

#[test]
fn a_tree_has_a_schema_of_its_own_and_a_root() {
    let tree = |change: fn(&mut Value)| {
        reasons(|r| {
            r["manifest"]["schema_version"] = json!(2);
            r["manifest"]["archive_format"] = json!("tree");
            r["manifest"]["root_bytes"] = json!(100);
            // A chunk that is there a thousand times is stored once.
            r["manifest"]["content_bytes"] = json!(5_000_000_000_u64);
            change(r);
        })
    };
    assert_eq!(tree(|_| {}), Vec::<String>::new());
    assert_eq!(tree(|r| r["manifest"]["schema_version"] = json!(3)), Vec::<String>::new());
    let one = |change: fn(&mut Value), part: &str| {
        let found = tree(change);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(part), "{found:?} lacks {part}");
    };
    one(|r| r["manifest"]["archive_format"] = json!("tar.gz"), "expected \"tree\"");
    one(|r| r["manifest"]["encryption"] = json!("rot13"), "expected \"none\" or \"members\"");
    assert_eq!(tree(|r| r["manifest"]["encryption"] = json!("members")), Vec::<String>::new());
    one(|r| r["manifest"]["root_bytes"] = json!(0), "root_bytes is 0");
    one(|r| r["manifest"]["root_bytes"] = json!(1001), "at most 1000");
    one(|r| r["manifest"]["root_bytes"] = json!(null), "root_bytes is missing");
    one(
        |r| {
            r["manifest"]["archive_size_bytes"] = json!(u64::MAX);
            r["manifest"]["root_bytes"] = json!(1_u64 << 40);
        },
        "at most 16777216",
    );
    let found = reasons(|r| r["manifest"]["encryption"] = json!("members"));
    assert_eq!(found, ["manifest.encryption is \"members\", expected \"none\""]);
    let found = reasons(|r| r["manifest"]["root_bytes"] = json!(100));
    assert_eq!(found, ["manifest.root_bytes is there, and a tar.gz has no root"]);
}

#[test]
fn a_tree_with_owners_has_one_schema_in_whatever_form() {
    let owned = |change: fn(&mut Value)| {
        reasons(|r| {
            r["manifest"]["schema_version"] = json!(4);
            change(r);
        })
    };
    let as_tree = |r: &mut Value| {
        r["manifest"]["archive_format"] = json!("tree");
        r["manifest"]["root_bytes"] = json!(100);
    };
    assert_eq!(owned(|_| {}), Vec::<String>::new());
    assert_eq!(owned(as_tree), Vec::<String>::new());
    let found = owned(|r| r["manifest"]["archive_format"] = json!("zip"));
    assert_eq!(found, ["manifest.archive_format is \"zip\", expected \"tree\" or \"tar.gz\""]);
    let found = owned(|r| r["manifest"]["encryption"] = json!("members"));
    assert_eq!(found, ["manifest.encryption is \"members\", expected \"none\""]);
    let found = owned(|r| {
        r["manifest"]["archive_format"] = json!("tree");
        r["manifest"]["root_bytes"] = json!(100);
        r["manifest"]["encryption"] = json!("members");
    });
    assert_eq!(found, Vec::<String>::new());
    let found = owned(|r| r["manifest"]["schema_version"] = json!(5));
    assert!(
        found.contains(&"manifest.schema_version is 5, expected at most 4".into()),
        "{found:?}"
    );
}

#[test]
fn what_a_record_needs_in_the_store_is_told_or_said_to_be_unknown() {
    let cid = Cid::from_digest([1; 32]);
    let named = |format: Value| {
        let mut record = lawful();
        record["manifest"]["archive_format"] = format;
        named(record.to_string().as_bytes())
    };
    assert_eq!(named(json!("tar.gz")), Named::Archive(cid));
    assert_eq!(named(json!("tree")), Named::Root(cid));
    assert_eq!(named(json!("forest")), Named::Unknown);
    assert_eq!(super::named(b"{}"), Named::Nothing);
    assert_eq!(super::named(b"no record"), Named::Nothing);
}

#[test]
fn a_record_is_judged_by_epoch_then_seq_and_never_by_version() {
    let (a, b) = (Cid::from_digest([1; 32]), Cid::from_digest([2; 32]));
    let order = |epoch, seq| Order { epoch, seq };
    assert_eq!(standing(None, order(1, 1), a), Standing::New);
    let highest = Some((order(2, 5), a));
    assert_eq!(standing(highest, order(2, 6), b), Standing::New);
    assert_eq!(standing(highest, order(3, 1), b), Standing::New);
    assert_eq!(standing(highest, order(2, 5), a), Standing::Same);
    assert_eq!(standing(highest, order(2, 5), b), Standing::Fork);
    assert_eq!(standing(highest, order(2, 4), b), Standing::Behind);
    assert_eq!(standing(highest, order(1, 9), b), Standing::Behind);
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(judge(&bytes, &key(), &mounts(), None).is_err());
    }

    #[test]
    fn a_record_with_any_field_replaced_is_judged(
        pick in any::<prop::sample::Index>(),
        inner in any::<bool>(),
        put in prop_oneof![
            Just(Value::Null), any::<bool>().prop_map(Value::from), any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from), ".{0,8}".prop_map(Value::from), Just(json!([])), Just(json!({})),
        ],
    ) {
        let mut record = lawful();
        let object = if inner { &mut record["manifest"] } else { &mut record };
        let fields = object.as_object_mut().expect("an object");
        let name = fields.keys().nth(pick.index(fields.len())).expect("in range").clone();
        fields.insert(name, put);
        // Judged without a panic; what is accepted must survive its own text.
        if let Ok(accepted) = judge(record.to_string().as_bytes(), &key(), &mounts(), None) {
            let again = serde_json::to_vec(&accepted.record).expect("serialises");
            prop_assert_eq!(judge(&again, &key(), &mounts(), None), Ok(accepted));
        }
    }
}

#[test]
fn a_hostile_record_has_few_and_short_reasons() {
    let many = reasons(|r| r["manifest"]["archive_paths"] = json!(vec![0; 30_000]));
    assert_eq!(many.len(), 1, "{many:?}");
    assert!(many[0].contains("30000 paths"), "{many:?}");
    let most = reasons(|r| r["manifest"]["archive_paths"] = json!(vec![0; 64]));
    assert_eq!(most.len(), 16);
}

#[test]
fn an_order_that_nothing_could_follow_is_refused() {
    for field in ["epoch", "seq"] {
        let found = reasons(|r| r[field] = json!(u64::MAX));
        assert!(found.len() == 1 && found[0].contains("at most"), "{found:?}");
    }
    let last = Order { epoch: 1, seq: ORDER_MAX };
    assert_eq!(last.next(), None);
    assert_eq!(Order { epoch: 1, seq: u64::MAX }.next(), None);
    assert_eq!(Order { epoch: 2, seq: 7 }.next(), Some(Order { epoch: 2, seq: 8 }));
}
