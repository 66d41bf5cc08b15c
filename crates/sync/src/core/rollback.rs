//! Which generation a consumer goes back to.

use belay_protocol::{Cid, CidPrefix};

use super::record::Order;

/// A record of the key's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) order: Order,
    pub(crate) cid: Cid,
    pub(crate) seen: Seen,
}

/// Whether a generation was applied here before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Here,
    Nowhere,
}

/// Why there is nothing to go back to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoTarget {
    #[error("the log has no earlier generation that was applied here")]
    Nothing,
    #[error("the log has no record of {cid}")]
    Unknown { cid: CidPrefix },
    #[error("{cid} is the beginning of several contents")]
    Ambiguous { cid: CidPrefix },
    #[error("{cid} is the newest generation")]
    Newest { cid: Cid },
}

/// Chooses from `log`, which has the newest first. `present` is the place of what the volumes hold.
///
/// Of itself it goes back to the latest generation of other content that was applied here before the
/// present one: its place in the order tells, and no clock. An operator may name any other.
pub(crate) fn target(
    log: &[Logged],
    present: (Order, Cid),
    wanted: Option<&CidPrefix>,
) -> Result<usize, NoTarget> {
    let Some(wanted) = wanted else {
        let (order, cid) = present;
        return log
            .iter()
            .position(|found| found.order < order && found.cid != cid && found.seen == Seen::Here)
            .ok_or(NoTarget::Nothing);
    };
    let mut named = log.iter().enumerate().filter(|(_, found)| wanted.begins(&found.cid));
    let (place, newest) = named.next().ok_or_else(|| NoTarget::Unknown { cid: wanted.clone() })?;
    if named.any(|(_, other)| other.cid != newest.cid) {
        return Err(NoTarget::Ambiguous { cid: wanted.clone() });
    }
    if place == 0 {
        return Err(NoTarget::Newest { cid: newest.cid });
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(seq: u64, content: u8, seen: Seen) -> Logged {
        let cid = Cid::from_digest([content; 32]);
        Logged { order: Order { epoch: 1, seq }, cid, seen }
    }

    fn prefix(content: u8) -> CidPrefix {
        Cid::from_digest([content; 32]).short().parse().expect("a beginning")
    }

    #[test]
    fn of_itself_it_goes_back_to_what_was_here_before_by_place() {
        let log = [
            logged(5, 5, Seen::Here),
            logged(4, 4, Seen::Nowhere),
            logged(3, 5, Seen::Here),
            logged(2, 2, Seen::Here),
            logged(1, 1, Seen::Here),
        ];
        let at = |index: usize| (log[index].order, log[index].cid);
        assert_eq!(
            target(&log, at(0), None),
            Ok(3),
            "not what never was here, nor the same content"
        );
        assert_eq!(target(&log, at(3), None), Ok(4));
        assert_eq!(target(&log, at(4), None), Err(NoTarget::Nothing));
        let pruned = (Order { epoch: 2, seq: 1 }, Cid::from_digest([9; 32]));
        assert_eq!(target(&log, pruned, None), Ok(0), "a takeover has the later epoch");
    }

    #[test]
    fn an_operator_names_any_but_the_newest() {
        let log =
            [logged(3, 3, Seen::Here), logged(2, 2, Seen::Nowhere), logged(1, 1, Seen::Nowhere)];
        let present = (log[0].order, log[0].cid);
        assert_eq!(target(&log, present, Some(&prefix(1))), Ok(2));
        let newest = NoTarget::Newest { cid: log[0].cid };
        assert_eq!(target(&log, present, Some(&prefix(3))), Err(newest));
        let unknown = NoTarget::Unknown { cid: prefix(7) };
        assert_eq!(target(&log, present, Some(&prefix(7))), Err(unknown));
    }

    #[test]
    fn a_beginning_of_two_contents_names_neither() {
        let mut one = [0; 32];
        let mut other = [0; 32];
        (one[31], other[31]) = (1, 2);
        let [one, other] = [one, other].map(Cid::from_digest);
        let log = [
            logged(3, 3, Seen::Here),
            Logged { cid: one, ..logged(2, 0, Seen::Here) },
            Logged { cid: other, ..logged(1, 0, Seen::Here) },
        ];
        let cid: CidPrefix = one.short().parse().expect("a beginning");
        let refused = target(&log, (log[0].order, log[0].cid), Some(&cid));
        assert_eq!(refused, Err(NoTarget::Ambiguous { cid }));
        let whole: CidPrefix = other.to_string().parse().expect("all of it");
        assert_eq!(target(&log, (log[0].order, log[0].cid), Some(&whole)), Ok(2));
    }
}
