//! The Raft log: entries, vote and marks, durable in one redb file. It is the node's durability point.
//!
//! - [`tail`]: what the log holds as readers see it, with the newest entries in memory
//! - [`disk`]: the file; synchronous
//! - [`writer`]: the only task that writes: group commit, first-in first-out
//!
//! An append is readable when [`append`](openraft::storage::RaftLogStorage::append) returns, and reported flushed once
//! its sync returned. Votes and truncations are durable before their call returns; purges become
//! durable with the next commit, the committed mark with some later one or when the log is idle. One writer (openraft's core) changes the log; any number of clones read it.
//!
//! Invariants: a vote of term T is durable before any entry of term T; the log past `purged` has no hole; nothing is
//! purged that a durable snapshot or state does not cover; after an error nothing succeeds any more.

mod disk;
mod tail;
mod writer;

use std::fmt::{self, Debug};
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buggify::{assert_always, assert_reachable, assert_sometimes, buggify};
use futures_core::Stream;
use futures_util::TryStreamExt;
use openraft::alias::MpscSenderOf;
use openraft::async_runtime::MpscSender;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use crate::codec;
use crate::env::{Env, Lane};
use crate::floor::DurableFloor;
use crate::health::Health;
use crate::observe::{EntryMeta, Observation};
use crate::planted::planted;
use crate::types::{Entry, LogId, TypeConfig, Vote};
use disk::{EncodedBatch, LogDisk};
use tail::Tail;
use writer::Op;

pub(crate) use disk::damaged;
pub use disk::{LOG_FILE, LOG_FILE_DAMAGED};

/// Knobs of the log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Encoded bytes of the newest entries kept in memory; entries that are not durable yet come on top.
    pub cache_bytes: usize,
    /// Entries that one transaction makes durable.
    pub flush_batch_entries_max: usize,
    /// A transaction takes no further operation once it has so many bytes.
    pub flush_batch_bytes_max: usize,
    /// Operations that wait for the writer; more wait in their callers.
    pub queue_operations_max: usize,
    /// The committed mark is saved by itself when the log was idle for so long.
    pub committed_idle: Duration,
    /// It is saved with entries once the saved one is so many entries behind, and with every other mark.
    pub committed_lag_entries_max: u64,
    /// A read for replication stops at so many encoded bytes, or at one entry.
    pub read_batch_bytes_max: usize,
}

/// Counts since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Transactions, each with one sync.
    pub commits: u64,
    /// Operations that those transactions made durable.
    pub operations: u64,
    pub entries: u64,
    /// Encoded bytes of all entries that were appended, durable yet or not.
    pub appended_bytes: u64,
    /// Reads answered from memory alone, and reads that went to disk.
    pub reads_cached: u64,
    pub reads_disk: u64,
}

/// What was found when the log was opened.
#[derive(Clone, Debug, Default)]
pub struct LogRecovery {
    /// There was no log: a new one was made.
    pub created: bool,
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// Ids of the entries, in order.
    pub entries: Vec<EntryMeta>,
}

impl LogRecovery {
    /// The last entry, or what was purged.
    pub fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    /// The id that the log holds for `index`.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        let at = index.checked_sub(self.entries.first()?.log_id.index)?;
        self.entries.get(usize::try_from(at).ok()?).map(|entry| entry.log_id)
    }
}

/// A handle to the log. Clones share it.
pub struct LogStore<E: Env> {
    shared: Arc<Shared<E>>,
    queue: MpscSenderOf<TypeConfig<E>, Op<E>>,
}

struct Shared<E: Env> {
    env: E,
    lane: E::Lane,
    config: LogConfig,
    health: Health<E>,
    /// How far purging may go; `None` for a log that stands alone.
    floor: Option<DurableFloor>,
    disk: Slot<LogDisk>,
    view: Mutex<View>,
    counters: Counters,
}

/// What readers see.
struct View {
    tail: Tail,
    /// The durable vote.
    vote: Option<Vote>,
    /// The committed mark as openraft last said it.
    committed: Option<LogId>,
    /// The committed mark on disk.
    committed_saved: Option<LogId>,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    operations: AtomicU64,
    entries: AtomicU64,
    appended_bytes: AtomicU64,
    reads_cached: AtomicU64,
    reads_disk: AtomicU64,
}

