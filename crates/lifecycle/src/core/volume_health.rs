//! What an operator should hear of the volumes: each change once, in words, and how full they are.

use std::collections::BTreeMap;
use std::time::Duration;

use belay_protocol::event::VolumeMeasure;
use belay_protocol::{CheckOutcome, EventDetails, VolumeLevel};
use belay_volumes::{
    HealthTracker, HostStatus, LastCheck, Level, Thresholds, VolumeEvent, VolumeId, VolumeStatus,
};

/// How urgent a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Something is well again.
    Relief,
    /// It will harm if it goes on.
    Warning,
    /// It harms.
    Alarm,
}

/// Something that changed about the volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeChange {
    /// Which volume; `None` for the host's disk below all of them.
    pub volume: Option<VolumeId>,
    /// How urgent it is.
    pub urgency: Urgency,
    /// One sentence on it.
    pub text: String,
    /// The same as an event.
    pub details: EventDetails,
}

/// Follows the volumes from look to look.
#[derive(Debug)]
pub struct VolumeHealth {
    tracker: HealthTracker,
    /// Second, since 1970, from which on checks are told.
    since: u64,
    /// The last check of each volume that was seen.
    checks: BTreeMap<VolumeId, LastCheck>,
    levels: BTreeMap<VolumeId, Levels>,
    overcommitted: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Levels {
    bytes: Level,
    inodes: Level,
}

impl VolumeHealth {
    /// Nothing was looked at yet. Checks of file systems are told that were made at this second
    /// since 1970 or later: the others were told by an earlier belayd.
    pub fn new(since: u64) -> Self {
        Self {
            tracker: HealthTracker::new(Thresholds::default()),
            since,
            checks: BTreeMap::new(),
            levels: BTreeMap::new(),
            overcommitted: false,
        }
    }

    /// Takes in what the volumes are at a time that only grows, and says what changed.
    pub fn observe(&mut self, now: Duration, volumes: &[VolumeStatus]) -> Vec<VolumeChange> {
        // A volume that was unmounted begins anew: what its level was says nothing any more.
        let mounted =
            |id: &VolumeId| volumes.iter().any(|one| one.id == *id && one.mounted.is_some());
        self.levels.retain(|id, _| mounted(id));
        let events = self.tracker.observe(now, volumes);
        let checked = volumes.iter().filter_map(|volume| self.check(volume)).collect::<Vec<_>>();
        checked.into_iter().chain(events.iter().map(|event| self.take(event))).collect()
    }

    /// A check of its file system that was made since the last look.
    fn check(&mut self, volume: &VolumeStatus) -> Option<VolumeChange> {
        let Some(found) = volume.last_check.clone() else {
            self.checks.remove(&volume.id);
            return None;
        };
        let before = self.checks.insert(volume.id.clone(), found.clone());
        if found.at < self.since || before.as_ref() == Some(&found) {
            return None;
        }
        let (urgency, text, outcome) = match found.outcome {
            belay_volumes::CheckOutcome::Clean => {
                (Urgency::Relief, "its file system was checked and is clean", CheckOutcome::Clean)
            }
            belay_volumes::CheckOutcome::Repaired => (
                Urgency::Warning,
                "its file system was checked and repaired",
                CheckOutcome::Repaired,
            ),
            belay_volumes::CheckOutcome::Damaged => (
                Urgency::Alarm,
                "its file system was checked and is damaged",
                CheckOutcome::Damaged,
            ),
        };
        Some(VolumeChange {
            volume: Some(volume.id.clone()),
            urgency,
            text: text.to_owned(),
            details: EventDetails::VolumeChecked { outcome },
        })
    }

    /// Takes in what the host's disk has, and says whether that changed what can be relied on.
    pub fn observe_host(&mut self, host: &HostStatus) -> Option<VolumeChange> {
        let overcommitted = host.is_overcommitted();
        if std::mem::replace(&mut self.overcommitted, overcommitted) == overcommitted {
            return None;
        }
        let (urgency, text, details) = if overcommitted {
            let details = EventDetails::HostOvercommitted {
                missing_bytes: host.missing.as_u64(),
                available_bytes: host.available.as_u64(),
            };
            let text = format!(
                "the volumes may still come to need {} and the host's disk has {}: thin volumes \
                 can meet write errors; free space on the host",
                host.missing, host.available
            );
            (Urgency::Alarm, text, details)
        } else {
            let text = "the host's disk can keep what the volumes were promised".to_owned();
            (Urgency::Relief, text, EventDetails::HostRelieved {})
        };
        Some(VolumeChange { volume: None, urgency, text, details })
    }

    /// How full a volume is, bytes or inodes, whichever is worse.
    pub fn level(&self, id: &VolumeId) -> Level {
        self.levels.get(id).map_or(Level::Normal, |levels| levels.bytes.max(levels.inodes))
    }

    /// How long until a volume is full, if it goes on as it did.
    pub fn time_to_full(&self, volume: &VolumeStatus) -> Option<Duration> {
        self.tracker.time_to_full(volume)
    }

