//! Which Raft node each machine is.
//!
//! A machine begins as a founder, or as a spare without an identity. One that lost its disk, or was taken out of the
//! cluster, has none until an operator gives it a new one, from the log: ids are never reused. All this is outside all
//! machines; what operators agree on among themselves is in their [`notebook`](crate::membership::notebook).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use aspen::types::NodeId;
use sim_runtime::sync::oneshot;
use sim_runtime::world;

thread_local! {
    static MACHINES: RefCell<Machines> = RefCell::default();
}

#[derive(Default)]
struct Machines {
    /// So many machines, the first ones, found the cluster; if not known yet, all.
    founders: Option<u32>,
    /// Machines that are no longer what they began as.
    changed: BTreeMap<u32, Option<NodeId>>,
    /// Nodes that are gone with their disks, and since when.
    lost: BTreeMap<NodeId, u64>,
    /// Nodes whose disk is damaged, or will be.
    damaged: BTreeSet<NodeId>,
    /// Machines taken out of the cluster whose node has not been stopped yet.
    retired: BTreeSet<u32>,
    /// Tells the node on a machine that it was taken out.
    leave: BTreeMap<u32, oneshot::Sender<()>>,
    /// Operators at work.
    operators: u32,
    /// Until then a change of this client that takes a vote away may still be made.
    risks_until_ns: BTreeMap<u32, u64>,
    /// No node loses its vote for a while any more.
    no_demotions: bool,
    /// What an operator met last.
    said: String,
}

/// A new run begins.
pub fn reset() {
    MACHINES.set(Machines::default());
}

/// The first so many servers found the cluster, the others are spares.
pub fn found(founders: u32) {
    MACHINES.with_borrow_mut(|machines| machines.founders = Some(founders));
}

/// The node that founds the cluster on this server.
pub fn founder(server: u32) -> NodeId {
    u64::from(server) + 1
}

/// Whether this server is one of those that found the cluster.
pub fn is_founder(server: u32) -> bool {
    MACHINES.with_borrow(|machines| machines.founders.is_none_or(|founders| server < founders))
}

/// The node on a server; `None` while it has no identity.
pub fn node_on(server: u32) -> Option<NodeId> {
    let begun = is_founder(server).then(|| founder(server));
    MACHINES.with_borrow(|machines| machines.changed.get(&server).copied().unwrap_or(begun))
}

/// The nodes of all servers.
pub fn all(servers: usize) -> Vec<Option<NodeId>> {
    (0..u32::try_from(servers).expect("few servers")).map(node_on).collect()
}

/// How many servers there are that have an identity.
pub fn identified(servers: usize) -> usize {
    all(servers).iter().flatten().count()
}

/// An operator gives a server a new identity.
pub fn identify(server: u32, node: NodeId) {
    MACHINES.with_borrow_mut(|machines| machines.changed.insert(server, Some(node)));
}

/// The server lost its disk. Returns the node that is gone with it.
pub fn lose(server: u32) -> Option<NodeId> {
    let node = node_on(server);
    MACHINES.with_borrow_mut(|machines| {
        machines.lost.extend(node.map(|node| (node, world::now_ns())));
        machines.changed.insert(server, None);
        machines.retired.remove(&server);
    });
    node
}

/// Since when a node is gone with its disk, in ns.
pub fn lost_at_ns(node: NodeId) -> Option<u64> {
    MACHINES.with_borrow(|machines| machines.lost.get(&node).copied())
}

/// The node on this server is no member any more: it is stopped soon, and the machine set up anew.
pub fn retire(server: u32) {
    let leave = MACHINES.with_borrow_mut(|machines| {
        machines.retired.insert(server);
        machines.leave.remove(&server)
    });
    // Nobody listens on a machine that is down.
    let _ = leave.map(|leave| leave.send(()));
}

pub fn is_retired(server: u32) -> bool {
    MACHINES.with_borrow(|machines| machines.retired.contains(&server))
}

/// Resolves when the node on this server is taken out of the cluster. Of one boot: an earlier one hears nothing more.
pub fn retirement(server: u32) -> impl Future<Output = ()> + Send {
    let (leave, left) = oneshot::channel();
    MACHINES.with_borrow_mut(|machines| machines.leave.insert(server, leave));
    if is_retired(server) {
        retire(server);
    }
    async move {
        if left.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A node's disk is damaged, or will be: it may never come back.
pub fn damage(node: NodeId) {
    MACHINES.with_borrow_mut(|machines| machines.damaged.insert(node));
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
        let is_lost = |voter: &NodeId| machines.lost.contains_key(voter) || machines.damaged.contains(voter);
        let lost = voters.iter().filter(|voter| **voter == node || is_lost(voter)).count();
        (voters.len() - lost) * 2 > voters.len()
    })
}

pub fn operator_begins() {
    MACHINES.with_borrow_mut(|machines| machines.operators += 1);
}

/// The cluster is as this operator wants it, and it has gone home.
pub fn operator_ends() {
    MACHINES.with_borrow_mut(|machines| machines.operators -= 1);
}

/// An operator looks after the cluster.
pub fn is_tended() -> bool {
    MACHINES.with_borrow(|machines| machines.operators > 0)
}

/// Until `until_ns` a change of this client may cost a quorum a member: no machine may be lost meanwhile.
pub fn operator_risks(client: u32, until_ns: u64) {
    MACHINES.with_borrow_mut(|machines| machines.risks_until_ns.insert(client, until_ns));
}

/// Whether such a change may be under way.
pub fn is_risky(now_ns: u64) -> bool {
    MACHINES.with_borrow(|machines| machines.risks_until_ns.values().any(|until_ns| now_ns < *until_ns))
}

/// An operator notes what happened, for whoever asks why the cluster is not whole.
pub fn operator_notes(text: String) {
    MACHINES.with_borrow_mut(|machines| machines.said = text);
}

/// The last note.
pub fn operator_said() -> String {
    MACHINES.with_borrow(|machines| machines.said.clone())
}
