use std::path::PathBuf;

use proptest::prelude::*;

use super::super::status::MountStatus;
use super::*;

fn volume(used_mib: u64, total_mib: u64) -> VolumeStatus {
    VolumeStatus {
        id: "web/store".parse().expect("an id"),
        configured: true,
        role: None,
        file_system: None,
        allocation: Some(Allocation::Full),
        size: ByteSize::mib(total_mib),
        allocated: ByteSize::mib(total_mib),
        mounted: Some(MountStatus {
            target: PathBuf::from("/v"),
            device: PathBuf::from("/dev/loop9"),
            read_only: false,
            direct_io: true,
            total: ByteSize::mib(total_mib),
            used: ByteSize::mib(used_mib),
            available: ByteSize::mib(total_mib - used_mib),
            inodes: 1000,
            inodes_available: 900,
            errors: 0,
            failed: false,
        }),
        last_check: None,
        fault: None,
    }
}

fn with_mount(mut volume: VolumeStatus, change: impl FnOnce(&mut MountStatus)) -> VolumeStatus {
    change(volume.mounted.as_mut().expect("it is mounted"));
    volume
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn levels_change_at_the_thresholds_once() {
    let mut tracker = HealthTracker::default();
    let mut levels = Vec::new();
    for (at, used) in [10, 79, 80, 80, 79, 78, 77, 94, 95, 94, 93, 92, 10].into_iter().enumerate() {
        for event in tracker.observe(seconds(at as u64), &[volume(used, 100)]) {
            let VolumeEvent::Bytes { level, percent, .. } = event else { panic!("{event:?}") };
            levels.push((percent, level));
        }
    }
    assert_eq!(
        levels,
        [
            (80, Level::Warning),
            (77, Level::Normal),
            (94, Level::Warning),
            (95, Level::Critical),
            (92, Level::Warning),
            (10, Level::Normal),
        ]
    );
}

#[test]
fn running_out_of_files_is_an_event_of_its_own() {
    let mut tracker = HealthTracker::default();
    let full = with_mount(volume(1, 100), |mount| mount.inodes_available = 40);
    let events = tracker.observe(seconds(0), std::slice::from_ref(&full));
    assert_eq!(events, [VolumeEvent::Inodes { id: full.id, level: Level::Critical, percent: 96 }]);
}

#[test]
fn a_read_only_or_failed_file_system_is_an_event_and_so_is_its_end() {
    for fail in [
        |mount: &mut MountStatus| mount.read_only = true,
        |mount: &mut MountStatus| {
            mount.failed = true;
        },
    ] {
        let mut tracker = HealthTracker::default();
        let id = volume(1, 100).id;
        assert_eq!(tracker.observe(seconds(0), &[volume(1, 100)]), []);
        let broken = with_mount(volume(1, 100), fail);
        let broken = std::slice::from_ref(&broken);
        assert_eq!(tracker.observe(seconds(1), broken), [VolumeEvent::Failed { id: id.clone() }]);
        assert_eq!(tracker.observe(seconds(2), broken), [], "once is enough");
        assert_eq!(tracker.observe(seconds(3), &[volume(1, 100)]), [VolumeEvent::Restored { id }]);
    }
}

#[test]
fn only_new_errors_are_events() {
    let mut tracker = HealthTracker::default();
    let mut new = Vec::new();
    for errors in [3, 3, 5] {
        let volume = with_mount(volume(1, 100), |mount| mount.errors = errors);
        new.extend(tracker.observe(seconds(errors), &[volume]));
    }
    let id = volume(1, 100).id;
    assert_eq!(
        new,
        [VolumeEvent::Errors { id: id.clone(), new: 3 }, VolumeEvent::Errors { id, new: 2 }]
    );
}

#[test]
fn a_leaked_reservation_is_an_event_and_a_thin_volume_has_none() {
    let leaked = VolumeStatus { allocated: ByteSize::mib(60), ..volume(1, 100) };
    let mut tracker = HealthTracker::default();
    assert_eq!(
        tracker.observe(seconds(0), std::slice::from_ref(&leaked)),
        [VolumeEvent::Unreserved { id: leaked.id.clone(), missing: ByteSize::mib(40) }]
    );
    assert_eq!(tracker.observe(seconds(1), std::slice::from_ref(&leaked)), []);
    let thin = VolumeStatus { allocation: Some(Allocation::Thin), ..leaked };
    assert_eq!(HealthTracker::default().observe(seconds(0), &[thin]), []);
}

#[test]
fn steady_growth_tells_when_the_volume_is_full() {
    let mut tracker = HealthTracker::default();
    for step in 0..10 {
        tracker.observe(seconds(step * 10), &[volume(step, 100)]);
    }
    // 1 MiB in 10 s, 91 MiB to go.
    let left = tracker.time_to_full(&volume(9, 100)).expect("it grows");
    assert!((left.as_secs_f64() - 910.0).abs() < 1.0, "{left:?}");
}

#[test]
fn a_volume_that_does_not_grow_is_never_full() {
    let mut tracker = HealthTracker::default();
    for step in 0..10 {
        tracker.observe(seconds(step * 10), &[volume(50 - step, 100)]);
    }
    assert_eq!(tracker.time_to_full(&volume(40, 100)), None);
    assert_eq!(HealthTracker::default().time_to_full(&volume(40, 100)), None);
}

#[test]
fn a_volume_that_is_gone_is_forgotten() {
    let mut tracker = HealthTracker::default();
    tracker.observe(seconds(0), &[volume(90, 100)]);
    tracker.observe(seconds(1), &[]);
    assert_eq!(tracker.observe(seconds(2), &[volume(90, 100)]).len(), 1, "it is news again");
}

proptest! {
    #[test]
    fn a_level_never_lies_more_than_the_hysteresis(steps in proptest::collection::vec(0_u8..=100, 1..40)) {
        let thresholds = Thresholds::default();
        let mut now = Level::Normal;
        for percent in steps {
            now = level(now, percent, thresholds);
            prop_assert!(percent < thresholds.critical || now == Level::Critical);
            prop_assert!(percent < thresholds.warning || now >= Level::Warning);
            prop_assert!(percent + HYSTERESIS >= thresholds.warning || now == Level::Normal);
            prop_assert!(percent + HYSTERESIS >= thresholds.critical || now < Level::Critical);
        }
    }

    #[test]
    fn the_trend_of_any_samples_is_a_time_or_nothing(
        used in proptest::collection::vec(0..1_u64 << 50, 0..80),
        available: u64,
    ) {
        let samples = used.iter().enumerate()
            .map(|(at, &used)| Sample { at: seconds(at as u64), used }).collect();
        let _ = time_to_full(&samples, ByteSize::bytes(available));
    }

    #[test]
    fn percentages_stay_in_range(used in 0..1_u64 << 44, available in 0..1_u64 << 44) {
        let status = with_mount(volume(1, 100), |mount| {
            mount.used = ByteSize::bytes(used);
            mount.available = ByteSize::bytes(available);
        });
        let percent = status.mounted.expect("mounted").bytes_percent();
        prop_assert!(percent <= 100);
        prop_assert!(used == 0 || percent > 0);
    }
}
