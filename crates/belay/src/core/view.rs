//! Pages: status in, text out.

pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod generation;
pub(crate) mod images;
pub(crate) mod locks;
pub(crate) mod node;
pub(crate) mod probes;
pub(crate) mod problem;
pub(crate) mod runs;
pub(crate) mod sync;
pub(crate) mod volumes;
pub(crate) mod workloads;

use belay_protocol::WorkloadPhase;

use super::table::{Style, Tone, one_line};

/// How a phase looks.
pub(crate) fn tone(phase: WorkloadPhase) -> Tone {
    match phase {
        WorkloadPhase::Ready | WorkloadPhase::Completed => Tone::Good,
        WorkloadPhase::Pending
        | WorkloadPhase::FetchingImage
        | WorkloadPhase::ProvidingVolumes
        | WorkloadPhase::Waiting
        | WorkloadPhase::Starting
        | WorkloadPhase::Probing
        | WorkloadPhase::Stopping
        | WorkloadPhase::PausedForSync
        | WorkloadPhase::Removing => Tone::Doubtful,
        WorkloadPhase::Unready
        | WorkloadPhase::BackOff
        | WorkloadPhase::Halted
        | WorkloadPhase::Failed
        | WorkloadPhase::Unknown => Tone::Bad,
        WorkloadPhase::Stopped => Tone::Faint,
    }
}

/// Lines of `label: value`, the labels right-aligned, as systemctl shows a unit.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    lines: Vec<(&'static str, String)>,
}

impl Facts {
    /// Adds a fact; an empty label continues the one above.
    pub(crate) fn add(&mut self, label: &'static str, value: impl AsRef<str>) {
        self.lines.push((label, one_line(value.as_ref())));
    }

    /// Adds a fact with its value in a tone.
    pub(crate) fn add_toned(&mut self, label: &'static str, value: &str, tone: Tone, style: Style) {
        self.lines.push((label, tone.paint(style, &one_line(value))));
    }

    pub(crate) fn render(&self) -> String {
        let width = self.lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (label, value) in &self.lines {
            let colon = if label.is_empty() { ' ' } else { ':' };
            text += format!("{label:>width$}{colon} {value}").trim_end();
            text.push('\n');
        }
        text
    }
}
