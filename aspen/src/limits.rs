//! The bounds of the node, with units, enforced where the data enters.

use std::collections::BTreeSet;

use crate::command::{Command, Expect, Query, TxnOp};

/// Every bound of one node. The defaults are those of `docs/limits.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// An encoded command.
    pub command_bytes_max: usize,
    /// A replication batch stops at so many bytes, or at one entry.
    pub replication_batch_bytes_max: usize,
    /// A message on a link.
    pub message_bytes_max: usize,
    /// A whole snapshot, sent as a stream of chunks.
    pub snapshot_bytes_max: u64,
    /// One chunk of a snapshot.
    pub snapshot_chunk_bytes: usize,
    /// Entries applied in one transaction.
    pub apply_batch_entries_max: usize,
    /// Pairs in one set-multi.
    pub set_multi_pairs_max: usize,
    /// Comparisons and operations of both branches of one transaction, together.
    pub transaction_parts_max: usize,
    pub key_bytes_max: usize,
    pub value_bytes_max: usize,
    /// Rows in one answer to a scan.
    pub scan_rows_max: u32,
    pub voters_max: usize,
    pub connections_max: usize,
    /// Proposals in flight; more are refused.
    pub proposals_in_flight_max: usize,
    pub session_ttl_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            command_bytes_max: 4 << 20,
            replication_batch_bytes_max: 4 << 20,
            message_bytes_max: 10 << 20,
            snapshot_bytes_max: 1 << 30,
            snapshot_chunk_bytes: 1 << 20,
            apply_batch_entries_max: 1000,
            set_multi_pairs_max: 100,
            transaction_parts_max: 100,
            key_bytes_max: 1 << 10,
            value_bytes_max: 1 << 20,
            scan_rows_max: 10_000,
            voters_max: 100,
            connections_max: 100,
            proposals_in_flight_max: 1000,
            session_ttl_ms_max: 24 * 3600 * 1000,
        }
    }
}

/// Proposals in flight that a configuration may ask for at most.
pub const PROPOSALS_IN_FLIGHT_CEILING: usize = 10_000;

/// Why a request was refused before it was proposed: nothing happened, ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("the key has {actual} bytes, {max} are allowed")]
    KeyTooLong { actual: usize, max: usize },
    #[error("the key is empty")]
    KeyEmpty,
    #[error("the value has {actual} bytes, {max} are allowed")]
    ValueTooLong { actual: usize, max: usize },
    #[error("the command has {actual} pairs, 1 to {max} are allowed")]
    PairCount { actual: usize, max: usize },
    #[error("the transaction has {actual} comparisons and operations, 1 to {max} are allowed")]
    TransactionParts { actual: usize, max: usize },
    #[error("a branch of the transaction modifies a key twice")]
    ModifiedTwice,
    #[error("the command has {actual} bytes, {max} are allowed")]
    CommandTooLong { actual: usize, max: usize },
    #[error("the session's time to live is {actual} ms, 1 to {max} are allowed")]
    SessionTtl { actual: u64, max: u64 },
    #[error("the scan asks for {actual} rows, 1 to {max} are allowed")]
    ScanLimit { actual: u32, max: u32 },
}

impl Limits {
    /// Checks a command before it is proposed. `encoded_bytes` is its length in the log.
    pub fn check_command(&self, command: &Command, encoded_bytes: usize) -> Result<(), LimitError> {
        match command {
            Command::Set { key, value } => self.check_key(key).and_then(|()| self.check_value(value))?,
            Command::Delete { key } => self.check_key(key)?,
            Command::CompareAndSwap { key, expect, value } => {
                self.check_key(key)?;
                self.check_value(value)?;
                self.check_expect(expect)?;
            }
            Command::SetMulti { pairs } => {
                if pairs.is_empty() || pairs.len() > self.set_multi_pairs_max {
                    return Err(LimitError::PairCount { actual: pairs.len(), max: self.set_multi_pairs_max });
                }
                for pair in pairs {
                    self.check_key(&pair.key)?;
                    self.check_value(&pair.value)?;
                }
            }
            Command::OpenSession { ttl_ms } => {
                if *ttl_ms == 0 || *ttl_ms > self.session_ttl_ms_max {
                    return Err(LimitError::SessionTtl { actual: *ttl_ms, max: self.session_ttl_ms_max });
                }
            }
            Command::RefreshSession { .. } | Command::CloseSession { .. } => {}
            Command::Transaction { compare, then, otherwise } => {
                let (actual, max) = (compare.len() + then.len() + otherwise.len(), self.transaction_parts_max);
                if actual == 0 || actual > max {
                    return Err(LimitError::TransactionParts { actual, max });
                }
                for comparison in compare {
                    self.check_key(&comparison.key)?;
                    self.check_expect(&comparison.expect)?;
                }
                self.check_branch(then)?;
                self.check_branch(otherwise)?;
            }
        }
        if encoded_bytes > self.command_bytes_max {
            return Err(LimitError::CommandTooLong { actual: encoded_bytes, max: self.command_bytes_max });
        }
        Ok(())
    }

    /// Checks a query before it is run.
    pub fn check_query(&self, query: &Query) -> Result<(), LimitError> {
        match query {
            Query::Get { key } => self.check_key(key),
            Query::Scan { start, end, limit } => {
                for bound in std::iter::once(start.as_slice()).chain(end.iter().map(|end| end.as_slice())) {
                    if bound.len() > self.key_bytes_max {
                        return Err(LimitError::KeyTooLong { actual: bound.len(), max: self.key_bytes_max });
                    }
                }
                if *limit == 0 || *limit > self.scan_rows_max {
                    return Err(LimitError::ScanLimit { actual: *limit, max: self.scan_rows_max });
                }
                Ok(())
            }
        }
    }

    fn check_branch(&self, ops: &[TxnOp]) -> Result<(), LimitError> {
        let mut modified = BTreeSet::new();
        for op in ops {
            self.check_key(op.key())?;
            if let TxnOp::Set { value, .. } = op {
                self.check_value(value)?;
            }
            if !matches!(op, TxnOp::Get { .. }) && !modified.insert(op.key()) {
                return Err(LimitError::ModifiedTwice);
            }
        }
        Ok(())
    }

    fn check_expect(&self, expect: &Expect) -> Result<(), LimitError> {
        match expect {
            Expect::Value(expected) => self.check_value(expected),
            Expect::Absent | Expect::ModRevision(_) => Ok(()),
        }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), LimitError> {
        if key.is_empty() {
            return Err(LimitError::KeyEmpty);
        }
        if key.len() > self.key_bytes_max {
            return Err(LimitError::KeyTooLong { actual: key.len(), max: self.key_bytes_max });
        }
        Ok(())
    }

    fn check_value(&self, value: &[u8]) -> Result<(), LimitError> {
        if value.len() > self.value_bytes_max {
            return Err(LimitError::ValueTooLong { actual: value.len(), max: self.value_bytes_max });
        }
        Ok(())
    }
}
