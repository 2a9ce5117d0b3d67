//! Builds a snapshot while entries are applied: a read transaction pins one state, and each step reads a few rows of it.
//!
//! Steps run in the state's lane, between applies; the file is written in a lane of its own. The name comes last: temporary
//! file, sync, rename, directory sync.
//!
//! A disk without room for a snapshot stops nothing: what was written goes, and it is tried again a while later.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use buggify::{assert_always, assert_reachable, assert_sometimes, buggify};
use openraft::alias::SnapshotOf;
use openraft::async_runtime::Mutex as _;
use openraft::storage::RaftSnapshotBuilder;
use openraft::type_config::TypeConfigExt;
use rusqlite::Connection;

use super::directory::{self, Current};
use super::file::SnapshotFile;
use super::format::{self, Header};
use crate::env::{Env, File, Lane};
use crate::observe::Observation;
use crate::planted::planted;
use crate::state_machine::Shared;
use crate::state_machine::database::{self, From, connect_reader, read_kv_page, read_meta, read_sessions_after};
use crate::state_machine::rows::{MetaRow, session_checksum};
use crate::types::{SnapshotMeta, TypeConfig};

/// Makes one snapshot of the state at the time it is asked to.
pub struct SnapshotBuilder<E: Env> {
    shared: Arc<Shared<E>>,
}

impl<E: Env> std::fmt::Debug for SnapshotBuilder<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotBuilder").finish_non_exhaustive()
    }
}

/// A connection inside a read transaction. The state machine closes it when the database is replaced.
pub struct Pinned {
    connection: Connection,
}

/// Some rows of the pinned state.
struct Step {
    /// They, as a chunk of the file; empty if there are none.
    chunk: Vec<u8>,
    rows: u64,
    /// Where the next step begins, if there is one.
    next: Option<From>,
}

/// How a try to build ended.
enum Built<E: Env> {
    Done(Current<E>),
    /// Start again from a newer state.
    Abandoned,
    /// An installed snapshot replaced the database meanwhile.
    Superseded,
}

impl<E: Env> RaftSnapshotBuilder<TypeConfig<E>> for SnapshotBuilder<E> {
    type SnapshotData = SnapshotFile<E>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig<E>, SnapshotFile<E>>> {
        let built = self.build_when_there_is_room().await?;
        Ok(openraft::storage::Snapshot { meta: built.meta, snapshot: built.file })
    }
}

impl<E: Env> SnapshotBuilder<E> {
    pub(crate) fn new(shared: Arc<Shared<E>>) -> Self {
        SnapshotBuilder { shared }
    }

    /// Builds a snapshot; where there is no room for one the current one is the answer, or, while there is none, the wait
    /// for room.
    async fn build_when_there_is_room(&self) -> io::Result<Current<E>> {
        let shared = &self.shared;
        loop {
            let not_before = shared.view().snapshot_not_before;
            if not_before.is_none_or(|not_before| TypeConfig::<E>::now() >= not_before) {
                match self.build().await {
                    Err(error) if is_full(&error) && shared.health.check().is_ok() => {}
                    built => return shared.health.watch(WHAT, built),
                }
            }
            if let Some(current) = shared.view().snapshot.clone() {
                return Ok(current);
            }
            TypeConfig::<E>::sleep(ROOM_PAUSE).await;
        }
    }