/// The open file; `None` once closed.
struct Slot<T>(Mutex<Option<T>>);

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Env> Clone for LogStore<E> {
    fn clone(&self) -> Self {
        LogStore { shared: self.shared.clone(), queue: self.queue.clone() }
    }
}

impl<E: Env> LogStore<E> {
    /// Opens the log of `dir`, or creates one, and starts its writer. Every entry is verified: a damaged one, or a hole,
    /// is [`io::ErrorKind::InvalidData`]. With `floor`, purging past what it allows is a violation.
    pub async fn open(
        env: &E,
        dir: &Path,
        config: LogConfig,
        health: Health<E>,
        floor: Option<DurableFloor>,
    ) -> io::Result<(Self, LogRecovery)> {
        let lane = env.lane("log");
        let opened = {
            let (env, dir, cache_bytes) = (env.clone(), dir.to_owned(), config.cache_bytes);
            lane.run(move || LogDisk::open(&env, &dir, cache_bytes)).await?
        };
        let (disk, found) = opened?;
        let recovery = LogRecovery {
            created: found.created,
            vote: found.vote,
            purged: found.purged,
            committed: found.committed,
            entries: found.entries,
        };
        let last = recovery.last();
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        let first = recovery.entries.first().map_or(next(recovery.purged), |entry| entry.log_id.index);
        let mut tail = Tail::new(recovery.purged, last, first, next(last).max(first));
        for (entry, bytes) in found.newest {
            tail.warm(entry, bytes);
        }
        let view =
            View { tail, vote: recovery.vote, committed: recovery.committed, committed_saved: recovery.committed };
        let (queue, receiver) = TypeConfig::<E>::mpsc(config.queue_operations_max);
        let shared = Arc::new(Shared {
            env: env.clone(),
            lane,
            config,
            health,
            floor,
            disk: Slot(Mutex::new(Some(disk))),
            view: Mutex::new(view),
            counters: Counters::default(),
        });
        // Detached: it ends when the log is closed or the last handle is dropped.
        drop(TypeConfig::<E>::spawn(writer::run(shared.clone(), receiver)));
        Ok((LogStore { shared, queue }, recovery))
    }

    pub fn stats(&self) -> LogStats {
        let Counters { commits, operations, entries, appended_bytes, reads_cached, reads_disk } = &self.shared.counters;
        LogStats {
            commits: commits.load(Ordering::Relaxed),
            operations: operations.load(Ordering::Relaxed),
            entries: entries.load(Ordering::Relaxed),
            appended_bytes: appended_bytes.load(Ordering::Relaxed),
            reads_cached: reads_cached.load(Ordering::Relaxed),
            reads_disk: reads_disk.load(Ordering::Relaxed),
        }
    }

    /// The committed mark that a restart would find: that of [`read_committed`](RaftLogStorage::read_committed) or an older
    /// one.
    pub fn committed_saved(&self) -> Option<LogId> {
        self.shared.view().committed_saved
    }

    /// Writes what waits, saves the committed mark and closes the file. Later calls fail.
    pub async fn close(&self) -> io::Result<()> {
        let (done, closed) = TypeConfig::<E>::oneshot();
        if self.queue.send(Op::Close { done }).await.is_err() {
            return Ok(());
        }
        closed.await.map_err(|_| closed_error())?
    }

    /// Waits until everything that was appended before is durable.
    pub(crate) async fn durable(&self) -> io::Result<()> {
        self.shared.health.check()?;
        let (done, durable) = TypeConfig::<E>::oneshot();
        self.send(Op::Barrier { done }).await?;
        durable.await.map_err(|_| closed_error())?
    }

    /// Whether the entry at this index, and all before it, is durable here.
    pub(crate) fn is_durable(&self, index: u64) -> bool {
        index < self.shared.view().tail.durable_end()
    }

    async fn send(&self, op: Op<E>) -> io::Result<()> {
        self.queue.send(op).await.map_err(|_| closed_error())
    }

