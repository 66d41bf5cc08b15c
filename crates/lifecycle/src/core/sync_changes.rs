//! What volume-sync has done between two looks at its status.

use belay_protocol::{
    EventDetails, SyncOutcome, SyncRole, SyncStatus, SyncTakenBack, WorkloadName,
};

/// Each thing that was done, with one sentence on it, in the order in which it can have happened.
pub fn changes(
    workload: &WorkloadName,
    before: &SyncStatus,
    after: &SyncStatus,
) -> Vec<(String, EventDetails)> {
    let mut told = Vec::new();
    if let Some(done) = newly(before.last_publish.as_ref(), after.last_publish.as_ref()) {
        let SyncOutcome { cid, bytes, downtime_ms, duration_ms, .. } = *done;
        told.push((
            format!("{workload} published {cid}"),
            EventDetails::Published { cid, bytes, downtime_ms, duration_ms },
        ));
    }
    if let Some(done) = newly(before.last_apply.as_ref(), after.last_apply.as_ref()) {
        let SyncOutcome { cid, bytes, downtime_ms, duration_ms, .. } = *done;
        told.push((
            format!("{workload} applied {cid}"),
            EventDetails::Applied { cid, bytes, downtime_ms, duration_ms },
        ));
    }
    if let Some(back) = newly(before.taken_back.as_ref(), after.taken_back.as_ref()) {
        let SyncTakenBack { cid, reason, .. } = back;
        told.push((
            format!("{workload} did not become ready on {cid}, which was taken back: {reason}"),
            EventDetails::ApplyTakenBack { cid: *cid, cause: reason.as_str().into() },
        ));
    }
    if let Some(failure) = newly(before.last_failure.as_ref(), after.last_failure.as_ref()) {
        let act = match after.role {
            SyncRole::Provider => "publish",
            SyncRole::Consumer => "apply",
        };
        told.push((
            format!("{workload}: {act} failed in stage {}: {}", failure.stage, failure.error),
            EventDetails::SyncFailed {
                role: after.role,
                stage: failure.stage.as_str().into(),
                cause: failure.error.as_str().into(),
            },
        ));
    }
    for (text, until) in &after.quarantine {
        // A cid that does not parse is none that this node has met.
        let Ok(cid) = text.parse() else { continue };
        if before.quarantine.get(text) != Some(until) {
            told.push((
                format!("{workload} does not try {cid} again before {until}"),
                EventDetails::Quarantined { cid, until: *until },
            ));
        }
    }
    told
}

/// What is there now and was not there before.
fn newly<'a, T: PartialEq>(before: Option<&T>, after: Option<&'a T>) -> Option<&'a T> {
    after.filter(|after| before != Some(*after))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use belay_protocol::{Cid, EventKind, SyncFailure};
    use jiff::Timestamp;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn idle(role: SyncRole) -> SyncStatus {
        SyncStatus {
            role,
            key: "page".parse().expect("a name"),
            stage: "idle".to_owned(),
            last_publish: None,
            last_apply: None,
            head: None,
            last_failure: None,
            retirement: None,
            quarantine: BTreeMap::new(),
            halted: None,
            paused: None,
            waits: None,
            waits_until: None,
            next_publish: None,
            held: None,
            taken_back: None,
            fenced: None,
            unapplied: None,
            first: None,
            fleet: None,
        }
    }

    fn outcome(digest: u8, second: i64) -> SyncOutcome {
        SyncOutcome {
            altered: None,
            cid: Cid::from_digest([digest; 32]),
            version: 1,
            at: at(second),
            bytes: 4096,
            downtime_ms: 412,
            duration_ms: 980,
            capture: None,
            capture_fallback: None,
        }
    }

    fn kinds(before: &SyncStatus, after: &SyncStatus) -> Vec<EventKind> {
        let web = "web".parse().expect("a name");
        changes(&web, before, after).iter().map(|(_, details)| details.kind()).collect()
    }

    #[test]
    fn each_thing_is_told_once() {
        let before = idle(SyncRole::Provider);
        let published =
            SyncStatus { last_publish: Some(outcome(1, 10)), ..idle(SyncRole::Provider) };
        assert_eq!(kinds(&before, &published), [EventKind::Published]);
        assert!(kinds(&published, &published).is_empty());
        let busy = SyncStatus { stage: "upload".to_owned(), ..published.clone() };
        assert!(kinds(&published, &busy).is_empty(), "a stage is no event");
        let again = SyncStatus { last_publish: Some(outcome(1, 20)), ..published.clone() };
        assert_eq!(kinds(&published, &again), [EventKind::Published], "the same content, later");
    }

    #[test]
    fn content_that_was_taken_back_is_told_each_time() {
        let before = idle(SyncRole::Consumer);
        let back = |second, failures| SyncStatus {
            taken_back: Some(SyncTakenBack {
                cid: Cid::from_digest([1; 32]),
                at: at(second),
                reason: "3 of 3 answers were bad".to_owned(),
                failures,
            }),
            ..before.clone()
        };
        assert_eq!(kinds(&before, &back(10, 1)), [EventKind::ApplyTakenBack]);
        assert!(kinds(&back(10, 1), &back(10, 1)).is_empty());
        assert_eq!(kinds(&back(10, 1), &back(90, 2)), [EventKind::ApplyTakenBack]);
        assert!(kinds(&back(90, 2), &before).is_empty(), "that it is forgotten is no event");
    }

    #[test]
    fn a_failed_apply_is_told_with_its_quarantine_and_not_when_it_is_forgotten() {
        let before = idle(SyncRole::Consumer);
        let cid = Cid::from_digest([1; 32]).to_string();
        let failure =
            SyncFailure { stage: "extract".into(), code: None, error: "torn".into(), at: at(10) };
        let failed = SyncStatus {
            last_failure: Some(failure),
            quarantine: [(cid.clone(), at(70))].into(),
            ..before.clone()
        };
        assert_eq!(kinds(&before, &failed), [EventKind::SyncFailed, EventKind::Quarantined]);
        let longer = SyncStatus { quarantine: [(cid, at(200))].into(), ..failed.clone() };
        assert_eq!(kinds(&failed, &longer), [EventKind::Quarantined]);
        let applied = SyncStatus { last_apply: Some(outcome(1, 210)), ..before };
        assert_eq!(kinds(&longer, &applied), [EventKind::Applied]);
    }
}
