//! Which Raft node each machine is.
//!
//! A machine begins as a founder. One that lost its disk has no identity until the operator gives it a new one, from
//! the log: ids are never reused. Like the operator's notebook this is outside all machines.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use aspen::types::NodeId;

thread_local! {
    static MACHINES: RefCell<Machines> = RefCell::default();
}

#[derive(Default)]
struct Machines {
    /// Machines that are no longer what they were founded as.
    changed: BTreeMap<u32, Option<NodeId>>,
    /// Nodes that are gone with their disks.
    lost: BTreeSet<NodeId>,
    operator: Operator,
    /// Until then a change that takes a vote away may still be made.
    risk_until_ns: u64,
    /// No node loses its vote for a while any more.
    no_demotions: bool,
    /// What the operator met last.
    said: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Operator {
    /// There is none in this run.
    #[default]
    Absent,
    Working,
    /// The cluster is whole, and the operator has gone home.
    Done,
}

/// A new run begins.
pub fn reset() {
    MACHINES.set(Machines::default());
}

/// The node that founds the cluster on this server.
pub fn founder(server: u32) -> NodeId {
    u64::from(server) + 1
}

/// The node on a server; `None` while it has no identity.
pub fn node_on(server: u32) -> Option<NodeId> {
    MACHINES.with_borrow(|machines| machines.changed.get(&server).copied().unwrap_or(Some(founder(server))))
}

/// The nodes of all servers.
pub fn all(servers: usize) -> Vec<Option<NodeId>> {
    (0..u32::try_from(servers).expect("few servers")).map(node_on).collect()
}

/// The operator gives a server a new identity.
pub fn identify(server: u32, node: NodeId) {
    MACHINES.with_borrow_mut(|machines| machines.changed.insert(server, Some(node)));
}

/// The server lost its disk. Returns the node that is gone with it.
pub fn lose(server: u32) -> Option<NodeId> {
    let node = node_on(server);
    MACHINES.with_borrow_mut(|machines| {
        machines.lost.extend(node);
        machines.changed.insert(server, None);
    });
    node
}

/// A node's disk is damaged: it may never come back.
pub fn damage(node: NodeId) {
    MACHINES.with_borrow_mut(|machines| machines.lost.insert(node));
}

/// A machine will be lost: from now on every vote is needed.
pub fn forbid_demotions() {
    MACHINES.with_borrow_mut(|machines| machines.no_demotions = true);
}

pub fn are_demotions_forbidden() -> bool {
    MACHINES.with_borrow(|machines| machines.no_demotions)
}

/// Whether a set of voters still has a quorum of nodes that are not lost when `node` is lost too.
pub fn survives(voters: &BTreeSet<NodeId>, node: NodeId) -> bool {
    MACHINES.with_borrow(|machines| {
        let lost = voters.iter().filter(|voter| **voter == node || machines.lost.contains(voter)).count();
        (voters.len() - lost) * 2 > voters.len()
    })
}

pub fn operator_begins() {
    MACHINES.with_borrow_mut(|machines| machines.operator = Operator::Working);
}

pub fn operator_ends() {
    MACHINES.with_borrow_mut(|machines| machines.operator = Operator::Done);
}

/// An operator looks after the cluster.
pub fn is_tended() -> bool {
    MACHINES.with_borrow(|machines| machines.operator == Operator::Working)
}

/// Until `until_ns` the operator's change may cost a quorum a member: no machine may be lost meanwhile.
pub fn operator_risks(until_ns: u64) {
    MACHINES.with_borrow_mut(|machines| machines.risk_until_ns = until_ns);
}

/// Whether such a change may be under way.
pub fn is_risky(now_ns: u64) -> bool {
    MACHINES.with_borrow(|machines| now_ns < machines.risk_until_ns)
}

/// The operator notes what happened, for whoever asks why the cluster is not whole.
pub fn operator_notes(text: String) {
    MACHINES.with_borrow_mut(|machines| machines.said = text);
}

/// The last note.
pub fn operator_said() -> String {
    MACHINES.with_borrow(|machines| machines.said.clone())
}
