//! What an entry does to the state: a pure function of the two. No clock, no node id, no limit is consulted here.
//!
//! A batch of entries is one transaction that holds the data, the sessions, the membership, `last_applied` and the state
//! hash; so after any crash they belong together.

use std::io;

use buggify::{assert_always, assert_reachable, assert_sometimes};
use rusqlite::{Connection, params};

use super::database::{Database, FoundKv, INSERT_KV, find_kv, sqlite};
use super::rows::{SessionRow, hash_of_log_time, hash_of_membership, kv_checksum};
use crate::codec;
use crate::command::{Command, Expect, KeyMeta, Outcome, Pair, Proposal, Reply, SessionSeq};
use crate::planted::planted;
use crate::types::{Entry, LogId, Payload, StoredMembership};

/// What a batch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// The reply to each entry.
    pub replies: Vec<Reply>,
    /// Each entry and the state hash after it.
    pub hashes: Vec<(LogId, u64)>,
}

impl Database {
    /// Applies `entries` in one transaction. After an error the database is not to be used any more.
    pub fn apply(&mut self, entries: &[Entry]) -> io::Result<Applied> {
        let Some(last) = entries.last() else { return Ok(Applied::default()) };
        if planted!("applied-outside-transaction") {
            let before = self.meta.applied.replace(last.log_id);
            self.write_meta()?;
            self.meta.applied = before;
        }
        self.transaction(|database| {
            let mut applied = Applied::default();
            for entry in entries {
                assert_always!(
                    database.meta.applied.is_none_or(|before| before.index < entry.log_id.index),
                    "entries are applied in order, none twice",
                    "{} after {:?}",
                    entry.log_id,
                    database.meta.applied
                );
                let outcome = database.apply_entry(entry)?;
                database.meta.applied = Some(entry.log_id);
                applied.replies.push(outcome);
                applied.hashes.push((entry.log_id, database.meta.state_hash));
            }
            if planted!("expiry-per-batch") {
                let before = database.sessions.hash();
                database.sessions.expire(database.meta.log_time_ms);
                database.swap_hash(before, database.sessions.hash());
            }
            database.write_sessions()?;
            database.write_meta()?;
            Ok(applied)
        })
    }

    fn apply_entry(&mut self, entry: &Entry) -> io::Result<Reply> {
        let revision = entry.log_id.index;
        match &entry.payload {
            Payload::Blank => Ok(Reply { revision, outcome: Outcome::Nothing }),
            Payload::Membership(membership) => {
                let membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                self.swap_hash(hash_of_membership(&self.meta.membership), hash_of_membership(&membership));
                self.meta.membership = membership;
                Ok(Reply { revision, outcome: Outcome::Nothing })
            }
            Payload::Normal(proposal) => self.apply_proposal(revision, proposal),
        }
    }

    fn apply_proposal(&mut self, revision: u64, proposal: &Proposal) -> io::Result<Reply> {
        let log_time_ms = self.meta.log_time_ms.max(proposal.log_time_ms);
        assert_sometimes!(proposal.log_time_ms < self.meta.log_time_ms, "a proposal's log time was behind the state's");
        self.swap_hash(hash_of_log_time(self.meta.log_time_ms), hash_of_log_time(log_time_ms));
        self.meta.log_time_ms = log_time_ms;

        let sessions_hash = self.sessions.hash();
        let now_ms = self.local_clock_ms.as_ref().map_or(log_time_ms, |clock| clock());
        let expired = if planted!("expiry-per-batch") { 0 } else { self.sessions.expire(now_ms) };
        assert_sometimes!(expired > 0, "a session expired by log time");
        let reply = match proposal.session {
            None => self.execute(revision, &proposal.command),
            Some(session) => self.execute_once(revision, session, &proposal.command),
        };
        self.swap_hash(sessions_hash, self.sessions.hash());
        reply
    }

