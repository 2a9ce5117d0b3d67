//! One file: what is on the platter, what is in the page cache, and the operations between the two.
//!
//! A blocking section runs ahead of the world's clock, so the log may hold operations that lie in the virtual future.
//! Whoever looks at the file at a time (a settling sync, a crash, an oracle) reads the log up to that time:
//!
//! - an operation is *issued* at T when `issue <= T` and *complete* when `complete <= T`; in between it is in flight;
//! - a sync makes durable what was issued before it, when it completes;
//! - operations of one file never overlap: each is issued no earlier than the one before it completed.
//!
//! Pure: no clock, no chance, no host. Times are virtual nanoseconds.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use super::defects::{Defects, touched};
use super::image::{Image, PAGE_BYTES, Page, SECTOR_BYTES};

pub type Nanos = u64;

/// When an operation began and when it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub issue: Nanos,
    pub complete: Nanos,
}

impl Interval {
    pub fn issued_by(self, at: Nanos) -> bool {
        self.issue <= at
    }

    pub fn complete_by(self, at: Nanos) -> bool {
        self.complete <= at
    }
}

/// What was written. Most writes of a storage engine are one page, which the images that hold it share.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// At the offset of a page.
    Page(Arc<Page>),
    Other(Arc<[u8]>),
}

impl Bytes {
    fn at(offset: u64, bytes: &[u8]) -> Bytes {
        match bytes.try_into() {
            Ok(page) if offset.is_multiple_of(PAGE_BYTES) => Bytes::Page(Arc::new(page)),
            _ => Bytes::Other(bytes.into()),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Page(page) => &page[..],
            Bytes::Other(bytes) => bytes,
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Write {
        offset: u64,
        bytes: Bytes,
    },
    SetLen(u64),
    /// A barrier.
    Sync,
    /// The kernel could not write back and forgot: everything since the last barrier is gone at once. See Rebello et
    /// al., "Can Applications Recover from fsync Failures?" (ATC 2020), the ext4 and XFS rows.
    SyncFailed,
    /// As above, but what was lost stays readable until the power goes: the pages are marked clean and keep their contents
    /// (ibid., ext4 in `data=ordered` mode). Calibration.
    SyncFailedReadable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub when: Interval,
    pub change: Change,
}

/// Un-synced bytes a file may hold before the oldest are written back, as a kernel would.
pub const UNSYNCED_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, Debug)]
pub struct File {
    /// What every reader sees: `persisted` with the whole log applied.
    current: Image,
    /// What survives a power loss whatever happens: everything up to the last settled barrier.
    persisted: Image,
    /// What the page cache held at that barrier, where that is something else.
    cached: Option<Image>,
    /// Sectors that the platter holds wrong or not at all.
    pub(super) defects: Defects,
    /// Since that barrier, in order.
    log: VecDeque<Op>,
    /// Bytes of the writes in `log`.
    logged_bytes: usize,
    /// When the first barrier in `log` completes, so that a long section does not search the log at every sync.
    first_barrier: Nanos,
    /// When the last operation completes.
    busy_until: Nanos,
}

impl Default for File {
    fn default() -> File {
        File {
            current: Image::new(),
            persisted: Image::new(),
            cached: None,
            defects: Defects::default(),
            log: VecDeque::new(),
            logged_bytes: 0,
            first_barrier: Nanos::MAX,
            busy_until: 0,
        }
    }
}

impl File {
    pub fn current(&self) -> &Image {
        &self.current
    }

    pub fn log(&self) -> impl Iterator<Item = &Op> {
        self.log.iter()
    }

    /// The earliest time at which the next operation may be issued.
    pub fn busy_until(&self) -> Nanos {
        self.busy_until
    }

    pub fn write(&mut self, when: Interval, offset: u64, bytes: &[u8]) {
        let change = Change::Write { offset, bytes: Bytes::at(offset, bytes) };
        change.apply(&mut self.current);
        self.defects.written(offset, bytes.len() as u64);
        self.logged_bytes += bytes.len();
        self.push(when, change);
    }

    pub fn set_len(&mut self, when: Interval, len: u64) {
        self.current.set_len(len);
        self.defects.cut(len);
        self.push(when, Change::SetLen(len));
    }

    pub fn sync(&mut self, when: Interval) {
        // A second barrier in a row says nothing new, but it may be the first to complete.
        self.push(when, Change::Sync);
    }