    fn take(&mut self, event: &VolumeEvent) -> VolumeChange {
        let (id, urgency, text, details) = match event {
            VolumeEvent::Bytes { id, level, percent, time_to_full } => {
                self.levels.entry(id.clone()).or_default().bytes = *level;
                let full = match time_to_full {
                    Some(left) => format!(", full in {} at this rate", in_words(*left)),
                    None => String::new(),
                };
                let details = EventDetails::VolumeLevelChanged {
                    of: VolumeMeasure::Bytes,
                    level: shown(*level),
                    percent: *percent,
                    time_to_full_seconds: time_to_full.map(|left| left.as_secs()),
                };
                let text = format!("{percent} percent of its bytes are used{full}");
                (id, urgency(*level), text, details)
            }
            VolumeEvent::Inodes { id, level, percent } => {
                self.levels.entry(id.clone()).or_default().inodes = *level;
                let details = EventDetails::VolumeLevelChanged {
                    of: VolumeMeasure::Inodes,
                    level: shown(*level),
                    percent: *percent,
                    time_to_full_seconds: None,
                };
                let text = format!("{percent} percent of its inodes are used");
                (id, urgency(*level), text, details)
            }
            VolumeEvent::Failed { id } => (
                id,
                Urgency::Alarm,
                "it refuses writes: read-only, or its file system answers with errors".to_owned(),
                EventDetails::VolumeRefusesWrites {},
            ),
            VolumeEvent::Restored { id } => (
                id,
                Urgency::Relief,
                "it takes writes again".to_owned(),
                EventDetails::VolumeTakesWrites {},
            ),
            VolumeEvent::Errors { id, new } => (
                id,
                Urgency::Alarm,
                format!("its file system counted {new} new errors"),
                EventDetails::VolumeErrors { new: *new },
            ),
            VolumeEvent::Unreserved { id, missing } => (
                id,
                Urgency::Warning,
                format!("{missing} of its promised space are not allocated on the host"),
                EventDetails::VolumeUnreserved { missing_bytes: missing.as_u64() },
            ),
        };
        VolumeChange { volume: Some(id.clone()), urgency, text, details }
    }
}

/// A level as it is shown.
pub(crate) fn shown(level: Level) -> VolumeLevel {
    match level {
        Level::Normal => VolumeLevel::Normal,
        Level::Warning => VolumeLevel::Warning,
        Level::Critical => VolumeLevel::Critical,
    }
}

fn urgency(level: Level) -> Urgency {
    match level {
        Level::Normal => Urgency::Relief,
        Level::Warning => Urgency::Warning,
        Level::Critical => Urgency::Alarm,
    }
}

fn in_words(left: Duration) -> String {
    const HOUR: u64 = 3600;
    match left.as_secs() {
        seconds @ 0..600 => format!("{seconds} s"),
        seconds @ 600..36_000 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / HOUR),
    }
}

#[cfg(test)]
mod tests {
    use belay_volumes::{Allocation, ByteSize, FileSystem, MountStatus, VolumeRole};

    use super::*;

    fn id() -> VolumeId {
        "web/data".parse().expect("a volume")
    }

    /// 100 MiB and 100 inodes, of which so many are used.
    fn volume(used_mib: u64, used_inodes: u64) -> VolumeStatus {
        VolumeStatus {
            id: id(),
            configured: true,
            role: Some(VolumeRole::Data),
            file_system: Some(FileSystem::Ext4),
            allocation: Some(Allocation::Full),
            size: ByteSize::mib(100),
            allocated: ByteSize::mib(100),
            mounted: Some(MountStatus {
                target: "/v/mount".into(),
                device: "/dev/loop1".into(),
                read_only: false,
                direct_io: true,
                total: ByteSize::mib(100),
                used: ByteSize::mib(used_mib),
                available: ByteSize::mib(100 - used_mib),
                inodes: 100,
                inodes_available: 100 - used_inodes,
                errors: 0,
                failed: false,
            }),
            last_check: None,
            fault: None,
        }
    }

    fn read_only() -> VolumeStatus {
        let mut volume = volume(1, 1);
        volume.mounted.as_mut().expect("it is mounted").read_only = true;
        volume
    }

    fn texts(changes: &[VolumeChange]) -> Vec<(Urgency, &str)> {
        changes.iter().map(|change| (change.urgency, change.text.as_str())).collect()
    }

    #[test]
    fn the_worse_of_bytes_and_inodes_is_the_level_and_each_step_is_told_once() {
        let mut health = VolumeHealth::new(0);
        let at = |minute: u64| Duration::from_secs(60 * minute);
        assert!(health.observe(at(0), &[volume(10, 10)]).is_empty());
        assert_eq!(
            texts(&health.observe(at(1), &[volume(85, 96)])),
            [
                (Urgency::Warning, "85 percent of its bytes are used"),
                (Urgency::Alarm, "96 percent of its inodes are used")
            ]
        );
        assert_eq!(health.level(&id()), Level::Critical);
        assert!(health.observe(at(2), &[volume(85, 96)]).is_empty(), "told once");
        let back = health.observe(at(3), &[volume(85, 10)]);
        assert_eq!(texts(&back), [(Urgency::Relief, "10 percent of its inodes are used")]);
        assert_eq!(health.level(&id()), Level::Warning);
    }

