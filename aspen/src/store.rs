//! The two stores of one data directory, opened together and checked against each other.
//!
//! Neither store alone can tell that something is missing: a log that begins past what the state holds has lost entries,
//! a state without its log has lost the vote. Such a directory is refused, with what was found and what to do.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use buggify::assert_reachable;

use crate::env::{Env, Lane};
use crate::floor::DurableFloor;
use crate::health::Health;
use crate::limits::Limits;
use crate::log_store::{LOG_FILE, LOG_FILE_DAMAGED, LogConfig, LogRecovery, LogStore};
use crate::snapshot::directory;
use crate::state_machine::files::POINTER_FILE;
use crate::state_machine::{StateConfig, StateMachine, StateReader, StateRecovery};
use crate::types::LogId;

/// Knobs of both stores. A simulation draws them between the default and the extremes named at each.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of the newest log entries kept in memory. 0 to any.
    pub cache_bytes: usize,
    /// Entries made durable in one transaction, and bytes after which one takes no further operation. 1 to any.
    pub flush_batch_entries_max: usize,
    pub flush_batch_bytes_max: usize,
    /// Operations that wait for the log's writer. 1 to any.
    pub queue_operations_max: usize,
    /// The committed mark is saved by itself when the log was idle for so long. 10 ms to an hour.
    pub committed_idle: Duration,
    /// It is saved with entries once the saved one is so many entries behind. 1 (always) to any.
    pub committed_lag_entries_max: u64,
    /// Pages of 4 KiB in SQLite's write-ahead log at which it is checkpointed. 1 to any.
    pub checkpoint_pages: u32,
    /// Rows, and bytes of them, that one step of a snapshot reads. 1 to any.
    pub snapshot_step_rows: usize,
    pub snapshot_step_bytes: usize,
    /// Entries applied in one transaction, and bytes of them at which it is cut. 1 to any; the limits bound it too.
    pub apply_batch_entries_max: usize,
    pub apply_batch_bytes_max: usize,
    /// Bytes of keys and values at which the answer to a scan is cut. 0 (one row) to the limit of a message.
    pub scan_bytes_max: usize,
    /// Refuse a directory without a log: for a node that is known to have served. A node that lost its disk has forgotten
    /// its vote, and would give a second one.
    pub must_exist: bool,
    pub limits: Limits,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            cache_bytes: 8 << 20,
            flush_batch_entries_max: 4096,
            flush_batch_bytes_max: 8 << 20,
            queue_operations_max: 1024,
            committed_idle: Duration::from_secs(1),
            committed_lag_entries_max: 64,
            checkpoint_pages: 1000,
            snapshot_step_rows: 1000,
            snapshot_step_bytes: 1 << 20,
            apply_batch_entries_max: 1000,
            apply_batch_bytes_max: 4 << 20,
            scan_bytes_max: 4 << 20,
            must_exist: false,
            limits: Limits::default(),
        }
    }
}

impl StoreConfig {
    pub fn log(&self) -> LogConfig {
        LogConfig {
            cache_bytes: self.cache_bytes,
            flush_batch_entries_max: self.flush_batch_entries_max,
            flush_batch_bytes_max: self.flush_batch_bytes_max,
            queue_operations_max: self.queue_operations_max.max(1),
            committed_idle: self.committed_idle,
            committed_lag_entries_max: self.committed_lag_entries_max,
            read_batch_bytes_max: self.limits.replication_batch_bytes_max,
        }
    }

    pub fn state(&self) -> StateConfig {
        StateConfig {
            apply_batch_entries_max: self.apply_batch_entries_max.min(self.limits.apply_batch_entries_max).max(1),
            apply_batch_bytes_max: self.apply_batch_bytes_max,
            checkpoint_pages: self.checkpoint_pages,
            snapshot_step_rows: self.snapshot_step_rows,
            snapshot_step_bytes: self.snapshot_step_bytes,
            snapshot_bytes_max: self.limits.snapshot_bytes_max,
            scan_bytes_max: self.scan_bytes_max,
        }
    }
}

