//! What is known of the node outside it, and what it exchanges with the others.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aspen::command::{Command, Pair, Proposal, SessionSeq};
use aspen::store::StoreConfig;
use aspen::types::{CommittedLeaderId, Entry, LogId, Payload, SnapshotMeta};
use sim_runtime::world::draws::Stream;
use sim_runtime::world::{self, Purpose};

/// What the outside knows of the node.
#[derive(Default)]
pub struct Truth {
    /// Terms of votes that were acknowledged, and that were asked for.
    pub vote_acked: u64,
    pub vote_begun: u64,
    /// The term in which entries are appended.
    pub term: u64,
    /// Entries that are committed, by the node's own log or by the others.
    pub committed: Vec<Entry>,
    /// Entries past the committed ones that were acknowledged as flushed and are not being truncated.
    pub flushed_tail: Vec<Entry>,
    /// State hashes, by index.
    pub hashes: BTreeMap<u64, u64>,
    pub sessions: Vec<u64>,
    pub boots: u64,
    pub installs: u64,
    pub snapshots: u64,
    pub truncations: u64,
}

impl Truth {
    pub fn last_committed(&self) -> Option<LogId> {
        self.committed.last().map(|entry| entry.log_id)
    }
}

pub type Shared = Arc<Mutex<Truth>>;
pub type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Whether an error of the disk is at the bottom of this one.
pub fn fails(error: &(dyn Error + 'static)) -> bool {
    is_injected(&error.to_string()) || error.source().is_some_and(fails)
}

pub fn is_injected(reason: &str) -> bool {
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

pub fn lock(shared: &Shared) -> MutexGuard<'_, Truth> {
    shared.lock().expect("nobody panics with it")
}

/// What the node asks of the others, and their answer.
#[derive(Default)]
pub struct Mailbox {
    /// Committed entries that the others have not applied.
    pub entries: VecDeque<Entry>,
    /// Asks for a snapshot that is so many entries ahead.
    pub wanted: Option<u64>,
    pub snapshot: Option<(SnapshotMeta, Vec<u8>, [u8; 32])>,
}

pub const DIR: &str = "/data";

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

/// The entry that stands at `index` if it is appended in `term`.
pub fn entry(term: u64, index: u64, sessions: &[u64]) -> Entry {
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

pub fn config(chance: &mut Stream) -> StoreConfig {
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