    /// Reads the entries of `range`; with `bytes_max` it may stop early, after at least one.
    async fn read(&self, range: Range<u64>, bytes_max: Option<usize>) -> io::Result<Vec<Entry>> {
        loop {
            self.shared.health.check()?;
            let located = self.shared.view().tail.locate(range.clone(), bytes_max);
            if located.on_disk.is_empty() {
                self.shared.counters.reads_cached.fetch_add(1, Ordering::Relaxed);
                return Ok(located.cached);
            }
            self.shared.counters.reads_disk.fetch_add(1, Ordering::Relaxed);
            assert_reachable!("log entries were read from disk, not from memory");
            if buggify!(at "log read waits before it goes to the disk", 0.1) {
                TypeConfig::<E>::sleep(Duration::from_millis(20)).await;
            }
            let read = {
                let (shared, on_disk) = (self.shared.clone(), located.on_disk.clone());
                let section = move || shared.disk.lock().as_ref().ok_or_else(closed_error)?.read(on_disk, bytes_max);
                self.shared.lane.run(section).await?
            };
            let changed = self.shared.view().tail.epoch() != located.epoch;
            if changed {
                // A truncation or a purge happened meanwhile; the parts may not fit. There are finitely many of those.
                continue;
            }
            let mut entries = self.shared.health.watch("the log cannot be read", read)?;
            let wanted = if bytes_max.is_some() { 1 } else { located.on_disk.end - located.on_disk.start };
            let starts_right = entries.first().is_some_and(|entry| entry.log_id.index == located.on_disk.start);
            if (entries.len() as u64) < wanted || !starts_right {
                let missing = disk::damaged(format!("the log lost entries of {:?}", located.on_disk));
                return self.shared.health.watch("the log cannot be read", Err(missing));
            }
            entries.extend(located.cached);
            return Ok(entries);
        }
    }
}

impl<E: Env> Shared<E> {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed mark to save together with `changes`, if it is time: never ahead of what is durable with them.
    ///
    /// A node that starts applies up to the saved mark by itself and learns of the rest from a leader, so a mark that is
    /// behind is right, and one in every transaction would cost a tenth of it.
    fn committed_to_save(&self, changes: &[disk::Change]) -> Option<LogId> {
        let view = self.view();
        let committed = view.committed.filter(|committed| Some(*committed) > view.committed_saved)?;
        let appended = changes.iter().filter_map(|change| match change {
            disk::Change::Append(batch) => batch.entries.last().map(|(index, _)| index + 1),
            disk::Change::Purge { upto } => Some(upto.index + 1),
            _ => None,
        });
        let durable_end = appended.fold(view.tail.durable_end(), u64::max);
        let is_durable = committed.index < durable_end || planted!("committed-mark-ahead");
        assert_sometimes!(!is_durable, "a follower learned of a commit before its own entries were durable");
        let behind =
            view.committed_saved.map_or(committed.index + 1, |saved| committed.index.saturating_sub(saved.index));
        let only_entries = !changes.is_empty() && !changes.iter().any(disk::Change::is_mark);
        let can_wait = only_entries && behind < self.config.committed_lag_entries_max;
        (is_durable && !can_wait).then_some(committed)
    }

    fn committed_saved(&self, committed: LogId) {
        let mut view = self.view();
        view.committed_saved = view.committed_saved.max(Some(committed));
    }

    fn vote_saved(&self, vote: Vote) {
        self.view().vote = Some(vote);
    }

    fn flushed(&self, last: LogId) {
        let mut view = self.view();
        // After a truncation the index may belong to an entry that came later and is not durable.
        if view.tail.cached_id(last.index).is_none_or(|id| id == last) {
            view.tail.flushed(last.index + 1);
        }
    }

    fn evict(&self) {
        let bytes_max = if buggify!(at "log cache keeps nothing") { 0 } else { self.config.cache_bytes };
        self.view().tail.evict(bytes_max);
    }

    fn count_commit(&self, entries: u64, operations: usize) {
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.operations.fetch_add(operations as u64, Ordering::Relaxed);
        self.counters.entries.fetch_add(entries, Ordering::Relaxed);
    }
}

