//! What a node tells an observer about its state: the raw material of checks from outside.
//!
//! Emitted by the stores at the moment the change is true there. Production has no observer.

use crate::types::{LogId, Vote};

/// An entry, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    pub log_id: LogId,
    /// XXH3 (64 bit) of the entry's payload as encoded in the log.
    pub payload_hash: u64,
    /// The entry changes the membership.
    pub is_membership: bool,
}

/// One change of a node's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The log was opened: what is durable in it. `entries` are those past `purged`, in order.
    LogOpened { vote: Option<Vote>, purged: Option<LogId>, committed: Option<LogId>, entries: Vec<EntryMeta> },
    /// The state machine was opened at this durable state.
    StateOpened { applied: Option<LogId>, state_hash: u64 },
    /// The vote is durable.
    VoteSaved { vote: Vote },
    /// Entries became readable, not necessarily durable.
    Appended { entries: Vec<EntryMeta> },
    /// Every entry up to this one is durable.
    Flushed { upto: LogId },
    /// Entries past `after` were removed.
    Truncated { after: Option<LogId> },
    /// Entries up to this one were removed.
    Purged { upto: LogId },
    /// One entry was applied; the hash is that of the state after it.
    Applied { log_id: LogId, state_hash: u64 },
    /// A snapshot file is durable.
    SnapshotBuilt { last: Option<LogId>, state_hash: u64 },
    /// The state was replaced by a snapshot, durably.
    SnapshotInstalled { last: Option<LogId>, state_hash: u64 },
}