    /// Builds a snapshot. [`io::ErrorKind::StorageFull`] where there is no room for its file; the store is sound then.
    pub(crate) async fn build(&self) -> io::Result<Current<E>> {
        let shared = &self.shared;
        // One at a time: they share the pinned connection and the temporary name.
        let _one = shared.builds.lock().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let may_abandon = tries < TRIES_MAX;
            let built = self.try_build(may_abandon).await;
            let unpin = {
                let shared = shared.clone();
                // Also when the store failed: whoever holds it open keeps it from being replaced.
                move || {
                    drop(shared.pinned.lock().take());
                    shared.state.lock().as_ref().map(|database| database.meta.applied)
                }
            };
            let applied = shared.lane.run(unpin).await?;
            if let Err(error) = &built
                && is_full(error)
            {
                self.give_up().await?;
            }
            match built? {
                Built::Done(current) => {
                    // The view may be behind: a commit can be read before the task that asked for it has gone on.
                    assert_always!(
                        applied.is_none_or(|applied| applied >= current.meta.last_log_id),
                        "a snapshot never passes what was applied",
                        "snapshot {:?}, applied {applied:?}",
                        current.meta.last_log_id
                    );
                    return Ok(current);
                }
                Built::Abandoned => assert_reachable!("an abandoned snapshot was built again"),
                Built::Superseded => {
                    assert_reachable!("a snapshot was installed while another was being built", owed_by = "network");
                    // The install is not over, for openraft, before its call returns.
                    let _no_change = shared.changes.lock().await;
                    if let Some(current) = shared.view().snapshot.clone() {
                        return Ok(current);
                    }
                }
            }
        }
    }

    /// Makes room again, and keeps the next try away for a while: whatever is applied asks for a snapshot once one is due.
    async fn give_up(&self) -> io::Result<()> {
        let shared = &self.shared;
        shared.health.check()?;
        let remove = |shared: Arc<Shared<E>>| directory::remove_building(&shared.env, &shared.dir);
        shared.file_section(WHAT, remove).await?;
        shared.view().snapshot_not_before = Some(TypeConfig::<E>::now() + ROOM_PAUSE);
        assert_reachable!("a snapshot was given up because the disk was full", owed_by = "disk");
        tracing::error!(
            "there is no room for a snapshot: it is tried again in {ROOM_PAUSE:?}, and the log grows meanwhile"
        );
        Ok(())
    }

    async fn try_build(&self, may_abandon: bool) -> io::Result<Built<E>> {
        let shared = &self.shared;
        let (meta, generation) = self.pin().await?;
        if let Some(current) = shared.view().snapshot.clone().filter(|current| current.meta.last_log_id == meta.applied)
        {
            assert_reachable!("a snapshot was asked for and the current one was new enough", owed_by = "");
            return Ok(Built::Done(current));
        }
        let mut file = Writing::create(shared.clone(), directory::building_path(&shared.dir)).await?;
        let sessions = self.read_sessions().await?;
        let Some((sessions, sessions_hash)) = sessions else { return Ok(Built::Superseded) };
        let labelled = if planted!("snapshot-labelled-late") { shared.view().applied } else { meta.applied };
        let header = Header {
            meta: SnapshotMeta { last_log_id: labelled, last_membership: meta.membership.clone() },
            log_time_ms: meta.log_time_ms,
            state_hash: meta.state_hash.wrapping_sub(sessions_hash),
        };
        file.append(format::encode_header(&header)).await?;
        let mut out = Vec::new();
        let session_count = sessions.len();
        for rows in sessions.chunks(shared.config.snapshot_step_rows.max(1)) {
            format::encode_sessions_chunk(rows, &mut out);
            file.append(std::mem::take(&mut out)).await?;
        }
        let mut rows = 0;
        let mut from = From::Key(Vec::new());
        loop {
            if may_abandon && buggify!(at "snapshot build is abandoned and begun again", 0.02) {
                return Ok(Built::Abandoned);
            }
            let Some(step) = self.step(from).await? else { return Ok(Built::Superseded) };
            rows += step.rows;
            file.append(step.chunk).await?;
            match step.next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_sometimes!(
            shared.view().applied > meta.applied,
            "entries were applied while a snapshot of an older state was being built"
        );
        format::encode_end(rows, session_count as u64, &mut out);
        file.append(out).await?;
        if file.offset > shared.config.snapshot_bytes_max {
            let (found, max) = (file.offset, shared.config.snapshot_bytes_max);
            return Err(io::Error::other(format!("the state makes a snapshot of {found} bytes, {max} are allowed")));
        }
        file.finish(generation, header).await
    }

    /// Opens a read transaction and reads what describes its state.
    async fn pin(&self) -> io::Result<(MetaRow, u64)> {
        let pin = |shared: Arc<Shared<E>>| {
            let generation = shared.state.lock().as_ref().ok_or_else(crate::state_machine::closed)?.generation;
            let connection =
                connect_reader(&shared.env, &crate::state_machine::files::database_path(&shared.dir, generation))?;
            connection.execute_batch("BEGIN").map_err(database::sqlite)?;
            // The first read fixes the state that the transaction sees.
            let mut meta = read_meta(&connection)?;
            if planted!("snapshot-omits-membership") {
                let with = meta.hash_of_scalars();
                meta.membership = Default::default();
                meta.state_hash = meta.state_hash.wrapping_sub(with).wrapping_add(meta.hash_of_scalars());
            }
            *shared.pinned.lock() = Some(Pinned { connection });
            Ok((meta, generation))
        };
        // Not in the middle of an apply or an install: openraft would learn of the snapshot before it knows of them.
        let _no_change = self.shared.changes.lock().await;
        self.shared.section(WHAT, pin).await
    }

    /// Reads the sessions of the pinned state; the sum of their hashes is what a snapshot without them lacks.
    async fn read_sessions(&self) -> io::Result<Option<(Vec<crate::state_machine::rows::SessionRow>, u64)>> {
        let read = |shared: Arc<Shared<E>>| {
            let pinned = shared.pinned.lock();
            let Some(Pinned { connection }) = pinned.as_ref() else { return Ok(None) };
            let sessions = read_sessions_after(connection, None, usize::MAX)?;
            if planted!("snapshot-omits-sessions") {
                let hash = |row| session_checksum(row, &mut Vec::new());
                return Ok(Some((Vec::new(), sessions.iter().map(hash).fold(0, u64::wrapping_add))));
            }
            Ok(Some((sessions, 0)))
        };
        self.shared.section(WHAT, read).await
    }

    /// Reads the next rows of the pinned state as a chunk; `None` if there is no pinned state any more.
    async fn step(&self, from: From) -> io::Result<Option<Step>> {
        let config = &self.shared.config;
        let one = buggify!(at "snapshot step takes one row");
        let rows_max = if one { 1 } else { config.snapshot_step_rows.max(1) };
        let bytes_max = config.snapshot_step_bytes;
        if buggify!(at "snapshot build pauses between steps", 0.05) {
            TypeConfig::<E>::sleep(Duration::from_millis(50)).await;
        }
        let read = move |shared: Arc<Shared<E>>| {
            let pinned = shared.pinned.lock();
            let Some(Pinned { connection }) = pinned.as_ref() else { return Ok(None) };
            let page = read_kv_page(connection, &from, None, rows_max, bytes_max)?;
            let mut chunk = Vec::new();
            if !page.rows.is_empty() {
                format::encode_kv_chunk(&page.rows, &mut chunk);
            }
            let rows = page.rows.len() as u64;
            let last = page.rows.into_iter().next_back().filter(|_| page.more);
            assert_sometimes!(page.more, "a snapshot took several steps");
            Ok(Some(Step { chunk, rows, next: last.map(|row| From::Past(row.key)) }))
        };
        self.shared.section(WHAT, read).await
    }
}

