//! What the ledger keeps of a workload.

use std::collections::BTreeMap;

use belay_protocol::{DesiredState, VolumeFate, VolumeName, WorkloadName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::app_requests::Pace;
use super::first_content::ContentWait;
use super::oom::OomTold;
use super::watch::Watched;

/// Table of the ledger that holds [`WorkloadRecord`]s, keyed by the workload's name.
pub const TABLE: &str = "workload";

/// Everything that must outlive belayd about one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRecord {
    /// The spec in force.
    pub declaration: Declaration,
    /// Generation of the spec in force.
    pub generation: u64,
    /// Highest generation ever used; the next deploy takes the one after it.
    pub newest_generation: u64,
    /// Whether it should run.
    pub run: DesiredState,
    /// Set from before the first stop of a deploy until its new version is ready.
    pub previous: Option<PreviousVersion>,
    /// Set from then on until that version is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
    /// Set once its removal has begun.
    pub removing: Option<VolumeFate>,
    /// Set when it must not be started before an operator acts, with the reason.
    pub halted: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// When the next start is due, while it backs off.
    pub next_try_at: Option<Timestamp>,
    /// Whether belayd itself is stopping the container, so that its end is no crash.
    pub interruption: Interruption,
    /// What was last found of the process that runs, so that a belayd after this one does not doubt
    /// it before it has asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Set when it is not started again before an operator acts: its restarts are spent, or it was
    /// unhealthy and its spec says so. With the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What was told of processes in its container that the kernel ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_told: Option<OomTold>,
    /// The last end of a container that was counted or found to be none, so that it is judged once.
    pub judged_exit: Option<String>,
    /// Boot of the host in which its container was started last: what was running then did not end
    /// by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_in_boot: Option<String>,
    /// Hash of the declaration whose deploy was given up last: a file that stays as it is is not
    /// deployed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
    /// The runs of those it depends on with which it was started last, where a restart of theirs is
    /// to be followed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub started_with: BTreeMap<WorkloadName, String>,
    /// The app's own overrides of its environment, by name. They outlive every deploy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, String>,
    /// Whether a container with an older environment is started anew for them.
    #[serde(default, skip_serializing_if = "OverridesDue::is_next_start")]
    pub overrides_due: OverridesDue,
    /// Volumes that are being emptied on the app's word. Set before the first of them is touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<ResetIntent>,
    /// How often the app had itself restarted.
    #[serde(default, skip_serializing_if = "Pace::is_fresh")]
    pub app_pace: Pace,
    /// Bytes of the volumes that an operator grew beyond their spec.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub grown: BTreeMap<VolumeName, u64>,
    /// The image of the version in force, once it was had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInForce>,
    /// Set from the look that found nothing of its key in its volumes until they hold some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_wait: Option<ContentWait>,
}

/// The image that a version runs on, whatever its reference points at by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInForce {
    /// Its id.
    pub id: String,
    /// Its digest at the registry, where it came from one.
    pub digest: Option<String>,
}

/// A spec as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// The text, in TOML.
    pub spec: String,
    /// What errors call it.
    pub file: String,
    /// Directory below which its relative paths lie.
    pub directory: String,
    /// Who gave it.
    pub source: Source,
}

impl Declaration {
    /// Hash over the text and its directory: the same for the same declaration in every version of
    /// this program, so that an upgrade replaces no container. 64 hexadecimal digits.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.directory.as_bytes()).update(&[0]).update(self.spec.as_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// Who gave a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A file in the node's `workloads.d`, which belayd never writes.
    File,
    /// `belay deploy`, over the API.
    Api,
}

/// The version that a deploy is replacing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviousVersion {
    /// Its spec.
    pub declaration: Declaration,
    /// Its generation.
    pub generation: u64,
    /// Whether it was meant to run.
    pub run: DesiredState,
    /// The image that it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInForce>,
}

/// Whether belayd itself is ending the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interruption {
    /// No: an end is the container's own.
    None,
    /// Yes, written before the stop and cleared after the next start.
    Planned,
}