/// The open stores of one data directory.
pub struct Stores<E: Env> {
    pub log: LogStore<E>,
    pub state: StateMachine<E>,
    pub reader: StateReader<E>,
    pub recovery: RecoveryReport,
    /// Resolves when a store fails: the node must stop then.
    pub health: Health<E>,
}

impl<E: Env> fmt::Debug for Stores<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("log", &self.log).field("state", &self.state).finish_non_exhaustive()
    }
}

/// What was found when the stores were opened.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    pub log: LogRecovery,
    pub state: StateRecovery,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |id: Option<LogId>| id.map_or("nothing".to_owned(), |id| id.to_string());
        let RecoveryReport { log, state } = self;
        write!(f, "log: purged {}, {} entries to {}", show(log.purged), log.entries.len(), show(log.last()))?;
        write!(f, ", committed {}; ", show(log.committed))?;
        write!(f, "state: applied {}, snapshot {}", show(state.applied), show(state.snapshot))?;
        if state.interrupted_install {
            write!(f, ", after an interrupted install")?;
        }
        state.damaged_snapshots.iter().try_for_each(|damaged| write!(f, ", set aside a damaged snapshot ({damaged})"))
    }
}

/// Why the stores cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no room on the disk. Nothing is lost.
    #[error(
        "the store could not {doing}, the disk is full: {source}; make room on the file system of the data directory, nothing \
         is lost"
    )]
    Full { doing: &'static str, source: io::Error },
    /// The operating system refused; the same directory may work later.
    #[error("the store could not {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    /// What is stored is not what was written. The node cannot go on with this directory.
    #[error(
        "the store is damaged, found while it tried to {doing}: {what}; remove this node from the cluster, and add one with a \
         new id and an empty directory in its place"
    )]
    Damaged { doing: &'static str, what: String },
    /// The parts of the directory do not belong together.
    #[error("the data directory is inconsistent: {found}; {advice}")]
    Inconsistent { found: String, advice: &'static str },
    /// A store failed earlier and the node is stopping.
    #[error("{0}")]
    Stopped(io::Error),
}

impl StoreError {
    pub(crate) fn from_io(doing: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::InvalidData => StoreError::Damaged { doing, what: source.to_string() },
            io::ErrorKind::StorageFull => StoreError::Full { doing, source },
            _ => StoreError::Io { doing, source },
        }
    }
}

const REPLACE: &str = "something other than this program changed it, or a disk lost data it had acknowledged: remove this \
                       node from the cluster, and add one with a new id and an empty directory in its place";

/// Opens the stores of `dir`, making both if there are none, and checks them against each other. On an error nothing is
/// open, and the next try finds what this one found.
pub async fn open<E: Env>(env: &E, dir: &Path, config: &StoreConfig) -> Result<Stores<E>, StoreError> {
    let health = Health::default();
    let floor = DurableFloor::default();
    let make_directory = {
        let (env, dir, must_exist) = (env.clone(), dir.to_owned(), config.must_exist);
        move || {
            make_durable_directory(&env, &dir)?;
            directory::remove_leftovers(&env, &dir)?;
            find_loss(&env, &dir, must_exist)
        }
    };
    let made = env.lane("store").run(make_directory).await.unwrap_or_else(|stopped| Err(stopped.into()));
    if let Some(lost) = made.map_err(|error| StoreError::from_io("make its directory", error))? {
        let found = format!("{lost}, but there is no log: the vote is lost");
        return Err(StoreError::Inconsistent { found, advice: REPLACE });
    }
    let opened = LogStore::open(env, dir, config.log(), health.clone(), Some(floor.clone())).await;
    let (log, log_recovery) = opened.map_err(|error| StoreError::from_io("open the log", error))?;
    let opened = open_state(env, dir, config, &health, floor, log_recovery).await;
    match opened {
        Ok((state, reader, recovery)) => Ok(Stores { log, state, reader, recovery, health }),
        Err(error) => {
            // Its writer holds the file, and would let go of it some time later. The first error is the one to report.
            let _ = log.close().await;
            Err(error)
        }
    }
}

