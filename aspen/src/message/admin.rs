//! What operators ask for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::LogPoint;
use crate::membership::Change;
use crate::types::{Address, NodeId, Term};

/// What an operator asks the leader for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Who is a member, and how far each is.
    Status,
    /// Commits a blank entry; its index is an id that no node ever had.
    AllocateNodeId,
    Change {
        change: Change,
        /// Log id of the membership that the operator decided on; refused if another one is in force.
        expected: Option<LogPoint>,
    },
    /// Makes another voter the leader.
    TransferLeadership { to: NodeId },
    /// Asked of one node, whoever leads.
    Upkeep(Upkeep),
}

/// What one node does for its own upkeep, when an operator asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upkeep {
    /// Takes a snapshot of everything applied.
    Snapshot,
    /// Removes every entry of the log that the snapshot covers.
    Purge,
    /// Empties SQLite's write-ahead log.
    Checkpoint,
    /// Stands for election, unless it leads or has no vote.
    Elect,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upkept {
    /// A durable snapshot holds at least everything up to here.
    Snapshot(LogPoint),
    /// The log begins after this entry, or later.
    Purged(LogPoint),
    /// Everything applied up to here is durable in the state machine, if a reader was not in the way.
    Checkpointed { applied: Option<LogPoint>, whole: bool },
    /// Whether it wins is for the others to say.
    Standing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    Status(ClusterStatus),
    Allocated(NodeId),
    /// The membership entry that is committed and applied.
    Changed(LogPoint),
    Transferred,
    Upkept(Upkept),
}

/// The cluster as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub leader: NodeId,
    pub term: Term,
    /// Log id of the latest membership.
    pub membership: Option<LogPoint>,
    /// That membership is committed.
    pub is_committed: bool,
    /// One set of voters, or two in a joint configuration.
    pub voters: Vec<BTreeSet<NodeId>>,
    pub learners: BTreeSet<NodeId>,
    pub members: BTreeMap<NodeId, MemberStatus>,
    /// Index of the leader's last entry.
    pub last_index: u64,
    /// The leader's wall clock, ms since the Unix epoch: one that is off shows here.
    pub wall_clock_ms: u64,
}

/// One member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub address: Address,
    /// Up to where its log matches the leader's.
    pub matched: Option<u64>,
    /// How long ago the leader heard of it, ms.
    pub silent_for_ms: Option<u64>,
}
