//! What clients ask for and what they are told: the vocabulary of the store.
//!
//! A [`Command`] changes state and goes through the log inside a [`Proposal`]; a [`Query`] reads a linearizable state
//! of one node and does not. Everything that a command needs and that differs between nodes (time, ids) is decided
//! before it is proposed, so that applying it is a pure function.

mod transaction;

use serde::{Deserialize, Serialize};

pub use transaction::{Compare, ROWS_BYTES_MAX, TxnOp, TxnResult};

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stores `value` under `key`.
    Set {
        #[serde(with = "crate::bytes")]
        key: Vec<u8>,
        #[serde(with = "crate::bytes")]
        value: Vec<u8>,
    },
    /// Removes `key`, if it is there.
    Delete {
        #[serde(with = "crate::bytes")]
        key: Vec<u8>,
    },
    /// Stores `value` under `key` if the present state of `key` is as expected.
    CompareAndSwap {
        #[serde(with = "crate::bytes")]
        key: Vec<u8>,
        expect: Expect,
        #[serde(with = "crate::bytes")]
        value: Vec<u8>,
    },
    /// Stores all pairs, or none. Of a key that occurs twice the last value stays; it counts as one modification.
    SetMulti { pairs: Vec<Pair> },
    /// Opens a session; its id is the index of this command in the log.
    OpenSession {
        /// The session expires when nothing used it for so long, in log time.
        ttl_ms: u64,
    },
    /// Keeps a session alive.
    RefreshSession { session: u64 },
    /// Ends a session; its id is refused from then on.
    CloseSession { session: u64 },
    /// Does all of `then` if every comparison holds, else all of `otherwise`; in order, as one change.
    Transaction { compare: Vec<Compare>, then: Vec<TxnOp>, otherwise: Vec<TxnOp> },
}

impl Command {
    /// Whether it may add to what is stored, beyond its entry in the log.
    pub fn stores(&self) -> bool {
        match self {
            Command::Set { .. } | Command::CompareAndSwap { .. } | Command::SetMulti { .. } => true,
            Command::Transaction { then, otherwise, .. } => {
                then.iter().chain(otherwise).any(|op| matches!(op, TxnOp::Set { .. }))
            }
            Command::Delete { .. }
            | Command::OpenSession { .. }
            | Command::RefreshSession { .. }
            | Command::CloseSession { .. } => false,
        }
    }

    /// Bytes of its keys and values; of a transaction in the longer branch.
    pub fn bytes(&self) -> usize {
        match self {
            Command::Set { key, value } | Command::CompareAndSwap { key, value, .. } => key.len() + value.len(),
            Command::SetMulti { pairs } => pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum(),
            Command::Delete { key } => key.len(),
            Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. } => 0,
            Command::Transaction { then, otherwise, .. } => {
                let branch = |ops: &[TxnOp]| ops.iter().map(TxnOp::bytes).sum::<usize>();
                branch(then).max(branch(otherwise))
            }
        }
    }
}

impl TxnOp {
    fn bytes(&self) -> usize {
        match self {
            TxnOp::Set { key, value } => key.len() + value.len(),
            TxnOp::Delete { key } | TxnOp::Get { key } => key.len(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    #[serde(with = "crate::bytes")]
    pub key: Vec<u8>,
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
}

/// What a compare-and-swap or a comparison of a transaction wants to find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and has this value.
    Value(#[serde(with = "crate::bytes")] Vec<u8>),
    /// The key exists and was last modified at this revision.
    ModRevision(u64),
}

/// Names one operation of one session, so that a retry has no second effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionSeq {
    pub session: u64,
    /// From 1. One operation of a session is in flight at a time: a higher number says that the reply to every lower
    /// one was received or is no longer wanted.
    pub seq: u64,
}

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Log time in ms: the leader's last log time plus its monotonic time since it took office. Applying takes the
    /// maximum of this and the state machine's log time.
    pub log_time_ms: u64,
    pub session: Option<SessionSeq>,
    pub command: Command,
}

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} session {:?} at {} ms", self.command, self.session, self.log_time_ms)
    }
}

/// What the state machine says to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Index in the log of the command that had the effect. A retry of a session is answered with the first one's.
    pub revision: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Blank and membership entries.
    Nothing,
    /// Stored; the version the key has now (1 = it did not exist before). For a set-multi: of its first pair.
    Written {
        version: u64,
    },
    /// Whether the key existed.
    Deleted {
        existed: bool,
    },
    /// The compare did not match; what was found instead.
    NotMatched {
        found: Option<KeyMeta>,
    },
    SessionOpened {
        session: u64,
    },
    SessionRefreshed,
    SessionClosed,
    /// No such session, or it expired: nothing was done.
    SessionUnknown,
    /// The sequence number is below one already answered, and its reply is no longer kept: nothing was done now.
    SessionStale,
    /// Whether every comparison held, and what each operation of the branch taken did, in order.
    Transacted {
        matched: bool,
        results: Vec<TxnResult>,
    },
}

/// The revisions of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMeta {
    /// Index of the command that created the key.
    pub create_revision: u64,
    /// Index of the command that modified it last.
    pub mod_revision: u64,
    /// Number of modifications since it was created, from 1.
    pub version: u64,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    #[serde(with = "crate::bytes")]
    pub key: Vec<u8>,
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
    pub meta: KeyMeta,
}

/// A read of one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    Get {
        #[serde(with = "crate::bytes")]
        key: Vec<u8>,
    },
    /// Rows with `start <= key < end` in key order, at most `limit`; no `end` means to the last key.
    Scan {
        #[serde(with = "crate::bytes")]
        start: Vec<u8>,
        #[serde(with = "crate::bytes::optional")]
        end: Option<serde_bytes::ByteBuf>,
        limit: u32,
    },
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Index of the last command applied to the state that was read.
    pub revision: u64,
    /// The row, or the rows of the scan.
    pub rows: Vec<KeyValue>,
    /// A scan stopped before its end: at its limit, or at the bound on the bytes of an answer. It has one row at least.
    pub more: bool,
}
