//! What a transaction does to the state. All comparisons look at the state before it; then one branch runs, in order.
//!
//! It is atomic without any effort of its own: a batch of entries is one transaction of the database, and nothing reads
//! between two operations of one entry.

use std::io;

use buggify::{assert_reachable, assert_sometimes};

use super::apply::is_as_expected;
use super::database::{Database, find_kv};
use crate::command::{Compare, KeyValue, Outcome, ROWS_BYTES_MAX, TxnOp, TxnResult};
use crate::planted::planted;

impl Database {
    pub(super) fn transact(
        &mut self,
        revision: u64,
        compare: &[Compare],
        then: &[TxnOp],
        otherwise: &[TxnOp],
    ) -> io::Result<Outcome> {
        let matched = self.all_hold(compare)?;
        assert_sometimes!(matched && !compare.is_empty(), "every comparison of a transaction held");
        assert_sometimes!(!matched, "a comparison of a transaction did not hold");
        let branch = if matched { then } else { otherwise };
        let mut left_bytes = ROWS_BYTES_MAX;
        let mut results = Vec::with_capacity(branch.len());
        let mut deleted_late = Vec::new();
        for op in branch {
            results.push(match op {
                TxnOp::Delete { key } if planted!("transaction-deletes-last") => {
                    deleted_late.push(key);
                    TxnResult::Deleted { existed: find_kv(&self.connection, key, &mut self.scratch)?.is_some() }
                }
                TxnOp::Set { key, value } => TxnResult::Written { version: self.put(revision, key, value)? },
                TxnOp::Delete { key } => TxnResult::Deleted { existed: self.delete(key)? },
                TxnOp::Get { key } => self.read_into_reply(key, &mut left_bytes)?,
            });
        }
        for key in deleted_late {
            self.delete(key)?;
        }
        Ok(Outcome::Transacted { matched, results })
    }

    fn all_hold(&mut self, compare: &[Compare]) -> io::Result<bool> {
        let compare = match (planted!("transaction-compares-last"), compare) {
            (true, [.., last]) => std::slice::from_ref(last),
            _ => compare,
        };
        for Compare { key, expect } in compare {
            let found = find_kv(&self.connection, key, &mut self.scratch)?;
            if !is_as_expected(expect, found.as_ref()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The row of `key`, as far as `left_bytes` allow.
    fn read_into_reply(&mut self, key: &[u8], left_bytes: &mut usize) -> io::Result<TxnResult> {
        let Some(found) = find_kv(&self.connection, key, &mut self.scratch)? else {
            return Ok(TxnResult::Got { row: None });
        };
        let Some(left) = left_bytes.checked_sub(key.len() + found.value.len()) else {
            if planted!("omitted-row-reads-as-absent") {
                return Ok(TxnResult::Got { row: None });
            }
            assert_reachable!("a row did not fit the reply to a transaction", owed_by = "");
            return Ok(TxnResult::Omitted { meta: found.meta });
        };
        *left_bytes = left;
        Ok(TxnResult::Got { row: Some(KeyValue { key: key.to_vec(), value: found.value, meta: found.meta }) })
    }
}
