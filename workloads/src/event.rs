//! What the oracles see: everything observable that nodes, disks and clients of one run did.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use aspen::command::{Answer, Command, Query, Reply, SessionSeq};
use aspen::message::{StaleBound, Upkept};
use aspen::observe::{EntryMeta, Observation};
use aspen::types::{LogId, NodeId, Vote};
use serde::{Deserialize, Serialize};

/// One event. The host and boot of its stamp are those of the node, or of the client's machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// A host begins a boot as this Raft node.
    Booted { node: NodeId },
    /// The node has recovered and serves.
    Serving { node: NodeId },
    /// The boot ended. What it said later than this is void.
    Down { node: NodeId, cause: Down },
    /// The node stops by itself, for this reason. In this boot its disk failed it so often: errors, no room, damage.
    Failed { node: NodeId, disk_faults: u64, reason: String },
    /// The stores of a node changed.
    Store { node: NodeId, observation: Observation },
    /// openraft's view changed.
    Metrics(Box<NodeMetrics>),
    /// What a node's disk would hold if its power failed now, decoded by a reader of our own.
    Image { node: NodeId, image: Box<DurableImage>, reason: ImageReason },
    /// A node told another this, and of its disk, decoded at that moment, this matters.
    Told { node: NodeId, told: Told, image: Box<DurableImage> },
    /// A client begins an operation. Ids ascend over the whole run.
    Invoked { client: u32, op: u64, action: Rc<Action> },
    /// A client's operation ended; an operation that never returns stays unknown.
    Returned { client: u32, op: u64, result: Rc<OpResult> },
    /// A write of a past life of the cluster's nodes was spent on purpose: the node lost its disk.
    Spent { node: NodeId },
    /// The disk of a node was damaged or lost on purpose: what is on it proves nothing any more. The node must notice before
    /// it says anything that is wrong.
    Damaged { node: NodeId },
    /// An operator was told what came of upkeep.
    Upkept { node: NodeId, upkept: Upkept },
    /// How much a node keeps.
    Usage { node: NodeId, usage: Usage },
    /// By so many ppm the monotonic clock of a server is too slow at any time of the run, at worst.
    ClocksSlow { ppm_max: u64 },
    /// Faults are over; the cluster must converge from here.
    Calm,
    /// The final states of the nodes follow: converged, or not (with the reason).
    Converged { result: Result<(), String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    Crash,
    PowerLoss,
    /// A clean stop.
    Stopped,
    /// The node stopped itself because of a storage or Raft error.
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageReason {
    PowerLoss,
    Commit,
    /// A log was truncated a moment ago.
    Truncation,
    /// An operator was told something about it.
    Promise,
    End,
}

/// What a node told another, under the vote of whom it told it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It votes so.
    Vote(Vote),
    /// Its log has this entry and all before it.
    Entries { vote: Vote, last: LogId },
    /// It has installed a snapshot that ends with this, or has all that is in it.
    Snapshot { vote: Vote, last: LogId },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Learner,
    Follower,
    Candidate,
    Leader,
    Shutdown,
}

/// What a node keeps on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Entries in the log that are applied.
    pub log_entries: u64,
    pub last_index: u64,
    /// Entries after which a snapshot is due, and those that are kept after one.
    pub compacted_at: u64,
    /// All files, as long as they are.
    pub disk_bytes: u64,
    /// Snapshots among them that are complete.
    pub snapshots: u64,
}

/// openraft's metrics of one node, the parts that are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeMetrics {
    pub node: NodeId,
    pub role: Role,
    pub term: u64,
    pub vote: Vote,
    pub leader: Option<NodeId>,
    pub last_log_index: Option<u64>,
    /// Committed as this node knows it.
    pub committed: Option<LogId>,
    pub applied: Option<LogId>,
    pub snapshot: Option<LogId>,
    pub purged: Option<LogId>,
    pub membership: MembershipView,
    pub committed_membership: MembershipView,
}

/// A membership configuration: one set of voters, or two in a joint one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembershipView {
    pub log_id: Option<LogId>,
    pub voters: Vec<BTreeSet<NodeId>>,
    pub learners: BTreeSet<NodeId>,
}

/// The durable state of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DurableImage {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// Log entries, by index, as found.
    pub log: BTreeMap<u64, EntryMeta>,
    pub applied: Option<LogId>,
    /// Hash over all rows, sessions and membership, recomputed by the reader.
    pub state_hash: Option<u64>,
    pub snapshot: Option<LogId>,
    /// What the reader could not make sense of. Legal only while a node is being created.
    pub defects: Vec<String>,
}

impl DurableImage {
    /// Whether the log has this entry, or had it before it was purged.
    pub fn holds(&self, id: LogId) -> bool {
        let is_purged = self.purged.is_some_and(|purged| purged.index >= id.index);
        is_purged || self.log.get(&id.index).is_some_and(|entry| entry.log_id == id)
    }

    /// Index up to which the log has entries, or had them before they were purged.
    pub fn log_end(&self) -> Option<u64> {
        let last = self.log.last_key_value().map(|(index, _)| *index);
        last.max(self.purged.map(|id| id.index))
    }

    /// Up to where the state or a snapshot stands for entries.
    pub fn covered(&self) -> Option<LogId> {
        self.applied.max(self.snapshot)
    }
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Write {
        session: Option<SessionSeq>,
        command: Command,
    },
    Read(Query),
    /// Of any node, within a bound.
    StaleRead {
        query: Query,
        bound: StaleBound,
    },
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    Written(Reply),
    Answered(Answer),
    /// Nothing happened, ever; the reason for people.
    Failed(String),
    /// Anything may have happened, or may still.
    Unknown(String),
}
