//! The node: opens its stores, checks them, then works until it dies.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aspen::log_store::LogStore;
use aspen::snapshot::Incoming;
use aspen::state_machine::{StateMachine, StateReader};
use aspen::store::{self, Stores};
use aspen::types::{Entry, LeaderId, LogId, TypeConfig, Vote};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use sim_runtime::disk;
use sim_runtime::world::draws::Stream;
use sim_runtime::world::{self, Purpose};
use workloads::env::SimEnv;

use crate::truth::{DIR, Done, Mailbox, Shared, Truth, config, entry, fails, is_injected, lock};

/// The node: opens its stores, checks them, then works until it dies.
pub struct Node {
    truth: Shared,
    mailbox: Arc<Mutex<Mailbox>>,
    env: SimEnv,
    log: LogStore<SimEnv>,
    state: StateMachine<SimEnv>,
    reader: StateReader<SimEnv>,
    chance: Stream,
}

impl Node {
    pub async fn boot(truth: Shared, mailbox: Arc<Mutex<Mailbox>>) {
        let boot = world::current().boot;
        let mut chance = world::stream(Purpose("crash-stores"), u64::from(boot));
        let env = SimEnv::new(None);
        let opened = store::open(&env, Path::new(DIR), &config(&mut chance)).await;
        let stores = match opened {
            Ok(stores) => stores,
            Err(error) if fails(&error) => return,
            Err(error) => panic!("boot {boot}: {error}"),
        };
        Self::check_recovery(&stores, &mut lock(&truth), boot);
        let Stores { log, state, reader, health, .. } = stores;
        let mut node = Node { truth, mailbox, env, log, state, reader, chance };
        let mut worked = node.recover().await;
        disk::declare_recovered();
        while worked.is_ok() {
            worked = node.step().await;
        }
        // The process ends when a store failed; a transfer may also fail by itself.
        let error = worked.expect_err("it ended");
        let failed = fails(&*error) || health.reason().is_some_and(|reason| is_injected(&reason));
        assert!(failed, "boot {boot}: {error}, {health:?}");
    }

    /// What was acknowledged is there; what is there is right.
    fn check_recovery(stores: &Stores<SimEnv>, truth: &mut Truth, boot: u32) {
        let (log, state) = (&stores.recovery.log, &stores.recovery.state);
        truth.boots += 1;
        let term = log.vote.map_or(0, |vote| vote.leader_id.term);
        let votes = truth.vote_acked..=truth.vote_begun;
        assert!(votes.contains(&term), "boot {boot}: voted in term {term}, {votes:?} may be");
        let covered = state.applied.max(state.snapshot).max(log.purged);
        let begin = covered.map_or(0, |covered| covered.index + 1);
        let end = log.last().map_or(0, |last| last.index + 1);
        for entry in truth.committed.iter().filter(|entry| (begin..end).contains(&entry.log_id.index)) {
            // An entry that the others committed instead of one here was never acknowledged by this node.
            let found = log.id_at(entry.log_id.index).unwrap();
            assert!(found == entry.log_id || Some(found) > log.committed, "boot {boot}: {found} is there");
        }
        for entry in &truth.flushed_tail {
            let found = log.id_at(entry.log_id.index);
            assert_eq!(found, Some(entry.log_id), "boot {boot}: a flushed entry is gone");
        }
        if let Some(applied) = state.applied {
            assert_eq!(truth.committed[applied.index as usize].log_id, applied);
            if let Some(hash) = truth.hashes.get(&applied.index) {
                assert_eq!(state.state_hash, *hash, "boot {boot}: the state at {applied}");
            }
        }
    }

    /// What openraft does at start.
    async fn recover(&mut self) -> Done {
        if let Some(current) = self.state.get_current_snapshot().await?
            && current.meta.last_log_id > self.applied()
        {
            self.state.install_snapshot(&current.meta, current.snapshot).await?;
            self.check_state().await?;
        }
        let committed = self.log.read_committed().await?;
        if let Some(committed) = committed {
            let known = lock(&self.truth).committed[committed.index as usize].log_id;
            assert_eq!(committed, known, "the committed mark names an entry that is not");
        }
        if self.last().await? < self.applied() {
            self.log.purge(self.applied().unwrap()).await?;
        }
        self.apply_upto(committed).await?;
        if self.state.get_current_snapshot().await?.is_none() && self.purged().await?.is_some() {
            self.state.get_snapshot_builder().await.build_snapshot().await?;
        }
        Ok(())
    }

