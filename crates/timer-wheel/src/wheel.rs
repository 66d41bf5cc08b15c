use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::iter::FusedIterator;

use crate::hasher::FoldBuildHasher;
use crate::index::{Index, Tag};
use crate::moment::Moment;
use crate::schedule::{Schedule, grow_when_full};

#[cfg(test)]
mod tests;

/// Keys with a deadline and a value each, in order of the deadlines.
///
/// The crate's page says what it promises and shows an event loop around it.
/// `K`'s `Hash` and `Eq` must agree, and must not change while a key is
/// pending, as for any hash map.
pub struct TimerWheel<K, V, S = FoldBuildHasher> {
    /// The slab, by the numbers that `schedule` gives out.
    entries: Vec<Option<(K, V)>>,
    index: Index,
    schedule: Schedule,
    hasher: S,
}

/// A value that is or was pending, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending<V> {
    /// When it falls due. See [`TimerWheel::insert`] on deadlines in the past.
    pub deadline: Moment,
    /// The value.
    pub value: V,
}

/// A key that fell due and is no longer pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired<K, V> {
    /// The key.
    pub key: K,
    /// When it fell due. See [`TimerWheel::insert`] on deadlines in the past.
    pub deadline: Moment,
    /// The value.
    pub value: V,
}

impl<K, V> TimerWheel<K, V> {
    /// An empty wheel that stands at [`Moment::ORIGIN`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_hasher(FoldBuildHasher)
    }

    /// An empty wheel with memory for this many pending keys.
    #[must_use]
    pub fn with_capacity(keys: usize) -> Self {
        let mut wheel = Self::new();
        wheel.entries.reserve_exact(keys);
        wheel.index.reserve(keys);
        wheel.schedule.reserve(keys);
        wheel
    }
}

impl<K, V, S> TimerWheel<K, V, S> {
    /// An empty wheel that finds its keys with another hasher, such as
    /// [`std::hash::RandomState`] when outsiders choose the keys. The upper half
    /// of its 64 bits is what is used.
    #[must_use]
    pub fn with_hasher(hasher: S) -> Self {
        Self { entries: Vec::new(), index: Index::default(), schedule: Schedule::new(), hasher }
    }

    /// How many keys are pending.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no key is pending.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When to call [`expire`](Self::expire) next, `None` while nothing is
    /// pending. Takes constant time.
    ///
    /// It is the earliest deadline, with one exception: after a key was
    /// cancelled or replaced, it can be earlier, though not before that key's
    /// deadline. Then `expire` yields nothing, once, and this gives a later
    /// moment. It is never after the earliest deadline, so a loop that sleeps
    /// until then misses nothing.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.schedule.next_deadline().map(Moment::from_nanos)
    }

    /// Removes every key and keeps the memory. The values are dropped.
    pub fn clear(&mut self) {
        self.index.clear();
        self.schedule.clear();
        self.entries.clear();
    }

    fn replace(&mut self, entry: u32, deadline: Moment, value: V) -> Pending<V> {
        let before = Moment::from_nanos(self.schedule.deadline(entry));
        self.schedule.disarm(entry);
        self.schedule.arm(entry, deadline.as_nanos());
        let held = self.entries[entry as usize].as_mut();
        let (_, old) = held.expect("an armed entry is not vacant");
        Pending { deadline: before, value: std::mem::replace(old, value) }
    }

    /// Takes out an entry and returns what it held.
    fn remove(&mut self, tag: Tag, entry: u32) -> Expired<K, V> {
        let deadline = Moment::from_nanos(self.schedule.deadline(entry));
        self.index.remove(tag, entry);
        self.schedule.disarm(entry);
        self.schedule.vacate(entry);
        let held = self.entries[entry as usize].take();
        let (key, value) = held.expect("an armed entry is not vacant");
        Expired { key, deadline, value }
    }
}

