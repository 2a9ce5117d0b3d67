//! The state machine: key-value rows with revisions, and sessions, in SQLite.
//!
//! - [`apply`]: what an entry does; pure
//! - [`sessions`]: exactly-once, in memory
//! - [`rows`]: encodings, checksums, the state hash
//! - [`database`]: connections, schema, pages of rows
//! - [`files`]: which database is in force
//! - [`reader`]: answers queries
//!
//! All sections on the database share one lane, so no two overlap. Data, sessions, membership and `last_applied` are one
//! transaction; commits are not synced, because openraft replays the log up to the saved committed mark.

pub(crate) mod apply;
pub(crate) mod database;
pub(crate) mod files;
mod reader;
pub(crate) mod rows;
mod sessions;
mod transaction;

pub use reader::StateReader;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buggify::{assert_always, assert_sometimes, buggify};
use futures_core::Stream;
use futures_util::StreamExt;
use openraft::alias::{InstantOf, MutexOf, SnapshotOf};
use openraft::async_runtime::Mutex as _;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use rusqlite::Connection;

use crate::command::Reply;
use crate::env::{Env, File as _, Lane, LaneStopped};
use crate::floor::DurableFloor;
use crate::health::Health;
use crate::observe::Observation;
use crate::planted::planted;
use crate::snapshot::build::Pinned;
use crate::snapshot::directory::{self, Current};
use crate::snapshot::{SnapshotBuilder, SnapshotFile, install};
use crate::types::{Entry, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig};
use database::{CheckpointMode, Database, connect_reader};
use rows::MetaRow;

/// Knobs of the state machine.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// Entries applied in one transaction, and the bytes of their keys and values at which it is cut.
    pub apply_batch_entries_max: usize,
    pub apply_batch_bytes_max: usize,
    /// Pages of 4 KiB in the write-ahead log at which it is checkpointed.
    pub checkpoint_pages: u32,
    /// Rows, and bytes of them, that one step of a snapshot reads.
    pub snapshot_step_rows: usize,
    pub snapshot_step_bytes: usize,
    /// A state that makes a longer snapshot is an error.
    pub snapshot_bytes_max: u64,
    /// Bytes of keys and values at which the answer to a scan is cut.
    pub scan_bytes_max: usize,
}

/// What was found when the state was opened.
#[derive(Clone, Debug, Default)]
pub struct StateRecovery {
    /// There was no state: an empty one was made.
    pub created: bool,
    /// The durable applied state.
    pub applied: Option<LogId>,
    pub state_hash: u64,
    pub log_time_ms: u64,
    /// The newest snapshot whose checksum matches.
    pub snapshot: Option<LogId>,
    /// Commits were found in the write-ahead log.
    pub replayed_wal: bool,
    /// A crash had interrupted the install of a snapshot.
    pub interrupted_install: bool,
    /// Snapshots that did not match their checksum, and why. They were set aside.
    pub damaged_snapshots: Vec<String>,
}

/// openraft's handle to the state.
pub struct StateMachine<E: Env> {
    shared: Arc<Shared<E>>,
}

/// What the state machine, its readers and its snapshot builders share.
pub(crate) struct Shared<E: Env> {
    pub env: E,
    pub dir: PathBuf,
    /// Every section on the database runs here.
    pub lane: E::Lane,
    /// Snapshot files.
    pub file_lane: E::Lane,
    pub config: StateConfig,
    pub health: Health<E>,
    pub floor: DurableFloor,
    pub state: Slot<Database>,
    pub reader: Slot<Connection>,
    pub pinned: Slot<Pinned>,
    view: Mutex<View<E>>,
    pub builds: MutexOf<TypeConfig<E>, ()>,
    /// Held by the calls of openraft that change the state, until they return, and while a snapshot pins its state: so a
    /// snapshot holds nothing that openraft does not know to be applied.
    pub changes: MutexOf<TypeConfig<E>, ()>,
}

