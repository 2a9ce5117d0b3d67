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
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    Status(ClusterStatus),
    Allocated(NodeId),
    /// The membership entry that is committed and applied.
    Changed(LogPoint),
    Transferred,
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