    pub fn fail_sync(&mut self, when: Interval) {
        self.current = self.durable_at(Nanos::MAX);
        self.push(when, Change::SyncFailed);
    }

    /// As [`File::fail_sync`], but readers notice nothing before the power goes.
    pub fn fail_sync_readable(&mut self, when: Interval) {
        self.push(when, Change::SyncFailedReadable);
    }

    /// Reads take time too, and the next operation waits for them.
    pub fn read(&mut self, when: Interval) {
        self.occupy(when);
    }

    /// Folds everything up to the last barrier completed by `horizon` into the persisted image. `horizon` must be a time
    /// that can no longer be undone: the world's clock, never that of a running section.
    pub fn settle(&mut self, horizon: Nanos) {
        if self.first_barrier <= horizon
            && let Some(last) = self.last_barrier(horizon)
        {
            let folded: Vec<Op> = self.log.drain(..=last).collect();
            self.logged_bytes -= folded.iter().map(|op| op.change.bytes()).sum::<usize>();
            // The image has one owner, so it is written in place. A failed sync is rare enough to take the long way.
            let failed = |op: &Op| matches!(op.change, Change::SyncFailed | Change::SyncFailedReadable);
            if self.cached.is_some() || folded.iter().any(failed) {
                let mut replay = self.replay();
                folded.iter().for_each(|op| replay.step(&op.change));
                self.cached = (replay.cache != replay.durable).then_some(replay.cache);
                self.persisted = replay.durable;
            } else {
                folded.iter().for_each(|op| op.change.apply(&mut self.persisted));
            }
            self.find_first_barrier();
        }
        self.write_back(horizon);
    }

    /// What a power loss at `at` would surely leave.
    pub fn durable_at(&self, at: Nanos) -> Image {
        let mut replay = self.replay();
        for op in self.log.iter().take(self.last_barrier(at).map_or(0, |n| n + 1)) {
            replay.step(&op.change);
        }
        replay.durable
    }

    /// What a reader at `at` would have seen.
    pub fn current_at(&self, at: Nanos) -> Image {
        if self.log.back().is_none_or(|op| op.when.issued_by(at)) {
            return self.current.clone();
        }
        let mut replay = self.replay();
        for op in self.log.iter().take_while(|op| op.when.issued_by(at)) {
            replay.step(&op.change);
        }
        replay.cache
    }

    /// The process died at `at`: what it had not issued never happened, a barrier in flight is none, and the page cache
    /// lives on. Settles first, so `at` must not lie in the world's future.
    pub fn crash(&mut self, at: Nanos) {
        self.settle(at);
        let undone = self.log.back().is_some_and(|op| !op.when.issued_by(at));
        self.log.retain(|op| op.when.issued_by(at) && (op.when.complete_by(at) || !op.change.is_barrier()));
        self.find_first_barrier();
        if undone {
            self.logged_bytes = self.log.iter().map(|op| op.change.bytes()).sum();
            let mut replay = self.replay();
            self.log.iter().for_each(|op| replay.step(&op.change));
            self.current = replay.cache;
        }
        self.busy_until = self.busy_until.min(at);
    }

    /// The power went: `survivor` is what the platter holds.
    pub fn restart_from(&mut self, survivor: Image) {
        self.current = survivor.clone();
        self.persisted = survivor;
        self.cached = None;
        self.log.clear();
        self.logged_bytes = 0;
        self.first_barrier = Nanos::MAX;
        self.busy_until = 0;
    }

    /// Whether anything issued by `at` was not made durable by then.
    pub fn unsynced_at(&self, at: Nanos) -> bool {
        let rest = self.log.iter().skip(self.last_barrier(at).map_or(0, |n| n + 1));
        rest.take_while(|op| op.when.issued_by(at)).any(|op| !op.change.is_barrier())
    }

    /// Bytes written by `at` that no sync had made durable by then.
    pub fn pending_bytes_at(&self, at: Nanos) -> u64 {
        let rest = self.log.iter().skip(self.last_barrier(at).map_or(0, |n| n + 1));
        let issued = rest.take_while(|op| op.when.issued_by(at));
        issued.map(|op| op.change.bytes() as u64).sum()
    }

    pub(super) fn persisted(&self) -> &Image {
        &self.persisted
    }

    fn push(&mut self, when: Interval, change: Change) {
        self.occupy(when);
        if change.is_barrier() {
            self.first_barrier = self.first_barrier.min(when.complete);
        }
        self.log.push_back(Op { when, change });
    }