/// When overrides of the environment that a container was not made with come into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverridesDue {
    /// When it is started next, whatever for.
    #[default]
    NextStart,
    /// Now: it is started for them.
    Now,
}

impl OverridesDue {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_next_start(&self) -> bool {
        *self == Self::NextStart
    }
}

/// A reset that an app asked for and that is not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetIntent {
    /// The volumes.
    pub volumes: Vec<VolumeName>,
    /// Echoed in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How far it is.
    pub stage: ResetStage,
}

/// How far a reset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetStage {
    /// Something may be left in the volumes.
    Emptying,
    /// They are empty, and the app has no answer yet.
    Emptied {
        /// Names that were removed.
        cleared: u64,
    },
}

/// What was found of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Of which one.
    pub incarnation: String,
    /// What.
    pub found: Found,
}

/// Which of two things was found of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// It became ready and was well since.
    Ready,
    /// It was ready and is unhealthy.
    Unhealthy,
}

impl WorkloadRecord {
    /// The record of a workload that is deployed for the first time.
    pub fn first(declaration: Declaration) -> Self {
        Self {
            declaration,
            generation: 1,
            newest_generation: 1,
            run: DesiredState::Running,
            previous: None,
            watched: None,
            removing: None,
            halted: None,
            failures: 0,
            next_try_at: None,
            interruption: Interruption::None,
            verdict: None,
            failed: None,
            oom_told: None,
            judged_exit: None,
            started_in_boot: None,
            given_up: None,
            started_with: BTreeMap::new(),
            overrides: BTreeMap::new(),
            overrides_due: OverridesDue::NextStart,
            reset: None,
            app_pace: Pace::default(),
            grown: BTreeMap::new(),
            image: None,
            content_wait: None,
        }
    }

    /// The record once a new spec replaces the one in force.
    #[must_use]
    pub fn replaced_by(&self, declaration: Declaration) -> Self {
        let generation = self.newest_generation + 1;
        Self {
            generation,
            newest_generation: generation,
            // A second deploy during a first one goes back to the version that was ready last.
            previous: self.previous.clone().or_else(|| {
                Some(PreviousVersion {
                    declaration: self.declaration.clone(),
                    generation: self.generation,
                    run: self.run,
                    image: self.image.clone(),
                })
            }),
            overrides: self.overrides.clone(),
            overrides_due: self.overrides_due,
            reset: self.reset.clone(),
            app_pace: self.app_pace.clone(),
            grown: self.grown.clone(),
            // It is about what the volumes hold.
            content_wait: self.content_wait.clone(),
            ..Self::first(declaration)
        }
    }

