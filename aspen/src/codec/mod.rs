//! How values are written to disk and sent to peers: encodings of our own, so that neither openraft's nor SQLite's
//! formats are ours by accident.
//!
//! Every value stands in a *seal*: one byte of version, the body, and an XXH3-64 checksum of both whose seed names the
//! kind of value. So a flipped bit, a truncated value, a value of a newer version, or a value of another kind is refused
//! when read, never misread. `docs/format.md` describes all of it byte by byte.
//!
//! - [`entry`]: log entries
//! - [`raft`]: votes, log ids, memberships, snapshot metadata
//! - [`reply`]: cached replies of sessions

mod entry;
mod raft;
mod reply;

pub use entry::{
    decode_entry, decode_entry_meta, decode_payload, encode_entry, encode_entry_into, encode_payload, payload_hash,
};
pub use raft::{
    decode_log_id, decode_membership, decode_snapshot_meta, decode_vote, encode_log_id, encode_membership,
    encode_snapshot_meta, encode_vote,
};
pub use reply::{decode_reply, encode_reply};

use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The version this build writes, and the only one it reads.
pub const VERSION: u8 = 1;

/// Bytes of the checksum at the end of a seal.
const CHECKSUM_BYTES: usize = 8;

/// What a checksum or a row hash covers; the discriminant is the seed of its XXH3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    Entry = 1,
    Vote = 2,
    LogId = 3,
    Membership = 4,
    SnapshotMeta = 5,
    Reply = 6,
    KvRow = 7,
    SessionRow = 8,
    LogTime = 9,
    MetaRow = 10,
    StatePointer = 11,
    LogFormat = 12,
}

impl Kind {
    /// XXH3-64 of `bytes`, seeded by the kind.
    pub fn checksum(self, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self as u64)
    }
}

/// Why bytes are not a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("{kind:?}: {bytes} bytes are too few")]
    TooShort { kind: Kind, bytes: usize },
    #[error("{kind:?}: format version {found}, this program reads version {VERSION}; use a newer program")]
    Version { kind: Kind, found: u8 },
    #[error("{kind:?}: the checksum does not match: the bytes are damaged")]
    Checksum { kind: Kind },
    #[error("{kind:?}: the checksum matches, but the body is not a value")]
    Body { kind: Kind },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Appends a seal of `kind` around what `body` appends.
pub(crate) fn seal_into(kind: Kind, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(VERSION);
    body(out);
    let checksum = kind.checksum(&out[start..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The body of a seal of `kind`, once version and checksum are right.
pub(crate) fn open_seal(kind: Kind, bytes: &[u8]) -> Result<&[u8], CodecError> {
    let sealed_len = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|len| *len >= 1);
    let sealed_len = sealed_len.ok_or(CodecError::TooShort { kind, bytes: bytes.len() })?;
    let (sealed, checksum) = bytes.split_at(sealed_len);
    // The checksum first: a damaged version byte is damage, not a newer program.
    if checksum != kind.checksum(sealed).to_le_bytes() {
        return Err(CodecError::Checksum { kind });
    }
    if sealed[0] != VERSION {
        return Err(CodecError::Version { kind, found: sealed[0] });
    }
    Ok(&sealed[1..])
}

/// Appends the postcard encoding of `value`.
fn append_postcard<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Vectors never refuse bytes, and none of our types has a length unknown up front.
    postcard::to_io(value, out).expect("values encode into memory");
}

/// Decodes all of `bytes`: a value followed by anything else is refused.
fn read_postcard<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, CodecError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(CodecError::Body { kind }),
    }
}

/// Seals the postcard encoding of `value`.
fn seal_postcard<T: Serialize + ?Sized>(kind: Kind, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    seal_into(kind, &mut out, |out| append_postcard(out, value));
    out
}

/// Opens a seal and decodes its body.
fn open_postcard<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, CodecError> {
    read_postcard(kind, open_seal(kind, bytes)?)
}
