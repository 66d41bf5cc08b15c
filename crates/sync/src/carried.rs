//! Whether a workload's volumes hold content of a key, by the marks in them alone: no store is asked.

use std::collections::BTreeMap;
use std::io;

use belay_protocol::{SyncKey, VolumeName};

use crate::layout::SyncLayout;
use crate::volume::Volumes;

/// Why it is not known what volumes hold.
#[derive(Debug, thiserror::Error)]
#[error("what the volumes hold cannot be looked at")]
pub struct CarriedError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// Whether the volumes hold what was published under a key, whole: each volume that an apply wrote
/// says so still. A mark that cannot be read, or that is of a directory which is gone, says nothing.
///
/// Do not ask while an apply has no certain end or a window is open: then the marks are away.
pub async fn carries(layout: &SyncLayout, key: &SyncKey) -> Result<bool, CarriedError> {
    let (layout, key) = (layout.clone(), key.clone());
    let look = tokio::task::spawn_blocking(move || is_carried(&layout, &key));
    look.await.unwrap_or_else(|error| Err(CarriedError(Box::new(error))))
}

/// Makes these volumes say that they hold nothing, for whoever is about to empty them. The next look
/// of a consumer applies what is published to them.
pub async fn disown(layout: &SyncLayout, volumes: &[VolumeName]) -> Result<(), CarriedError> {
    let (layout, named) = (layout.clone(), volumes.to_vec());
    let removed = tokio::task::spawn_blocking(move || {
        let volumes = Volumes::open(&layout).map_err(|error| CarriedError(Box::new(error)))?;
        let remove = || -> io::Result<()> {
            for volume in volumes.all.iter().filter(|volume| named.contains(&volume.name)) {
                volume.remove_mark()?;
                volume.private.sync()?;
            }
            Ok(())
        };
        remove().map_err(|error| CarriedError(Box::new(error)))
    });
    removed.await.unwrap_or_else(|error| Err(CarriedError(Box::new(error))))
}

pub(crate) fn is_carried(layout: &SyncLayout, key: &SyncKey) -> Result<bool, CarriedError> {
    let volumes = Volumes::open(layout).map_err(|error| CarriedError(Box::new(error)))?;
    let mut marked = BTreeMap::new();
    for volume in &volumes.all {
        let mark = volume.mark().map_err(|error| CarriedError(Box::new(error)))?;
        if let Some(mark) = mark.filter(|mark| mark.key == *key) {
            marked.insert(volume.name.clone(), mark.others);
        }
    }
    let here: Vec<_> = volumes.all.into_iter().map(|volume| volume.name).collect();
    Ok(is_whole(&marked, &here))
}

/// Whether no volume lacks the mark that was written together with those there are.
fn is_whole(marked: &BTreeMap<VolumeName, Vec<VolumeName>>, here: &[VolumeName]) -> bool {
    // A volume that the workload has no more is missed by nobody.
    let mut others = marked.values().flatten().filter(|other| here.contains(other));
    !marked.is_empty() && others.all(|other| marked.contains_key(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<VolumeName> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    fn marked(marks: &[(&str, &[&str])]) -> BTreeMap<VolumeName, Vec<VolumeName>> {
        marks.iter().map(|(name, others)| (name.parse().expect("a name"), names(others))).collect()
    }

    #[test]
    fn all_that_was_written_together_must_be_there() {
        let here = names(&["a", "b", "c"]);
        for (marks, whole, why) in [
            (marked(&[]), false, "nothing was ever applied"),
            (marked(&[("a", &[])]), true, "it goes to one of the volumes"),
            (marked(&[("a", &["b"]), ("b", &["a"])]), true, "both are there"),
            (marked(&[("a", &["b"])]), false, "b was reset"),
            (marked(&[("a", &["b"]), ("b", &[])]), true, "the next record went to b alone"),
            (marked(&[("a", &["gone"])]), true, "the spec has that volume no more"),
        ] {
            assert_eq!(is_whole(&marks, &here), whole, "{why}");
        }
    }
}
