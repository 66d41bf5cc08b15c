use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    CloseReason, FrameFault, Notice, RequestId, RunId, RunnerErrorCode, RunnerFrame, RunnerRequest,
    RunnerToken, ServerFrame, WaitpointId,
};

const PAGE: &str = include_str!("../../../../docs/runner-protocol.md");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Runner,
    Server,
}

/// The examples of the page, in their order.
fn examples() -> Vec<(Sender, Value)> {
    let mut found = Vec::new();
    let mut block: Option<(Sender, String)> = None;
    for line in PAGE.lines() {
        match (&mut block, line) {
            (None, "```json runner") => block = Some((Sender::Runner, String::new())),
            (None, "```json server") => block = Some((Sender::Server, String::new())),
            (None, line) => {
                assert!(!line.starts_with("```"), "a block of an unknown sender: {line}");
            }
            (Some(_), "```") => {
                let (sender, text) = block.take().expect("a block is open");
                found.push((sender, serde_json::from_str(&text).expect("an example is JSON")));
            }
            (Some((_, text)), line) => text.push_str(line),
        }
    }
    assert!(found.len() > 30, "only {} examples were found", found.len());
    found
}

/// Reads a frame as its receiver does, and writes it again.
fn round(
    sender: Sender,
    frame: &Value,
    asked: &BTreeMap<u64, &'static str>,
) -> Result<Value, FrameFault> {
    let text = frame.to_string();
    let again = match sender {
        Sender::Runner => RunnerFrame::parse(&text)?.to_text(),
        Sender::Server => ServerFrame::parse(&text, |id| asked.get(&id.get()).copied())?.to_text(),
    };
    Ok(serde_json::from_str(&again).expect("a frame is JSON"))
}

fn asked() -> BTreeMap<u64, &'static str> {
    let mut asked = BTreeMap::new();
    for (sender, frame) in examples() {
        if sender == Sender::Runner
            && let Ok(RunnerFrame::Request { id, request }) = RunnerFrame::parse(&frame.to_string())
        {
            assert!(asked.insert(id.get(), request.name()).is_none(), "{id} is used twice");
        }
    }
    asked
}

#[test]
fn every_example_of_the_page_is_taken_and_written_as_it_stands() {
    let asked = asked();
    for (sender, frame) in examples() {
        let again = round(sender, &frame, &asked);
        let again = again.unwrap_or_else(|fault| panic!("{frame}: {}", fault.error.message));
        assert_eq!(again, frame);
    }
}

#[test]
fn every_message_has_an_example() {
    let mut seen = BTreeSet::new();
    for (sender, frame) in examples() {
        let kind = frame["type"].as_str().expect("a frame has a type");
        seen.insert(format!("{sender:?} {kind}"));
        if sender == Sender::Server
            && let Some(id) = frame["id"].as_u64()
            && kind == "ok"
        {
            seen.insert(format!("answer to {}", asked()[&id]));
        }
    }
    let mut wanted: BTreeSet<_> = ["welcome", "state", "released", "refused", "ok", "error"]
        .map(|k| format!("Server {k}"))
        .into();
    wanted.insert("Runner progress".to_owned());
    for name in RunnerRequest::NAMES {
        wanted.insert(format!("Runner {name}"));
        wanted.insert(format!("answer to {name}"));
    }
    assert_eq!(seen, wanted);
}

/// Every place in a value where an object is, as a path.
fn objects(value: &Value, path: &str, found: &mut Vec<String>) {
    if let Value::Object(fields) = value {
        found.push(path.to_owned());
        for (name, inner) in fields {
            // What an app put in is its own.
            if !["payload", "output"].contains(&name.as_str()) {
                objects(inner, &format!("{path}/{name}"), found);
            }
        }
    }
}

#[test]
fn a_field_too_many_is_refused_wherever_it_stands() {
    let asked = asked();
    for (sender, frame) in examples() {
        let mut paths = Vec::new();
        objects(&frame, "", &mut paths);
        for path in paths {
            let mut frame = frame.clone();
            frame.pointer_mut(&path).expect("the path was found")["stranger"] = json!(1);
            let fault = round(sender, &frame, &asked).expect_err(&frame.to_string());
            let id = frame["id"].as_u64().map(RequestId::new);
            assert_eq!(fault.id, id, "the fault names the request: {frame}");
        }
    }
}

