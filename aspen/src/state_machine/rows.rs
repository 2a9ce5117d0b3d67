//! The rows of the state machine: their one encoding, which checksums, the state hash and snapshots share.
//!
//! The state hash is a multiset hash: the wrapping sum of the hashes of all key-value rows, all session rows, the
//! membership and the log time. A row's checksum *is* its hash, so changing a row costs one hash, and the order in which
//! rows came to be does not matter.

use std::io;

use crate::codec::{self, Kind};
use crate::command::{KeyMeta, KeyValue};
use crate::log_store::damaged;
use crate::types::{LogId, StoredMembership};

/// Bytes of a key-value row besides key and value.
pub const KV_ROW_OVERHEAD_BYTES: usize = 32;
const SESSION_ROW_OVERHEAD_BYTES: usize = 36;

/// A session, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Index of the entry that opened it.
    pub id: u64,
    /// Log time of its last use.
    pub last_use_ms: u64,
    pub ttl_ms: u64,
    /// The highest sequence number answered; 0 before the first.
    pub last_seq: u64,
    /// The sealed reply to `last_seq`; empty before the first.
    pub reply: Vec<u8>,
}

/// The single row about the whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaRow {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub log_time_ms: u64,
    pub state_hash: u64,
}

impl MetaRow {
    /// What everything but the rows adds to the state hash.
    pub fn hash_of_scalars(&self) -> u64 {
        hash_of_membership(&self.membership).wrapping_add(hash_of_log_time(self.log_time_ms))
    }

    /// Checksum of the row as stored.
    pub fn checksum(&self, sealed_membership: &[u8]) -> u64 {
        let mut bytes = Vec::with_capacity(sealed_membership.len() + 45);
        bytes.push(u8::from(self.applied.is_some()));
        let (term, index) = self.applied.map_or((0, 0), |applied| (applied.leader_id.term, applied.index));
        for number in [term, index, self.log_time_ms, self.state_hash] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(sealed_membership);
        Kind::MetaRow.checksum(&bytes)
    }
}

pub fn hash_of_membership(membership: &StoredMembership) -> u64 {
    Kind::Membership.checksum(&codec::encode_membership(membership))
}

pub fn hash_of_log_time(log_time_ms: u64) -> u64 {
    Kind::LogTime.checksum(&log_time_ms.to_le_bytes())
}

/// Checksum of a key-value row; `scratch` is overwritten.
pub fn kv_checksum(key: &[u8], value: &[u8], meta: &KeyMeta, scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    encode_kv_into(key, value, meta, scratch);
    Kind::KvRow.checksum(scratch)
}

/// Checksum of a session row; `scratch` is overwritten.
pub fn session_checksum(row: &SessionRow, scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    encode_session_into(row, scratch);
    Kind::SessionRow.checksum(scratch)
}

/// Appends: key length and value length (4 bytes each), create revision, mod revision, version (8 bytes each), key,
/// value; all numbers little-endian.
pub fn encode_kv_into(key: &[u8], value: &[u8], meta: &KeyMeta, out: &mut Vec<u8>) {
    for part in [key, value] {
        let len = u32::try_from(part.len()).expect("keys and values are far below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
    }
    for number in [meta.create_revision, meta.mod_revision, meta.version] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// Appends: id, last use, time to live, last sequence number (8 bytes each), reply length (4 bytes), reply.
pub fn encode_session_into(row: &SessionRow, out: &mut Vec<u8>) {
    for number in [row.id, row.last_use_ms, row.ttl_ms, row.last_seq] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let len = u32::try_from(row.reply.len()).expect("replies are far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&row.reply);
}

/// Decodes rows that [`encode_kv_into`] wrote one after the other.
pub fn decode_kv_rows(mut bytes: &[u8]) -> io::Result<Vec<KeyValue>> {
    let mut rows = Vec::with_capacity(bytes.len() / (KV_ROW_OVERHEAD_BYTES + 16) + 1);
    while !bytes.is_empty() {
        let (key_len, value_len) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?);
        let meta = KeyMeta {
            create_revision: take_u64(&mut bytes)?,
            mod_revision: take_u64(&mut bytes)?,
            version: take_u64(&mut bytes)?,
        };
        let key = take(&mut bytes, key_len)?.to_vec();
        let value = take(&mut bytes, value_len)?.to_vec();
        rows.push(KeyValue { key, value, meta });
    }
    Ok(rows)
}

/// Decodes rows that [`encode_session_into`] wrote one after the other.
pub fn decode_session_rows(mut bytes: &[u8]) -> io::Result<Vec<SessionRow>> {
    let mut rows = Vec::with_capacity(bytes.len() / (SESSION_ROW_OVERHEAD_BYTES + 16) + 1);
    while !bytes.is_empty() {
        let id = take_u64(&mut bytes)?;
        let last_use_ms = take_u64(&mut bytes)?;
        let ttl_ms = take_u64(&mut bytes)?;
        let last_seq = take_u64(&mut bytes)?;
        let len = take_u32(&mut bytes)?;
        let reply = take(&mut bytes, len)?.to_vec();
        rows.push(SessionRow { id, last_use_ms, ttl_ms, last_seq, reply });
    }
    Ok(rows)
}

fn take<'a>(bytes: &mut &'a [u8], len: u32) -> io::Result<&'a [u8]> {
    let len = usize::try_from(len).map_err(|_| damaged("a row is longer than memory"))?;
    let (taken, rest) = bytes.split_at_checked(len).ok_or_else(|| damaged("a row is cut short"))?;
    *bytes = rest;
    Ok(taken)
}

fn take_u32(bytes: &mut &[u8]) -> io::Result<u32> {
    let (taken, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("a row is cut short"))?;
    *bytes = rest;
    Ok(u32::from_le_bytes(*taken))
}

fn take_u64(bytes: &mut &[u8]) -> io::Result<u64> {
    let (taken, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("a row is cut short"))?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*taken))
}
