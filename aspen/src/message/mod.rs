//! Messages: what nodes and clients say to each other, and how it is written.
//!
//! A request names the cluster and, between nodes, the node it is meant for, so that one that reaches the wrong node by
//! a stale address is refused. Encodings are our own (openraft's serde formats change between versions): one version
//! byte, then postcard of the types below. Decoding is bounded by the length of the input and never panics.
//!
//! Checksums and sizes on the link are the transport's business; entries and snapshots carry their own.

mod admin;
mod body;
mod entries;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use admin::{AdminReply, AdminRequest, ClusterStatus, MemberStatus, Upkeep, Upkept};
pub use body::{
    AppendReply, AppendRequest, BallotReply, BallotRequest, LeaderHint, LogPoint, Refusal, Request, Response,
    SnapshotBegin, SnapshotChunk, SnapshotFinish, SnapshotProgress, SnapshotReply, StaleBound, TransferReply,
    TransferRequest, WireVote,
};
pub use entries::{ENTRIES_MAX, Entries};

use crate::types::NodeId;

/// First byte of every message.
pub const VERSION: u8 = 1;

/// Names a cluster. Nodes and clients of different clusters refuse each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u64);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A request and whom it is meant for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub cluster: ClusterId,
    /// `None`: whoever serves at the address. Requests between nodes always name the node.
    pub to: Option<NodeId>,
    pub request: Request,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the message has {actual} bytes, {max} are allowed")]
    TooLong { actual: usize, max: usize },
    #[error("the message is empty")]
    Empty,
    #[error("the message has version {0}, this node speaks {VERSION}")]
    Version(u8),
    #[error("the message is malformed: {0}")]
    Malformed(String),
}

/// Writes a request.
pub fn encode_request(envelope: &Envelope) -> Vec<u8> {
    encode(envelope)
}

/// Reads a request of at most `max` bytes.
pub fn decode_request(bytes: &[u8], max: usize) -> Result<Envelope, DecodeError> {
    decode(bytes, max)
}

/// Writes a response.
pub fn encode_response(response: &Response) -> Vec<u8> {
    encode(response)
}

/// Reads a response of at most `max` bytes.
pub fn decode_response(bytes: &[u8], max: usize) -> Result<Response, DecodeError> {
    decode(bytes, max)
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).expect("a message has no length unknown in advance and no map")
}

fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong { actual: bytes.len(), max });
    }
    let (&version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(DecodeError::Malformed(format!("{} bytes follow its end", rest.len())));
    }
    Ok(message)
}
