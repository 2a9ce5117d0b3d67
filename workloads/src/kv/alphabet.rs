//! The operations of the `kv` workload, as they stand in a plan.
//!
//! Arguments are symbolic where the interesting value is only known at run time: a compare-and-swap expects what this
//! client read last, or something certainly out of date. Every value written is unique: it begins with the client and
//! the number of its operation, so that a value that is read names its write.

use serde::{Deserialize, Serialize};

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvOp {
    Set {
        key: u32,
        pad: u32,
    },
    Delete {
        key: u32,
    },
    Cas {
        key: u32,
        expect: Expectation,
        pad: u32,
    },
    SetMulti {
        keys: Vec<u32>,
        pad: u32,
    },
    Get {
        key: u32,
    },
    Scan {
        from: u32,
        to: u32,
        limit: u32,
    },
    /// A read of whatever any node has, within bounds.
    StaleGet {
        key: u32,
        bound: Staleness,
    },
    StaleScan {
        from: u32,
        to: u32,
        bound: Staleness,
    },
    /// Several keys at once, under conditions.
    Transaction {
        compare: Vec<(u32, Expectation)>,
        then: Vec<TxnStep>,
        otherwise: Vec<TxnStep>,
        pad: u32,
    },
    /// A value as large as a value may be.
    SetLargest {
        key: u32,
    },
    /// Breaks a limit: must be refused before it is proposed.
    Oversized {
        what: Oversize,
    },
    /// Ends the session, if there is one, and opens another.
    RenewSession,
    /// Begins anew as a client that died would: its session stays behind until it expires.
    AbandonSession,
}

/// One operation of a transaction, on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnStep {
    Set(u32),
    Delete(u32),
    Get(u32),
}

/// How old what is read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staleness {
    pub max_age_ms: Option<u64>,
    /// Not older than what this client was told last.
    pub monotonic: bool,
}

/// What a compare-and-swap or a comparison expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    Absent,
    /// The value that this client saw or wrote last under the key; absence if it saw none.
    LastValue,
    /// The revision that this client saw last under the key.
    LastRevision,
    /// A revision that no key can have.
    Impossible,
}

/// Which limit to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Oversize {
    EmptyKey,
    LongKey,
    TooManyPairs,
    NoPairs,
    ScanOfNothing,
    LargeValue,
    TooManyParts,
    NoParts,
    ModifiedTwice,
}

/// Bytes of the largest value, by the product's default.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// The key with this number.
pub fn key(number: u32) -> Vec<u8> {
    format!("key-{number:04}").into_bytes()
}

/// The unique value of a write: `client/op/part`, padded.
pub fn value(client: u32, op: u64, part: usize, pad: u32) -> Vec<u8> {
    let mut value = format!("{client}/{op}/{part}").into_bytes();
    let pad = usize::try_from(pad).expect("a u32 is a usize");
    if pad > 0 {
        value.push(b' ');
        value.resize(value.len() + pad, b'.');
    }
    value
}

/// The unique value of a write, padded to so many bytes.
pub fn value_of_bytes(client: u32, op: u64, bytes: usize) -> Vec<u8> {
    let mut value = value(client, op, 0, 1);
    value.resize(bytes, b'.');
    value
}