/// What is known without asking the database.
pub(crate) struct View<E: Env> {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub log_time_ms: u64,
    /// Pages in the write-ahead log after the last commit.
    pub wal_pages: u32,
    pub generation: u64,
    pub snapshot: Option<Current<E>>,
    /// There was no room for a snapshot: the next one is not built before.
    pub snapshot_not_before: Option<InstantOf<TypeConfig<E>>>,
    /// Superseded snapshots that somebody may still read.
    pub retired: Vec<SnapshotFile<E>>,
}

/// Something open that is closed, or replaced, within the lane.
pub(crate) struct Slot<T>(Mutex<Option<T>>);

impl<T> Slot<T> {
    pub fn new(open: Option<T>) -> Self {
        Slot(Mutex::new(open))
    }

    pub fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Env> StateMachine<E> {
    /// Opens the state of `dir`, or makes an empty one. Every row and the newest snapshot are verified: damage is
    /// [`io::ErrorKind::InvalidData`]. What is reported as applied is durable.
    pub async fn open(
        env: &E,
        dir: &Path,
        config: StateConfig,
        health: Health<E>,
        floor: DurableFloor,
    ) -> io::Result<(Self, StateReader<E>, StateRecovery)> {
        let (lane, file_lane) = (env.lane("state"), env.lane("snapshot"));
        let opened = {
            let (env, dir, file_lane) = (env.clone(), dir.to_owned(), file_lane.clone());
            lane.run(move || Opened::open(&env, &dir, &file_lane)).await?
        };
        let Opened { mut database, reader, snapshot, recovery } = opened?;
        if planted!("sessions-evicted-by-local-clock") {
            let (opened_at, log_time_ms) = (TypeConfig::<E>::now(), database.meta.log_time_ms);
            let elapsed = move || (TypeConfig::<E>::now() - opened_at).as_millis().try_into().unwrap_or(u64::MAX);
            database.local_clock_ms = Some(Box::new(move || log_time_ms.saturating_add(elapsed())));
        }
        floor.raise(recovery.applied);
        floor.raise(recovery.snapshot);
        floor.set_applied(recovery.applied);
        let view = View {
            applied: recovery.applied,
            membership: database.meta.membership.clone(),
            log_time_ms: recovery.log_time_ms,
            wal_pages: 0,
            generation: database.generation,
            snapshot,
            snapshot_not_before: None,
            retired: Vec::new(),
        };
        let shared = Arc::new(Shared {
            env: env.clone(),
            dir: dir.to_owned(),
            lane,
            file_lane,
            config,
            health,
            floor,
            state: Slot::new(Some(database)),
            reader: Slot::new(Some(reader)),
            pinned: Slot::new(None),
            view: Mutex::new(view),
            builds: MutexOf::<TypeConfig<E>, ()>::new(()),
            changes: MutexOf::<TypeConfig<E>, ()>::new(()),
        });
        Ok((StateMachine { shared: shared.clone() }, StateReader::new(shared), recovery))
    }

    /// Applies `entries` in one transaction and returns the reply to each: what [`RaftStateMachine::apply`] does with a
    /// batch, for those who have no raft.
    pub async fn apply_entries(&self, entries: Vec<Entry>) -> io::Result<Vec<Reply>> {
        let shared = &self.shared;
        shared.health.check()?;
        assert_sometimes!(entries.len() > 1, "several entries were applied in one transaction");
        let is_short =
            entries.len() <= SHORT_ENTRIES_MAX && entries.iter().map(weight).sum::<usize>() <= SHORT_BYTES_MAX;
        let apply = move |shared: Arc<Shared<E>>| {
            let mut state = shared.state.lock();
            let database = state.as_mut().ok_or_else(closed)?;
            let applied = database.apply(&entries)?;
            if shared.env.is_observed() {
                for (log_id, state_hash) in &applied.hashes {
                    shared.env.observe(Observation::Applied { log_id: *log_id, state_hash: *state_hash });
                }
            }
            Ok((applied, database.meta.clone(), database.wal_pages()))
        };
        let what = "entries cannot be applied";
        let (applied, meta, wal_pages) = match is_short {
            true => shared.short_section(what, apply).await?,
            false => shared.section(what, apply).await?,
        };
        shared.publish_applied(meta, wal_pages);
        Ok(applied.replies)
    }

    /// Makes a snapshot, which ends with `least` or later: so must what is applied.
    pub(crate) async fn snapshot_to(&self, least: Option<LogId>) -> io::Result<()> {
        let built = SnapshotBuilder::new(self.shared.clone()).build().await;
        let snapshot = self.shared.health.watch("a snapshot cannot be built", built)?;
        assert_always!(
            snapshot.meta.last_log_id >= least,
            "a snapshot made at start covers what is missing in the log"
        );
        Ok(())
    }

    /// Applies a batch and answers those who wait for it.
    async fn apply_batch(&self, batch: &mut Batch<E>) -> io::Result<()> {
        let Batch { entries, mut responders, .. } = std::mem::take(batch);
        if entries.is_empty() {
            return Ok(());
        }
        let replies = self.apply_entries(entries).await?;
        if buggify!(at "replies to writers are late") {
            TypeConfig::<E>::sleep(Duration::from_millis(30)).await;
        }
        if planted!("reply-to-another-request") {
            responders.retain(Option::is_some);
        }
        for (responder, reply) in responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        let wal_pages = self.shared.view().wal_pages;
        if wal_pages >= self.shared.config.checkpoint_pages || buggify!(at "state is checkpointed early") {
            self.checkpoint().await?;
        }
        Ok(())
    }

    /// Moves what it can of the write-ahead log into the database. A reader in the way is no error: the next one does it.
    async fn checkpoint(&self) -> io::Result<()> {
        if buggify!(at "checkpoint is put off") {
            return Ok(());
        }
        let checkpoint = |shared: Arc<Shared<E>>| {
            let state = shared.state.lock();
            let checkpoint = match state.as_ref().ok_or_else(closed)?.checkpoint(CheckpointMode::Passive) {
                Err(_) if planted!("checkpoint-error-ignored") => return Ok(()),
                checkpoint => checkpoint?,
            };
            assert_sometimes!(checkpoint.is_complete(), "a checkpoint moved the whole write-ahead log");
            assert_sometimes!(!checkpoint.is_complete(), "a pinned snapshot kept a checkpoint from completing");
            Ok(())
        };
        self.shared.section("the state cannot be checkpointed", checkpoint).await
    }
}

impl<E: Env> RaftStateMachine<TypeConfig<E>> for StateMachine<E> {
    type SnapshotData = SnapshotFile<E>;
    type SnapshotBuilder = SnapshotBuilder<E>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.shared.health.check()?;
        let view = self.shared.view();
        Ok((view.applied, view.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig<E>>>> + Unpin + Send,
    {
        let shared = self.shared.clone();
        let _change = shared.changes.lock().await;
        let mut batch = Batch::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            batch.push(entry, responder);
            let one = buggify!(at "state applies one entry at a time");
            let config = &shared.config;
            let full =
                batch.entries.len() >= config.apply_batch_entries_max || batch.bytes >= config.apply_batch_bytes_max;
            if one || full {
                self.apply_batch(&mut batch).await?;
                if buggify!(at "apply pauses between two batches", 0.05) {
                    TypeConfig::<E>::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.apply_batch(&mut batch).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder<E>> {
        if !force && buggify!(at "snapshot by policy is refused once") {
            return None;
        }
        Some(SnapshotBuilder::new(self.shared.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<E> {
        SnapshotBuilder::new(self.shared.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile<E>) -> io::Result<()> {
        self.shared.health.check()?;
        let _change = self.shared.changes.lock().await;
        let installed = install::install(&self.shared, meta, snapshot).await;
        self.shared.health.watch(install::WHAT, installed)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig<E>, SnapshotFile<E>>>> {
        self.shared.health.check()?;
        let current = self.shared.view().snapshot.clone();
        Ok(current.map(|current| openraft::storage::Snapshot { meta: current.meta, snapshot: current.file }))
    }
}

impl<E: Env> Shared<E> {
    /// Runs `work` in the lane of the database. After the first error nothing runs there any more: what a failed sync
    /// lost may look present, and must neither be read nor copied into the database by a checkpoint.
    pub fn section<T, F>(
        self: &Arc<Self>,
        what: &'static str,
        work: F,
    ) -> impl Future<Output = io::Result<T>> + Send + use<T, F, E>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Self>) -> io::Result<T> + Send + 'static,
    {
        self.clone().section_in(self.lane.clone(), what, work)
    }

    /// [`Shared::section`] for work that is short: see [`Lane::run_short`].
    pub async fn short_section<T, F>(self: &Arc<Self>, what: &'static str, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Self>) -> io::Result<T> + Send + 'static,
    {
        let ran = self.lane.run_short(self.guarded(what, work)).await;
        self.announced(what, ran)
    }

    /// Runs `work` in the lane of the snapshot files.
    pub fn file_section<T, F>(
        self: &Arc<Self>,
        what: &'static str,
        work: F,
    ) -> impl Future<Output = io::Result<T>> + Send + use<T, F, E>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Self>) -> io::Result<T> + Send + 'static,
    {
        self.clone().section_in(self.file_lane.clone(), what, work)
    }

    async fn section_in<T, F>(self: Arc<Self>, lane: E::Lane, what: &'static str, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Self>) -> io::Result<T> + Send + 'static,
    {
        let ran = lane.run(self.guarded(what, work)).await;
        self.announced(what, ran)
    }

    /// `work`, unless something failed before; an error of it is the last thing that happens.
    fn guarded<T, F>(
        self: &Arc<Self>,
        what: &'static str,
        work: F,
    ) -> impl FnOnce() -> io::Result<T> + Send + use<T, F, E>
    where
        F: FnOnce(Arc<Self>) -> io::Result<T> + Send + 'static,
    {
        let shared = self.clone();
        move || {
            shared.health.check()?;
            work(shared.clone()).inspect_err(|error| shared.health.poison(format_args!("{what}: {error}")))
        }
    }

    fn announced<T>(&self, what: &'static str, ran: Result<io::Result<T>, LaneStopped>) -> io::Result<T> {
        match ran {
            Ok(result) => result.inspect_err(|_| self.health.announce()),
            Err(stopped) => self.health.watch(what, Err(stopped.into())),
        }
    }

    pub fn view(&self) -> MutexGuard<'_, View<E>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_applied(&self, meta: MetaRow, wal_pages: u32) {
        let mut view = self.view();
        assert_always!(view.applied <= meta.applied, "applied never goes back while the node runs");
        assert_always!(view.log_time_ms <= meta.log_time_ms, "log time never goes back");
        view.applied = meta.applied;
        view.log_time_ms = meta.log_time_ms;
        view.wal_pages = wal_pages;
        if view.membership.log_id() != meta.membership.log_id() {
            view.membership = meta.membership;
        }
        self.floor.set_applied(meta.applied);
    }

    /// An installed snapshot is the state now.
    pub fn publish_install(&self, meta: &MetaRow, generation: u64) {
        let mut view = self.view();
        view.applied = meta.applied;
        view.membership = meta.membership.clone();
        view.log_time_ms = meta.log_time_ms;
        view.generation = generation;
        self.floor.set_applied(meta.applied);
        self.floor.raise(meta.applied);
    }

    /// A durable snapshot may be the current one now.
    pub fn publish_snapshot(&self, new: Current<E>) {
        self.floor.raise(new.meta.last_log_id);
        let mut view = self.view();
        let older = match view.snapshot.take() {
            Some(current) if current.meta.last_log_id > new.meta.last_log_id => {
                view.snapshot = Some(current);
                Some(new)
            }
            current => {
                view.snapshot = Some(new);
                current
            }
        };
        let current = view.snapshot.as_ref().map(|current| current.file.path().to_owned());
        // A restart installs the current snapshot once more: it is not superseded by itself.
        view.retired.extend(older.map(|older| older.file).filter(|older| Some(older.path()) != current.as_deref()));
    }

    /// Removes superseded snapshots that nobody reads any more.
    pub async fn remove_retired(self: &Arc<Self>) -> io::Result<()> {
        let retired = std::mem::take(&mut self.view().retired);
        if retired.is_empty() || planted!("old-snapshots-kept") {
            return Ok(());
        }
        let remove = move |shared: Arc<Self>| directory::remove_unused(&shared.env, retired);
        let kept = self.file_section("an old snapshot cannot be removed", remove).await?;
        self.view().retired.extend(kept);
        Ok(())
    }
}

/// What opening found; built within the lane.
struct Opened<E: Env> {
    database: Database,
    reader: Connection,
    snapshot: Option<Current<E>>,
    recovery: StateRecovery,
}

impl<E: Env> Opened<E> {
    fn open(env: &E, dir: &Path, file_lane: &E::Lane) -> io::Result<Self> {
        directory::remove_leftovers(env, dir)?;
        let mut recovery = StateRecovery::default();
        let pointer = files::read_pointer(env, dir)?;
        let generation = pointer.unwrap_or(FIRST_GENERATION);
        // Without a pointer the first generation was never completed.
        let later = files::remove_strays(env, dir, pointer.unwrap_or(0))?;
        let path = files::database_path(dir, generation);
        let database = match pointer {
            Some(_) => {
                let mut wal = path.clone().into_os_string();
                wal.push("-wal");
                let wal = PathBuf::from(wal);
                recovery.replayed_wal = env.exists(&wal)? && env.open(&wal)?.len()? > 0;
                Database::open(env, &path, generation)?
            }
            None => {
                recovery.created = true;
                let database = Database::create(env, &path, generation)?;
                database.checkpoint(CheckpointMode::Truncate)?;
                env.sync_dir(dir)?;
                files::write_pointer(env, dir, generation)?;
                database
            }
        };
        let reader = connect_reader(env, &path)?;
        let snapshots = directory::open(env, dir, file_lane)?;
        recovery.applied = database.meta.applied;
        recovery.state_hash = database.meta.state_hash;
        recovery.log_time_ms = database.meta.log_time_ms;
        recovery.snapshot = snapshots.current.as_ref().and_then(|current| current.meta.last_log_id);
        recovery.interrupted_install = pointer.is_some() && later > 0;
        recovery.damaged_snapshots = snapshots.damaged;
        assert_sometimes!(recovery.replayed_wal, "recovery replayed the write-ahead log of the state");
        assert_sometimes!(recovery.interrupted_install, "the state was opened after an interrupted install");
        assert_sometimes!(recovery.snapshot > recovery.applied, "a durable snapshot was ahead of the durable state");
        if env.is_observed() {
            let (applied, state_hash) = (recovery.applied, recovery.state_hash);
            env.observe(Observation::StateOpened { applied, state_hash });
        }
        Ok(Opened { database, reader, snapshot: snapshots.current, recovery })
    }
}

/// Entries to apply in one transaction.
struct Batch<E: Env> {
    entries: Vec<Entry>,
    responders: Vec<Option<ApplyResponder<TypeConfig<E>>>>,
    bytes: usize,
}

impl<E: Env> Default for Batch<E> {
    fn default() -> Self {
        Batch { entries: Vec::new(), responders: Vec::new(), bytes: 0 }
    }
}

impl<E: Env> Batch<E> {
    fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<TypeConfig<E>>>) {
        self.bytes += weight(&entry);
        self.entries.push(entry);
        self.responders.push(responder);
    }
}

/// Bytes of the keys and values of an entry.
fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Blank | Payload::Membership(_) => 0,
        Payload::Normal(proposal) => proposal.command.bytes(),
    }
}

pub(crate) fn closed() -> io::Error {
    io::Error::other("the state is closed")
}

const FIRST_GENERATION: u64 = 1;
/// A batch up to this size is applied in about the time in which two threads wake each other.
const SHORT_ENTRIES_MAX: usize = 64;
const SHORT_BYTES_MAX: usize = 64 << 10;

impl<E: Env> fmt::Debug for StateMachine<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine").field("applied", &self.shared.view().applied).finish_non_exhaustive()
    }
}