impl<E: Env> RaftLogReader<TypeConfig<E>> for LogStore<E> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        self.read(to_range(&range), None).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let one = buggify!(at "log read for replication stops after one entry");
        let bytes_max = if one { 1 } else { self.shared.config.read_batch_bytes_max };
        self.read(start..end, Some(bytes_max)).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let store = self.clone();
        let bytes_max = store.shared.config.read_batch_bytes_max;
        let batches = futures_util::stream::try_unfold((store, to_range(&range)), move |(store, range)| async move {
            if range.is_empty() {
                return io::Result::Ok(None);
            }
            let entries = store.read(range.clone(), Some(bytes_max)).await?;
            let next = entries.last().map(|entry| entry.log_id.index + 1..range.end);
            let entries = futures_util::stream::iter(entries.into_iter().map(Ok::<_, io::Error>));
            Ok(next.map(|next| (entries, (store, next))))
        });
        Box::pin(batches.try_flatten())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.shared.health.check()?;
        Ok(self.shared.view().vote)
    }
}

impl<E: Env> RaftLogStorage<TypeConfig<E>> for LogStore<E> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig<E>>> {
        self.shared.health.check()?;
        let view = self.shared.view();
        Ok(LogState { last_purged_log_id: view.tail.purged(), last_log_id: view.tail.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.shared.health.check()?;
        let saved = self.shared.view().vote;
        assert_always!(
            saved.is_none_or(|saved| saved.leader_id.term <= vote.leader_id.term),
            "the saved term never goes back"
        );
        let (done, saved) = TypeConfig::<E>::oneshot();
        self.send(Op::Vote { vote: *vote, done }).await?;
        saved.await.map_err(|_| closed_error())?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut view = self.shared.view();
        view.committed = view.committed.max(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.view().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<E>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        self.shared.health.check()?;
        let observed = self.shared.env.is_observed();
        let mut batch = EncodedBatch::default();
        let mut metas = Vec::new();
        let last = {
            let mut view = self.shared.view();
            for entry in entries {
                let start = batch.bytes.len();
                codec::encode_entry_into(&entry, &mut batch.bytes);
                if observed {
                    metas.push(codec::decode_entry_meta(&batch.bytes[start..])?);
                }
                let index = entry.log_id.index;
                let id = entry.log_id;
                if let Err(expected) = view.tail.push(entry, batch.bytes.len() - start) {
                    let gap = disk::damaged(format!("an append begins at {id}, the log ends before {expected}"));
                    return self.shared.health.watch("the log cannot be written", Err(gap));
                }
                batch.entries.push((index, batch.bytes.len()));
            }
            view.tail.last()
        };
        let Some(last) = last.filter(|_| !batch.entries.is_empty()) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        self.shared.counters.appended_bytes.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
        if observed {
            self.shared.env.observe(Observation::Appended { entries: metas });
        }
        self.send(Op::Append { batch, last, callback }).await
    }

    async fn truncate_after(&mut self, after: Option<LogId>) -> io::Result<()> {
        self.shared.health.check()?;
        let removed = {
            let mut view = self.shared.view();
            assert_always!(
                view.committed.is_none_or(|committed| after >= Some(committed) || view.tail.end() <= committed.index),
                "a committed entry is never truncated"
            );
            view.tail.truncate_after(after)
        };
        let Some(from) = removed else { return Ok(()) };
        assert_reachable!("a deposed leader truncated its tail");
        if self.shared.env.is_observed() {
            self.shared.env.observe(Observation::Truncated { after });
        }
        if planted!("truncate-not-written") {
            return Ok(());
        }
        let (done, truncated) = TypeConfig::<E>::oneshot();
        self.send(Op::Truncate { from, done }).await?;
        truncated.await.map_err(|_| closed_error())?
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.health.check()?;
        if let Some(floor) = &self.shared.floor {
            assert_always!(
                floor.covers(upto.index),
                "purged never passes what a durable snapshot or state covers",
                "purge to {upto}, durable is {floor:?}"
            );
        }
        let ahead = self.shared.floor.as_ref().filter(|_| planted!("purge-ahead-of-durable-state"));
        let upto = ahead.and_then(DurableFloor::applied).map_or(upto, |applied| applied.max(upto));
        if !self.shared.view().tail.purge(upto) {
            return Ok(());
        }
        if self.shared.env.is_observed() {
            self.shared.env.observe(Observation::Purged { upto });
        }
        if buggify!(at "purge of the log is delayed") {
            TypeConfig::<E>::sleep(Duration::from_millis(20)).await;
        }
        self.send(Op::Purge { upto }).await
    }
}

impl<E: Env> fmt::Debug for LogStore<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn to_range(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

fn closed_error() -> io::Error {
    io::Error::other("the log is closed")
}
