//! The sessions, in memory: what makes a retry have no second effect. SQLite holds the same rows.
//!
//! Log time alone decides when a session expires: it is part of the state, so all nodes agree.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{SessionRow, session_checksum};

#[derive(Debug, Default)]
pub struct Sessions {
    rows: BTreeMap<u64, Hashed>,
    /// Sum of the hashes of all rows.
    hash: u64,
    /// No session expires before this log time.
    next_expiry_ms: u64,
    /// Sessions whose row in the database is out of date, until [`Sessions::take_dirty`].
    dirty: BTreeSet<u64>,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Hashed {
    row: SessionRow,
    hash: u64,
}

impl Sessions {
    /// Takes over rows that the database holds.
    pub fn load(rows: impl IntoIterator<Item = SessionRow>) -> Self {
        let mut sessions = Sessions::default();
        for row in rows {
            sessions.put(row);
        }
        sessions.dirty.clear();
        sessions
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn get(&self, id: u64) -> Option<&SessionRow> {
        self.rows.get(&id).map(|hashed| &hashed.row)
    }

    /// Adds or replaces a session.
    pub fn put(&mut self, row: SessionRow) {
        let hash = session_checksum(&row, &mut self.scratch);
        self.dirty.insert(row.id);
        let expiry = expiry_ms(&row);
        self.next_expiry_ms = if self.rows.is_empty() { expiry } else { self.next_expiry_ms.min(expiry) };
        self.hash = self.hash.wrapping_add(hash);
        if let Some(before) = self.rows.insert(row.id, Hashed { row, hash }) {
            self.hash = self.hash.wrapping_sub(before.hash);
        }
    }

    /// Ends a session. Returns whether there was one.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(gone) = self.rows.remove(&id) else { return false };
        self.hash = self.hash.wrapping_sub(gone.hash);
        self.dirty.insert(id);
        true
    }

    /// Ends every session that nothing used for its time to live. Returns how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        if self.rows.is_empty() || now_ms < self.next_expiry_ms {
            return 0;
        }
        let expired: Vec<u64> =
            self.rows.values().filter(|hashed| expiry_ms(&hashed.row) <= now_ms).map(|hashed| hashed.row.id).collect();
        for id in &expired {
            self.remove(*id);
        }
        self.next_expiry_ms = self.rows.values().map(|hashed| expiry_ms(&hashed.row)).min().unwrap_or(0);
        expired.len()
    }

    /// The sessions that changed since the last call, with their row and its checksum, or `None` if they ended.
    pub fn take_dirty(&mut self) -> Vec<(u64, Option<(&SessionRow, u64)>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|id| (id, self.rows.get(&id).map(|hashed| (&hashed.row, hashed.hash)))).collect()
    }
}

/// Log time at which a session expires unless it is used before.
fn expiry_ms(row: &SessionRow) -> u64 {
    row.last_use_ms.saturating_add(row.ttl_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, last_use_ms: u64, ttl_ms: u64) -> SessionRow {
        SessionRow { id, last_use_ms, ttl_ms, last_seq: 0, reply: Vec::new() }
    }

    #[test]
    fn a_session_expires_when_its_time_to_live_passed_unused() {
        let mut sessions = Sessions::load([row(1, 0, 10), row(2, 0, 20)]);
        assert_eq!(sessions.expire(9), 0);
        sessions.put(row(1, 9, 10));
        assert_eq!(sessions.expire(18), 0);
        assert_eq!(sessions.expire(19), 1);
        assert!(sessions.get(1).is_none() && sessions.get(2).is_some());
        assert_eq!(sessions.expire(20), 1);
    }

    #[test]
    fn the_hash_is_that_of_the_rows_whatever_happened_before() {
        let mut sessions = Sessions::load([row(1, 0, 10), row(2, 0, 20)]);
        sessions.put(row(3, 5, 5));
        sessions.put(row(2, 7, 20));
        sessions.remove(3);
        assert_eq!(sessions.hash(), Sessions::load([row(2, 7, 20), row(1, 0, 10)]).hash());
        let dirty: Vec<u64> = sessions.take_dirty().into_iter().map(|(id, _)| id).collect();
        assert_eq!(dirty, [2, 3]);
    }
}