    fn applied(&self) -> Option<LogId> {
        self.reader.applied()
    }

    async fn purged(&mut self) -> Done<Option<LogId>> {
        Ok(self.log.get_log_state().await?.last_purged_log_id)
    }

    async fn last(&mut self) -> Done<Option<LogId>> {
        Ok(self.log.get_log_state().await?.last_log_id)
    }

    /// The log holds everything that is committed, so this node may go on by itself.
    async fn is_ahead(&mut self) -> Done<bool> {
        let last = self.last().await?;
        let committed = lock(&self.truth).last_committed();
        let Some(committed) = committed else { return Ok(true) };
        if last.is_none_or(|last| last.index < committed.index) {
            return Ok(false);
        }
        let found = self.log.try_get_log_entries(committed.index..committed.index + 1).await?;
        Ok(found.first().map(|entry| entry.log_id).or(self.purged().await?) == Some(committed))
    }

    async fn step(&mut self) -> Done {
        if !self.is_ahead().await? {
            return self.install().await;
        }
        match self.chance.below(24) {
            0..=9 => self.append().await,
            10 | 11 => self.vote().await,
            12 | 13 => self.truncate().await,
            14..=17 => self.commit_and_apply().await,
            18 | 19 => self.snapshot().await,
            20 => self.install().await,
            21 => self.check_state().await,
            22 => {
                world::sleep(Duration::from_millis(8)).await;
                Ok(())
            }
            _ => self.read().await,
        }
    }

    async fn append(&mut self) -> Done {
        let mut next = self.last().await?.map_or(0, |last| last.index + 1);
        let (term, sessions) = {
            let truth = lock(&self.truth);
            (truth.term, truth.sessions.clone())
        };
        let mut flushes = Vec::new();
        for _ in 0..1 + self.chance.below(4) {
            let count = 1 + self.chance.below(5);
            let entries: Vec<Entry> = (next..next + count).map(|index| entry(term, index, &sessions)).collect();
            next += count;
            let (done, flushed) = TypeConfig::<SimEnv>::oneshot();
            self.log.append(entries, IOFlushed::signal(done)).await?;
            flushes.push((next, flushed));
        }
        for (end, flushed) in flushes {
            flushed.await??;
            // An earlier boot may have left entries that it never heard were flushed: they are now.
            let begin = {
                let truth = lock(&self.truth);
                truth.committed.len() as u64 + truth.flushed_tail.len() as u64
            };
            let entries = self.log.try_get_log_entries(begin..end).await?;
            lock(&self.truth).flushed_tail.extend(entries);
        }
        Ok(())
    }

    async fn vote(&mut self) -> Done {
        let term = {
            let mut truth = lock(&self.truth);
            truth.vote_begun += 1;
            truth.vote_begun
        };
        let vote = Vote { leader_id: LeaderId { term, voted_for: 1 }, committed: true };
        self.log.save_vote(&vote).await?;
        let mut truth = lock(&self.truth);
        truth.vote_acked = term;
        truth.term = term;
        Ok(())
    }

    /// A new leader removes entries that were never committed.
    async fn truncate(&mut self) -> Done {
        self.vote().await?;
        let after = {
            let mut truth = lock(&self.truth);
            truth.truncations += 1;
            let keep = self.chance.below(truth.flushed_tail.len() as u64 + 1) as usize;
            truth.flushed_tail.truncate(keep);
            truth.flushed_tail.last().map(|entry| entry.log_id).or(truth.last_committed())
        };
        if after < self.last().await? {
            self.log.truncate_after(after).await?;
        }
        Ok(())
    }

    /// What is flushed is committed, saved as such and applied.
    async fn commit_and_apply(&mut self) -> Done {
        let (fresh, committed) = {
            let mut truth = lock(&self.truth);
            let fresh = std::mem::take(&mut truth.flushed_tail);
            truth.committed.extend(fresh.clone());
            (fresh, truth.last_committed())
        };
        self.mailbox.lock().unwrap().entries.extend(fresh);
        self.log.save_committed(committed).await?;
        self.apply_upto(committed).await?;
        Ok(())
    }

