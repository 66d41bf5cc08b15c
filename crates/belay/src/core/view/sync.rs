//! `belay sync status` and `belay sync history`.

use std::fmt::Write as _;

use belay_protocol::control::AlteredEntries;
use belay_protocol::record::Capture;
use belay_protocol::{
    AckState, HistoryEntry, NodeStatus, SyncHeld, SyncOutcome, SyncRole, SyncStatus,
};
use jiff::Timestamp;

use super::workloads::role;
use crate::core::human;
use crate::core::table::{Cell, Style, Table, Tone, one_line};

/// One line a workload that has volume-sync, then what is wrong.
pub(crate) fn table(status: &NodeStatus, now: Timestamp, style: Style) -> String {
    let mut table =
        Table::new(&["WORKLOAD", "ROLE", "KEY", "STAGE", "HEAD", "LAST", "AGE", "BYTES", "DOWN"]);
    let mut troubles = String::new();
    let mut any = false;
    for workload in &status.workloads {
        let Some(sync) = &workload.sync else { continue };
        any = true;
        let last = last(sync);
        let text = |show: &dyn Fn(&SyncOutcome) -> String| last.map(show).unwrap_or_default();
        table.row([
            workload.name.as_str().into(),
            role(sync.role).into(),
            sync.key.as_str().into(),
            Cell::new(&sync.stage, if sync.stage == "idle" { Tone::Plain } else { Tone::Doubtful }),
            sync.head.as_ref().map(|head| head.cid.short()).unwrap_or_default().into(),
            text(&|last| last.cid.short()).into(),
            text(&|last| human::age(now, last.at)).into(),
            text(&|last| human::size(last.bytes)).into(),
            text(&|last| human::milliseconds(last.downtime_ms)).into(),
        ]);
        for trouble in troubles_of(sync, now) {
            let line = format!("{}: {trouble}", workload.name);
            troubles += &Tone::Bad.paint(style, &line);
            troubles.push('\n');
        }
    }
    if !any {
        return "no workload has volume-sync; it is configured by [sync] in a spec\n".to_owned();
    }
    let gap = if troubles.is_empty() { "" } else { "\n" };
    format!("{}{gap}{troubles}{}", table.render(style), consumers(status, style))
}

/// One line a consumer of a key that a workload provides; nothing where none told of itself.
fn consumers(status: &NodeStatus, style: Style) -> String {
    let mut table = Table::new(&["PROVIDER", "CONSUMER", "STATE", "HOLDS", "BEHIND", "TOLD"]);
    let mut refused = String::new();
    let mut any = false;
    for workload in &status.workloads {
        let Some(fleet) = workload.sync.as_ref().and_then(|sync| sync.fleet.as_ref()) else {
            continue;
        };
        for one in &fleet.consumers {
            any = true;
            let tone = match one.state {
                AckState::Applied | AckState::Fetching | AckState::Waiting => Tone::Plain,
                AckState::OnTrial | AckState::Paused => Tone::Doubtful,
                AckState::Refused | AckState::Failed | AckState::Halted => Tone::Bad,
            };
            let told = human::clock(one.at);
            table.row([
                workload.name.as_str().into(),
                format!("{} on {}", one.workload, one.node).into(),
                Cell::new(one.state.as_str(), tone),
                one.holds.map_or_else(|| "nothing".to_owned(), |holds| holds.cid.short()).into(),
                one.behind.map_or_else(|| "?".to_owned(), |behind| behind.to_string()).into(),
                if one.live { told } else { format!("{told}, silent since") }.into(),
            ]);
        }
        for line in &fleet.refused {
            let _ = writeln!(refused, "{}: {}", workload.name, one_line(line));
        }
    }
    let table = if any { format!("\n{}", table.render(style)) } else { String::new() };
    let gap = if refused.is_empty() { "" } else { "\n" };
    format!("{table}{gap}{refused}")
}

/// Newest first, as the node keeps it.
pub(crate) fn history(entries: &[HistoryEntry], style: Style) -> String {
    if entries.is_empty() {
        return "nothing was published or applied yet\n".to_owned();
    }
    let mut table = Table::new(&[
        "WHEN",
        "DIRECTION",
        "CID",
        "VERSION",
        "BYTES",
        "FROM NODE",
        "SIGNER",
        "PATHS",
    ]);
    for entry in entries {
        table.row([
            human::clock(entry.at).into(),
            entry.direction.as_str().into(),
            entry.cid.short().into(),
            entry.version.to_string().into(),
            human::size(entry.bytes).into(),
            entry.node.as_str().into(),
            entry.signer.map_or_else(|| "none".to_owned(), |signer| signer.short()).into(),
            entry.archive_paths.join(" ").into(),
        ]);
    }
    table.render(style)
}

