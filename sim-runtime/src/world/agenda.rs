//! What will happen when: timers, deliveries, world actions, releases of held tasks, ends of blocking sections.
//!
//! Ordered by deadline; ties by a hash of (seed, stable entity), like ready tasks. Most timers guard something that comes
//! in time and are cancelled long before they are due, so ordering all entries would be wasted work: only those of one
//! slice of time are in a heap; those of the slices of the next second wait in lists, unordered, and are ordered when
//! their time comes; later ones are in a heap of their own.
//!
//! Cancelling is lazy: a stale entry is dropped when its time comes, or when stale entries are the majority and all are
//! swept at once. It is never returned, so nobody can tell.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::Nanos;
use super::short_heap::ShortHeap;
use super::slab::Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Timer,
    Release,
    Packet,
    Action,
    Section,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub at: Nanos,
    pub tie: u64,
    /// Insertion order: makes the order total should two ties collide.
    sequence: u64,
    pub kind: Kind,
    pub key: Key,
}

impl Due {
    /// Deadline and tie in one number, since this is compared so often.
    #[inline]
    fn rank(&self) -> (u128, u64) {
        (u128::from(self.at) << 64 | u128::from(self.tie), self.sequence)
    }

    #[inline]
    fn slice(&self) -> u64 {
        self.at >> SLICE_BITS
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    #[inline]
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    #[inline]
    fn cmp(&self, other: &Due) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// Below this many stale entries sweeping is not worth it.
const SWEEP_MIN: usize = 4096;

/// A slice of time is 2^18 ns.
const SLICE_BITS: u32 = 18;
/// Slices that wait unordered: 1.07 s of them.
const SLICES: usize = 4096;
const WORD_BITS: usize = 64;
/// The end of a list.
const END: u32 = u32::MAX;

/// An entry that waits, and the one after it in its slice or among the free ones.
#[derive(Clone, Copy, Debug)]
struct Node {
    due: Due,
    next: u32,
}

#[derive(Debug)]
pub(crate) struct Agenda {
    /// Entries of `slice` and before it, ordered.
    near: ShortHeap<Reverse<Due>>,
    slice: u64,
    /// First node of the slices after `slice`, each at its number modulo [`SLICES`].
    waiting: Vec<u32>,
    nodes: Vec<Node>,
    free: u32,
    /// One bit per element of `waiting`: whether it has entries.
    occupied: [u64; SLICES / WORD_BITS],
    /// Entries later than that when they were added.
    far: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    len: usize,
    stale: usize,
}

impl Default for Agenda {
    fn default() -> Agenda {
        Agenda {
            near: ShortHeap::new(),
            slice: 0,
            waiting: vec![END; SLICES],
            nodes: Vec::new(),
            free: END,
            occupied: [0; SLICES / WORD_BITS],
            far: BinaryHeap::new(),
            sequence: 0,
            len: 0,
            stale: 0,
        }
    }
}

impl Agenda {
    #[inline]
    pub fn push(&mut self, at: Nanos, tie: u64, kind: Kind, key: Key) {
        self.sequence += 1;
        self.len += 1;
        let due = Due { at, tie, sequence: self.sequence, kind, key };
        let ahead = due.slice().saturating_sub(self.slice);
        if ahead == 0 {
            self.near.push(Reverse(due));
        } else if ahead < SLICES as u64 {
            let place = place_of(due.slice());
            self.occupied[place / WORD_BITS] |= 1 << (place % WORD_BITS);
            let node = Node { due, next: self.waiting[place] };
            self.waiting[place] = self.store(node);
        } else {
            self.far.push(Reverse(due));
        }
    }

    /// The next entry that is live.
    #[inline]
    pub fn pop(&mut self, is_live: impl Fn(&Due) -> bool) -> Option<Due> {
        loop {
            while let Some(Reverse(due)) = self.near.pop() {
                self.len -= 1;
                if is_live(&due) {
                    return Some(due);
                }
                self.stale = self.stale.saturating_sub(1);
            }
            self.next_slice(&is_live)?;
        }
    }

    /// The next entry that is live and due at `now`, the deadline of the entry popped last or later.
    #[inline]
    pub fn pop_due(&mut self, now: Nanos, is_live: impl Fn(&Due) -> bool) -> Option<Due> {
        while let Some(Reverse(due)) = self.near.pop_if(|Reverse(due)| due.at <= now) {
            self.len -= 1;
            if is_live(&due) {
                return Some(due);
            }
            self.stale = self.stale.saturating_sub(1);
        }
        None
    }

    /// Orders the next slice that has entries; `None` when there is none.
    fn next_slice(&mut self, is_live: impl Fn(&Due) -> bool) -> Option<()> {
        let waiting = self.next_waiting();
        let far = self.far.peek().map(|Reverse(due)| due.slice());
        self.slice = waiting.into_iter().chain(far).min()?;
        if waiting == Some(self.slice) {
            let mut index = self.take_list(place_of(self.slice));
            while let Some(&Node { due, next }) = self.nodes.get(index as usize) {
                self.release(index);
                if is_live(&due) {
                    self.near.push(Reverse(due));
                } else {
                    self.len -= 1;
                    self.stale = self.stale.saturating_sub(1);
                }
                index = next;
            }
        }
        while self.far.peek().is_some_and(|Reverse(due)| due.slice() == self.slice) {
            if let Some(due) = self.far.pop() {
                self.near.push(due);
            }
        }
        Some(())
    }

    #[inline]
    fn store(&mut self, node: Node) -> u32 {
        if let Some(free) = self.nodes.get_mut(self.free as usize) {
            let index = std::mem::replace(&mut self.free, free.next);
            *free = node;
            return index;
        }
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 entries wait at once")
    }

    fn release(&mut self, index: u32) {
        self.nodes[index as usize].next = self.free;
        self.free = index;
    }

    /// Empties a slice; the first of its nodes.
    fn take_list(&mut self, place: usize) -> u32 {
        self.occupied[place / WORD_BITS] &= !(1 << (place % WORD_BITS));
        std::mem::replace(&mut self.waiting[place], END)
    }

    /// The next slice with entries that wait unordered.
    fn next_waiting(&self) -> Option<u64> {
        let first = self.slice + 1;
        let start = place_of(first);
        let words = self.occupied.len();
        for step in 0..=words {
            let index = (start / WORD_BITS + step) % words;
            let mut word = self.occupied[index];
            if step == 0 {
                word &= u64::MAX << (start % WORD_BITS);
            } else if step == words {
                word &= !(u64::MAX << (start % WORD_BITS));
            }
            if word != 0 {
                let place = index * WORD_BITS + word.trailing_zeros() as usize;
                return Some(first + (place.wrapping_sub(start) % SLICES) as u64);
            }
        }
        None
    }

    /// One entry became stale. Returns whether the caller should [`sweep`](Agenda::sweep).
    pub fn cancelled(&mut self) -> bool {
        self.stale += 1;
        self.stale > SWEEP_MIN && self.stale > self.len / 2
    }

    pub fn sweep(&mut self, is_live: impl Fn(&Due) -> bool) {
        self.near.retain(|Reverse(due)| is_live(due));
        self.far.retain(|Reverse(due)| is_live(due));
        self.len = self.near.len() + self.far.len();
        for place in 0..SLICES {
            let mut index = self.take_list(place);
            while let Some(&Node { due, next }) = self.nodes.get(index as usize) {
                if is_live(&due) {
                    self.nodes[index as usize].next = self.waiting[place];
                    self.waiting[place] = index;
                    self.occupied[place / WORD_BITS] |= 1 << (place % WORD_BITS);
                    self.len += 1;
                } else {
                    self.release(index);
                }
                index = next;
            }
        }
        self.stale = 0;
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn clear(&mut self) {
        *self = Agenda { slice: self.slice, sequence: self.sequence, ..Agenda::default() };
    }
}

#[inline]
fn place_of(slice: u64) -> usize {
    // Less than SLICES.
    (slice % SLICES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::draws::Dice;

    #[test]
    fn order_is_deadline_then_tie_then_insertion() {
        let mut agenda = Agenda::default();
        for (at, tie) in [(5, 1), (3, 9), (3, 2), (3, 2), (4, 0)] {
            agenda.push(at, tie, Kind::Timer, Key::NONE);
        }
        let order: Vec<_> =
            std::iter::from_fn(|| agenda.pop(|_| true)).map(|due| (due.at, due.tie, due.sequence)).collect();
        assert_eq!(order, [(3, 2, 3), (3, 2, 4), (3, 9, 2), (4, 0, 5), (5, 1, 1)]);
    }

    /// Any mixture of pushes and pops, near and far, gives what one heap would give.
    #[test]
    fn slices_are_never_seen() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let (mut agenda, mut model, mut now) = (Agenda::default(), BinaryHeap::new(), 0);
            for _ in 0..400 {
                for _ in 0..dice.below(4) {
                    let reach = [1, 2_000, 3_000_000, 2_000_000_000, 90_000_000_000][dice.below(5) as usize];
                    let at = now + dice.below(reach);
                    agenda.push(at, dice.below(3), Kind::Timer, Key::NONE);
                    model.push(Reverse((at, agenda.sequence)));
                }
                let expected = model.pop().map(|Reverse((at, _))| at);
                let popped = agenda.pop(|_| true);
                assert_eq!(popped.map(|due| due.at), expected, "seed {seed}");
                now = expected.unwrap_or(now);
                while let Some(due) = agenda.pop_due(now, |_| true) {
                    assert_eq!(Some(due.at), model.pop().map(|Reverse((at, _))| at), "seed {seed}");
                }
                assert!(
                    model.peek().is_none_or(|Reverse((at, _))| *at > now),
                    "seed {seed}: all that is due was popped"
                );
                assert_eq!(agenda.len(), model.len());
            }
        }
    }

    #[test]
    fn stale_entries_are_never_returned_and_are_swept_once_they_are_the_majority() {
        let mut agenda = Agenda::default();
        for at in 0..10_000 {
            agenda.push(at * 1_000_000, 0, Kind::Timer, Key::NONE);
        }
        let sweeps = (0..5_000).filter(|_| agenda.cancelled()).count();
        assert_eq!(sweeps, 0, "half is not a majority");
        assert!(agenda.cancelled());
        let is_live = |due: &Due| due.at >= 5_001_000_000;
        agenda.sweep(is_live);
        assert_eq!(agenda.len(), 4_999);
        assert_eq!(agenda.pop_due(5_000_000_000, is_live).map(|due| due.at), None);
        let is_live = |due: &Due| due.at >= 6_000_000_000;
        assert_eq!(agenda.pop(is_live).map(|due| due.at), Some(6_000_000_000));
        assert_eq!(agenda.len(), 3_999);
    }
}
