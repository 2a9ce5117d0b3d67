//! The stores of one node through many power losses and crashes, without Raft around them: a driver does what openraft
//! would do to them, and checks after each death that what was acknowledged is there and what is there is right.
//!
//! A second host that never dies applies the same entries: it knows the state hash at every index, and its snapshots are
//! what the node is sent when it falls behind.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen::command::{Command, Pair, Proposal, SessionSeq};
use aspen::conformance::storage_suite;
use aspen::log_store::LogStore;
use aspen::snapshot::{Incoming, SnapshotFile};
use aspen::state_machine::{StateMachine, StateReader};
use aspen::store::{self, StoreConfig, Stores};
use aspen::types::{CommittedLeaderId, Entry, LeaderId, LogId, Payload, SnapshotMeta, TypeConfig, Vote};
use buggify::{Kind, Simulator, Site};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use sim_runtime::adapters::sqlite;
use sim_runtime::disk::{self, Disk, DiskConfig, ErrorRates};
use sim_runtime::isolate::in_process;
use sim_runtime::world::draws::Stream;
use sim_runtime::world::{self, Cause, HostStatus, Purpose, World, WorldConfig};
use workloads::env::SimEnv;

/// Fires fault points by the run's seed, and makes a violated assertion a panic.
struct Strict {
    visits: Cell<u64>,
    seen: Rc<RefCell<BTreeMap<String, u64>>>,
}

impl Simulator for Strict {
    fn visit(&self, site: &'static Site, holds: bool, details: Option<String>) {
        if !world::in_world() || !world::is_alive(world::current()) {
            return;
        }
        match site.kind {
            Kind::Always | Kind::Unreachable => assert!(holds, "violated: {} {details:?}", site.id()),
            _ if holds => *self.seen.borrow_mut().entry(site.id()).or_default() += 1,
            _ => {}
        }
    }

    fn fire(&self, site: &'static Site, probability: Option<f64>) -> bool {
        if !world::in_world() {
            return false;
        }
        self.visits.set(self.visits.get() + 1);
        // Not its line: a seed means the same after an edit elsewhere.
        let index = xxhash_rust::xxh3::xxh3_64(site.id().as_bytes());
        let live = world::draw(Purpose("live"), index, 0).is_multiple_of(4);
        let chance = (probability.unwrap_or(0.25) * 1e6) as u64;
        live && world::draw(Purpose("fire"), index, self.visits.get()) % 1_000_000 < chance
    }
}

/// What the outside knows of the node.
#[derive(Default)]
struct Truth {
    /// Terms of votes that were acknowledged, and that were asked for.
    vote_acked: u64,
    vote_begun: u64,
    /// The term in which entries are appended.
    term: u64,
    /// Entries that are committed, by the node's own log or by the others.
    committed: Vec<Entry>,
    /// Entries past the committed ones that were acknowledged as flushed and are not being truncated.
    flushed_tail: Vec<Entry>,
    /// State hashes, by index.
    hashes: BTreeMap<u64, u64>,
    sessions: Vec<u64>,
    boots: u64,
    installs: u64,
    snapshots: u64,
    truncations: u64,
}

impl Truth {
    fn last_committed(&self) -> Option<LogId> {
        self.committed.last().map(|entry| entry.log_id)
    }
}

type Shared = Arc<Mutex<Truth>>;
type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Whether an error of the disk is at the bottom of this one.
fn fails(error: &(dyn Error + 'static)) -> bool {
    is_injected(&error.to_string()) || error.source().is_some_and(fails)
}

fn is_injected(reason: &str) -> bool {
    [
        "input/output error",
        "Input/output error",
        "disk I/O error",
        "unable to open database file",
        // SQLite swallows an error while it removes its rollback journal, and keeps its lock.
        "database is locked",
        "No space",
        "no storage space",
        "disk is full",
        "PreviousIo",
        "Previous I/O error",
    ]
    .iter()
    .any(|known| reason.contains(known))
}

fn lock(shared: &Shared) -> MutexGuard<'_, Truth> {
    shared.lock().expect("nobody panics with it")
}

/// What the node asks of the others, and their answer.
#[derive(Default)]
struct Mailbox {
    /// Committed entries that the others have not applied.
    entries: VecDeque<Entry>,
    /// Asks for a snapshot that is so many entries ahead.
    wanted: Option<u64>,
    snapshot: Option<(SnapshotMeta, Vec<u8>, [u8; 32])>,
}

const DIR: &str = "/data";

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

