//! The bodies of requests and responses, and their conversion from and to openraft's types.

use std::time::Duration;

use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::command::{Answer, Command, Query, Reply, SessionSeq};
use crate::error::ErrorCode;
use crate::message::{AdminReply, AdminRequest, Entries};
use crate::types::{Address, LeaderId, LogId, NodeId, Term, Vote};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Append(AppendRequest),
    Vote(BallotRequest),
    /// Would the vote be granted? Changes nothing.
    PreVote(BallotRequest),
    SnapshotBegin(SnapshotBegin),
    SnapshotChunk(SnapshotChunk),
    SnapshotFinish(SnapshotFinish),
    TransferLeader(TransferRequest),
    /// A client's command.
    Write {
        session: Option<SessionSeq>,
        command: Command,
        /// The client waits so long, ms.
        budget_ms: u32,
    },
    /// A client's linearizable read.
    Read {
        query: Query,
        /// The client waits so long, ms.
        budget_ms: u32,
    },
    /// Who leads?
    Leader,
    /// An operator's command.
    Admin {
        request: AdminRequest,
        /// The operator waits so long, ms.
        budget_ms: u32,
    },
    /// A client's read of whatever is applied at the node, within a bound.
    StaleRead {
        query: Query,
        bound: StaleBound,
        /// The client waits so long, ms.
        budget_ms: u32,
    },
    /// Up to which entry is everything committed that was acknowledged before this request? For the leader.
    ReadIndex {
        /// The node waits so long, ms.
        budget_ms: u32,
    },
}

/// How old the state may be that a stale read sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleBound {
    /// The state contains every write that was acknowledged so long before it was read. Measured by the clock of the node
    /// that answers.
    pub max_age: Option<Duration>,
    /// The state contains the command with this index; the node waits for it.
    pub min_revision: Option<u64>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Append(AppendReply),
    /// To a vote and to a pre-vote.
    Ballot(BallotReply),
    Snapshot(SnapshotReply),
    TransferLeader(TransferReply),
    Written(Reply),
    Answered(Answer),
    Leader {
        term: Term,
        leader: Option<LeaderHint>,
    },
    /// Any request may be refused.
    Refused(Refusal),
    Admin(AdminReply),
    ReadIndex {
        index: u64,
    },
}

/// Entries to append after `prev`; none is a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendRequest {
    pub vote: WireVote,
    pub prev: Option<LogPoint>,
    pub commit: Option<LogPoint>,
    pub entries: Entries,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendReply {
    /// All entries of the request are durable.
    Success,
    /// There is no entry `prev`.
    Conflict,
    HigherVote(WireVote),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotRequest {
    pub vote: WireVote,
    pub last: Option<LogPoint>,
    /// The leader itself asked for this election.
    pub transfer: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotReply {
    pub vote: WireVote,
    pub granted: bool,
    pub last: Option<LogPoint>,
}

/// Announces a snapshot. The checksum names the transfer: announcing it again resumes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBegin {
    pub vote: WireVote,
    /// Encoded by [`crate::codec`].
    #[serde(with = "serde_bytes")]
    pub meta: Vec<u8>,
    /// Bytes of the whole snapshot.
    pub len: u64,
    /// BLAKE3 of the whole snapshot.
    pub checksum: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    pub vote: WireVote,
    pub checksum: [u8; 32],
    pub offset: u64,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Every chunk was sent: verify and install. Asked again until it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFinish {
    pub vote: WireVote,
    pub checksum: [u8; 32],
}

/// The receiver's vote, and how far the transfer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReply {
    pub vote: WireVote,
    pub progress: SnapshotProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotProgress {
    /// Every byte before this offset has arrived.
    Receiving {
        next: u64,
    },
    /// All has arrived and is being verified and installed.
    Installing,
    Installed,
    /// No such transfer: it was never announced here, was lost in a restart, was superseded, or was found corrupt.
    Unknown,
    /// The sender's vote is too old.
    Rejected,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    pub from: WireVote,
    pub to: NodeId,
    pub last: Option<LogPoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferReply {
    Accepted,
    VoteChanged { actual: WireVote },
    LogNotFlushed { actual: Option<LogPoint> },
}

/// The request was not executed, or its outcome is unknown; the code says which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
    pub leader: Option<LeaderHint>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into(), leader: None }
    }
}

/// Who leads, as far as the answering node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderHint {
    pub id: NodeId,
    pub address: Address,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireVote {
    pub term: Term,
    pub node: NodeId,
    pub committed: bool,
}

impl From<&Vote> for WireVote {
    fn from(vote: &Vote) -> Self {
        WireVote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        Vote { leader_id: LeaderId::new(vote.term, vote.node), committed: vote.committed }
    }
}

/// A log id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPoint {
    pub term: Term,
    pub index: u64,
}

impl From<&LogId> for LogPoint {
    fn from(id: &LogId) -> Self {
        LogPoint { term: id.committed_leader_id().term, index: id.index() }
    }
}

impl From<LogPoint> for LogId {
    fn from(point: LogPoint) -> Self {
        LogId::new(point.term.into(), point.index)
    }
}
