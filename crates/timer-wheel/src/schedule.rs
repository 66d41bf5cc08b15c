//! The wheel proper: which entry is due when. Entries are numbers here; keys
//! and values are none of its business.

use crate::index::Tag;

/// Bits of a deadline that one level tells apart.
const DIGIT: u32 = 6;
/// Spans of a level.
const SPANS: u32 = 1 << DIGIT;
/// Levels that it takes to tell 64 bits apart.
const LEVELS: u32 = u64::BITS.div_ceil(DIGIT);
/// The list of the entries whose deadline the cursor has reached, in the order
/// in which they are to be yielded.
const DUE: u32 = LEVELS * SPANS;
/// Lists in all: one for each span, and the due one. Links from here on are
/// entries'.
const LISTS: u32 = DUE + 1;
/// At most this many entries are sorted at once. More would save nothing, and
/// the first of them would wait for the sorting of the last.
const SORTABLE: usize = 1 << 16;
/// At least this many are.
const SORTABLE_LEAST: usize = 64;

/// An entry's place in a list. The lists are circular and each begins with a
/// link of its own, so that linking and unlinking need no case for the ends.
///
/// Packed, it takes twenty bytes and not twenty-four.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(4))]
struct Link {
    deadline: u64,
    previous: u32,
    next: u32,
    /// The index's. It is here because what expires has its link at hand, so
    /// that its place in the index is known before its key is fetched.
    tag: Tag,
}

/// What is known of a span's entries without looking at them.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// No entry's deadline is earlier. Exact until an entry leaves.
    earliest: u64,
    /// How many entries came since the span was last empty. Those that left are
    /// still counted, which spares `disarm` to find out where an entry was.
    arrivals: u32,
}

const EMPTY_SPAN: Span = Span { earliest: u64::MAX, arrivals: 0 };

/// Every entry's deadline and who comes next.
///
/// The invariant: an entry whose deadline the cursor has reached is in the due
/// list, which is in order; any other is in the span that [`list_of`] names for
/// its deadline and the cursor. Spans beyond the cursor's own digit are the only
/// ones in use, so a lower level's spans all lie before a higher level's, and a
/// cursor that moves without entering an occupied span moves no entry.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// The lists' own links first, the entries' after them.
    links: Vec<Link>,
    /// The links that are out of use. A chain through the links would take no
    /// memory, but each insertion would wait for the last one's link.
    vacant: Vec<u32>,
    /// Entries up to here are in the due list.
    cursor: u64,
    /// The latest moment the caller told. Never before the cursor.
    present: u64,
    /// A bit for each span of each level that has entries.
    occupied: [u64; LEVELS as usize],
    spans: Box<[Span]>,
    /// Room for the sorting, empty in between. It is extended with the links and
    /// never for the sorting, so that no allocation depends on what falls due
    /// together.
    batch: Vec<u128>,
}

/// The list to which a deadline belongs: the level is the highest digit in
/// which it differs from the cursor, the span is that digit.
fn list_of(deadline: u64, cursor: u64) -> u32 {
    if deadline <= cursor {
        return DUE;
    }
    let level = (deadline ^ cursor).ilog2() / DIGIT;
    #[expect(clippy::cast_possible_truncation, reason = "only the lowest digit is wanted")]
    let digits = (deadline >> (level * DIGIT)) as u32;
    level * SPANS + digits % SPANS
}

impl Schedule {
    pub(crate) fn new() -> Self {
        let mut schedule = Self {
            links: Vec::with_capacity(LISTS as usize),
            vacant: Vec::new(),
            cursor: 0,
            present: 0,
            occupied: [0; LEVELS as usize],
            spans: vec![EMPTY_SPAN; DUE as usize].into(),
            batch: Vec::new(),
        };
        schedule.clear();
        schedule
    }

    /// Forgets every entry, keeps the time and the memory.
    pub(crate) fn clear(&mut self) {
        self.links.clear();
        for list in 0..LISTS {
            self.links.push(Link { deadline: 0, previous: list, next: list, tag: Tag::default() });
        }
        self.vacant.clear();
        self.occupied = [0; LEVELS as usize];
        self.spans.fill(EMPTY_SPAN);
    }

    pub(crate) fn reserve(&mut self, entries: usize) {
        let wanted = (LISTS as usize).saturating_add(entries);
        self.links.reserve_exact(wanted.saturating_sub(self.links.len()));
        self.extend_rest();
    }

    /// Takes an entry out of the vacant ones, or makes the one that follows the
    /// last. It must be armed or vacated.
    pub(crate) fn occupy(&mut self, tag: Tag) -> u32 {
        if let Some(link) = self.vacant.pop() {
            self.links[link as usize].tag = tag;
            return link - LISTS;
        }
        let link = u32::try_from(self.links.len()).expect("fewer than 2^32 keys are pending");
        if grow_when_full(&mut self.links) {
            self.extend_rest();
        }
        self.links.push(Link { deadline: 0, previous: link, next: link, tag });
        link - LISTS
    }

    /// Gives back an entry that is not armed.
    pub(crate) fn vacate(&mut self, entry: u32) {
        self.vacant.push(entry + LISTS);
    }

    /// Sets the deadline of an entry that is not armed. One that passed already
    /// counts as the present.
    pub(crate) fn arm(&mut self, entry: u32, deadline: u64) {
        let deadline = deadline.max(self.present);
        let link = entry + LISTS;
        self.links[link as usize].deadline = deadline;
        self.enter(link, deadline);
    }