    /// The record once the deploy under way is given up, or the version that is watched; the same
    /// where there is neither.
    #[must_use]
    pub fn rolled_back(&self) -> Self {
        let watched = self.watched.as_ref().map(|watched| &watched.previous);
        let Some(previous) = self.previous.as_ref().or(watched) else { return self.clone() };
        Self {
            declaration: previous.declaration.clone(),
            generation: previous.generation,
            run: previous.run,
            image: previous.image.clone(),
            previous: None,
            // Once: what is in force now has nothing to go back to.
            watched: None,
            failures: 0,
            next_try_at: None,
            interruption: Interruption::Planned,
            given_up: Some(self.declaration.hash()),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(spec: &str) -> Declaration {
        Declaration {
            spec: spec.into(),
            file: "web.toml".into(),
            directory: "/etc".into(),
            source: Source::Api,
        }
    }

    #[test]
    fn a_deploy_that_is_given_up_leaves_what_was() {
        let one = WorkloadRecord::first(declaration("one"));
        let two = one.replaced_by(declaration("two"));
        let three = two.replaced_by(declaration("three"));
        assert_eq!((three.generation, three.previous.as_ref().map(|p| p.generation)), (3, Some(1)));
        let back = three.rolled_back();
        assert_eq!((back.generation, &back.declaration), (1, &one.declaration));
        assert_eq!(back.replaced_by(declaration("four")).generation, 4);
        assert_eq!(one.rolled_back(), one);
    }

    #[test]
    fn a_version_that_is_watched_goes_back_once() {
        let one = WorkloadRecord::first(declaration("one"));
        let mut two = one.replaced_by(declaration("two"));
        let previous = two.previous.take().expect("one ran before");
        two.watched =
            Watched::begin(previous, std::time::Duration::from_secs(300), Timestamp::UNIX_EPOCH);
        let text = serde_json::to_string(&two).expect("encodes");
        assert_eq!(serde_json::from_str::<WorkloadRecord>(&text).expect("reads"), two);
        let back = two.rolled_back();
        assert_eq!((back.generation, &back.declaration), (1, &one.declaration));
        assert_eq!(back.given_up, Some(declaration("two").hash()));
        assert_eq!(back.rolled_back(), back);
        assert_eq!(two.replaced_by(declaration("three")).watched, None);
    }

    #[test]
    fn the_shape_on_disk_is_this() {
        let text =
            serde_json::to_string(&WorkloadRecord::first(declaration("x"))).expect("encodes");
        assert_eq!(
            text,
            r#"{"declaration":{"spec":"x","file":"web.toml","directory":"/etc","source":"api"},"generation":1,"newest_generation":1,"run":"running","previous":null,"removing":null,"halted":null,"failures":0,"next_try_at":null,"interruption":"none","judged_exit":null}"#
        );
    }

    #[test]
    fn what_was_grown_outlives_every_deploy_and_is_read_back() {
        let mut one = WorkloadRecord::first(declaration("one"));
        one.grown.insert("data".parse().expect("a name"), 64 << 20);
        let two = one.replaced_by(declaration("two"));
        assert_eq!((&two.grown, &two.rolled_back().grown), (&one.grown, &one.grown));
        let text = serde_json::to_string(&two).expect("encodes");
        assert!(text.ends_with(r#""grown":{"data":67108864}}"#), "{text}");
        assert_eq!(serde_json::from_str::<WorkloadRecord>(&text).expect("reads"), two);
    }

    #[test]
    fn a_wait_for_content_outlives_every_deploy_and_is_read_back() {
        let mut one = WorkloadRecord::first(declaration("one"));
        one.content_wait = Some(ContentWait {
            key: "models".parse().expect("a key"),
            since: Timestamp::UNIX_EPOCH,
            ended: None,
        });
        let two = one.replaced_by(declaration("two"));
        let back = two.rolled_back();
        assert_eq!((&two.content_wait, &back.content_wait), (&one.content_wait, &one.content_wait));
        let text = serde_json::to_string(&two).expect("encodes");
        let wait = r#""content_wait":{"key":"models","since":"1970-01-01T00:00:00Z"}}"#;
        assert!(text.ends_with(wait), "{text}");
        assert_eq!(serde_json::from_str::<WorkloadRecord>(&text).expect("reads"), two);
    }

    #[test]
    fn what_an_app_asked_for_outlives_every_deploy_and_is_read_back() {
        let mut one = WorkloadRecord::first(declaration("one"));
        one.overrides.insert("A".into(), "1".into());
        one.overrides_due = OverridesDue::Now;
        one.reset = Some(ResetIntent {
            volumes: vec!["data".parse().expect("a name")],
            request_id: None,
            stage: ResetStage::Emptied { cleared: 2 },
        });
        one.app_pace = one.app_pace.after(Timestamp::UNIX_EPOCH);
        let two = one.replaced_by(declaration("two"));
        let kept = |record: &WorkloadRecord| {
            let WorkloadRecord { overrides, overrides_due, reset, app_pace, .. } = record.clone();
            (overrides, overrides_due, reset, app_pace)
        };
        assert_eq!(kept(&two), kept(&one));
        assert_eq!(kept(&two.rolled_back()), kept(&one));
        let text = serde_json::to_string(&two).expect("encodes");
        assert_eq!(serde_json::from_str::<WorkloadRecord>(&text).expect("reads"), two);
    }

    #[test]
    fn the_hash_of_a_declaration_is_pinned() {
        assert_eq!(
            declaration("x").hash(),
            blake3::hash(b"/etc\0x").to_hex().to_string(),
            "a changed hash would replace every container at an upgrade"
        );
    }
}
