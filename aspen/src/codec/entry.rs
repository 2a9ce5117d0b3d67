//! Log entries: the log id in fixed width, so that it is read without decoding the payload, then the payload.

use serde::{Deserialize, Serialize};

use super::raft::MembershipV1;
use super::{CodecError, Kind, append_postcard, open_seal, read_postcard, seal_into};
use crate::command::Proposal;
use crate::observe::EntryMeta;
use crate::types::{CommittedLeaderId, Entry, LogId, Payload};

/// Bytes of term and index in front of the payload.
const LOG_ID_BYTES: usize = 16;
/// Postcard's first byte of a payload that is a membership: the number of the variant.
const MEMBERSHIP_VARIANT: u8 = 2;

/// Writes what [`PayloadV1`] reads, without cloning the proposal.
#[derive(Serialize)]
enum PayloadRefV1<'a> {
    Blank,
    Normal(&'a Proposal),
    Membership(MembershipV1),
}

#[derive(Deserialize)]
enum PayloadV1 {
    Blank,
    Normal(Proposal),
    Membership(MembershipV1),
}

/// Seals `entry`: term and index (8 bytes each, little-endian), then the payload.
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_entry_into(entry, &mut out);
    out
}

/// Appends what [`encode_entry`] returns.
pub fn encode_entry_into(entry: &Entry, out: &mut Vec<u8>) {
    seal_into(Kind::Entry, out, |out| {
        out.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
        out.extend_from_slice(&entry.log_id.index.to_le_bytes());
        append_payload(out, &entry.payload);
    });
}

pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    let (log_id, payload) = split(bytes)?;
    Ok(Entry { log_id, payload: decode_payload(payload)? })
}

/// What an observer is told of an encoded entry. The payload is not decoded.
pub fn decode_entry_meta(bytes: &[u8]) -> Result<EntryMeta, CodecError> {
    let (log_id, payload) = split(bytes)?;
    let is_membership = payload.first() == Some(&MEMBERSHIP_VARIANT);
    Ok(EntryMeta { log_id, payload_hash: payload_hash(payload), is_membership })
}

/// The payload as it stands in an entry, without a seal of its own.
pub fn encode_payload(payload: &Payload) -> Vec<u8> {
    let mut out = Vec::new();
    append_payload(&mut out, payload);
    out
}

pub fn decode_payload(bytes: &[u8]) -> Result<Payload, CodecError> {
    match read_postcard(Kind::Entry, bytes)? {
        PayloadV1::Blank => Ok(Payload::Blank),
        PayloadV1::Normal(proposal) => Ok(Payload::Normal(proposal)),
        PayloadV1::Membership(membership) => {
            membership.into_membership().map(Payload::Membership).ok_or(CodecError::Body { kind: Kind::Entry })
        }
    }
}

/// XXH3-64, seed 0, of an encoded payload.
pub fn payload_hash(encoded: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(encoded)
}

fn append_payload(out: &mut Vec<u8>, payload: &Payload) {
    let mirror = match payload {
        Payload::Blank => PayloadRefV1::Blank,
        Payload::Normal(proposal) => PayloadRefV1::Normal(proposal),
        Payload::Membership(membership) => PayloadRefV1::Membership(membership.into()),
    };
    append_postcard(out, &mirror);
}

/// The log id and the encoded payload of a sealed entry.
fn split(bytes: &[u8]) -> Result<(LogId, &[u8]), CodecError> {
    let body = open_seal(Kind::Entry, bytes)?;
    let too_short = CodecError::TooShort { kind: Kind::Entry, bytes: bytes.len() };
    let (term, rest) = body.split_first_chunk().ok_or(too_short)?;
    let (index, payload) = rest.split_first_chunk().ok_or(too_short)?;
    debug_assert_eq!(body.len(), LOG_ID_BYTES + payload.len());
    let leader_id = CommittedLeaderId::new(u64::from_le_bytes(*term));
    Ok((LogId { leader_id, index: u64::from_le_bytes(*index) }, payload))
}