    /// Executes a command of a session, unless it was executed before.
    fn execute_once(&mut self, revision: u64, used: SessionSeq, command: &Command) -> io::Result<Reply> {
        if planted!("unknown-session-recreated") && self.sessions.get(used.session).is_none() {
            let (id, last_use_ms) = (used.session, self.meta.log_time_ms);
            self.sessions.put(SessionRow { id, last_use_ms, ttl_ms: 60_000, last_seq: 0, reply: Vec::new() });
        }
        let Some(session) = self.sessions.get(used.session) else {
            assert_reachable!("a command of an unknown or expired session was refused");
            return Ok(Reply { revision, outcome: Outcome::SessionUnknown });
        };
        let last_seq = session.last_seq;
        if used.seq == 0 || used.seq < last_seq {
            assert_reachable!("a command below the session's last sequence number was refused");
            return Ok(Reply { revision, outcome: Outcome::SessionStale });
        }
        let mut session = session.clone();
        session.last_use_ms = self.meta.log_time_ms;
        if used.seq == last_seq {
            assert_reachable!("a retry was answered from the session's cache");
            let reply = codec::decode_reply(&session.reply)?;
            if !planted!("retry-does-not-refresh-session") {
                self.sessions.put(session);
            }
            return Ok(reply);
        }
        let reply = self.execute(revision, command)?;
        let forgotten = planted!("transaction-forgotten-by-session") && matches!(command, Command::Transaction { .. });
        // The command may have closed the very session it came in.
        if self.sessions.get(used.session).is_some() && !forgotten {
            session.last_seq = used.seq;
            session.reply = codec::encode_reply(&reply);
            self.sessions.put(session);
        }
        Ok(reply)
    }

    fn execute(&mut self, revision: u64, command: &Command) -> io::Result<Reply> {
        let outcome = match command {
            Command::Set { key, value } => Outcome::Written { version: self.put(revision, key, value)? },
            Command::Delete { key } => Outcome::Deleted { existed: self.delete(key)? },
            Command::CompareAndSwap { key, expect, value } => self.compare_and_swap(revision, key, expect, value)?,
            Command::SetMulti { pairs } => self.set_multi(revision, pairs)?,
            Command::OpenSession { ttl_ms } => {
                let (last_use_ms, ttl_ms) = (self.meta.log_time_ms, *ttl_ms);
                self.sessions.put(SessionRow { id: revision, last_use_ms, ttl_ms, last_seq: 0, reply: Vec::new() });
                assert_sometimes!(self.sessions.len() > 1, "several sessions were open at once");
                Outcome::SessionOpened { session: revision }
            }
            Command::RefreshSession { session } => match self.sessions.get(*session).cloned() {
                Some(row) => {
                    self.sessions.put(SessionRow { last_use_ms: self.meta.log_time_ms, ..row });
                    Outcome::SessionRefreshed
                }
                None => Outcome::SessionUnknown,
            },
            Command::CloseSession { session } => match self.sessions.remove(*session) {
                true => Outcome::SessionClosed,
                false => Outcome::SessionUnknown,
            },
            Command::Transaction { compare, then, otherwise } => self.transact(revision, compare, then, otherwise)?,
        };
        Ok(Reply { revision, outcome })
    }

    fn compare_and_swap(&mut self, revision: u64, key: &[u8], expect: &Expect, value: &[u8]) -> io::Result<Outcome> {
        let found = find_kv(&self.connection, key, &mut self.scratch)?;
        let matches = is_as_expected(expect, found.as_ref());
        assert_sometimes!(!matches, "a compare did not match");
        assert_sometimes!(matches && found.is_some(), "a compare matched an existing key");
        if !matches {
            return Ok(Outcome::NotMatched { found: found.map(|found| found.meta) });
        }
        Ok(Outcome::Written { version: self.write(revision, key, value, found)? })
    }

