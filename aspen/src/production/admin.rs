//! Administration: what operators ask for, translated into the commands of [`crate::membership`].
//!
//! Whether a change is safe is decided by the leader, in the part of the node that is simulated. Here one thing is added:
//! a learner is promoted only if it lags by fewer than [`PROMOTE_LAG_MAX`] entries, unless the operator insists. Every
//! change names the membership that it was decided on, so that it is refused if somebody else was faster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use crate::error::ErrorCode;
use crate::membership::Change;
use crate::message::{AdminReply as NodeReply, AdminRequest, ClusterStatus, Refusal, Request, Response};
use crate::node::{InitializeFailed, Node};
use crate::production::env::RealEnv;
use crate::production::http::App;
use crate::production::transport::Place;
use crate::types::{Address, Member, NodeId};

/// A learner that lags by so many entries is promoted only by force.
pub const PROMOTE_LAG_MAX: u64 = 100;

/// Adds a node that receives the log and does not vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddLearner {
    /// The index of an entry newer than the last change of the membership; one is found if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// `KEY@HOST:PORT`.
    pub address: String,
}

/// Makes a learner a voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteLearner {
    pub node_id: NodeId,
    /// The voter that it takes the place of, in one change; that one leaves the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<NodeId>,
    /// Also if it lags, as far as the leader's own guards allow.
    #[serde(default)]
    pub force: bool,
}

/// Makes exactly these the voters, or finishes a change that was interrupted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeMembership {
    #[serde(default)]
    pub voters: Option<BTreeSet<NodeId>>,
    /// Voters that are none any more stay as learners.
    #[serde(default)]
    pub retain: bool,
    /// Of two configurations in force the newer one alone; `voters` is left out.
    #[serde(default)]
    pub finish: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveNode {
    pub node_id: NodeId,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// Whom to; the voter with the most of the log if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
}

/// The membership after a change, as the node that was asked sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminReply {
    /// Index of the change in the log; of a transfer, the last entry applied.
    pub revision: u64,
    /// The node that was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    pub leader: Option<NodeId>,
}

/// Forms a new cluster with these members, this node among them.
pub async fn initialize(
    node: &Node<RealEnv>,
    members: BTreeMap<NodeId, Address>,
) -> Result<AdminReply, InitializeFailed> {
    let members = members.into_iter().map(|(id, address)| (id, Member { address })).collect();
    node.initialize(members).await?;
    Ok(reply(node, None))
}

/// One operator's work at one node; what only the leader can do is sent on to it.
pub struct Operator<'a> {
    pub app: &'a App,
    pub budget: Duration,
}

type Done = Result<AdminReply, Refusal>;

