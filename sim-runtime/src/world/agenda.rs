//! What will happen when: timers, deliveries, world actions, releases of held tasks, ends of blocking sections.
//!
//! Ordered by deadline; ties by a hash of (seed, stable entity), like ready tasks. Cancelling is lazy: the entry stays
//! until it is due or until stale entries are the majority, then all are swept at once.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::Nanos;
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
    fn rank(&self) -> (Nanos, u64, u64) {
        (self.at, self.tie, self.sequence)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// Below this size sweeping is not worth it.
const SWEEP_MIN: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    stale: usize,
}

impl Agenda {
    pub fn push(&mut self, at: Nanos, tie: u64, kind: Kind, key: Key) {
        self.sequence += 1;
        self.heap.push(Reverse(Due { at, tie, sequence: self.sequence, kind, key }));
    }

    pub fn pop(&mut self) -> Option<Due> {
        self.heap.pop().map(|Reverse(due)| due)
    }

    pub fn pop_due(&mut self, now: Nanos) -> Option<Due> {
        if self.heap.peek()?.0.at <= now { self.pop() } else { None }
    }

    /// One entry became stale. Returns whether the caller should [`sweep`](Agenda::sweep).
    pub fn cancelled(&mut self) -> bool {
        self.stale += 1;
        self.stale > SWEEP_MIN && self.stale > self.heap.len() / 2
    }

    /// A stale entry was met and skipped.
    pub fn skipped(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }

    pub fn sweep(&mut self, is_live: impl Fn(&Due) -> bool) {
        self.heap.retain(|Reverse(due)| is_live(due));
        self.stale = 0;
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn clear(&mut self) {
        self.heap.clear();
        self.stale = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_deadline_then_tie_then_insertion() {
        let mut agenda = Agenda::default();
        for (at, tie) in [(5, 1), (3, 9), (3, 2), (3, 2), (4, 0)] {
            agenda.push(at, tie, Kind::Timer, Key::NONE);
        }
        let order: Vec<_> = std::iter::from_fn(|| agenda.pop()).map(|due| due.rank()).collect();
        assert_eq!(order, [(3, 2, 3), (3, 2, 4), (3, 9, 2), (4, 0, 5), (5, 1, 1)]);
    }

    #[test]
    fn stale_entries_are_swept_once_they_are_the_majority() {
        let mut agenda = Agenda::default();
        for at in 0..4_000 {
            agenda.push(at, 0, Kind::Timer, Key::NONE);
        }
        let sweeps = (0..2_000).filter(|_| agenda.cancelled()).count();
        assert_eq!(sweeps, 0, "half is not a majority");
        assert!(agenda.cancelled());
        agenda.sweep(|due| due.at >= 2_001);
        assert_eq!(agenda.len(), 1_999);
        assert_eq!(agenda.pop_due(2_000).map(|due| due.at), None);
        assert_eq!(agenda.pop_due(2_001).map(|due| due.at), Some(2_001));
    }
}