#[test]
fn a_field_too_few_is_refused() {
    let optional = ["snapshot_delay_ms", "timeout_ms", "resumed", "result", "id"];
    let is_optional = |frame: &Value, path: &str, field: &str| {
        let inside = frame.pointer(path).and_then(|object| object[field].as_object());
        // A body of which every field may be away may be away itself.
        let loose = |inside: &serde_json::Map<String, Value>| {
            field == "body" && inside.keys().all(|name| optional.contains(&name.as_str()))
        };
        // A runner that no run is bound to is told of none.
        let unbound = field == "run" && frame["type"] == "welcome";
        unbound || optional.contains(&field) || inside.is_some_and(loose)
    };
    let asked = asked();
    for (sender, frame) in examples() {
        let mut paths = Vec::new();
        objects(&frame, "", &mut paths);
        for path in paths {
            let fields: Vec<String> = frame
                .pointer(&path)
                .and_then(Value::as_object)
                .map(|fields| fields.keys().cloned().collect())
                .unwrap_or_default();
            for field in fields.iter().filter(|field| !is_optional(&frame, &path, field)) {
                let mut frame = frame.clone();
                let object = frame.pointer_mut(&path).and_then(Value::as_object_mut);
                object.expect("the path was found").remove(field);
                assert!(round(sender, &frame, &asked).is_err(), "{path}/{field}: {frame}");
            }
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let cases = [
        ("", None, RunnerErrorCode::MalformedFrame),
        ("[1]", None, RunnerErrorCode::MalformedFrame),
        (r#"{"id": 1}"#, Some(1), RunnerErrorCode::MalformedFrame),
        (r#"{"id": 1, "type": "ready", "extra": 1}"#, Some(1), RunnerErrorCode::MalformedFrame),
        (r#"{"id": -1, "type": "ready"}"#, None, RunnerErrorCode::MalformedFrame),
        (r#"{"id": 1, "type": "hello"}"#, Some(1), RunnerErrorCode::UnknownType),
        (r#"{"type": "hello"}"#, None, RunnerErrorCode::UnknownType),
        (r#"{"type": "ready"}"#, None, RunnerErrorCode::WrongKind),
        (r#"{"id": 1, "type": "progress"}"#, Some(1), RunnerErrorCode::WrongKind),
        (r#"{"id": 1, "type": "start"}"#, Some(1), RunnerErrorCode::InvalidBody),
        (r#"{"id": 1, "type": "ready", "body": 5}"#, Some(1), RunnerErrorCode::InvalidBody),
        (r#"{"type": "progress", "body": {}}"#, None, RunnerErrorCode::InvalidBody),
    ];
    for (text, id, code) in cases {
        let fault = RunnerFrame::parse(text).expect_err(text);
        assert_eq!((fault.id, fault.error.code), (id.map(RequestId::new), code), "{text}");
        match (id, fault.into_frame()) {
            (Some(asked), ServerFrame::Error { id, error }) => {
                assert_eq!((id.get(), error.code), (asked, code));
            }
            (None, ServerFrame::Notice(Notice::Refused(error))) => assert_eq!(error.code, code),
            (_, frame) => panic!("{text} is answered by {frame:?}"),
        }
    }
}

#[test]
fn a_long_unknown_type_is_not_repeated_whole() {
    let text = json!({"id": 1, "type": "x".repeat(5000)}).to_string();
    let fault = RunnerFrame::parse(&text).expect_err("there is no such type");
    assert!(fault.error.message.len() < 80, "{}", fault.error.message);
}

#[test]
fn an_answer_to_nothing_is_refused() {
    let fault = ServerFrame::parse(r#"{"id": 1, "type": "ok"}"#, |_| None).expect_err("unasked");
    assert_eq!(fault.error.code, RunnerErrorCode::WrongKind);
}

/// The rows of the page whose first cell is `first`.
fn row(first: &str) -> Vec<Vec<&'static str>> {
    PAGE.lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect::<Vec<_>>())
        .filter(|cells| cells[0] == first)
        .collect()
}

#[test]
fn the_page_has_every_code_with_its_next_step() {
    for code in RunnerErrorCode::ALL {
        assert_eq!(serde_json::to_value(code).expect("a word"), json!(code.as_str()));
        let rows = row(&format!("`{code}`"));
        assert_eq!(rows.len(), 1, "{code} has one row");
        assert_eq!(rows[0][2], code.next_step());
    }
    for reason in CloseReason::ALL {
        let rows = row(&reason.code().to_string());
        assert_eq!(rows.len(), 1, "{reason:?} has one row");
        assert_eq!(rows[0][1], format!("`{}`", reason.as_str()));
    }
}

#[test]
fn the_page_has_every_limit() {
    let mebibytes = |bytes: usize| format!("{} MiB", bytes >> 20);
    assert_eq!(row("a frame to belayd")[0][1], mebibytes(super::MAX_FRAME));
    assert_eq!(row("a frame to the runner")[0][1], mebibytes(super::MAX_SERVER_FRAME));
    let payload = format!("{} of compact JSON", mebibytes(super::MAX_PAYLOAD));
    assert_eq!(row("the payload of a run")[0][1], payload);
    let output = format!("{} KiB of compact JSON", super::MAX_WAIT_OUTPUT >> 10);
    assert_eq!(row("the result of a waitpoint")[0][1], output);
    assert_eq!(row("waitpoints of a run")[0][1], super::MAX_WAITPOINTS.to_string());
}

#[test]
fn ids_sort_by_creation_as_values_and_as_texts() {
    // The clock stands still, steps back and goes on.
    let mut last = None;
    let mut made: Vec<RunId> = Vec::new();
    for (millis, entropy) in [(1000, 9), (1000, 3), (1000, 8), (400, 1), (1001, 0), (1 << 40, 5)] {
        let id = RunId::after(last, millis, entropy);
        last = Some(id);
        made.push(id);
    }
    assert!(made.windows(2).all(|pair| pair[0] < pair[1]), "{made:?}");
    let texts: Vec<String> = made.iter().map(ToString::to_string).collect();
    assert!(texts.windows(2).all(|pair| pair[0] < pair[1]), "{texts:?}");
    assert_eq!((made[0].unix_millis(), made[0].entropy()), (1000, 9));
    assert_eq!(made[5].unix_millis(), 1 << 40);
}

#[test]
fn more_ids_than_fit_into_a_millisecond_borrow_from_the_next() {
    let mut last = RunId::after(None, 5, 0);
    for _ in 0..70_000 {
        let next = RunId::after(Some(last), 5, 0);
        assert!(next > last);
        last = next;
    }
    assert_eq!(last.unix_millis(), 6);
}

#[test]
fn an_id_has_one_text() {
    let id = RunId::after(None, 1_763_794_800_000, 0x1234_5678_9abc_def0);
    let text = id.to_string();
    assert_eq!(text.len(), 30);
    assert_eq!(text.parse::<RunId>(), Ok(id));
    let capital = text.replace("run_", "RUN_");
    let shouted = format!("run_{}", text[4..].to_ascii_uppercase());
    let loose = format!("{}v", &text[..29]);
    for bad in
        ["", "run_", &text[..29], &capital, &shouted, &loose, "run_../../../../../etc/passwd"]
    {
        assert!(bad.parse::<RunId>().is_err(), "{bad}");
    }
    assert!(text.parse::<WaitpointId>().is_err(), "a run is no waitpoint");
}

#[test]
fn a_token_does_not_show_itself() {
    let token = RunnerToken::from_entropy([0xa5; 32]);
    let text = token.expose();
    assert_eq!(text.parse::<RunnerToken>().as_ref(), Ok(&token));
    assert_eq!(format!("{token:?}"), "RunnerToken(..)");
    for bad in ["", "belay_runner_", &text[..64], &text.to_ascii_uppercase()] {
        let error = bad.parse::<RunnerToken>().expect_err(bad);
        assert!(!error.to_string().contains(&text[13..]), "the text is not repeated");
    }
}
