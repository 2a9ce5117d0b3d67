//! Administration: changes of the membership and of the leader, done at the leader.
//!
//! What is asked for is a value ([`AdminRequest`]), so that a node that does not lead can send it on; [`rules`] decides
//! whether it is safe; openraft carries it out under the precondition that the membership is still the one the decision
//! was made on.

pub mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::{ClientWriteResponse, Precondition};
use openraft::{ChangeMembers, Instant as _};
use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::error::{ErrorCode, ErrorOutcome};
use crate::node::{InitializeFailed, Node};
use crate::production::admin::rules::{Other, Refusal, View};
use crate::types::{Address, Member, NodeId, TypeConfig};

/// A change that only the leader can make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminRequest {
    AddLearner(AddLearner),
    PromoteLearner(PromoteLearner),
    ChangeMembership(ChangeMembership),
    RemoveNode(RemoveNode),
    TransferLeader(TransferLeader),
}

/// Adds a node that receives the log and does not vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddLearner {
    /// Never used before in this cluster; a new one is found if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// `KEY@HOST:PORT`.
    pub address: String,
    /// Whether to answer only once it has caught up.
    #[serde(default)]
    pub wait: bool,
}

/// Makes a learner a voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteLearner {
    pub node_id: NodeId,
    /// The voter that it takes the place of; that one leaves the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<NodeId>,
    /// Also if it lags or does not respond.
    #[serde(default)]
    pub force: bool,
}

/// Makes exactly these the voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeMembership {
    pub voters: BTreeSet<NodeId>,
    /// Voters that are none any more stay as learners.
    #[serde(default)]
    pub retain: bool,
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

/// The membership after a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminReply {
    /// Index of the change in the log; of a transfer, the last entry then.
    pub revision: u64,
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    pub leader: Option<NodeId>,
}

/// Why a change was not made, or may have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminError {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub hint: String,
    pub outcome: ErrorOutcome,
}

impl AdminError {
    pub fn definite(status: u16, code: &str, message: impl Into<String>, hint: &str) -> Self {
        AdminError {
            status,
            code: code.to_owned(),
            message: message.into(),
            hint: hint.to_owned(),
            outcome: ErrorOutcome::Definite,
        }
    }

    pub fn not_leader() -> Self {
        AdminError::definite(503, ErrorCode::NotLeader.name(), "this node does not lead", "try again at the leader")
    }

    /// It may have happened.
    pub fn unknown(code: ErrorCode, message: impl Into<String>) -> Self {
        AdminError {
            status: 504,
            code: code.name().to_owned(),
            message: message.into(),
            hint: "look at /node-info before you repeat it".to_owned(),
            outcome: ErrorOutcome::Unknown,
        }
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        let (status, code, hint) = match &refusal {
            Refusal::Unknown(_) => (404, "unknown-node", "add it as a learner first"),
            Refusal::IsVoter(_) | Refusal::NotAVoter(_) | Refusal::IsMember(_) => {
                (409, "wrong-kind", "/node-info shows the members")
            }
            Refusal::Lags { .. } => (409, "learner-lags", "wait until it has caught up, or use force"),
            Refusal::Silent(_) => (409, "node-silent", "see that it runs and can be reached"),
            Refusal::QuorumLost { .. } => {
                (409, "quorum-lost", "bring voters back, or remove those that are gone first")
            }
            Refusal::NoVoters => (400, "no-voters", "name one voter at least"),
            Refusal::TooManyVoters(_) => (400, "too-many-voters", "docs/limits.md has the bound"),
            Refusal::InProgress => (409, "in-progress", "wait until it is done, or finish it with /change-membership"),
        };
        AdminError::definite(status, code, refusal.to_string(), hint)
    }
}

type Changed<E> = Result<ClientWriteResponse<TypeConfig<E>>, RaftError<TypeConfig<E>, ClientWriteError<TypeConfig<E>>>>;

/// Forms a new cluster with these members, this node among them.
pub async fn initialize<E: Env>(node: &Node<E>, members: BTreeMap<NodeId, Address>) -> Result<AdminReply, AdminError> {
    let members = members.into_iter().map(|(id, address)| (id, Member { address })).collect();
    match node.initialize(members).await {
        Ok(()) => Ok(reply(node)),
        Err(error @ InitializeFailed::Already) => {
            Err(AdminError::definite(409, "already-initialized", error.to_string(), "/node-info shows the cluster"))
        }
        Err(error @ InitializeFailed::NotAMember(_)) => {
            Err(AdminError::definite(400, "not-a-member", error.to_string(), "ask one of the members"))
        }
        Err(InitializeFailed::Stopped(why)) => Err(AdminError::unknown(ErrorCode::NodeFailed, why)),
    }
}

/// Makes a change, at the leader, within `budget`.
pub async fn execute<E: Env>(
    node: &Node<E>,
    request: AdminRequest,
    voters_max: usize,
    silence_max: Duration,
    budget: Duration,
) -> Result<AdminReply, AdminError> {
    let late = |_| Err(AdminError::unknown(ErrorCode::Timeout, format!("it was not done within {budget:?}")));
    tokio::time::timeout(budget, change(node, request, voters_max, silence_max)).await.unwrap_or_else(late)
}