impl Operator<'_> {
    pub async fn add_learner(&self, request: AddLearner) -> Done {
        let AddLearner { node_id, address } = request;
        let id = match node_id {
            Some(id) => id,
            None => match self.ask(AdminRequest::AllocateNodeId).await? {
                NodeReply::Allocated(id) => id,
                other => return Err(strange(&other)),
            },
        };
        let status = self.status().await?;
        let silence_max = Duration::from_millis(2 * self.app.config.raft.election_max_ms);
        if let Some(reason) = is_no_newcomer(&address, &status, silence_max) {
            return Err(Refusal::new(ErrorCode::PreconditionFailed, reason));
        }
        let change = Change::AddLearner { id, address: Address(address) };
        self.change(change, &status, Some(id)).await
    }

    pub async fn promote(&self, request: PromoteLearner) -> Done {
        let PromoteLearner { node_id, replace, force } = request;
        let status = self.status().await?;
        if let Some(lag) = lag(&status, node_id).filter(|lag| *lag >= PROMOTE_LAG_MAX && !force) {
            let message = format!("node {node_id} lags by {lag} entries, fewer than {PROMOTE_LAG_MAX} are wanted");
            return Err(Refusal::new(ErrorCode::PreconditionFailed, message));
        }
        let change = Change::Voters { add: [node_id].into(), remove: replace.into_iter().collect(), retain: false };
        self.change(change, &status, None).await
    }

    pub async fn change_membership(&self, request: ChangeMembership) -> Done {
        let status = self.status().await?;
        let Some(voters) = request.voters.filter(|_| !request.finish) else {
            return self.change(Change::Finish, &status, None).await;
        };
        let now: BTreeSet<NodeId> = status.voters.iter().flatten().copied().collect();
        let change = Change::Voters {
            add: voters.difference(&now).copied().collect(),
            remove: now.difference(&voters).copied().collect(),
            retain: request.retain,
        };
        self.change(change, &status, None).await
    }

    pub async fn remove(&self, request: RemoveNode) -> Done {
        let status = self.status().await?;
        let id = request.node_id;
        let change = match status.learners.contains(&id) {
            true => Change::RemoveLearner { id },
            false => Change::Voters { add: BTreeSet::new(), remove: [id].into(), retain: false },
        };
        self.change(change, &status, None).await
    }

    pub async fn transfer(&self, request: TransferLeader) -> Done {
        let to = match request.to {
            Some(to) => to,
            None => heir(&self.status().await?)?,
        };
        match self.ask(AdminRequest::TransferLeadership { to }).await? {
            NodeReply::Transferred => {}
            other => return Err(strange(&other)),
        }
        // This node may hear of it later than the old leader.
        let mut metrics = self.app.node.raft().metrics();
        let heard = metrics.wait_until(move |metrics| metrics.current_leader == Some(to));
        drop(tokio::time::timeout(self.budget / 4, heard).await);
        Ok(reply(&self.app.node, None))
    }

    async fn status(&self) -> Result<ClusterStatus, Refusal> {
        match self.ask(AdminRequest::Status).await? {
            NodeReply::Status(status) => Ok(status),
            other => Err(strange(&other)),
        }
    }

    /// Makes a change that was decided on this status.
    async fn change(&self, change: Change, on: &ClusterStatus, node_id: Option<NodeId>) -> Done {
        let point = match self.ask(AdminRequest::Change { change, expected: on.membership }).await? {
            NodeReply::Changed(point) => point,
            other => return Err(strange(&other)),
        };
        // This node may apply it later than the leader.
        let mut metrics = self.app.node.raft().metrics();
        let applied =
            metrics.wait_until(move |metrics| metrics.last_applied.is_some_and(|applied| applied.index >= point.index));
        drop(tokio::time::timeout(self.budget / 4, applied).await);
        Ok(AdminReply { revision: point.index, ..reply(&self.app.node, node_id) })
    }

    async fn ask(&self, request: AdminRequest) -> Result<NodeReply, Refusal> {
        let budget_ms = u32::try_from(self.budget.as_millis()).unwrap_or(u32::MAX);
        match self.app.ask(Request::Admin { request, budget_ms }, self.budget).await? {
            Response::Admin(reply) => Ok(reply),
            _ => Err(Refusal::new(ErrorCode::InvalidReply, "the leader answered another question")),
        }
    }
}

/// Why a node at this address cannot be a new member, if so. Holds as long as the membership is that of `status`, which the
/// change is made on. Whether its id may be used is the leader's affair.
///
/// A key is its node's identity and has one id; a place may change hands, once who had it is gone.
fn is_no_newcomer(address: &str, status: &ClusterStatus, silence_max: Duration) -> Option<String> {
    let place: Place = address.parse().ok()?;
    for (other, member) in &status.members {
        let Ok(known) = member.address.0.parse::<Place>() else { continue };
        if known.key == place.key {
            return Some(format!(
                "the key is that of node {other}: remove that one, and start this one with a key of its own"
            ));
        }
        let silent_for = member.silent_for_ms.map(Duration::from_millis);
        let is_there = *other == status.leader || silent_for.is_some_and(|silent| silent <= silence_max);
        if known.at == place.at && is_there {
            return Some(format!("node {other} answers at {}: two nodes cannot", place.at));
        }
    }
    None
}