    /// Position of the last barrier completed by `at`.
    fn last_barrier(&self, at: Nanos) -> Option<usize> {
        self.log.iter().rposition(|op| op.change.is_barrier() && op.when.complete_by(at))
    }

    fn find_first_barrier(&mut self) {
        let first = self.log.iter().find(|op| op.change.is_barrier());
        self.first_barrier = first.map_or(Nanos::MAX, |op| op.when.complete);
    }

    fn occupy(&mut self, when: Interval) {
        debug_assert!(when.issue >= self.busy_until && when.complete >= when.issue, "operations of a file overlap");
        self.busy_until = when.complete;
    }

    fn write_back(&mut self, horizon: Nanos) {
        while self.logged_bytes > UNSYNCED_BYTES_MAX
            && self.log.front().is_some_and(|op| op.when.complete_by(horizon) && !op.change.is_barrier())
        {
            let op = self.log.pop_front().expect("just seen");
            self.logged_bytes -= op.change.bytes();
            op.change.apply(&mut self.persisted);
            if let Some(cached) = &mut self.cached {
                op.change.apply(cached);
            }
        }
    }

    fn replay(&self) -> Replay {
        let persisted = self.persisted.clone();
        let cache = self.cached.clone().unwrap_or_else(|| persisted.clone());
        Replay { platter: persisted.clone(), durable: persisted, cache }
    }

    /// Whether an un-synced write touches the sector.
    fn is_pending(&self, sector: u64) -> bool {
        self.log.iter().any(|op| match &op.change {
            Change::Write { offset, bytes } => touched(*offset, bytes.len() as u64).contains(&sector),
            Change::SetLen(len) => *len / SECTOR_BYTES <= sector,
            _ => false,
        })
    }

    /// Makes a whole sector of the platter, and what readers see of it, equal to that of `source`. `false`, and nothing
    /// happens, when the sector is not wholly inside the file or has un-synced bytes.
    pub(super) fn spoil(&mut self, sector: u64, bytes: &[u8], kind: &'static str) -> bool {
        let end = (sector + 1) * SECTOR_BYTES;
        if end > self.persisted.len() || end > self.current.len() || self.is_pending(sector) {
            return false;
        }
        self.persisted.write(sector * SECTOR_BYTES, bytes);
        self.current.write(sector * SECTOR_BYTES, bytes);
        if let Some(cached) = &mut self.cached {
            cached.write(sector * SECTOR_BYTES, bytes);
        }
        self.defects.add(sector, kind);
        true
    }
}

impl Change {
    pub fn is_barrier(&self) -> bool {
        matches!(self, Change::Sync | Change::SyncFailed | Change::SyncFailedReadable)
    }

