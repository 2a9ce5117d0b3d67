//! What the log holds, as every reader sees it, and its newest entries in memory.
//!
//! Pure: no I/O. An append is readable from here at once; the writer makes it durable later and says so with
//! [`Tail::flushed`]. Entries that are not durable are never evicted.
//!
//! Invariant: `purged <= first - 1 <= durable <= last`, and the cached entries are the last ones of the log, without gap.

use std::collections::VecDeque;
use std::ops::Range;

use crate::planted::planted;
use crate::types::{Entry, LogId};

/// An entry in memory.
#[derive(Debug)]
struct Cached {
    entry: Entry,
    /// Its length as encoded.
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Tail {
    purged: Option<LogId>,
    /// Id of the last entry, or of the last purged one if there is none.
    last: Option<LogId>,
    /// Index of the first entry; equals `end` if there is none.
    first: u64,
    /// One past the last entry.
    end: u64,
    /// Entries below this index are durable.
    durable_end: u64,
    /// The entries `end - cached.len() .. end`.
    cached: VecDeque<Cached>,
    cached_bytes: usize,
    /// Counts truncations and purges: a read that spans one is repeated.
    epoch: u64,
}

/// Where the entries of a range are.
#[derive(Debug)]
pub(super) struct Located {
    /// These are on disk only.
    pub on_disk: Range<u64>,
    /// These follow, from memory.
    pub cached: Vec<Entry>,
    pub epoch: u64,
}

impl Tail {
    /// A log whose entries `first..end` are all durable and none is cached.
    pub fn new(purged: Option<LogId>, last: Option<LogId>, first: u64, end: u64) -> Self {
        let cached = VecDeque::new();
        Tail { purged, last: last.or(purged), first, end, durable_end: end, cached, cached_bytes: 0, epoch: 0 }
    }

    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub fn last(&self) -> Option<LogId> {
        self.last
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn durable_end(&self) -> u64 {
        self.durable_end
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    #[cfg(test)]
    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    /// Adds an entry at the end. `Err` gives the index that was expected.
    pub fn push(&mut self, entry: Entry, bytes: usize) -> Result<(), u64> {
        let index = entry.log_id.index;
        let expected = if self.is_empty() { self.purged.map_or(0, |purged| purged.index + 1) } else { self.end };
        // A log without entries may begin anywhere past what was purged: openraft's own suite does so.
        if index != expected && !(self.is_empty() && index > expected) {
            return Err(expected);
        }
        if self.is_empty() {
            self.first = index;
            self.durable_end = index;
        }
        self.last = Some(entry.log_id);
        self.end = index + 1;
        self.cached.push_back(Cached { entry, bytes });
        self.cached_bytes += bytes;
        Ok(())
    }

    /// Puts an entry that is durable in front of the cached ones, while a log is opened.
    pub fn warm(&mut self, entry: Entry, bytes: usize) {
        debug_assert_eq!(entry.log_id.index + 1, self.cached_start());
        self.cached.push_front(Cached { entry, bytes });
        self.cached_bytes += bytes;
    }

    /// The entries below `end` are durable now.
    pub fn flushed(&mut self, end: u64) {
        self.durable_end = self.durable_end.max(end.min(self.end));
    }

    /// Forgets the oldest cached entries that are durable, until the rest fits. Returns how many.
    pub fn evict(&mut self, bytes_max: usize) -> usize {
        let mut evicted = 0;
        let evictable_end = if planted!("unwritten-entries-evicted") { self.end } else { self.durable_end };
        while self.cached_bytes > bytes_max && self.cached_start() < evictable_end && !self.cached.is_empty() {
            self.pop_front();
            evicted += 1;
        }
        evicted
    }

    /// Removes the entries past `after`. Returns the index of the first one removed, if any was.
    pub fn truncate_after(&mut self, after: Option<LogId>) -> Option<u64> {
        let from = after.map_or(0, |id| id.index + 1).max(self.first);
        if from >= self.end {
            return None;
        }
        self.last = if from == self.first { self.purged } else { after };
        while self.end > from {
            self.end -= 1;
            if let Some(gone) = self.cached.pop_back() {
                self.cached_bytes -= gone.bytes;
            }
        }
        self.durable_end = self.durable_end.min(self.end);
        self.epoch += 1;
        Some(from)
    }

    /// Removes the entries up to `upto`. Returns `false` if they are gone already.
    pub fn purge(&mut self, upto: LogId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        let start = upto.index + 1;
        while !self.cached.is_empty() && self.cached_start() < start {
            self.pop_front();
        }
        self.purged = Some(upto);
        self.first = self.first.max(start);
        self.end = self.end.max(start);
        self.durable_end = self.durable_end.max(start);
        if self.is_empty() {
            self.last = Some(upto);
        }
        self.epoch += 1;
        true
    }

    /// Finds the entries of `range` that the log holds, the cached ones up to `bytes_max` (at least one if none is on
    /// disk).
    pub fn locate(&self, range: Range<u64>, bytes_max: Option<usize>) -> Located {
        let readable_end = if planted!("append-readable-late") { self.durable_end } else { self.end };
        let range = range.start.max(self.first)..range.end.min(readable_end);
        let split = self.cached_start();
        let on_disk = range.start..range.end.min(split);
        let mut cached = Vec::new();
        // A limited read may stop on the disk: what follows would leave a gap.
        let reaches = bytes_max.is_none() || on_disk.is_empty() || planted!("cut-read-joined-to-cache");
        if range.start.max(split) < range.end && reaches {
            let mut bytes = 0;
            for index in range.start.max(split)..range.end {
                let Some(item) = usize::try_from(index - split).ok().and_then(|at| self.cached.get(at)) else { break };
                bytes += item.bytes;
                if !cached.is_empty() && bytes_max.is_some_and(|max| bytes > max) {
                    break;
                }
                cached.push(item.entry.clone());
            }
        }
        Located { on_disk, cached, epoch: self.epoch }
    }

    /// The id of a cached entry.
    pub fn cached_id(&self, index: u64) -> Option<LogId> {
        let at = index.checked_sub(self.cached_start())?;
        self.cached.get(usize::try_from(at).ok()?).map(|item| item.entry.log_id)
    }

    /// Index of the first cached entry, `end` if there is none.
    fn cached_start(&self) -> u64 {
        self.end - self.cached.len() as u64
    }

    fn pop_front(&mut self) {
        if let Some(gone) = self.cached.pop_front() {
            self.cached_bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CommittedLeaderId, Payload};

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: CommittedLeaderId::new(term), index }
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry { log_id: id(term, index), payload: Payload::Blank }
    }

    fn filled(entries: Range<u64>) -> Tail {
        let mut tail = Tail::new(None, None, 0, 0);
        for index in entries {
            tail.push(entry(1, index), 10).expect("in order");
        }
        tail
    }

    #[test]
    fn entries_that_are_not_durable_are_never_evicted() {
        let mut tail = filled(0..10);
        assert_eq!(tail.evict(0), 0);
        tail.flushed(4);
        assert_eq!(tail.evict(0), 4);
        assert_eq!(tail.cached_bytes(), 60);
        let located = tail.locate(2..6, None);
        assert_eq!(located.on_disk, 2..4);
        assert_eq!(located.cached.len(), 2);
    }

    #[test]
    fn an_append_with_a_gap_is_refused() {
        let mut tail = filled(0..3);
        assert_eq!(tail.push(entry(1, 4), 10), Err(3));
        assert_eq!(tail.push(entry(1, 2), 10), Err(3));
    }

    #[test]
    fn truncating_everything_leaves_the_purged_id() {
        let mut tail = filled(0..10);
        tail.purge(id(1, 4));
        assert_eq!(tail.truncate_after(Some(id(1, 4))), Some(5));
        assert_eq!((tail.last(), tail.is_empty(), tail.end()), (Some(id(1, 4)), true, 5));
        tail.push(entry(2, 5), 10).expect("follows what was purged");
    }

    #[test]
    fn purging_past_the_end_moves_the_end() {
        let mut tail = filled(0..10);
        assert!(tail.purge(id(3, 20)));
        assert!(!tail.purge(id(3, 20)));
        assert_eq!((tail.last(), tail.end(), tail.durable_end()), (Some(id(3, 20)), 21, 21));
        assert!(tail.locate(0..100, None).on_disk.is_empty());
    }

    #[test]
    fn a_limited_read_returns_at_least_one_entry() {
        let tail = filled(0..10);
        assert_eq!(tail.locate(0..10, Some(1)).cached.len(), 1);
        assert_eq!(tail.locate(0..10, Some(35)).cached.len(), 3);
    }
}