    /// Takes an armed entry out of the order.
    pub(crate) fn disarm(&mut self, entry: u32) {
        let Link { previous, next, .. } = self.links[(entry + LISTS) as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        // Only a list's own link can be on both sides: the list is empty now.
        if previous == next && previous != DUE {
            self.vacate_span(previous);
        }
    }

    pub(crate) fn tag(&self, entry: u32) -> Tag {
        self.links[(entry + LISTS) as usize].tag
    }

    pub(crate) fn deadline(&self, entry: u32) -> u64 {
        self.links[(entry + LISTS) as usize].deadline
    }

    /// Tells the present, before which nothing is armed from now on.
    pub(crate) fn advance(&mut self, now: u64) {
        self.present = self.present.max(now);
    }

    /// No entry is due before this. Later than the earliest deadline never;
    /// earlier only if the entry that was the earliest of its span has left.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let due = self.links[DUE as usize].next;
        if due != DUE {
            return Some(self.links[due as usize].deadline);
        }
        let list = self.first_span()?;
        Some(self.spans[list as usize].earliest)
    }

    /// The first entry whose deadline is not after `now`, still armed. `now`
    /// is not after what `advance` was told.
    pub(crate) fn first_due(&mut self, now: u64) -> Option<u32> {
        loop {
            let first = self.links[DUE as usize].next;
            if first != DUE {
                let due = self.links[first as usize].deadline <= now;
                return due.then(|| first - LISTS);
            }
            let Some(list) = self.first_span() else {
                self.cursor = self.cursor.max(now);
                return None;
            };
            let Span { earliest, arrivals } = self.spans[list as usize];
            let below = (1_u64 << (list / SPANS * DIGIT)) - 1;
            let (start, end) = (earliest & !below, earliest | below);
            if earliest > now {
                // A span lies wholly after the cursor, so it starts after zero.
                self.cursor = self.cursor.max(now.min(start - 1));
                return None;
            }
            if arrivals as usize <= self.batch.capacity() {
                self.open_sorted(list, now.min(end));
            } else {
                self.open_spread(list, start);
            }
        }
    }

    /// Extends what must hold as many entries as there are links, and the room
    /// for sorting to an eighth of that: when more are due together, they are
    /// spread before they are sorted.
    fn extend_rest(&mut self) {
        let entries = self.links.capacity() - LISTS as usize;
        self.vacant.reserve_exact(entries - self.vacant.len());
        self.batch.reserve_exact((entries / 8).clamp(SORTABLE_LEAST, SORTABLE));
    }

    /// Moves the cursor into a span, sorts what that makes due, and spreads the
    /// rest over the levels below.
    fn open_sorted(&mut self, list: u32, cursor: u64) {
        let mut link = self.open(list, cursor);
        let mut batch = std::mem::take(&mut self.batch);
        let mut order = 0_u32;
        while link != list {
            let Link { deadline, next, .. } = self.links[link as usize];
            if deadline <= cursor {
                // Equal deadlines stay in the order of the list.
                let rank = u128::from(deadline) << 64 | u128::from(order) << 32;
                batch.push(rank | u128::from(link));
                order += 1;
            } else {
                self.enter(link, deadline);
            }
            link = next;
        }
        batch.sort_unstable();
        for ranked in batch.drain(..) {
            #[expect(clippy::cast_possible_truncation, reason = "the link is the lowest part")]
            let link = ranked as u32;
            self.append(DUE, link);
        }
        self.batch = batch;
    }

    /// Moves the cursor to a span's start. What is due there is due at one and
    /// the same moment, so the order of the list is the right one.
    fn open_spread(&mut self, list: u32, start: u64) {
        let mut link = self.open(list, start);
        while link != list {
            let Link { deadline, next, .. } = self.links[link as usize];
            self.enter(link, deadline);
            link = next;
        }
    }

    /// Empties a span and returns its first link. The links still lead from one
    /// to the next and from the last to the list's own.
    fn open(&mut self, list: u32, cursor: u64) -> u32 {
        self.cursor = cursor;
        self.vacate_span(list);
        let own = &mut self.links[list as usize];
        own.previous = list;
        std::mem::replace(&mut own.next, list)
    }

    fn vacate_span(&mut self, list: u32) {
        self.occupied[(list / SPANS) as usize] &= !(1 << (list % SPANS));
        self.spans[list as usize] = EMPTY_SPAN;
    }

    /// Puts a link into the list of its deadline, behind those that are there.
    fn enter(&mut self, link: u32, deadline: u64) {
        let list = list_of(deadline, self.cursor);
        self.append(list, link);
        if list != DUE {
            let span = &mut self.spans[list as usize];
            span.earliest = span.earliest.min(deadline);
            span.arrivals = span.arrivals.saturating_add(1);
            self.occupied[(list / SPANS) as usize] |= 1 << (list % SPANS);
        }
    }

    fn append(&mut self, list: u32, link: u32) {
        let tail = std::mem::replace(&mut self.links[list as usize].previous, link);
        self.links[tail as usize].next = link;
        let own = &mut self.links[link as usize];
        own.previous = tail;
        own.next = list;
    }

    /// The span that holds the earliest deadline.
    fn first_span(&self) -> Option<u32> {
        (0..LEVELS)
            .zip(self.occupied)
            .find_map(|(level, spans)| (spans != 0).then(|| level * SPANS + spans.trailing_zeros()))
    }
}

/// Extends a full vector, by an eighth. Doubling would leave up to half of a
/// large wheel's memory unused; an eighth still copies each entry only some
/// nine times, and an allocator that can remap pages copies none. Says whether it did.
pub(crate) fn grow_when_full<T>(entries: &mut Vec<T>) -> bool {
    let full = entries.len() == entries.capacity();
    if full {
        entries.reserve_exact((entries.len() / 8).max(16));
    }
    full
}
