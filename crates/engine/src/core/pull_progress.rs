//! How far a pull is, from the steps that the engine tells.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::pull::{PullPatience, PullProgress};

/// One step as the engine says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) layer: Option<String>,
    pub(crate) status: String,
    /// Bytes done and bytes in all, of that layer.
    pub(crate) bytes: Option<(u64, u64)>,
}

/// Layers that are kept count of. An engine that names more is not believed.
const LAYERS_MAX: usize = 512;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Layer {
    status: String,
    done: u64,
    total: u64,
    here: bool,
}

/// Adds the steps up, and says which of them went forward.
#[derive(Debug, Default)]
pub(crate) struct PullCount {
    layers: BTreeMap<String, Layer>,
    status: String,
}

/// Whether a step went forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advance {
    /// It did.
    Forward,
    /// It said what was said before.
    Same,
}

impl PullCount {
    /// Takes a step.
    pub(crate) fn take(&mut self, told: &Told) -> Advance {
        let Some(name) = &told.layer else {
            let forward = self.status != told.status;
            self.status.clone_from(&told.status);
            return if forward { Advance::Forward } else { Advance::Same };
        };
        if self.layers.len() >= LAYERS_MAX && !self.layers.contains_key(name) {
            return Advance::Same;
        }
        let known = self.layers.contains_key(name);
        let layer = self.layers.entry(name.clone()).or_default();
        let before = layer.clone();
        layer.status.clone_from(&told.status);
        if let Some((done, total)) = told.bytes {
            layer.total = layer.total.max(total);
            layer.done = layer.done.max(done.min(layer.total));
        }
        let word = told.status.to_ascii_lowercase();
        if word.contains("complete") || word.contains("already exists") {
            layer.here = true;
            layer.done = layer.total;
        }
        if known && *layer == before { Advance::Same } else { Advance::Forward }
    }

    /// Where the pull is.
    pub(crate) fn progress(&self) -> PullProgress {
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).fold(0, u64::saturating_add);
        PullProgress {
            layers: self.layers.len(),
            layers_here: self.layers.values().filter(|layer| layer.here).count(),
            bytes_done: sum(|layer| layer.done),
            bytes_total: sum(|layer| layer.total),
        }
    }

    /// How long nothing may go forward from here. Once every layer is on the host the engine
    /// unpacks, and Podman says nothing while it does.
    pub(crate) fn patience(&self, patience: PullPatience) -> Duration {
        let all_here = !self.layers.is_empty() && self.layers.values().all(|layer| layer.here);
        if all_here { patience.unpack } else { patience.silence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(layer: &str, status: &str, bytes: Option<(u64, u64)>) -> Told {
        let layer = (!layer.is_empty()).then(|| layer.to_owned());
        Told { layer, status: status.to_owned(), bytes }
    }

    #[test]
    fn layers_add_up_and_repetition_is_no_progress() {
        let mut count = PullCount::default();
        for (step, advance) in [
            (told("", "Pulling from team/app", None), Advance::Forward),
            (told("", "Pulling from team/app", None), Advance::Same),
            (told("aa", "Pulling fs layer", None), Advance::Forward),
            (told("aa", "Downloading", Some((10, 100))), Advance::Forward),
            (told("aa", "Downloading", Some((10, 100))), Advance::Same),
            (told("aa", "Downloading", Some((5, 100))), Advance::Same),
            (told("bb", "Already exists", None), Advance::Forward),
            (told("aa", "Downloading", Some((900, 100))), Advance::Forward),
        ] {
            assert_eq!(count.take(&step), advance, "{step:?}");
        }
        let progress =
            PullProgress { layers: 2, layers_here: 1, bytes_done: 100, bytes_total: 100 };
        assert_eq!(count.progress(), progress);
    }

    #[test]
    fn unpacking_may_take_longer_than_silence_on_the_line() {
        let patience =
            PullPatience { silence: Duration::from_secs(120), unpack: Duration::from_secs(900) };
        let mut count = PullCount::default();
        assert_eq!(count.patience(patience), patience.silence);
        count.take(&told("aa", "Downloading", Some((1, 2))));
        assert_eq!(count.patience(patience), patience.silence);
        count.take(&told("aa", "Download complete", None));
        assert_eq!(count.patience(patience), patience.unpack);
        count.take(&told("bb", "Downloading", Some((1, 2))));
        assert_eq!(count.patience(patience), patience.silence);
    }

    #[test]
    fn an_engine_that_names_layers_without_end_costs_no_memory() {
        let mut count = PullCount::default();
        for n in 0..10_000 {
            count.take(&told(&n.to_string(), "Downloading", Some((u64::MAX, u64::MAX))));
        }
        assert_eq!(count.progress().layers, LAYERS_MAX);
        assert_eq!(count.progress().bytes_total, u64::MAX);
    }
}