/// The temporary file of a snapshot.
struct Writing<E: Env> {
    shared: Arc<Shared<E>>,
    file: Arc<E::File>,
    path: PathBuf,
    offset: u64,
    hasher: blake3::Hasher,
}

impl<E: Env> Writing<E> {
    async fn create(shared: Arc<Shared<E>>, path: PathBuf) -> io::Result<Self> {
        let at = path.clone();
        let file = Arc::new(unless_full(&shared, move |shared| shared.env.create(&at)).await?);
        Ok(Writing { shared, file, path, offset: 0, hasher: blake3::Hasher::new() })
    }

    async fn append(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.hasher.update(&bytes);
        let (file, at) = (self.file.clone(), self.offset);
        self.offset += bytes.len() as u64;
        unless_full(&self.shared, move |_| file.write_all_at(&bytes, at)).await
    }

    /// Adds the checksum, makes the file durable, gives it its name, and makes it the current snapshot.
    async fn finish(mut self, generation: u64, header: Header) -> io::Result<Built<E>> {
        let checksum = *self.hasher.finalize().as_bytes();
        self.append(checksum.to_vec()).await?;
        let Writing { shared, file, path, offset, .. } = self;
        if buggify!(at "snapshot waits between write and sync") {
            TypeConfig::<E>::sleep(Duration::from_millis(100)).await;
        }
        if buggify!(at "snapshot takes as long as one of a large state", 0.9) {
            // Meanwhile the log goes on, also that of a follower who will be sent this snapshot.
            TypeConfig::<E>::sleep(Duration::from_millis(800)).await;
        }
        if !planted!("snapshot-not-synced") {
            unless_full(&shared, move |_| file.sync()).await?;
        }
        if buggify!(at "snapshot waits between sync and rename") {
            TypeConfig::<E>::sleep(Duration::from_millis(100)).await;
        }
        if shared.view().generation != generation {
            return Ok(Built::Superseded);
        }
        let publish = move |shared: Arc<Shared<E>>| {
            let name = directory::path_of(&shared.dir, header.meta.last_log_id);
            shared.env.rename(&path, &name)?;
            if !planted!("snapshot-name-not-synced") {
                shared.env.sync_dir(&shared.dir)?;
            }
            let Header { meta, state_hash, .. } = header;
            if shared.env.is_observed() {
                shared.env.observe(Observation::SnapshotBuilt { last: meta.last_log_id, state_hash });
            }
            let file = shared.env.open(&name)?;
            let file = SnapshotFile::new(shared.file_lane.clone(), file, name, offset, checksum);
            Ok(Current { meta, state_hash, file })
        };
        let current = shared.file_section(WHAT, publish).await?;
        shared.publish_snapshot(current.clone());
        shared.remove_retired().await?;
        Ok(Built::Done(current))
    }
}

/// Runs `work` in the lane of the files. That there is no room is no failure of the store: nothing of the file counts yet.
async fn unless_full<E: Env, T: Send + 'static>(
    shared: &Arc<Shared<E>>,
    work: impl FnOnce(Arc<Shared<E>>) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let work = move |shared| match work(shared) {
        Err(error) if is_full(&error) => Ok(Err(error)),
        done => done.map(Ok),
    };
    shared.file_section(WHAT, work).await?
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

const WHAT: &str = "a snapshot cannot be built";

/// After a try that found no room the next one waits so long.
const ROOM_PAUSE: Duration = Duration::from_secs(10);

/// Tries to build a snapshot before one may no longer be abandoned.
const TRIES_MAX: u32 = 3;
