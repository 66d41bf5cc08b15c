//! The order in which effects go out, and which of them wait for the disk.
//!
//! What has nothing to be written before it goes at once. The first write begins a group: whatever
//! comes behind it waits, and further writes join it, until the commit before it has ended. So one
//! commit is under way at a time, each carries all that came up during the one before, and everything
//! goes out in the order in which it was put in.
//!
//! A write of a later event may reach the disk before an effect of an earlier one has gone out. That
//! is what a crash in between looks like too, and [`Hub::restart`](crate::Hub::restart) finds every
//! order again in the records.

use std::collections::VecDeque;

/// Effects of type `T` between writes gathered in `W`.
#[derive(Debug)]
pub(crate) struct Outbox<W, T> {
    ready: VecDeque<T>,
    /// What waits for the commit that is under way.
    committing: Option<VecDeque<T>>,
    /// What goes with the end of that commit, before the next group.
    between: VecDeque<T>,
    group: Option<Group<W, T>>,
}

#[derive(Debug)]
struct Group<W, T> {
    writes: W,
    behind: VecDeque<T>,
}

impl<W: Default, T> Default for Outbox<W, T> {
    fn default() -> Self {
        Self { ready: VecDeque::new(), committing: None, between: VecDeque::new(), group: None }
    }
}

impl<W: Default, T> Outbox<W, T> {
    /// Puts in an effect.
    pub(crate) fn push(&mut self, effect: T) {
        match (&mut self.group, &self.committing) {
            (Some(group), _) => group.behind.push_back(effect),
            (None, Some(_)) => self.between.push_back(effect),
            (None, None) => self.ready.push_back(effect),
        }
    }

    /// Puts in a write: what is put in behind it waits for its commit.
    pub(crate) fn write(&mut self, add: impl FnOnce(&mut W)) {
        let group = self
            .group
            .get_or_insert_with(|| Group { writes: W::default(), behind: VecDeque::new() });
        add(&mut group.writes);
    }

    /// The next effect that may go out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.ready.pop_front()
    }

    /// What is to be committed now, if anything. [`committed`](Self::committed) ends it.
    pub(crate) fn begin_commit(&mut self) -> Option<W> {
        if self.committing.is_some() {
            return None;
        }
        let Group { writes, behind } = self.group.take()?;
        self.committing = Some(behind);
        Some(writes)
    }

    /// The commit is on the disk.
    pub(crate) fn committed(&mut self) {
        if let Some(mut behind) = self.committing.take() {
            self.ready.append(&mut behind);
            self.ready.append(&mut self.between);
        }
    }

    /// Effects that have not gone out.
    pub(crate) fn len(&self) -> usize {
        let committing = self.committing.as_ref().map_or(0, VecDeque::len);
        let behind = self.group.as_ref().map_or(0, |group| group.behind.len());
        self.ready.len() + committing + self.between.len() + behind
    }

    /// Whether nothing waits, neither an effect nor a write.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.committing.is_none() && self.group.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Writes = Vec<u32>;

    fn drain(outbox: &mut Outbox<Writes, u32>) -> Vec<u32> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    #[test]
    fn what_stands_behind_a_write_waits_for_its_commit() {
        let mut outbox = Outbox::<Writes, u32>::default();
        outbox.push(1);
        outbox.write(|writes| writes.push(2));
        outbox.push(3);
        assert_eq!(drain(&mut outbox), [1]);
        assert_eq!(outbox.begin_commit(), Some(vec![2]));
        assert!(drain(&mut outbox).is_empty());
        outbox.committed();
        assert_eq!(drain(&mut outbox), [3]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_comes_up_during_a_commit_shares_the_next_one() {
        let mut outbox = Outbox::<Writes, u32>::default();
        outbox.write(|writes| writes.push(1));
        outbox.push(2);
        assert_eq!(outbox.begin_commit(), Some(vec![1]));
        outbox.push(3);
        outbox.write(|writes| writes.push(4));
        outbox.push(5);
        outbox.write(|writes| writes.push(6));
        outbox.push(7);
        assert_eq!(outbox.begin_commit(), None, "one at a time");
        outbox.committed();
        assert_eq!(drain(&mut outbox), [2, 3]);
        assert_eq!(outbox.begin_commit(), Some(vec![4, 6]));
        outbox.committed();
        assert_eq!(drain(&mut outbox), [5, 7]);
        assert!(outbox.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Act {
        Push,
        Write,
        Begin,
        End,
        Pop,
    }

    proptest! {
        /// Numbers are put in as they grow. They come out in that order, none is lost, and none
        /// comes out before every write that was put in before it is on the disk.
        #[test]
        fn effects_keep_their_order_and_wait_for_every_write_before_them(
            acts in proptest::collection::vec(
                prop_oneof![
                    3 => Just(Act::Push),
                    2 => Just(Act::Write),
                    1 => Just(Act::Begin),
                    1 => Just(Act::End),
                    3 => Just(Act::Pop),
                ],
                0..200,
            )
        ) {
            let mut outbox = Outbox::<Writes, u32>::default();
            let mut next = 0;
            let (mut on_disk, mut under_way): (Writes, Writes) = (Vec::new(), Vec::new());
            let (mut written, mut pushed, mut out) = (Vec::new(), Vec::new(), Vec::new());
            for act in acts {
                match act {
                    Act::Push => {
                        outbox.push(next);
                        pushed.push(next);
                        next += 1;
                    }
                    Act::Write => {
                        outbox.write(|writes| writes.push(next));
                        written.push(next);
                        next += 1;
                    }
                    Act::Begin => under_way.extend(outbox.begin_commit().into_iter().flatten()),
                    Act::End => {
                        outbox.committed();
                        on_disk.append(&mut under_way);
                    }
                    Act::Pop => {
                        if let Some(effect) = outbox.pop() {
                            let before = written.iter().filter(|&&write| write < effect);
                            prop_assert!(before.into_iter().all(|write| on_disk.contains(write)));
                            out.push(effect);
                        }
                    }
                }
            }
            for _ in 0..3 {
                outbox.committed();
                out.extend(std::iter::from_fn(|| outbox.pop()));
                outbox.begin_commit();
            }
            prop_assert_eq!(out, pushed);
            prop_assert!(outbox.is_empty());
        }
    }
}
