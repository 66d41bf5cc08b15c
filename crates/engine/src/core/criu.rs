//! What the engine and CRIU say of a checkpoint.

use std::time::Duration;

use serde::Deserialize;

use crate::checkpoint::{CheckpointReport, RestoreReport};

/// Lines of CRIU's log that are told.
const REASONS_MAX: usize = 3;
/// Characters of one of them.
const REASON_LENGTH: usize = 300;

/// Body of a checkpoint's answer; times are in microseconds.
#[derive(Debug, Deserialize)]
pub(crate) struct CheckpointBody {
    runtime_checkpoint_duration: i64,
    #[serde(default)]
    criu_statistics: Option<DumpStatistics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DumpStatistics {
    freezing_time: u32,
    frozen_time: u32,
    pages_written: u64,
}

/// Body of a restore's answer; times are in microseconds.
#[derive(Debug, Deserialize)]
pub(crate) struct RestoreBody {
    #[serde(rename = "Id")]
    pub(crate) id: String,
    runtime_restore_duration: i64,
    #[serde(default)]
    criu_statistics: Option<RestoreStatistics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestoreStatistics {
    restore_time: u32,
    pages_restored: u64,
}

impl CheckpointBody {
    pub(crate) fn report(self) -> CheckpointReport {
        let criu = self.criu_statistics.unwrap_or_default();
        CheckpointReport {
            total: micros(self.runtime_checkpoint_duration),
            frozen: Duration::from_micros(criu.frozen_time.into()),
            freezing: Duration::from_micros(criu.freezing_time.into()),
            pages_written: criu.pages_written,
        }
    }
}

impl RestoreBody {
    pub(crate) fn report(&self) -> RestoreReport {
        let criu = self.criu_statistics.as_ref();
        RestoreReport {
            total: micros(self.runtime_restore_duration),
            restoring: Duration::from_micros(criu.map_or(0, |it| it.restore_time).into()),
            pages_restored: criu.map_or(0, |it| it.pages_restored),
        }
    }
}

fn micros(count: i64) -> Duration {
    Duration::from_micros(u64::try_from(count).unwrap_or(0))
}

/// Body of an inspect, the part that only Podman's own API has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SuspensionBody {
    /// Where the engine keeps what belongs to the container, CRIU's logs included.
    #[serde(default)]
    pub(crate) static_dir: String,
    state: SuspensionState,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuspensionState {
    #[serde(default)]
    running: bool,
    #[serde(default)]
    checkpointed: bool,
}

impl SuspensionBody {
    pub(crate) fn is_suspended(&self) -> bool {
        self.state.checkpointed && !self.state.running
    }
}

/// What a failure of the engine's call was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// CRIU is not there or not usable.
    Missing,
    /// CRIU ran and failed; its log says why.
    Criu,
    /// Something else.
    Other,
}

/// Reads the engine's words.
pub(crate) fn blame(message: &str) -> Blame {
    let says = |words: &str| message.contains(words);
    if says("requires at least CRIU") || says("not support checkpoint") || says("criu binary") {
        Blame::Missing
    } else if says(" checkpoint --image-path") || says(" restore --image-path") || says("criu ") {
        Blame::Criu
    } else {
        Blame::Other
    }
}

/// The errors in a log of CRIU, in its words without file and line; `None` if it names none.
pub(crate) fn reasons(log: &str) -> Option<String> {
    let mut found: Vec<&str> = Vec::new();
    for line in log.lines() {
        // `(00.012345) Error (criu/files.c:12): what happened`
        let Some((_, rest)) = line.split_once("Error (") else { continue };
        let Some((_, reason)) = rest.split_once("): ") else { continue };
        let reason = reason.trim();
        // Without the capability it says so and goes on; and the last words only sum up.
        let is_noise = reason.contains("RLIMIT_NOFILE for self") || reason == "Dumping FAILED.";
        if !is_noise && !reason.is_empty() && !found.contains(&reason) {
            found.push(reason);
        }
    }
    let told: Vec<String> =
        found.iter().take(REASONS_MAX).map(|it| it.chars().take(REASON_LENGTH).collect()).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gives_its_errors_without_noise_and_without_end() {
        let written = "(00.000012) Version: 4.2.1 (gitid 0)\n\
            (00.000712) Warn  (criu/kerndat.c:1): something\n\
            (00.001712) Error (criu/util.c:99): Can't set RLIMIT_NOFILE for self: Operation not permitted\n\
            (00.010343) Error (criu/files-reg.c:1017): Can't dump ghost file /tmp/big of 80000000 size, increase limit\n\
            (00.010344) Error (criu/files-reg.c:1017): Can't dump ghost file /tmp/big of 80000000 size, increase limit\n\
            (00.010356) Error (criu/cr-dump.c:1669): Dump files (pid: 1) failed with -1\n\
            (00.011000) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        assert_eq!(
            reasons(written).as_deref(),
            Some(
                "Can't dump ghost file /tmp/big of 80000000 size, increase limit; \
                 Dump files (pid: 1) failed with -1"
            )
        );
        assert_eq!(reasons("(00.1) Error (x)"), None);
        assert_eq!(reasons(""), None);
        let long = format!("Error (x:1): {}\n", "a".repeat(4000)).repeat(100);
        assert!(reasons(&long).is_some_and(|it| it.len() <= REASON_LENGTH));
    }

    #[test]
    fn what_failed_is_told_apart() {
        assert_eq!(blame("checkpoint/restore requires at least CRIU 31100"), Blame::Missing);
        assert_eq!(
            blame(
                "`/usr/bin/runc checkpoint --image-path /x --work-path /y z` failed: exit status 1"
            ),
            Blame::Criu
        );
        assert_eq!(blame("OCI runtime error: runc: criu failed: type NOTIFY errno 0"), Blame::Criu);
        assert_eq!(blame("no space left on device"), Blame::Other);
    }

    #[test]
    fn reports_are_read_with_and_without_statistics() {
        let body = r#"{"Id":"a","RawInput":"b","runtime_checkpoint_duration":338150,
            "criu_statistics":{"freezing_time":101141,"frozen_time":143178,"memdump_time":3458,
            "memwrite_time":175,"pages_scanned":50,"pages_written":36}}"#;
        let report = serde_json::from_str::<CheckpointBody>(body).expect("reads").report();
        assert_eq!(report.total, Duration::from_micros(338_150));
        assert_eq!(report.frozen, Duration::from_micros(143_178));
        assert_eq!((report.freezing.as_micros(), report.pages_written), (101_141, 36));
        let body = r#"{"Id":"a","RawInput":"","runtime_restore_duration":475855}"#;
        let body: RestoreBody = serde_json::from_str(body).expect("reads");
        assert_eq!(body.report().total, Duration::from_micros(475_855));
        assert_eq!(body.report().restoring, Duration::ZERO);
    }

    #[test]
    fn a_container_is_suspended_only_while_no_process_of_it_runs() {
        let is = |state: &str| {
            let body = format!(r#"{{"StaticDir":"/x","State":{state}}}"#);
            serde_json::from_str::<SuspensionBody>(&body).expect("reads").is_suspended()
        };
        assert!(is(r#"{"Running":false,"Checkpointed":true}"#));
        assert!(!is(r#"{"Running":true,"Checkpointed":true}"#));
        assert!(!is(r#"{"Running":false}"#));
    }
}