    pub(super) fn apply(&self, image: &mut Image) {
        match self {
            Change::Write { offset, bytes: Bytes::Page(page) } => image.put_page(*offset, page.clone()),
            Change::Write { offset, bytes } => image.write(*offset, bytes),
            Change::SetLen(len) => image.set_len(*len),
            Change::Sync | Change::SyncFailed | Change::SyncFailedReadable => {}
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Change::Write { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// The log, read from its start: what the cache holds, what the next sync would make durable, and what is durable after
/// each operation.
struct Replay {
    durable: Image,
    /// As `cache`, without what a failed sync left readable.
    platter: Image,
    cache: Image,
}

impl Replay {
    fn step(&mut self, change: &Change) {
        match change {
            Change::Sync => self.durable = self.platter.clone(),
            Change::SyncFailed => {
                self.platter = self.durable.clone();
                self.cache = self.durable.clone();
            }
            Change::SyncFailedReadable => self.platter = self.durable.clone(),
            _ => {
                change.apply(&mut self.platter);
                change.apply(&mut self.cache);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn during(issue: Nanos, complete: Nanos) -> Interval {
        Interval { issue, complete }
    }

    fn written() -> File {
        let mut file = File::default();
        file.write(during(0, 10), 0, b"aaaa");
        file.sync(during(10, 20));
        file.write(during(20, 30), 2, b"bbbb");
        file.sync(during(30, 40));
        file
    }

    #[test]
    fn a_sync_counts_from_its_completion() {
        let file = written();
        assert_eq!(file.durable_at(19).to_vec(), b"");
        assert_eq!(file.durable_at(20).to_vec(), b"aaaa");
        assert_eq!(file.durable_at(39).to_vec(), b"aaaa");
        assert_eq!(file.durable_at(40).to_vec(), b"aabbbb");
        assert_eq!(file.current().to_vec(), b"aabbbb");
    }

    #[test]
    fn settling_changes_no_view() {
        for horizon in 0..=50 {
            let mut settled = written();
            settled.settle(horizon);
            for at in horizon..=50 {
                assert_eq!(settled.durable_at(at), written().durable_at(at), "settled at {horizon}, seen at {at}");
                assert_eq!(settled.current_at(at), written().current_at(at), "settled at {horizon}, seen at {at}");
            }
        }
    }

    #[test]
    fn a_crash_undoes_what_was_not_issued_and_keeps_the_cache() {
        let mut file = written();
        file.crash(15);
        assert_eq!(file.current().to_vec(), b"aaaa");
        assert_eq!(file.durable_at(Nanos::MAX).to_vec(), b"", "the barrier in flight never returned");
        assert_eq!(file.busy_until(), 15);

        let mut file = written();
        file.crash(20);
        assert_eq!(file.current().to_vec(), b"aabbbb", "issued at 20, so the kernel has it");
        assert_eq!(file.durable_at(Nanos::MAX).to_vec(), b"aaaa");
    }

    #[test]
    fn a_failed_sync_forgets_at_once_and_the_next_one_succeeds() {
        let mut file = written();
        file.write(during(40, 50), 0, b"cc");
        file.set_len(during(50, 60), 100);
        file.fail_sync(during(60, 70));
        assert_eq!(file.current().to_vec(), b"aabbbb");
        file.write(during(70, 80), 6, b"d");
        file.sync(during(80, 90));
        assert_eq!(file.current().to_vec(), b"aabbbbd");
        assert_eq!(file.durable_at(90).to_vec(), b"aabbbbd");
        let mut undone = file.clone();
        undone.crash(55);
        assert_eq!(undone.current().len(), 100, "the failure never happened");
    }

    #[test]
    fn a_failed_sync_may_leave_readable_what_no_later_sync_writes() {
        for horizon in [0, 55, 75, 100] {
            let mut file = written();
            file.write(during(40, 50), 0, b"cc");
            file.fail_sync_readable(during(50, 60));
            file.write(during(60, 70), 6, b"d");
            file.sync(during(70, 80));
            file.settle(horizon);
            assert_eq!(file.current().to_vec(), b"ccbbbbd");
            assert_eq!(file.current_at(100).to_vec(), b"ccbbbbd");
            assert_eq!(file.durable_at(100).to_vec(), b"aabbbbd");
            file.write(during(100, 110), 7, b"e");
            file.crash(105);
            assert_eq!(file.current().to_vec(), b"ccbbbbde", "the page cache outlives the process");
        }
    }

    #[test]
    fn a_defect_lasts_until_its_sector_is_rewritten() {
        let mut file = File::default();
        file.write(during(0, 10), 0, &[1; 1536]);
        file.sync(during(10, 20));
        file.write(during(20, 30), 512, &[2; 512]);
        file.settle(30);
        assert!(!file.spoil(1, &[9; 512], "rot"), "it has un-synced bytes");
        assert!(!file.spoil(3, &[9; 512], "rot"), "past the end");
        assert!(file.spoil(0, &[9; 512], "rot") && file.spoil(2, &[9; 512], "rot"));
        assert_eq!((file.current().to_vec()[0], file.durable_at(40).to_vec()[1535]), (9, 9));
        file.write(during(40, 50), 0, &[3; 100]);
        assert_eq!(file.defects.met(0, 512), ["rot"], "a part is still wrong");
        file.write(during(50, 60), 1024, &[3; 512]);
        assert!(file.defects.met(0, 1536).is_empty(), "met before, or rewritten");
    }

    #[test]
    fn an_endless_stream_of_unsynced_bytes_is_written_back() {
        let mut file = File::default();
        let megabyte = vec![1; 1 << 20];
        for n in 0..80 {
            file.write(during(n, n), n << 20, &megabyte);
            file.settle(n);
        }
        assert!(file.logged_bytes <= UNSYNCED_BYTES_MAX);
        assert!(file.durable_at(80).len() >= 16 << 20);
        assert_eq!(file.current().len(), 80 << 20);
    }
}