fn strange(reply: &NodeReply) -> Refusal {
    Refusal::new(ErrorCode::InvalidReply, format!("{reply:?} answers another command"))
}

/// Entries that a member lacks, if it is one.
fn lag(status: &ClusterStatus, node: NodeId) -> Option<u64> {
    let member = status.members.get(&node)?;
    Some(status.last_index.saturating_sub(member.matched.unwrap_or(0)))
}

/// The voter with the most of the leader's log.
fn heir(status: &ClusterStatus) -> Result<NodeId, Refusal> {
    let voters = status.voters.iter().flatten().copied().filter(|voter| *voter != status.leader);
    let best = voters.min_by_key(|voter| (lag(status, *voter), *voter));
    best.ok_or_else(|| Refusal::new(ErrorCode::PreconditionFailed, "there is no other voter"))
}

/// Everybody in the membership, and where they are.
pub fn members(node: &Node<RealEnv>) -> BTreeMap<NodeId, Address> {
    let metrics = node.raft().metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().nodes().map(|(id, member)| (*id, member.address.clone())).collect()
}

/// The membership now.
pub fn reply(node: &Node<RealEnv>, node_id: Option<NodeId>) -> AdminReply {
    let metrics = node.raft().metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    AdminReply {
        revision: metrics.last_applied.map_or(0, |applied| applied.index),
        node_id,
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        leader: metrics.current_leader,
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::message::MemberStatus;

    fn status() -> ClusterStatus {
        let member = |matched| MemberStatus { address: Address::default(), matched, silent_for_ms: Some(1) };
        ClusterStatus {
            leader: 1,
            term: 1,
            membership: None,
            is_committed: true,
            voters: vec![[1, 2, 3].into()],
            learners: [9].into(),
            members: [(1, member(None)), (2, member(Some(90))), (3, member(Some(100))), (9, member(None))].into(),
            last_index: 100,
            wall_clock_ms: 0,
        }
    }

    #[test]
    fn the_heir_has_the_most_of_the_log() {
        assert_eq!(heir(&status()).unwrap(), 3);
        let alone = ClusterStatus { voters: vec![[1].into()], ..status() };
        assert_eq!(heir(&alone).unwrap_err().code, ErrorCode::PreconditionFailed);
    }

    #[test]
    fn a_newcomer_has_a_key_that_no_member_has() {
        let place = |key: u8, at: &str| Place::new(SecretKey::from_bytes(&[key; 32]).public(), at).to_string();
        let mut status = status();
        for (id, member) in &mut status.members {
            member.address = Address(place(u8::try_from(*id).unwrap(), &format!("127.0.0.1:{id}")));
        }
        let refused = |key, at: &str| {
            let silence_max = Duration::from_secs(2);
            is_no_newcomer(&place(key, at), &status, silence_max).unwrap_or_default()
        };
        assert_eq!(refused(50, "127.0.0.1:50"), "");
        assert!(refused(9, "127.0.0.1:9").contains("that of node 9"));
        assert!(refused(3, "127.0.0.1:50").contains("that of node 3"));
        assert!(refused(1, "127.0.0.1:50").contains("that of node 1"), "the leader's own");
        assert!(refused(50, "127.0.0.1:1").contains("node 1 answers"));
        assert!(refused(50, "127.0.0.1:3").contains("node 3 answers"));
        status.members.get_mut(&3).unwrap().silent_for_ms = None;
        let moved_in = is_no_newcomer(&place(50, "127.0.0.1:3"), &status, Duration::from_secs(2));
        assert_eq!(moved_in, None, "who takes the place of a node that is gone");
    }

    #[test]
    fn a_member_that_was_never_heard_lacks_everything() {
        assert_eq!((lag(&status(), 2), lag(&status(), 9), lag(&status(), 5)), (Some(10), Some(100), None));
    }
}