/// Opens the state, given what was found in the log, and checks the two against each other.
async fn open_state<E: Env>(
    env: &E,
    dir: &Path,
    config: &StoreConfig,
    health: &Health<E>,
    floor: DurableFloor,
    log: LogRecovery,
) -> Result<(StateMachine<E>, StateReader<E>, RecoveryReport), StoreError> {
    let opened = StateMachine::open(env, dir, config.state(), health.clone(), floor).await;
    let (state, reader, state_recovery) = opened.map_err(|error| StoreError::from_io("open the state", error))?;
    let recovery = RecoveryReport { log, state: state_recovery };
    check(&recovery)?;
    tracing::info!("opened {}: {recovery}", dir.display());
    let purged = purged_at_start(&recovery);
    if recovery.state.snapshot < purged {
        assert_reachable!("a snapshot was made at start, because the newest ended before the log begins");
        let made = state.snapshot_to(purged).await;
        made.map_err(|error| StoreError::from_io("make a snapshot of a state that is ahead of its log", error))?;
    }
    Ok((state, reader, recovery))
}

/// What tells that there was a log, if there is none. It is looked for before a log is made: an empty one would be taken for
/// the node's own at the next start.
fn find_loss<E: Env>(env: &E, dir: &Path, must_exist: bool) -> io::Result<Option<String>> {
    if env.exists(&dir.join(LOG_FILE))? {
        return Ok(None);
    }
    // The log is durable before anything else is made.
    if env.exists(&dir.join(POINTER_FILE))? {
        return Ok(Some("there is a state".to_owned()));
    }
    if env.exists(&dir.join(LOG_FILE_DAMAGED))? {
        return Ok(Some("there is a damaged log".to_owned()));
    }
    Ok(must_exist.then(|| "the node has served before".to_owned()))
}

/// Makes `dir`, and makes its name last: a directory that vanishes takes the vote with it.
fn make_durable_directory<E: Env>(env: &E, dir: &Path) -> io::Result<()> {
    env.create_dir_all(dir)?;
    for ancestor in dir.ancestors().skip(1) {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match env.sync_dir(ancestor) {
            Ok(()) => {}
            // Nor could this program have made anything in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The last entry that the log will not have once openraft has started on it.
///
/// Entries are applied when they are committed, which may be before they are durable here: after a crash the state can
/// be ahead of the log. openraft then purges the log up to what is applied, and takes for granted that a snapshot ends
/// there or later (it builds one itself only if there is none at all); a leader whose log begins past its snapshot could
/// not bring up any node in between. See `docs/trophies.md`.
fn purged_at_start(recovery: &RecoveryReport) -> Option<LogId> {
    let RecoveryReport { log, state } = recovery;
    if log.last() < state.applied { state.applied } else { log.purged }
}

/// Whether log and state can be of one node.
fn check(recovery: &RecoveryReport) -> Result<(), StoreError> {
    let inconsistent = |found: String| Err(StoreError::Inconsistent { found, advice: REPLACE });
    let RecoveryReport { log, state } = recovery;
    let covered = state.applied.max(state.snapshot);
    if let Some(covered) = covered
        && log.vote.is_none()
    {
        // No entry is appended, and no snapshot installed, before the vote of its leader is durable.
        return inconsistent(format!("the state was applied to {covered}, but the log has no vote"));
    }
    if log.purged > covered {
        return inconsistent(format!(
            "the log was purged to {:?}, but the state was applied to {:?} and the newest snapshot ends with {:?}",
            log.purged, state.applied, state.snapshot
        ));
    }
    if log.committed > log.last().max(covered) {
        return inconsistent(format!("{:?} is committed, but the log ends with {:?}", log.committed, log.last()));
    }
    for (what, id) in [("applied", state.applied), ("in a snapshot", state.snapshot), ("committed", log.committed)] {
        let Some(id) = id else { continue };
        if let Some(found) = log.id_at(id.index).filter(|found| *found != id) {
            return inconsistent(format!("{id} is {what}, but the log has {found} in its place"));
        }
    }
    Ok(())
}