/// `provider of page, idle, published bafkr4iha3do 10m ago (4 MiB, down 412 ms)`
pub(crate) fn sentence(sync: &SyncStatus, now: Timestamp) -> String {
    let verb = match sync.role {
        SyncRole::Provider => "published",
        SyncRole::Consumer => "applied",
    };
    let last = match last(sync) {
        Some(last) => format!(
            "{verb} {} {} ago ({}, down {}{}{})",
            last.cid.short(),
            human::age(now, last.at),
            human::size(last.bytes),
            human::milliseconds(last.downtime_ms),
            captured(last),
            altered(last)
        ),
        None => format!("nothing {verb} yet"),
    };
    let next = match sync.next_publish {
        None => String::new(),
        Some(next) if next <= now => ", publishes by itself now".to_owned(),
        Some(next) => format!(", publishes by itself in {}", human::age(next, now)),
    };
    format!("{} of {}, {}, {last}{next}", role(sync.role), sync.key, sync.stage)
}

/// `for the first of models since 2026-03-01 11:55:00Z (5m ago): nothing is published under it`
pub(crate) fn first_content(sync: &SyncStatus, now: Timestamp) -> Option<String> {
    let first = sync.first.as_ref()?;
    let until = first.until.map_or_else(String::new, |until| {
        format!(", until {} (in {})", human::clock(until), human::until(now, until))
    });
    Some(format!(
        "for the first of {} since {} ({} ago){until}: {}",
        sync.key,
        human::clock(first.since),
        human::age(now, first.since),
        first.why
    ))
}

/// What the capture was, if that is known, and why it was not another.
fn captured(last: &SyncOutcome) -> String {
    let Some(capture) = last.capture else { return String::new() };
    let kind = match capture {
        Capture::Stopped => "stopped",
        Capture::Atomic => "atomic",
        Capture::Live => "live",
        Capture::Imported => "imported",
    };
    match &last.capture_fallback {
        Some(reason) => format!(", captured {kind} since {reason}"),
        None => format!(", captured {kind}"),
    }
}

/// What of it is otherwise than it was published.
fn altered(last: &SyncOutcome) -> String {
    let Some(AlteredEntries { owners, set_id }) = last.altered else { return String::new() };
    let counted = |count: u64, words: &str| {
        if count > 0 { format!(", {count} {words}") } else { String::new() }
    };
    counted(owners, "given to the owner of the volume") + &counted(set_id, "without set-id bits")
}

fn last(sync: &SyncStatus) -> Option<&SyncOutcome> {
    match sync.role {
        SyncRole::Provider => sync.last_publish.as_ref(),
        SyncRole::Consumer => sync.last_apply.as_ref(),
    }
}

fn troubles_of(sync: &SyncStatus, now: Timestamp) -> Vec<String> {
    let mut troubles = Vec::new();
    if let Some(halted) = &sync.halted {
        troubles.push(format!("halted: {halted}"));
    }
    if let Some(waits) = first_content(sync, now) {
        troubles.push(format!("is not started, it waits {waits}"));
    }
    if let Some(fence) = &sync.fenced {
        troubles.push(format!(
            "fenced: {} publishes in its place, by record {} of epoch {}, {} ago",
            fence.node,
            fence.seq,
            fence.epoch,
            human::age(now, fence.at)
        ));
    }
    if let Some(since) = sync.paused {
        let waits = sync.waits.as_ref().map(|waits| format!("; {waits} waits")).unwrap_or_default();
        troubles.push(format!("paused {} ago by an operator{waits}", human::age(now, since)));
    }
    if let (None, Some(waits)) = (sync.paused, &sync.waits) {
        let until = sync.waits_until.map_or_else(String::new, |until| {
            format!(", until {} (belay sync apply does it now)", human::clock(until))
        });
        troubles.push(format!("{waits}{until}"));
    }
    if let Some(held) = &sync.held {
        let SyncHeld { cid, left_epoch, left_seq, since, .. } = held;
        troubles.push(format!(
            "taken back to {} {} ago by an operator; records up to {left_seq} of epoch {left_epoch} \
             are held back",
            cid.short(),
            human::age(now, *since)
        ));
    }
    if let Some(back) = &sync.taken_back {
        troubles.push(format!(
            "did not become ready on {}, which was taken back {} ago (failure {} in a row)",
            back.cid.short(),
            human::age(now, back.at),
            back.failures
        ));
    }
    if let Some(failure) = &sync.last_failure {
        let when = human::age(now, failure.at);
        let code = failure.code.map(|code| format!(" ({})", code.as_str())).unwrap_or_default();
        troubles.push(format!("{} failed {when} ago: {}{code}", failure.stage, failure.error));
    }
    if let Some(held_up) = &sync.retirement {
        let code = held_up.code.map(|code| format!(" ({})", code.as_str())).unwrap_or_default();
        troubles.push(format!(
            "nothing is deleted in the store, as of {} ago: {}{code}",
            human::age(now, held_up.at),
            held_up.error
        ));
    }
    for (cid, until) in &sync.quarantine {
        let short: String = cid.chars().take(12).collect();
        troubles.push(format!("{short} is not tried again for {}", human::until(now, *until)));
    }
    troubles
}