    async fn apply_upto(&mut self, committed: Option<LogId>) -> Done {
        use futures_util::StreamExt;
        let start = self.applied().map_or(0, |applied| applied.index + 1);
        let end = committed.map_or(0, |committed| committed.index + 1);
        if start < end {
            let entries = self.log.entries_stream(start..end).await.map(|entry| entry.map(|entry| (entry, None)));
            self.state.apply(Box::pin(entries)).await?;
            assert_eq!(self.applied(), committed);
        }
        Ok(())
    }

    async fn check_state(&self) -> Done {
        let (applied, hash) = self.reader.verify().await?;
        let Some(applied) = applied else { return Ok(()) };
        let known = loop {
            let known = lock(&self.truth).hashes.get(&applied.index).copied();
            match known {
                Some(known) => break known,
                None => world::sleep(Duration::from_micros(500)).await,
            }
        };
        assert_eq!(hash, known, "the state at {applied}");
        Ok(())
    }

    async fn snapshot(&mut self) -> Done {
        if self.applied().is_none() {
            return Ok(());
        }
        let mut builder = self.state.get_snapshot_builder().await;
        let building = world::spawn("build", async move { builder.build_snapshot().await.map(|built| built.meta) });
        if self.chance.below(2) == 0 {
            self.append().await?;
            self.commit_and_apply().await?;
        }
        let upto = building.await.unwrap()?.last_log_id.unwrap();
        lock(&self.truth).snapshots += 1;
        let target = upto.index.saturating_sub(self.chance.below(3));
        if self.purged().await?.is_none_or(|purged| purged.index < target) {
            let id = lock(&self.truth).committed[target as usize].log_id;
            self.log.purge(id).await?;
        }
        Ok(())
    }

    /// The others went on without this node, and their log begins past its end.
    async fn install(&mut self) -> Done {
        self.vote().await?;
        // What is flushed only here loses against what the others commit.
        lock(&self.truth).flushed_tail.clear();
        self.mailbox.lock().unwrap().wanted = Some(1 + self.chance.below(6));
        let (meta, bytes, checksum) = loop {
            let sent = self.mailbox.lock().unwrap().snapshot.take();
            match sent {
                Some(sent) => break sent,
                None => world::sleep(Duration::from_micros(300)).await,
            }
        };
        let last = meta.last_log_id.unwrap();
        let mut incoming = Incoming::new(&self.env, Path::new(DIR), bytes.len() as u64, checksum).await?;
        for chunk in bytes.chunks(8000) {
            incoming.write_chunk(incoming.written(), chunk).await?;
        }
        let file = incoming.finish().await?;
        // A log that contradicts the snapshot is cut back to what is known to be committed.
        if self.last().await?.is_some_and(|end| end.index >= last.index) {
            let committed = self.applied().max(self.log.read_committed().await?);
            self.log.truncate_after(committed).await?;
        }
        let building = if self.chance.below(2) == 0 && self.applied().is_some() {
            let mut builder = self.state.get_snapshot_builder().await;
            Some(world::spawn("build", async move { builder.build_snapshot().await.map(drop) }))
        } else {
            None
        };
        self.state.install_snapshot(&meta, file).await?;
        if let Some(building) = building {
            building.await.unwrap()?;
        }
        assert_eq!(self.applied(), Some(last));
        assert_eq!(self.state.get_current_snapshot().await?.unwrap().meta.last_log_id, Some(last));
        self.log.purge(last).await?;
        lock(&self.truth).installs += 1;
        self.check_state().await?;
        Ok(())
    }

    async fn read(&mut self) -> Done {
        let first = self.purged().await?.map_or(0, |purged| purged.index + 1);
        let end = self.last().await?.map_or(0, |last| last.index + 1);
        let entries = self.log.try_get_log_entries(first..end).await?;
        assert_eq!(entries.len() as u64, end - first);
        let truth = lock(&self.truth);
        let known: BTreeMap<u64, &Entry> =
            truth.committed.iter().chain(&truth.flushed_tail).map(|entry| (entry.log_id.index, entry)).collect();
        for entry in &entries {
            if let Some(known) = known.get(&entry.log_id.index) {
                assert_eq!(entry, *known);
            }
        }
        Ok(())
    }
}
