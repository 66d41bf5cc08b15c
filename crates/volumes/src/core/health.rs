//! What changes about a volume that somebody should know: it fills, it stopped accepting writes,
//! its file system met errors, its reservation leaked.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::size::ByteSize;
use super::spec::{Allocation, VolumeId};
use super::status::VolumeStatus;

/// How many samples of usage are kept for each volume.
const SAMPLES: usize = 60;

/// Samples closer together than this tell nothing of a trend.
const SAMPLE_DISTANCE: Duration = Duration::from_secs(10);

/// How far below a threshold usage must fall before the level does, in percent: a volume that sits
/// on the threshold is not an event a minute.
const HYSTERESIS: u8 = 2;

/// From which usage on a volume is worth a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Percent.
    pub warning: u8,
    /// Percent.
    pub critical: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { warning: 80, critical: 95 }
    }
}

/// How full something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Below both thresholds.
    #[default]
    Normal,
    /// At or above the first.
    Warning,
    /// At or above the second.
    Critical,
}

/// Something that changed about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeEvent {
    /// Its bytes crossed a threshold, in either direction.
    Bytes {
        /// Which volume.
        id: VolumeId,
        /// The level it has now.
        level: Level,
        /// Percent of what the workload can have.
        percent: u8,
        /// How long until it is full, if it goes on like this.
        time_to_full: Option<Duration>,
    },
    /// Its number of files crossed a threshold, in either direction.
    Inodes {
        /// Which volume.
        id: VolumeId,
        /// The level it has now.
        level: Level,
        /// Percent of the files that can exist.
        percent: u8,
    },
    /// It refuses writes, or answers with i/o errors.
    Failed {
        /// Which volume.
        id: VolumeId,
    },
    /// It works again.
    Restored {
        /// Which volume.
        id: VolumeId,
    },
    /// Its file system counted errors that it had not counted before.
    Errors {
        /// Which volume.
        id: VolumeId,
        /// How many are new.
        new: u64,
    },
    /// Blocks that were promised are not allocated.
    Unreserved {
        /// Which volume.
        id: VolumeId,
        /// How much is missing.
        missing: ByteSize,
    },
}

/// Compares what volumes were with what they are.
#[derive(Debug, Default)]
pub struct HealthTracker {
    thresholds: Thresholds,
    volumes: BTreeMap<VolumeId, Tracked>,
}

#[derive(Debug, Default)]
struct Tracked {
    bytes: Level,
    inodes: Level,
    failed: bool,
    errors: Option<u64>,
    missing: ByteSize,
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    used: u64,
}

impl HealthTracker {
    /// Begins with nothing known.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, volumes: BTreeMap::new() }
    }

    /// Takes in what volumes are at a time that only grows, and returns what changed. Volumes that
    /// are gone are forgotten.
    pub fn observe(&mut self, now: Duration, volumes: &[VolumeStatus]) -> Vec<VolumeEvent> {
        self.volumes.retain(|id, _| volumes.iter().any(|volume| volume.id == *id));
        let mut events = Vec::new();
        for volume in volumes {
            let tracked = self.volumes.entry(volume.id.clone()).or_default();
            tracked.observe(now, volume, self.thresholds, &mut events);
        }
        events
    }

    /// How long until a volume is full, if it goes on as it did in the last samples. `None` when it
    /// does not grow or too little is known.
    pub fn time_to_full(&self, volume: &VolumeStatus) -> Option<Duration> {
        let available = volume.mounted.as_ref()?.available;
        time_to_full(&self.volumes.get(&volume.id)?.samples, available)
    }
}

impl Tracked {
    fn observe(
        &mut self,
        now: Duration,
        volume: &VolumeStatus,
        thresholds: Thresholds,
        events: &mut Vec<VolumeEvent>,
    ) {
        let id = || volume.id.clone();
        let missing = match volume.allocation {
            Some(Allocation::Full) => volume.size.saturating_sub(volume.allocated),
            Some(Allocation::Thin) | None => ByteSize::ZERO,
        };
        if missing > ByteSize::ZERO && self.missing == ByteSize::ZERO {
            events.push(VolumeEvent::Unreserved { id: id(), missing });
        }
        self.missing = missing;
        let Some(mounted) = &volume.mounted else {
            *self = Self { missing, ..Self::default() };
            return;
        };
        let failed = mounted.read_only || mounted.failed;
        match (self.failed, failed) {
            (false, true) => events.push(VolumeEvent::Failed { id: id() }),
            (true, false) => events.push(VolumeEvent::Restored { id: id() }),
            (false, false) | (true, true) => {}
        }
        self.failed = failed;
        // Errors counted before this tracker began are an event too: nobody reported them.
        let new = mounted.errors.saturating_sub(self.errors.unwrap_or(0));
        if new > 0 {
            events.push(VolumeEvent::Errors { id: id(), new });
        }
        self.errors = Some(mounted.errors);
        self.sample(Sample { at: now, used: mounted.used.as_u64() });
        let percent = mounted.bytes_percent();
        let level = level(self.bytes, percent, thresholds);
        if level != self.bytes {
            self.bytes = level;
            let time_to_full = time_to_full(&self.samples, mounted.available);
            events.push(VolumeEvent::Bytes { id: id(), level, percent, time_to_full });
        }
        let percent = mounted.inodes_percent();
        let level = self::level(self.inodes, percent, thresholds);
        if level != self.inodes {
            self.inodes = level;
            events.push(VolumeEvent::Inodes { id: id(), level, percent });
        }
    }

    fn sample(&mut self, sample: Sample) {
        let spaced = self
            .samples
            .back()
            .is_none_or(|last| sample.at.saturating_sub(last.at) >= SAMPLE_DISTANCE);
        if spaced {
            if self.samples.len() == SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(sample);
        }
    }
}

/// The level that follows: up at the threshold, down a little below it.
fn level(was: Level, percent: u8, thresholds: Thresholds) -> Level {
    let of = |percent: u8| {
        if percent >= thresholds.critical {
            Level::Critical
        } else if percent >= thresholds.warning {
            Level::Warning
        } else {
            Level::Normal
        }
    };
    let rising = of(percent);
    let falling = of(percent.saturating_add(HYSTERESIS).min(100));
    if rising >= was { rising } else { falling.min(was) }
}

/// Least squares through the samples: robust against a file that comes and goes.
fn time_to_full(samples: &VecDeque<Sample>, available: ByteSize) -> Option<Duration> {
    let first = samples.front()?;
    if samples.len() < 3 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a trend needs no exact bytes")]
    let points: Vec<(f64, f64)> = samples
        .iter()
        .map(|sample| ((sample.at.saturating_sub(first.at)).as_secs_f64(), sample.used as f64))
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "at most SAMPLES points")]
    let count = points.len() as f64;
    let mean_at = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_used = points.iter().map(|point| point.1).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|point| (point.0 - mean_at).powi(2)).sum();
    let together: f64 =
        points.iter().map(|point| (point.0 - mean_at) * (point.1 - mean_used)).sum();
    if spread <= 0.0 || together <= 0.0 {
        return None;
    }
    let bytes_per_second = together / spread;
    #[expect(clippy::cast_precision_loss, reason = "a trend needs no exact bytes")]
    let seconds = available.as_u64() as f64 / bytes_per_second;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests;
