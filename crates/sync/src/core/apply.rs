//! Where each entry of a tree goes on this workload, and what a journalled exchange has become.

use serde::{Deserialize, Serialize};

use super::path::{ContainerPath, Mounts};
use super::tree::is_below;

/// Tells an entry from another that later got its inode number: file systems hand out the number
/// of a removed file again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) inode: u64,
    /// Seconds and nanoseconds, where the file system keeps them.
    pub(crate) born: Option<(i64, u32)>,
}

/// One exchange: a staged entry that takes a place in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Index of the volume in the mount table.
    pub(crate) mount: usize,
    /// The place in the container.
    pub(crate) path: ContainerPath,
    /// The place below the volume's root; empty for the whole volume.
    pub(crate) below: String,
}

/// The exchanges that a tree over `roots` comes to: one for each root, and one for each volume
/// mounted below a root.
pub(crate) fn units(roots: &[ContainerPath], mounts: &Mounts) -> Result<Vec<Unit>, String> {
    let mut units = Vec::new();
    for root in roots {
        let place = mounts.resolve(root).map_err(|fault| fault.to_string())?;
        units.push(Unit { mount: place.mount, path: root.clone(), below: place.below });
        for (mount, point) in mounts.nested(root) {
            units.push(Unit { mount, path: point.clone(), below: String::new() });
        }
    }
    Ok(units)
}

/// The unit that holds `member`, and the member's path below that unit.
pub(crate) fn locate<'a>(units: &[Unit], member: &'a [u8]) -> Option<(usize, &'a [u8])> {
    units
        .iter()
        .enumerate()
        .filter_map(|(index, unit)| {
            let root = unit.path.as_member();
            if member == root {
                Some((index, root.len(), &member[..0]))
            } else if is_below(member, root) {
                Some((index, root.len(), &member[root.len() + 1..]))
            } else {
                None
            }
        })
        .max_by_key(|&(_, length, _)| length)
        .map(|(index, _, below)| (index, below))
}

/// What a journalled exchange has become, told by the identities recorded before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The new entry is in its place.
    Done,
    /// The new entry still lies staged, and the place holds what it held.
    Pending,
    /// Neither: someone else was here.
    Unknown,
}

/// Compares what is found with what the journal recorded.
///
/// `staged` is the new entry, `replaced` the entry it takes the place of, none if the place was
/// free.
pub(crate) fn progress(
    staged: Identity,
    replaced: Option<Identity>,
    found_staged: Option<Identity>,
    found_target: Option<Identity>,
) -> Progress {
    if found_target == Some(staged) && (found_staged == replaced || found_staged.is_none()) {
        // The replaced entry may already have been cleared away.
        Progress::Done
    } else if found_staged == Some(staged) && found_target == replaced {
        Progress::Pending
    } else {
        Progress::Unknown
    }
}

/// What remains to be done to put back what an exchange replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WayBack {
    /// The place is as it was.
    Done,
    /// What is there and what was there change places.
    Exchange,
    /// Nothing is there, and what was there goes back.
    Return,
    /// Nothing was there, and what is there goes.
    Withdraw,
    /// What was there is gone, or there is nowhere to put what is there.
    Lost,
}