    fn set_multi(&mut self, revision: u64, pairs: &[Pair]) -> io::Result<Outcome> {
        let mut version = 0;
        for (at, pair) in pairs.iter().enumerate() {
            // Of a key that occurs twice the last value stays; it is written once, so it counts as one modification.
            let value = pairs[at + 1..].iter().rev().find(|later| later.key == pair.key).map(|later| &later.value);
            if pairs[..at].iter().any(|before| before.key == pair.key) {
                assert_reachable!("a set-multi had the same key twice");
                continue;
            }
            if planted!("set-multi-in-two-transactions") && at == 1 {
                self.connection.execute_batch("COMMIT; BEGIN IMMEDIATE").map_err(sqlite)?;
            }
            let written = self.put(revision, &pair.key, value.unwrap_or(&pair.value))?;
            if at == 0 {
                version = written;
            }
        }
        Ok(Outcome::Written { version })
    }

    pub(super) fn put(&mut self, revision: u64, key: &[u8], value: &[u8]) -> io::Result<u64> {
        let found = find_kv(&self.connection, key, &mut self.scratch)?;
        self.write(revision, key, value, found)
    }

    /// Writes `key`, whose present row is `found`. Returns the version it has now.
    fn write(&mut self, revision: u64, key: &[u8], value: &[u8], found: Option<FoundKv>) -> io::Result<u64> {
        let before = found.as_ref().map(|found| found.meta);
        let meta = KeyMeta {
            create_revision: before.map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |before| before.version + 1),
        };
        let checksum = kv_checksum(key, value, &meta, &mut self.scratch);
        match &found {
            Some(found) => update_kv(&self.connection, found.id, value, &meta, checksum)?,
            None => insert_kv(&self.connection, key, value, &meta, checksum)?,
        }
        self.swap_hash(found.map_or(0, |found| found.checksum), checksum);
        Ok(meta.version)
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> io::Result<bool> {
        let Some(found) = find_kv(&self.connection, key, &mut self.scratch)? else {
            assert_reachable!("a delete found nothing");
            return Ok(false);
        };
        let mut delete = self.connection.prepare_cached("DELETE FROM kv WHERE id = ?1").map_err(sqlite)?;
        delete.execute([found.id]).map_err(sqlite)?;
        drop(delete);
        self.swap_hash(found.checksum, 0);
        Ok(true)
    }

    /// Replaces one part of the state hash.
    fn swap_hash(&mut self, before: u64, after: u64) {
        self.meta.state_hash = self.meta.state_hash.wrapping_sub(before).wrapping_add(after);
    }
}

/// Whether a key whose present row is `found` is as expected.
pub(super) fn is_as_expected(expect: &Expect, found: Option<&FoundKv>) -> bool {
    match (expect, found) {
        (Expect::Absent, found) => found.is_none(),
        (Expect::Value(expected), Some(found)) => found.value == *expected,
        (Expect::ModRevision(expected), Some(found)) if planted!("compare-of-create-revision") => {
            found.meta.create_revision == *expected
        }
        (Expect::ModRevision(expected), Some(found)) => found.meta.mod_revision == *expected,
        (Expect::Value(_) | Expect::ModRevision(_), None) => false,
    }
}

fn insert_kv(connection: &Connection, key: &[u8], value: &[u8], meta: &KeyMeta, checksum: u64) -> io::Result<()> {
    let [create, modified, version, checksum] =
        [meta.create_revision, meta.mod_revision, meta.version, checksum].map(u64::cast_signed);
    let mut insert = connection.prepare_cached(INSERT_KV).map_err(sqlite)?;
    insert.execute(params![key, value, create, modified, version, checksum]).map_err(sqlite)?;
    Ok(())
}

fn update_kv(connection: &Connection, id: i64, value: &[u8], meta: &KeyMeta, checksum: u64) -> io::Result<()> {
    let [modified, version, checksum] = [meta.mod_revision, meta.version, checksum].map(u64::cast_signed);
    let mut update = connection
        .prepare_cached("UPDATE kv SET value = ?2, mod_revision = ?3, version = ?4, checksum = ?5 WHERE id = ?1")
        .map_err(sqlite)?;
    update.execute(params![id, value, modified, version, checksum]).map_err(sqlite)?;
    Ok(())
}