impl<K: Hash + Eq, V, S: BuildHasher> TimerWheel<K, V, S> {
    /// Makes `value` pending under `key` until `deadline`. If the key was
    /// pending already, the new deadline and value take the place of the old,
    /// which are returned; the wheel keeps the key that it had.
    ///
    /// A deadline before the latest moment that [`expire`](Self::expire) was
    /// told has passed, and counts as that moment: the key is yielded by the
    /// next `expire`, after what was due before it. A delay of zero is therefore
    /// as good as any.
    ///
    /// Takes constant time, apart from growth: when the pending keys outgrow
    /// the memory, it is extended.
    pub fn insert(&mut self, key: K, deadline: Moment, value: V) -> Option<Pending<V>> {
        let tag = self.tag(&key);
        if let Some(entry) = self.find(tag, &key) {
            return Some(self.replace(entry, deadline, value));
        }
        let entry = self.schedule.occupy(tag);
        let filled = Some((key, value));
        if let Some(vacant) = self.entries.get_mut(entry as usize) {
            *vacant = filled;
        } else {
            grow_when_full(&mut self.entries);
            self.entries.push(filled);
        }
        self.schedule.arm(entry, deadline.as_nanos());
        self.index.add(tag, entry);
        None
    }

    /// Removes `key` and returns what was pending under it. What is left of the
    /// delay is `pending.deadline.saturating_since(now)`. Takes constant time.
    pub fn cancel<Q>(&mut self, key: &Q) -> Option<Pending<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let tag = self.tag(key);
        let entry = self.find(tag, key)?;
        let Expired { deadline, value, .. } = self.remove(tag, entry);
        Some(Pending { deadline, value })
    }

    /// What is pending under `key`, which stays pending. Takes constant time.
    pub fn peek<Q>(&self, key: &Q) -> Option<Pending<&V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let entry = self.find(self.tag(key), key)?;
        let deadline = Moment::from_nanos(self.schedule.deadline(entry));
        let (_, value) = self.entries[entry as usize].as_ref()?;
        Some(Pending { deadline, value })
    }

    /// Tells the wheel that it is `now`, and returns an iterator that removes
    /// and yields every key whose deadline is not after `now`, in the order of
    /// the deadlines, and in the order of insertion where they are equal.
    ///
    /// Each key is removed when it is yielded. Those that a dropped iterator did
    /// not come to stay pending, can be cancelled, and are yielded first by the
    /// next call, so a caller can take a batch at a time.
    ///
    /// A `now` before that of an earlier call yields only what was due at this
    /// `now`.
    pub fn expire(&mut self, now: Moment) -> Expire<'_, K, V, S> {
        self.schedule.advance(now.as_nanos());
        Expire { wheel: self, now }
    }

    fn tag<Q: Hash + ?Sized>(&self, key: &Q) -> Tag {
        Tag::of(self.hasher.hash_one(key))
    }

    fn find<Q>(&self, tag: Tag, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        self.index.find(tag, |entry| {
            let held = self.entries[entry as usize].as_ref();
            held.is_some_and(|(held, _)| held.borrow() == key)
        })
    }
}

impl<K, V> Default for TimerWheel<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V, S> fmt::Debug for TimerWheel<K, V, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TimerWheel")
            .field("len", &self.len())
            .field("next_deadline", &self.next_deadline())
            .finish_non_exhaustive()
    }
}

/// Removes and yields what is due. Made by [`TimerWheel::expire`].
#[must_use = "nothing expires until it is asked for"]
#[derive(Debug)]
pub struct Expire<'a, K, V, S = FoldBuildHasher> {
    wheel: &'a mut TimerWheel<K, V, S>,
    now: Moment,
}

impl<K, V, S> Iterator for Expire<'_, K, V, S> {
    type Item = Expired<K, V>;

    fn next(&mut self) -> Option<Expired<K, V>> {
        let entry = self.wheel.schedule.first_due(self.now.as_nanos())?;
        Some(self.wheel.remove(self.wheel.schedule.tag(entry), entry))
    }
}

impl<K, V, S> FusedIterator for Expire<'_, K, V, S> {}