/// The entry that stands at `index` if it is appended in `term`.
fn entry(term: u64, index: u64, sessions: &[u64]) -> Entry {
    let draw = |purpose, bound| world::draw(Purpose(purpose), term, index) % bound;
    let key = |salt: u64| vec![b'k', ((draw("key", 1000) + salt) % 20) as u8];
    let value = || vec![draw("value", 256) as u8; draw("length", 3000) as usize];
    let session = match sessions.len() as u64 {
        0 => None,
        open => Some(SessionSeq { session: sessions[draw("session", open) as usize], seq: index / 2 }),
    };
    let command = match draw("command", 10) {
        0 => Command::OpenSession { ttl_ms: 50 + draw("ttl", 500) },
        1 | 2 => Command::Delete { key: key(0) },
        3 => Command::SetMulti { pairs: (0..4).map(|salt| Pair { key: key(salt), value: value() }).collect() },
        _ => Command::Set { key: key(0), value: value() },
    };
    let session = session.filter(|_| !matches!(command, Command::OpenSession { .. }));
    let proposal = Proposal { log_time_ms: index * 10, session, command };
    Entry { log_id: log_id(term, index), payload: Payload::Normal(proposal) }
}

fn config(chance: &mut Stream) -> StoreConfig {
    StoreConfig {
        cache_bytes: [0, 3000, 1 << 20][chance.below(3) as usize],
        flush_batch_entries_max: [1, 10, 4096][chance.below(3) as usize],
        checkpoint_pages: [1, 20, 1000][chance.below(3) as usize],
        snapshot_step_rows: [1, 5, 1000][chance.below(3) as usize],
        apply_batch_entries_max: [1, 7, 1000][chance.below(3) as usize],
        committed_idle: Duration::from_millis(5),
        committed_lag_entries_max: [1, 6, 64][chance.below(3) as usize],
        ..StoreConfig::default()
    }
}

/// The others: apply what is committed, tell hashes, make snapshots that are ahead.
async fn others(truth: Shared, mailbox: Arc<Mutex<Mailbox>>) {
    let env = SimEnv::new(None);
    let Stores { mut state, reader, .. } = store::open(&env, Path::new(DIR), &StoreConfig::default()).await.unwrap();
    loop {
        let (next, wanted) = {
            let mut mailbox = mailbox.lock().unwrap();
            let next = mailbox.entries.pop_front();
            let wanted = if next.is_none() { mailbox.wanted.take() } else { None };
            (next, wanted)
        };
        if let Some(entry) = next {
            apply_and_tell(&state, &reader, entry, &truth).await;
        } else if let Some(ahead) = wanted {
            for _ in 0..ahead {
                let entry = {
                    let mut truth = lock(&truth);
                    let entry = entry(truth.term, truth.committed.len() as u64, &truth.sessions);
                    truth.committed.push(entry.clone());
                    entry
                };
                apply_and_tell(&state, &reader, entry, &truth).await;
            }
            let built = state.get_snapshot_builder().await.build_snapshot().await.unwrap();
            let file: SnapshotFile<SimEnv> = built.snapshot;
            let bytes = file.read_chunk(0, usize::MAX >> 1).await.unwrap();
            mailbox.lock().unwrap().snapshot = Some((built.meta, bytes, file.checksum()));
        } else {
            world::sleep(Duration::from_micros(200)).await;
        }
    }
}

async fn apply_and_tell(state: &StateMachine<SimEnv>, reader: &StateReader<SimEnv>, entry: Entry, truth: &Shared) {
    let index = entry.log_id.index;
    let opens = matches!(&entry.payload, Payload::Normal(Proposal { command: Command::OpenSession { .. }, .. }));
    state.apply_entries(vec![entry]).await.unwrap();
    let (applied, hash) = reader.verify().await.unwrap();
    assert_eq!(applied.map(|applied| applied.index), Some(index));
    let mut truth = lock(truth);
    truth.hashes.insert(index, hash);
    if opens {
        truth.sessions.push(index);
        let excess = truth.sessions.len().saturating_sub(3);
        truth.sessions.drain(..excess);
    }
}

/// The node: opens its stores, checks them, then works until it dies.
struct Node {
    truth: Shared,
    mailbox: Arc<Mutex<Mailbox>>,
    env: SimEnv,
    log: LogStore<SimEnv>,
    state: StateMachine<SimEnv>,
    reader: StateReader<SimEnv>,
    chance: Stream,
}

