//! Where a key's entry is: a hash table of entry numbers that holds no keys.

/// Tags in a bucket, and numbers of entries. The eighth number counts the
/// entries that found their bucket full, and the eighth tag is never set.
const LANES: usize = 7;
const PASSED_ON: usize = 7;
const EMPTY: u32 = 0;

/// What the index knows of a key: half of its hash, never [`EMPTY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag(u32);

impl Tag {
    /// Takes the upper half, the better one of a multiplicative hash.
    pub(crate) fn of(hash: u64) -> Self {
        Self((hash >> 32) as u32 | 1)
    }
}

/// One cache line: the tags are compared at once, and an absent key is mostly
/// known to be absent after this line alone.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket {
    tags: [u32; 8],
    entries: [u32; 8],
}

impl Bucket {
    /// A bit for each lane with this tag.
    fn lanes_with(&self, tag: u32) -> u32 {
        let mut lanes = 0;
        for (lane, &found) in self.tags.iter().enumerate() {
            lanes |= u32::from(found == tag) << lane;
        }
        lanes
    }

    fn free_lane(&self) -> Option<usize> {
        let lane = self.lanes_with(EMPTY).trailing_zeros() as usize;
        (lane < LANES).then_some(lane)
    }
}

/// An open-addressing table in the manner of F14: an entry that finds its home
/// bucket full goes to the next, and every bucket counts how many it passed on.
/// A search ends at a bucket that passed nothing on, and a removal counts back
/// down, so there are no tombstones and removals leave no trace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    buckets: Vec<Bucket>,
    len: usize,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes room for this many entries in all.
    pub(crate) fn reserve(&mut self, entries: usize) {
        let wanted = entries.saturating_mul(8).div_ceil(LANES * 7);
        if wanted > self.buckets.len() {
            self.resize(wanted.next_power_of_two());
        }
    }

    /// The entry with this tag for which `is_it` holds. Tags of different keys
    /// can be equal, so `is_it` must compare the keys.
    #[inline]
    pub(crate) fn find(&self, tag: Tag, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        for at in self.path(tag) {
            let bucket = &self.buckets[at];
            let mut lanes = bucket.lanes_with(tag.0);
            while lanes != 0 {
                let entry = bucket.entries[lanes.trailing_zeros() as usize & 7];
                if is_it(entry) {
                    return Some(entry);
                }
                lanes &= lanes - 1;
            }
            if bucket.entries[PASSED_ON] == 0 {
                return None;
            }
        }
        None
    }

    /// Adds an entry that is not in the index yet.
    #[inline]
    pub(crate) fn add(&mut self, tag: Tag, entry: u32) {
        // Seven eighths full: beyond that, searches grow long.
        if self.len >= self.buckets.len() * LANES * 7 / 8 {
            self.resize((self.buckets.len() * 2).max(1));
        }
        self.place(tag, entry);
        self.len += 1;
    }

    /// Removes an entry that is in the index.
    #[inline]
    pub(crate) fn remove(&mut self, tag: Tag, entry: u32) {
        for at in self.path(tag) {
            let bucket = &mut self.buckets[at];
            let mut lanes = bucket.lanes_with(tag.0);
            while lanes != 0 {
                let lane = lanes.trailing_zeros() as usize & 7;
                if bucket.entries[lane] == entry {
                    bucket.tags[lane] = EMPTY;
                    self.len -= 1;
                    return;
                }
                lanes &= lanes - 1;
            }
            bucket.entries[PASSED_ON] -= 1;
        }
        unreachable!("entry {entry} is in the index under its tag");
    }

    /// Forgets everything and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.buckets.fill(Bucket::default());
        self.len = 0;
    }

    fn place(&mut self, tag: Tag, entry: u32) {
        for at in self.path(tag) {
            let bucket = &mut self.buckets[at];
            if let Some(lane) = bucket.free_lane() {
                bucket.tags[lane] = tag.0;
                bucket.entries[lane] = entry;
                return;
            }
            bucket.entries[PASSED_ON] += 1;
        }
        unreachable!("an eighth of the lanes is free");
    }

    /// Tags carry all that places an entry, so no key is hashed again. Buckets
    /// are in the order of the tags, so old and new table are each walked from
    /// one end to the other.
    fn resize(&mut self, buckets: usize) {
        let old = std::mem::replace(&mut self.buckets, vec![Bucket::default(); buckets]);
        for bucket in &old {
            for lane in 0..LANES {
                if bucket.tags[lane] != EMPTY {
                    self.place(Tag(bucket.tags[lane]), bucket.entries[lane]);
                }
            }
        }
    }

    /// The buckets in which an entry with this tag can be, its home first.
    fn path(&self, tag: Tag) -> impl Iterator<Item = usize> + use<> {
        let buckets = self.buckets.len();
        let home = ((u64::from(tag.0) * buckets as u64) >> 32) as usize;
        (home..buckets).chain(0..home)
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, Tag};
    use proptest::prelude::*;

    /// Tags of four values only, so that buckets overflow and paths wrap.
    fn tag(entry: u32) -> Tag {
        Tag::of(u64::from(entry % 4).wrapping_mul(0x5555_5555_0000_0000))
    }

    fn found(index: &Index, entry: u32) -> bool {
        index.find(tag(entry), |it| it == entry) == Some(entry)
    }

    #[test]
    fn nothing_is_found_in_an_index_without_memory() {
        assert!(!found(&Index::default(), 1));
    }

    #[test]
    fn an_emptied_index_has_no_overflow_left() {
        let mut index = Index::default();
        for entry in 0..1000 {
            index.add(tag(entry), entry);
        }
        for entry in 0..1000 {
            index.remove(tag(entry), entry);
        }
        assert_eq!(index.len(), 0);
        assert!(index.buckets.iter().all(|bucket| bucket.tags == [0; 8]));
        assert!(index.buckets.iter().all(|bucket| bucket.entries[7] == 0));
    }

    #[test]
    fn reserved_room_is_enough() {
        for entries in [1, 6, 7, 8, 48, 49, 50, 1000, 4095, 4096, 4097] {
            let mut index = Index::default();
            index.reserve(entries as usize);
            let reserved = index.buckets.len();
            for entry in 0..entries {
                index.add(Tag::of(u64::from(entry) << 52), entry);
            }
            assert_eq!(index.buckets.len(), reserved, "{entries} entries");
        }
    }

    proptest! {
        #[test]
        fn holds_what_was_added_and_not_removed(steps in prop::collection::vec(0_u32..200, 0..2000)) {
            let mut index = Index::default();
            let mut held = std::collections::BTreeSet::new();
            for entry in steps {
                prop_assert_eq!(found(&index, entry), held.contains(&entry));
                if held.remove(&entry) {
                    index.remove(tag(entry), entry);
                } else {
                    held.insert(entry);
                    index.add(tag(entry), entry);
                }
                prop_assert_eq!(index.len(), held.len());
            }
            for entry in 0..200 {
                prop_assert_eq!(found(&index, entry), held.contains(&entry));
            }
        }
    }
}