async fn change<E: Env>(
    node: &Node<E>,
    request: AdminRequest,
    voters_max: usize,
    silence_max: Duration,
) -> Result<AdminReply, AdminError> {
    if node.raft().as_leader().is_err() {
        return Err(AdminError::not_leader());
    }
    let (view, guard) = view(node, silence_max);
    let raft = node.raft();
    let changed = match request {
        AdminRequest::AddLearner(AddLearner { node_id, address, wait }) => {
            let node_id = match node_id {
                Some(node_id) if view.voters.contains(&node_id) || view.learners.contains(&node_id) => {
                    return Err(Refusal::IsMember(node_id).into());
                }
                Some(node_id) => node_id,
                None => allocate(node, &view).await?,
            };
            raft.add_learner(node_id, Member { address: Address(address) }, wait).await
        }
        AdminRequest::PromoteLearner(PromoteLearner { node_id, replace, force }) => {
            let voters = view.promote(node_id, replace, force, voters_max)?;
            raft.change_membership_if(ChangeMembers::ReplaceAllVoters(voters), false, guard).await
        }
        AdminRequest::ChangeMembership(ChangeMembership { voters, retain }) => {
            view.replace_all(&voters, voters_max)?;
            raft.change_membership_if(ChangeMembers::ReplaceAllVoters(voters), retain, guard).await
        }
        AdminRequest::RemoveNode(RemoveNode { node_id }) => match view.remove(node_id)? {
            Some(voters) => raft.change_membership_if(ChangeMembers::ReplaceAllVoters(voters), false, guard).await,
            None => raft.change_membership_if(ChangeMembers::RemoveNodes([node_id].into()), false, guard).await,
        },
        AdminRequest::TransferLeader(TransferLeader { to }) => return transfer(node, view.heir(to)?).await,
    };
    concluded(node, changed)
}

/// An id that no node ever had: the index of a blank entry. Founders have small ids of their own choice.
async fn allocate<E: Env>(node: &Node<E>, view: &View) -> Result<NodeId, AdminError> {
    loop {
        let id = match node.raft().write_blank().await {
            Ok(response) => response.log_id.index,
            Err(error) => return concluded(node, Err(error)).map(|_| 0),
        };
        if view.voters.iter().chain(&view.learners).all(|member| *member < id) {
            return Ok(id);
        }
    }
}

/// Hands the leadership over, and waits until the heir leads.
async fn transfer<E: Env>(node: &Node<E>, to: NodeId) -> Result<AdminReply, AdminError> {
    if to != node.id() {
        let failed = |fatal: &dyn std::fmt::Display| AdminError::unknown(ErrorCode::NodeFailed, fatal.to_string());
        node.raft().trigger().transfer_leader(to).await.map_err(|fatal| failed(&fatal))?;
        let mut metrics = node.raft().metrics();
        let led = metrics.wait_until(move |metrics| metrics.current_leader == Some(to)).await;
        led.map_err(|_| AdminError::unknown(ErrorCode::NodeFailed, "the node stopped"))?;
    }
    Ok(reply(node))
}

fn concluded<E: Env>(node: &Node<E>, changed: Changed<E>) -> Result<AdminReply, AdminError> {
    match changed {
        Ok(response) => Ok(AdminReply { revision: response.log_id.index, ..reply(node) }),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(AdminError::not_leader()),
        Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward))) => {
            Err(AdminError::unknown(ErrorCode::Discarded, forward.to_string()))
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => match error {
            ChangeMembershipError::InProgress(_) => Err(Refusal::InProgress.into()),
            ChangeMembershipError::LearnerNotFound(missing) => Err(Refusal::Unknown(missing.node_id).into()),
            other => Err(AdminError::definite(409, "not-possible", other.to_string(), "/node-info shows the members")),
        },
        Err(RaftError::APIError(ClientWriteError::PreconditionFailed(failed))) => {
            let hint = "somebody else changed the membership: look at it and decide again";
            Err(AdminError::definite(409, "changed-meanwhile", failed.to_string(), hint))
        }
        Err(RaftError::Fatal(fatal)) => Err(AdminError::unknown(ErrorCode::NodeFailed, fatal.to_string())),
    }
}

/// What the leader sees, and the precondition that the membership is still this one.
fn view<E: Env>(node: &Node<E>, silence_max: Duration) -> (View, Vec<Precondition<TypeConfig<E>>>) {
    let metrics = node.raft().metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let mut others = BTreeMap::new();
    for (id, matched) in metrics.replication.iter().flatten() {
        let heard = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(id)).copied().flatten();
        let other = Other {
            matched: matched.as_ref().map_or(0, |matched| matched.index),
            silent: heard.map(|at| at.elapsed()),
        };
        others.insert(*id, other);
    }
    let view = View {
        me: metrics.id,
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        last_index: metrics.last_log_index.unwrap_or(0),
        others,
        silence_max,
        joint: membership.get_joint_config().len() > 1,
    };
    let guard = Precondition::LastMembershipLogId { last_membership_log_id: *metrics.membership_config.log_id() };
    (view, vec![guard])
}

/// Everybody in the membership, and where they are.
pub fn members<E: Env>(node: &Node<E>) -> BTreeMap<NodeId, Address> {
    let metrics = node.raft().metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().nodes().map(|(id, member)| (*id, member.address.clone())).collect()
}

/// The membership now.
pub fn reply<E: Env>(node: &Node<E>) -> AdminReply {
    let metrics = node.raft().metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    AdminReply {
        revision: metrics.last_applied.map_or(0, |applied| applied.index),
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        leader: metrics.current_leader,
    }
}