    #[test]
    fn a_volume_that_hovers_at_a_threshold_is_not_an_event_a_look() {
        let mut health = VolumeHealth::new(0);
        let mut told = 0;
        for (look, used) in [79, 80, 79, 80, 79, 80, 79].into_iter().enumerate() {
            let at = Duration::from_secs(60 * u64::try_from(look).expect("small"));
            told += health.observe(at, &[volume(used, 1)]).len();
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn read_only_is_told_once_and_so_is_its_end() {
        let mut health = VolumeHealth::new(0);
        let at = Duration::from_secs;
        assert!(health.observe(at(0), &[volume(1, 1)]).is_empty());
        let changes = health.observe(at(5), &[read_only()]);
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].volume.clone(), changes[0].urgency), (Some(id()), Urgency::Alarm));
        assert!(health.observe(at(10), &[read_only()]).is_empty());
        let changes = health.observe(at(15), &[volume(1, 1)]);
        assert_eq!(texts(&changes), [(Urgency::Relief, "it takes writes again")]);
    }

    #[test]
    fn a_volume_that_was_unmounted_is_judged_anew() {
        let mut health = VolumeHealth::new(0);
        health.observe(Duration::ZERO, &[volume(97, 1)]);
        assert_eq!(health.level(&id()), Level::Critical);
        let unmounted = VolumeStatus { mounted: None, ..volume(97, 1) };
        assert!(health.observe(Duration::from_secs(5), &[unmounted]).is_empty());
        assert_eq!(health.level(&id()), Level::Normal);
        let again = health.observe(Duration::from_secs(10), &[volume(97, 1)]);
        assert_eq!(texts(&again), [(Urgency::Alarm, "97 percent of its bytes are used")]);
    }

    #[test]
    fn a_volume_that_grows_evenly_says_when_it_is_full() {
        let mut health = VolumeHealth::new(0);
        for (look, used) in [10, 20, 30, 40, 50].into_iter().enumerate() {
            let at = Duration::from_secs(60 * u64::try_from(look).expect("small"));
            health.observe(at, &[volume(used, 1)]);
        }
        let left = health.time_to_full(&volume(50, 1)).expect("it grows");
        assert_eq!(left.as_secs(), 300, "50 MiB at 10 MiB a minute");
        let event = health.observe(Duration::from_secs(480), &[volume(90, 1)]);
        assert_eq!(
            texts(&event),
            [(Urgency::Warning, "90 percent of its bytes are used, full in 60 s at this rate")]
        );
    }

    #[test]
    fn a_level_is_an_event_with_its_numbers() {
        let mut health = VolumeHealth::new(0);
        let changes = health.observe(Duration::ZERO, &[volume(96, 1)]);
        let details = EventDetails::VolumeLevelChanged {
            of: VolumeMeasure::Bytes,
            level: VolumeLevel::Critical,
            percent: 96,
            time_to_full_seconds: None,
        };
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].details, details);
    }

    #[test]
    fn a_check_of_this_run_is_told_once() {
        let mut health = VolumeHealth::new(100);
        let checked = |at, outcome| VolumeStatus {
            last_check: Some(LastCheck { at, outcome }),
            ..volume(1, 1)
        };
        let at = Duration::from_secs;
        let clean = belay_volumes::CheckOutcome::Clean;
        let repaired = belay_volumes::CheckOutcome::Repaired;
        assert!(health.observe(at(0), &[checked(99, clean)]).is_empty(), "told by another run");
        let told = health.observe(at(5), &[checked(120, repaired)]);
        assert_eq!(texts(&told), [(Urgency::Warning, "its file system was checked and repaired")]);
        assert!(health.observe(at(10), &[checked(120, repaired)]).is_empty());
        assert_eq!(health.observe(at(15), &[checked(130, clean)]).len(), 1);
        // One that is first seen after it was checked, as when its workload has just started.
        let mut health = VolumeHealth::new(100);
        assert_eq!(health.observe(at(0), &[checked(101, clean)]).len(), 1);
    }

    #[test]
    fn an_overcommitted_host_is_told_once() {
        let mut health = VolumeHealth::new(0);
        let host = |available| HostStatus {
            available: ByteSize::mib(available),
            promised: ByteSize::mib(100),
            missing: ByteSize::mib(50),
        };
        assert_eq!(health.observe_host(&host(60)), None);
        let change = health.observe_host(&host(40)).expect("it changed");
        assert!(change.text.contains("need 50Mi") && change.text.contains("has 40Mi"));
        assert_eq!(health.observe_host(&host(30)), None);
        let relief = health.observe_host(&host(60)).expect("it changed");
        assert_eq!(relief.urgency, Urgency::Relief);
    }
}
