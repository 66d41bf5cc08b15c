//! A table in Markdown.

use std::fmt::Write;
use std::time::Duration;

/// What a measurement is held against.
pub(crate) enum Target {
    /// At most so many times the floor.
    Ratio(f64),
    /// At most this long.
    Limit(Duration),
    /// Reported, not judged.
    None,
}

/// One line of the report.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) samples: Vec<Duration>,
    pub(crate) floor: Vec<Duration>,
    pub(crate) target: Target,
}

impl Row {
    /// Whether the median keeps to the target.
    pub(crate) fn holds(&self) -> bool {
        match self.target {
            Target::Ratio(limit) => self.ratio().is_some_and(|ratio| ratio <= limit),
            Target::Limit(limit) => median(&self.samples).is_some_and(|median| median <= limit),
            Target::None => true,
        }
    }

    fn ratio(&self) -> Option<f64> {
        let (own, floor) = (median(&self.samples)?, median(&self.floor)?);
        Some(own.as_secs_f64() / floor.as_secs_f64())
    }
}

fn median(samples: &[Duration]) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied()
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.2}", time.as_secs_f64() * 1000.0))
}

/// The whole table.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut out = String::from(
        "| what | median ms | min ms | max ms | floor median ms | ratio | target | holds |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let target = match row.target {
            Target::Ratio(limit) => format!("ratio {limit}"),
            Target::Limit(limit) => format!("{} ms", milliseconds(Some(limit))),
            Target::None => "-".to_owned(),
        };
        let holds = if row.holds() { "yes" } else { "no" };
        let _infallible = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {ratio} | {target} | {holds} |",
            row.name,
            milliseconds(median(&row.samples)),
            milliseconds(row.samples.iter().min().copied()),
            milliseconds(row.samples.iter().max().copied()),
            milliseconds(median(&row.floor)),
        );
    }
    out
}