impl Node {
    async fn boot(truth: Shared, mailbox: Arc<Mutex<Mailbox>>) {
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

fn lives(seed: u64, boots: u64) -> BTreeMap<String, u64> {
    in_process(move || {
        let _vfs = sqlite::install();
        let seen = Rc::new(RefCell::new(BTreeMap::new()));
        let _installed = buggify::install(Rc::new(Strict { visits: Cell::new(0), seen: seen.clone() }));
        let truth = Shared::default();
        let world = World::new(WorldConfig::seeded(seed));
        let done = world.run(async {
            let mailbox: Arc<Mutex<Mailbox>> = Arc::default();
            let (host, other) = (world::add_host("node"), world::add_host("others"));
            let (told, asked) = (truth.clone(), mailbox.clone());
            world::boot(other, move || others(told, asked));
            let disk = Disk::of(host);
            let mut chance = world::stream(Purpose("deaths"), 0);
            let mut errors_met = 0;
            for boot in 1..=boots {
                let cause = if chance.below(4) == 0 { Cause::Crash } else { Cause::PowerLoss };
                let skip = if chance.below(4) == 0 { chance.below(60) } else { chance.below(4000) };
                // A boot that ended earlier leaves its death behind: it is not for the next one.
                let death = move || match world::running(host) {
                    Some(running) if u64::from(running.boot) == boot => world::kill(host, cause),
                    _ => {}
                };
                disk.at_op(skip, chance.below(1_000_000) as u32, death);
                // Every third boot is on a disk that errs now and then.
                let ppm = if chance.below(3) == 0 { 300 } else { 0 };
                let errors =
                    ErrorRates { read_ppm: ppm, write_ppm: ppm, sync_ppm: 4 * ppm, name_ppm: ppm, full_ppm: ppm };
                disk.set_config(DiskConfig { errors, ..DiskConfig::default() });
                let (told, asked) = (truth.clone(), mailbox.clone());
                world::boot(host, move || Node::boot(told, asked));
                while world::running(host).is_some() {
                    world::sleep(Duration::from_micros(500)).await;
                }
                let status = world::host_status(host);
                assert!(status == HostStatus::Killed(cause) || (ppm > 0 && status == HostStatus::Exited), "{status:?}");
                errors_met += u64::from(status == HostStatus::Exited);
                // Nobody waits for an answer any more; wait until none comes.
                while mailbox.lock().unwrap().wanted.is_some() {
                    world::sleep(Duration::from_micros(500)).await;
                }
                world::sleep(Duration::from_millis(100)).await;
                mailbox.lock().unwrap().snapshot = None;
            }
            errors_met
        });
        let errors_met = done.unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
        let truth = lock(&truth);
        assert!(truth.boots > boots / 2, "seed {seed}: {} boots got through recovery", truth.boots);
        let mut seen = seen.take();
        for (what, count) in [("boots", truth.boots), ("installs", truth.installs), ("snapshots", truth.snapshots)] {
            seen.insert(what.into(), count);
        }
        seen.insert("ended by a disk error".into(), errors_met);
        seen.insert("truncations".into(), truth.truncations);
        seen.insert("committed".into(), truth.committed.len() as u64);
        seen
    })
}

#[test]
fn the_stores_live_through_many_deaths() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let seeds = std::env::var("CRASH_SEEDS").map_or(4, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        for (what, count) in lives(seed, 40) {
            *seen.entry(what).or_default() += count;
        }
    }
    for (what, count) in &seen {
        eprintln!("{count:8} {what}");
    }
    for what in ["installs", "snapshots", "truncations", "ended by a disk error"] {
        assert!(seen[what] > 10, "{what}: {}", seen[what]);
    }
}

#[test]
fn the_stores_pass_openrafts_suite_in_the_simulator() {
    in_process(|| {
        let _vfs = sqlite::install();
        let seen = Rc::default();
        let _installed = buggify::install(Rc::new(Strict { visits: Cell::new(0), seen }));
        let world = World::new(WorldConfig::seeded(1));
        let done = world.run(async {
            let host = world::add_host("node");
            let passed = Arc::new(Mutex::new(None));
            let result = passed.clone();
            world::boot(host, move || async move {
                let env = SimEnv::new(None);
                let suite = storage_suite(&env, Path::new("/suite").to_owned(), StoreConfig::default()).await;
                *result.lock().unwrap() = Some(suite.map_err(|error| error.to_string()));
            });
            while world::running(host).is_some() {
                world::sleep(Duration::from_millis(10)).await;
            }
            passed.lock().unwrap().take()
        });
        assert_eq!(done.unwrap_or_else(|halt| panic!("{halt}")), Some(Ok(())));
    });
}
