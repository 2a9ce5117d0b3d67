//! A log and a state machine in memory: what openraft costs when storage costs nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};

use aspen::command::{Command, Outcome, Reply};
use aspen::types::{Entry, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, Vote};
use futures_util::{Stream, TryStreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::type_config::alias::SnapshotOf;

use super::raft::Stores;
use crate::env::SimEnv;

type Config = TypeConfig<SimEnv>;

/// Both stores in memory.
pub struct Memory;

impl Stores for Memory {
    type Log = MemoryLog;
    type State = MemoryState;

    async fn open(_: &SimEnv) -> (MemoryLog, MemoryState) {
        (MemoryLog::default(), MemoryState::default())
    }
}

#[derive(Default)]
struct Log {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

#[derive(Clone, Default)]
pub struct MemoryLog(Arc<Mutex<Log>>);

impl MemoryLog {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl RaftLogReader<Config> for MemoryLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.lock().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Config> for MemoryLog {
    type LogReader = MemoryLog;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        let log = self.lock();
        let last = log.entries.values().next_back().map(|entry| entry.log_id).or(log.purged);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> MemoryLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
    {
        self.lock().entries.extend(entries.into_iter().map(|entry| (entry.index(), entry)));
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let _dropped = self.lock().entries.split_off(&last.map_or(0, |last| last.index + 1));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let mut log = self.lock();
        log.entries = log.entries.split_off(&(upto.index + 1));
        log.purged = Some(upto);
        Ok(())
    }
}

#[derive(Default)]
struct State {
    applied: Option<LogId>,
    membership: StoredMembership,
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Default)]
pub struct MemoryState(Arc<Mutex<State>>);

impl MemoryState {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with it")
    }
}

fn no_snapshots() -> io::Error {
    io::Error::other("snapshots are off")
}

impl RaftSnapshotBuilder<Config> for MemoryState {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Config, ()>> {
        Err(no_snapshots())
    }
}

impl RaftStateMachine<Config> for MemoryState {
    type SnapshotData = ();
    type SnapshotBuilder = MemoryState;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Config>>> + Unpin + Send,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcome = self.lock().apply(&entry);
            if let Some(responder) = responder {
                responder.send(Reply { revision: entry.log_id.index, outcome });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> MemoryState {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, (): ()) -> io::Result<()> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Config, ()>>> {
        Ok(None)
    }
}

impl State {
    fn apply(&mut self, entry: &Entry) -> Outcome {
        self.applied = Some(entry.log_id);
        match &entry.payload {
            Payload::Normal(proposal) => {
                if let Command::Set { key, value } = &proposal.command {
                    self.values.insert(key.clone(), value.clone());
                }
                Outcome::Written { version: 1 }
            }
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Outcome::Nothing
            }
            Payload::Blank => Outcome::Nothing,
        }
    }
}