#[cfg(test)]
mod tests {
    use belay_protocol::{AckPlace, Cid, PublisherKey, SyncConsumer, SyncFleet};

    use super::*;
    use crate::core::sample;

    #[test]
    fn a_provider_lists_its_consumers_and_what_was_refused() {
        let mut status = sample::status();
        assert_eq!(consumers(&status, Style::Plain), "");
        let cid = Cid::from_digest([7; 32]);
        let place = AckPlace { epoch: 1, seq: 3, cid };
        let one = |node: &str, state, holds: Option<AckPlace>, live| SyncConsumer {
            node: node.parse().expect("a node"),
            workload: "web".parse().expect("a name"),
            state,
            record: Some(place),
            holds,
            behind: holds.map(|_| 2),
            live,
            at: sample::now(),
            signer: PublisherKey::from_bytes([5; 32]),
        };
        let sync = status.workloads[1].sync.as_mut().expect("provides");
        sync.fleet = Some(SyncFleet {
            consumers: vec![
                one("edge-1", AckState::Applied, Some(place), true),
                one("edge-2", AckState::Refused, None, false),
            ],
            refused: vec!["what lies there\nfor x.y is refused".to_owned()],
        });
        let at = human::clock(sample::now());
        let shown = consumers(&status, Style::Plain);
        let lines: Vec<String> =
            shown.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[2], format!("web web on edge-1 applied bafkr4iaha4d 2 {at}"));
        assert_eq!(lines[3], format!("web web on edge-2 refused nothing ? {at}, silent since"));
        assert!(lines[5].starts_with("web: what lies there"), "{shown}");
        assert_eq!(lines.len(), 6, "one line each: {shown}");
    }

    #[test]
    fn a_line_shows_the_last_publish_and_its_price() {
        assert_eq!(
            table(&sample::status(), sample::now(), Style::Plain),
            "WORKLOAD  ROLE      KEY   STAGE  HEAD          LAST          AGE  BYTES  DOWN\n\
             web       provider  page  idle   bafkr4iaha4d  bafkr4iaha4d  10m  4 MiB  412 ms\n\
             \n\
             web: upload failed 2m ago: no space left in the store\n"
        );
    }

    #[test]
    fn a_store_in_which_nothing_is_deleted_is_shown_with_its_reason() {
        let mut status = sample::status();
        let sync = status.workloads[1].sync.as_mut().expect("it has one");
        let failure = sync.last_failure.take().expect("it failed");
        sync.retirement = Some(belay_protocol::SyncFailure {
            code: Some(belay_protocol::ProblemCode::NothingDeleted),
            error: "what record 7 of key db needs cannot be told".to_owned(),
            ..failure
        });
        let text = table(&status, sample::now(), Style::Plain);
        let said = "web: nothing is deleted in the store, as of 2m ago: what record 7 of key db \
                    needs cannot be told (nothing-deleted)\n";
        assert!(text.ends_with(said), "{text}");
    }

    #[test]
    fn a_sentence_says_what_the_capture_was_and_why() {
        let mut status = sample::status();
        let sync = status.workloads[1].sync.as_mut().expect("it has one");
        let last = sync.last_publish.as_mut().expect("it published");
        last.capture = Some(Capture::Stopped);
        let text = sentence(last_sync(&status), sample::now());
        assert!(text.ends_with("(4 MiB, down 412 ms, captured stopped)"), "{text}");
        let last = status.workloads[1].sync.as_mut().and_then(|sync| sync.last_publish.as_mut());
        last.expect("it published").capture_fallback = Some("there is no room".to_owned());
        let text = sentence(last_sync(&status), sample::now());
        assert!(text.ends_with("captured stopped since there is no room)"), "{text}");
    }

    #[test]
    fn a_sentence_says_what_is_otherwise_than_it_was_published() {
        let mut status = sample::status();
        let mut told = |owners, set_id| {
            let sync = status.workloads[1].sync.as_mut().expect("it has one");
            let last = sync.last_publish.as_mut().expect("it published");
            last.altered = Some(AlteredEntries { owners, set_id });
            sentence(last_sync(&status), sample::now())
        };
        for (owners, set_id, end) in [
            (3, 0, "(4 MiB, down 412 ms, 3 given to the owner of the volume)"),
            (0, 1, "(4 MiB, down 412 ms, 1 without set-id bits)"),
            (3, 1, ", 3 given to the owner of the volume, 1 without set-id bits)"),
        ] {
            let text = told(owners, set_id);
            assert!(text.ends_with(end), "{text}");
        }
    }

    #[test]
    fn a_sentence_says_when_it_publishes_by_itself() {
        let mut status = sample::status();
        let sync = status.workloads[1].sync.as_mut().expect("it has one");
        sync.next_publish = Some("2026-03-01T12:01:00Z".parse().expect("a time"));
        let text = sentence(last_sync(&status), sample::now());
        assert!(text.ends_with(", publishes by itself in 1m"), "{text}");
        let sync = status.workloads[1].sync.as_mut().expect("it has one");
        sync.next_publish = Some(sample::now());
        let text = sentence(last_sync(&status), sample::now());
        assert!(text.ends_with(", publishes by itself now"), "{text}");
    }

    fn last_sync(status: &NodeStatus) -> &SyncStatus {
        status.workloads[1].sync.as_ref().expect("it has one")
    }

    #[test]
    fn quarantine_and_hold_are_shown() {
        let mut status = sample::status();
        let sync = status.workloads[1].sync.as_mut().expect("it has one");
        sync.halted = Some("data is uncertain".to_owned());
        sync.waits = Some("record 2 of epoch 1 waits for its window, 02:00-04:00 UTC".to_owned());
        sync.waits_until = Some(sample::now());
        sync.taken_back = Some(belay_protocol::SyncTakenBack {
            cid: belay_protocol::Cid::from_digest([7; 32]),
            at: sample::now(),
            reason: "3 of 3 answers were bad".to_owned(),
            failures: 2,
        });
        let until = "2026-03-01T12:01:00Z".parse().expect("a time");
        sync.quarantine.insert("bafkr4ihathatfailed".to_owned(), until);
        let text = table(&status, sample::now(), Style::Plain);
        assert!(text.contains("web: halted: data is uncertain\n"), "{text}");
        assert!(text.contains("web: record 2 of epoch 1 waits for its window"), "{text}");
        assert!(text.contains("(belay sync apply does it now)\n"), "{text}");
        let back = "which was taken back 0s ago (failure 2 in a row)\n";
        assert!(text.contains(back), "{text}");
        assert!(text.contains("web: bafkr4ihatha is not tried again for 1m\n"), "{text}");
    }

    #[test]
    fn a_wait_for_the_first_content_is_shown_with_its_reason_and_its_end() {
        let mut status = sample::status();
        let sync = status.workloads[1].sync.as_mut().expect("it has one");
        sync.first = Some(belay_protocol::FirstContentStatus {
            since: "2026-03-01T11:55:00Z".parse().expect("a time"),
            until: None,
            why: "nothing is published under page".to_owned(),
        });
        let text = table(&status, sample::now(), Style::Plain);
        let line = "web: is not started, it waits for the first of page since 2026-03-01 11:55:00Z \
                    (5m ago): nothing is published under page\n";
        assert!(text.contains(line), "{text}");
        let first = status.workloads[1].sync.as_mut().and_then(|sync| sync.first.as_mut());
        first.expect("just set").until = Some("2026-03-01T12:01:00Z".parse().expect("a time"));
        let text = table(&status, sample::now(), Style::Plain);
        assert!(text.contains("(5m ago), until 2026-03-01 12:01:00Z (in 1m): nothing"), "{text}");
    }

    #[test]
    fn a_history_is_a_table() {
        let entry = HistoryEntry {
            direction: "received".to_owned(),
            cid: belay_protocol::Cid::from_digest([7; 32]),
            version: 1_772_365_800,
            at: sample::now(),
            node: "north".to_owned(),
            signer: Some(belay_protocol::PublisherKey::from_bytes([7; 32])),
            bytes: 2048,
            archive_paths: vec!["/data".to_owned(), "/models".to_owned()],
            file: "/x".to_owned(),
        };
        assert_eq!(
            history(&[entry], Style::Plain),
            "WHEN                  DIRECTION  CID           VERSION     BYTES  FROM NODE  SIGNER    \
             PATHS\n\
             2026-03-01 12:00:00Z  received   bafkr4iaha4d  1772365800  2 KiB  north      BwcHBwcH  \
             /data \
             /models\n"
        );
        assert!(history(&[], Style::Plain).contains("nothing"));
    }
}
