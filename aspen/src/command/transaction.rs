//! The parts of a transaction: comparisons, operations, and what each operation did.
//!
//! The operations of a branch run in order, and each sees what those before it did. A reply is stored with its session
//! for a retry, so what it may carry is bounded by a constant of the format, not by a setting: every node must apply an
//! entry alike, also one that was proposed under other limits.

use serde::{Deserialize, Serialize};

use crate::command::{Expect, KeyMeta, KeyValue};

/// Bytes of keys and values that the gets of one transaction are answered with: the largest row there is. A get whose
/// row no longer fits is answered with the row's revisions alone.
pub const ROWS_BYTES_MAX: usize = (1 << 20) + (1 << 10);

/// One comparison: the state of `key` before the transaction is as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    #[serde(with = "crate::bytes")]
    pub key: Vec<u8>,
    pub expect: Expect,
}

/// One operation. A branch modifies no key twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOp {
    Set {
        #[serde(with = "crate::bytes")]
        key: Vec<u8>,
        #[serde(with = "crate::bytes")]
        value: Vec<u8>,
    },
    Delete {
        #[serde(with = "crate::bytes")]
        key: Vec<u8>,
    },
    Get {
        #[serde(with = "crate::bytes")]
        key: Vec<u8>,
    },
}

impl TxnOp {
    pub fn key(&self) -> &[u8] {
        match self {
            TxnOp::Set { key, .. } | TxnOp::Delete { key } | TxnOp::Get { key } => key,
        }
    }
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnResult {
    /// Stored; the version the key has now.
    Written { version: u64 },
    /// Whether the key existed.
    Deleted { existed: bool },
    /// The row, if there is one.
    Got { row: Option<KeyValue> },
    /// There is a row, but it did not fit the reply: see [`ROWS_BYTES_MAX`].
    Omitted { meta: KeyMeta },
}
