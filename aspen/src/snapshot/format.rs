//! The snapshot file: a header, chunks of rows, an end mark, and a BLAKE3 of all of it. Pure: no I/O.
//!
//! Chunks are length-prefixed and bounded, so a snapshot is written and read in steps. Nothing read from one counts
//! before the hash at its end was compared.

use std::io;

use crate::codec;
use crate::command::KeyValue;
use crate::log_store::damaged;
use crate::state_machine::rows::{
    SessionRow, decode_kv_rows, decode_session_rows, encode_kv_into, encode_session_into,
};
use crate::types::SnapshotMeta;

const MAGIC: [u8; 8] = *b"ASPNSNAP";
const VERSION: u32 = 1;
/// Magic, version and length of the header's body.
pub const PREAMBLE_BYTES: usize = 16;
/// Tag and length in front of a chunk's body.
pub const CHUNK_HEAD_BYTES: usize = 5;
/// The BLAKE3 at the end.
pub const TRAILER_BYTES: usize = 32;
/// Bytes of log time and state hash in front of the sealed metadata.
const NUMBERS_BYTES: usize = 16;
const HEADER_BODY_BYTES_MAX: u32 = 1 << 20;
/// A chunk's body: one row of the greatest size fits.
const CHUNK_BYTES_MAX: u32 = 16 << 20;

const TAG_END: u8 = 0;
const TAG_KV: u8 = 1;
const TAG_SESSIONS: u8 = 2;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub meta: SnapshotMeta,
    pub log_time_ms: u64,
    /// The state hash that the rows, the membership and the log time add up to.
    pub state_hash: u64,
}

/// One part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    Kv(Vec<KeyValue>),
    Sessions(Vec<SessionRow>),
    /// The last one, with the number of rows and sessions before it.
    End {
        rows: u64,
        sessions: u64,
    },
}

pub fn encode_header(header: &Header) -> Vec<u8> {
    let meta = codec::encode_snapshot_meta(&header.meta);
    let mut out = Vec::with_capacity(PREAMBLE_BYTES + NUMBERS_BYTES + meta.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::try_from(NUMBERS_BYTES + meta.len()).expect("metadata is small").to_le_bytes());
    out.extend_from_slice(&header.log_time_ms.to_le_bytes());
    out.extend_from_slice(&header.state_hash.to_le_bytes());
    out.extend_from_slice(&meta);
    out
}

/// Length of the header's body, from the preamble.
pub fn decode_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> io::Result<usize> {
    let (magic, rest) = bytes.split_at(MAGIC.len());
    let (version, len) = rest.split_at(4);
    if magic != MAGIC {
        return Err(damaged("this is not a snapshot"));
    }
    if version != VERSION.to_le_bytes() {
        return Err(damaged(format!("this program reads snapshots of version {VERSION} only; use a newer program")));
    }
    bounded(u32::from_le_bytes(len.try_into().expect("four bytes")), HEADER_BODY_BYTES_MAX)
}

pub fn decode_header_body(bytes: &[u8]) -> io::Result<Header> {
    let (numbers, meta) =
        bytes.split_first_chunk::<NUMBERS_BYTES>().ok_or_else(|| damaged("a snapshot's header is cut short"))?;
    let (log_time_ms, state_hash) = halves(numbers);
    Ok(Header { meta: codec::decode_snapshot_meta(meta)?, log_time_ms, state_hash })
}

/// Appends a chunk of rows.
pub fn encode_kv_chunk(rows: &[KeyValue], out: &mut Vec<u8>) {
    encode_chunk(TAG_KV, out, |out| {
        rows.iter().for_each(|row| encode_kv_into(&row.key, &row.value, &row.meta, out));
    });
}

/// Appends a chunk of sessions.
pub fn encode_sessions_chunk(rows: &[SessionRow], out: &mut Vec<u8>) {
    encode_chunk(TAG_SESSIONS, out, |out| rows.iter().for_each(|row| encode_session_into(row, out)));
}

/// Appends the end mark.
pub fn encode_end(rows: u64, sessions: u64, out: &mut Vec<u8>) {
    encode_chunk(TAG_END, out, |out| {
        out.extend_from_slice(&rows.to_le_bytes());
        out.extend_from_slice(&sessions.to_le_bytes());
    });
}

/// Tag and length of the body of a chunk.
pub fn decode_chunk_head(head: &[u8; CHUNK_HEAD_BYTES]) -> io::Result<(u8, usize)> {
    let [tag, len @ ..] = *head;
    Ok((tag, bounded(u32::from_le_bytes(len), CHUNK_BYTES_MAX)?))
}

pub fn decode_chunk_body(tag: u8, body: &[u8]) -> io::Result<Chunk> {
    match tag {
        TAG_KV => Ok(Chunk::Kv(decode_kv_rows(body)?)),
        TAG_SESSIONS => Ok(Chunk::Sessions(decode_session_rows(body)?)),
        TAG_END => {
            let counts = body.try_into().map_err(|_| damaged("a snapshot's end mark has the wrong length"))?;
            let (rows, sessions) = halves(counts);
            Ok(Chunk::End { rows, sessions })
        }
        _ => Err(damaged(format!("a snapshot has a chunk of the unknown kind {tag}"))),
    }
}

fn encode_chunk(tag: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = u32::try_from(out.len() - at - 4).expect("chunks are bounded");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn halves(bytes: &[u8; 16]) -> (u64, u64) {
    let (low, high) = bytes.split_at(8);
    (
        u64::from_le_bytes(low.try_into().expect("eight bytes")),
        u64::from_le_bytes(high.try_into().expect("eight bytes")),
    )
}

fn bounded(len: u32, max: u32) -> io::Result<usize> {
    if len > max {
        return Err(damaged(format!("a part of a snapshot claims {len} bytes, {max} are allowed")));
    }
    usize::try_from(len).map_err(|_| damaged("a part of a snapshot is longer than memory"))
}
