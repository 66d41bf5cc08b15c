//! Sizes and spans as people read them.

use jiff::Timestamp;

/// Bytes in binary units with at most three digits: `512 B`, `4.2 MiB`, `64 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded to the nearest, in whole numbers so that nothing is lost.
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for next in UNITS {
        if tenths < 10_235 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = next;
    }
    if tenths.is_multiple_of(10) || tenths >= 100 {
        format!("{} {unit}", (tenths + 5) / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// How long ago `then` was, as [`span`]; a time to come counts as now.
pub(crate) fn age(now: Timestamp, then: Timestamp) -> String {
    span(now.duration_since(then).as_secs().max(0).unsigned_abs())
}

/// How long until `then`, as [`span`]; a time past counts as now.
pub(crate) fn until(now: Timestamp, then: Timestamp) -> String {
    age(then, now)
}

/// Seconds in at most two units, the second only where it still matters: `8s`, `5m12s`, `34m`,
/// `3h20m`, `20h`, `3d4h`, `40d`.
pub(crate) fn span(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        small => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        ..MINUTE => format!("{seconds}s"),
        MINUTE..600 => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..28_800 => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..DAY => format!("{}h", seconds / HOUR),
        DAY..691_200 => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ => format!("{}d", seconds / DAY),
    }
}

/// Milliseconds as `412 ms`, `3.1 s` or [`span`].
pub(crate) fn milliseconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => span(milliseconds / 1000),
    }
}

/// A time as operators compare it with logs: UTC, to the second.
pub(crate) fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `1 volume`, `2 volumes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_three_digits_and_never_jump() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10_240, "10 KiB"),
            (67_108_864, "64 MiB"),
            (4_404_019, "4.2 MiB"),
            (1_048_575, "1 MiB"),
            (1_073_741_823, "1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn spans_name_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (312, "5m12s"),
            (600, "10m"),
            (3599, "59m"),
            (3600, "1h"),
            (12_000, "3h20m"),
            (72_000, "20h"),
            (86_400, "1d"),
            (273_600, "3d4h"),
            (3_456_000, "40d"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn short_times_keep_their_milliseconds() {
        assert_eq!(milliseconds(412), "412 ms");
        assert_eq!(milliseconds(3149), "3.1 s");
        assert_eq!(milliseconds(61_000), "1m1s");
    }

    #[test]
    fn clocks_that_disagree_show_no_negative_age() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let later: Timestamp = "2026-01-01T00:00:09Z".parse().expect("a time");
        assert_eq!(age(now, later), "0s");
        assert_eq!(age(later, now), "9s");
        assert_eq!(until(now, later), "9s");
        assert_eq!(clock(later), "2026-01-01 00:00:09Z");
    }
}