/// Tells by what the exchange had `replaced`, none if the place was free. The workload has run
/// since, so that anything may be in the place; what was there lies where only belayd reaches.
pub(crate) fn way_back(
    replaced: Option<Identity>,
    found_staged: Option<Identity>,
    found_target: Option<Identity>,
) -> WayBack {
    match (replaced, found_staged, found_target) {
        (Some(_), _, _) if found_target == replaced => WayBack::Done,
        (Some(_), _, Some(_)) if found_staged == replaced => WayBack::Exchange,
        (Some(_), _, None) if found_staged == replaced => WayBack::Return,
        (None, _, None) => WayBack::Done,
        (None, None, Some(_)) => WayBack::Withdraw,
        (Some(_), _, _) | (None, Some(_), Some(_)) => WayBack::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_goes_back_whatever_the_app_did_to_the_place() {
        let entry = |inode| Identity { inode, born: Some((1_700_000_000, 0)) };
        let (new, old, other) = (entry(10), entry(20), entry(30));
        for (replaced, staged, target, way) in [
            (Some(old), Some(old), Some(new), WayBack::Exchange),
            (Some(old), Some(old), Some(other), WayBack::Exchange),
            (Some(old), Some(old), None, WayBack::Return),
            (Some(old), Some(new), Some(old), WayBack::Done),
            (Some(old), None, Some(old), WayBack::Done),
            (None, None, Some(new), WayBack::Withdraw),
            (None, None, Some(other), WayBack::Withdraw),
            (None, Some(new), None, WayBack::Done),
            (None, None, None, WayBack::Done),
            (Some(old), None, Some(new), WayBack::Lost),
            (Some(old), Some(other), None, WayBack::Lost),
            (None, Some(new), Some(other), WayBack::Lost),
        ] {
            assert_eq!(
                way_back(replaced, staged, target),
                way,
                "{replaced:?} {staged:?} {target:?}"
            );
        }
    }

    fn path(text: &str) -> ContainerPath {
        ContainerPath::parse(text).expect("a container path")
    }

    fn mounts(points: &[&str]) -> Mounts {
        Mounts::new(points.iter().map(|point| path(point)).collect(), path("/belay"))
    }

    #[test]
    fn b13_a_volume_mounted_below_a_root_is_a_unit_of_its_own() {
        let units = units(&[path("/app")], &mounts(&["/app", "/app/data"])).expect("resolves");
        let places: Vec<(usize, &str)> =
            units.iter().map(|unit| (unit.mount, unit.below.as_str())).collect();
        assert_eq!(places, [(0, ""), (1, "")]);
        assert_eq!(locate(&units, b"app"), Some((0, &b""[..])));
        assert_eq!(locate(&units, b"app/database"), Some((0, &b"database"[..])));
        assert_eq!(locate(&units, b"app/data"), Some((1, &b""[..])));
        assert_eq!(locate(&units, b"app/data/x/y"), Some((1, &b"x/y"[..])));
        assert_eq!(locate(&units, b"srv"), None);
    }

    #[test]
    fn a_root_inside_a_volume_is_exchanged_where_it_lies() {
        let units = units(&[path("/app/data/models")], &mounts(&["/app/data"])).expect("resolves");
        assert_eq!((units[0].mount, units[0].below.as_str()), (0, "models"));
    }

    #[test]
    fn progress_is_told_by_identities() {
        let entry = |inode| Identity { inode, born: Some((1_700_000_000, 0)) };
        let (new, old, other) = (entry(10), entry(20), entry(30));
        assert_eq!(progress(new, Some(old), Some(new), Some(old)), Progress::Pending);
        assert_eq!(progress(new, Some(old), Some(old), Some(new)), Progress::Done);
        assert_eq!(progress(new, Some(old), None, Some(new)), Progress::Done);
        assert_eq!(progress(new, None, Some(new), None), Progress::Pending);
        assert_eq!(progress(new, None, None, Some(new)), Progress::Done);
        for (staged, target) in
            [(None, None), (Some(new), Some(other)), (None, Some(old)), (Some(old), Some(other))]
        {
            assert_eq!(progress(new, Some(old), staged, target), Progress::Unknown);
        }
    }

    #[test]
    fn an_entry_that_got_the_number_of_a_removed_one_is_another() {
        let old = Identity { inode: 20, born: Some((1, 0)) };
        let new = Identity { inode: 10, born: Some((2, 0)) };
        let again = Identity { inode: 10, born: Some((3, 0)) };
        assert_eq!(progress(new, Some(old), Some(again), Some(old)), Progress::Unknown);
        assert_eq!(progress(new, Some(old), Some(old), Some(again)), Progress::Unknown);
    }
}
