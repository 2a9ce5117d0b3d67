//! What an operator's client asks for. Every change is guarded by the leader; see [`crate::membership`].

use std::collections::BTreeSet;

use super::{Addressee, Call, Client, mismatched};
use crate::env::Env;
use crate::error::{ClientError, ErrorCode};
use crate::membership::Change;
use crate::message::{AdminReply, AdminRequest, ClusterStatus, LogPoint, Request, Response, Upkeep, Upkept};
use crate::types::{Address, NodeId};

impl<E: Env> Client<E> {
    /// The cluster as its leader sees it.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, ClientError> {
        match self.admin(AdminRequest::Status, true).await? {
            AdminReply::Status(status) => Ok(status),
            other => Err(strange(&other)),
        }
    }

    /// An id that no node ever had, for one that joins.
    pub async fn allocate_node_id(&self) -> Result<NodeId, ClientError> {
        // An id that is never used does no harm.
        match self.admin(AdminRequest::AllocateNodeId, true).await? {
            AdminReply::Allocated(id) => Ok(id),
            other => Err(strange(&other)),
        }
    }

    /// Makes a change. `expected` is the membership it was decided on, from [`ClusterStatus::membership`]; if another
    /// one is in force the change is refused.
    ///
    /// After an unknown outcome look at the status: the change may have been made, or half of it, which
    /// [`Change::Finish`] completes.
    pub async fn change_membership(&self, change: Change, expected: Option<LogPoint>) -> Result<LogPoint, ClientError> {
        match self.admin(AdminRequest::Change { change, expected }, false).await? {
            AdminReply::Changed(id) => Ok(id),
            other => Err(strange(&other)),
        }
    }

    /// Adds a node that is sent the log but has no vote.
    pub async fn add_learner(&self, id: NodeId, address: Address, on: &ClusterStatus) -> Result<LogPoint, ClientError> {
        self.change_membership(Change::AddLearner { id, address }, on.membership).await
    }

    /// Makes a learner that is in sync a voter.
    pub async fn promote(&self, id: NodeId, on: &ClusterStatus) -> Result<LogPoint, ClientError> {
        let change = Change::Voters { add: [id].into(), remove: BTreeSet::new(), retain: true };
        self.change_membership(change, on.membership).await
    }

    /// Makes a learner a voter in the place of others, which leave the cluster: one change, so that at no time there
    /// are more voters, or fewer.
    pub async fn replace(
        &self,
        old: BTreeSet<NodeId>,
        new: NodeId,
        on: &ClusterStatus,
    ) -> Result<LogPoint, ClientError> {
        let change = Change::Voters { add: [new].into(), remove: old, retain: false };
        self.change_membership(change, on.membership).await
    }

    /// Removes a voter or learner from the cluster. Its id is never used again.
    pub async fn remove(&self, id: NodeId, on: &ClusterStatus) -> Result<LogPoint, ClientError> {
        let change = match on.learners.contains(&id) {
            true => Change::RemoveLearner { id },
            false => Change::Voters { add: BTreeSet::new(), remove: [id].into(), retain: false },
        };
        self.change_membership(change, on.membership).await
    }

    /// Makes another voter the leader. It may also be a third one that takes over.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), ClientError> {
        match self.admin(AdminRequest::TransferLeadership { to }, false).await? {
            AdminReply::Transferred => Ok(()),
            other => Err(strange(&other)),
        }
    }

    /// Asks one node, at this address, for its own upkeep. Repeated until the deadline: each may be done twice. A node
    /// that is not this one refuses.
    pub async fn upkeep(&self, upkeep: Upkeep, node: NodeId, at: Address) -> Result<Upkept, ClientError> {
        let request = Request::Admin { request: AdminRequest::Upkeep(upkeep), budget_ms: 0 };
        let call = Call { request, repeatable: true, to: Addressee::Node(node, at) };
        match self.deliver(call, self.deadline()).await?.response {
            Response::Admin(AdminReply::Upkept(upkept)) => Ok(upkept),
            Response::Admin(other) => Err(strange(&other)),
            other => Err(mismatched(&other)),
        }
    }

    async fn admin(&self, request: AdminRequest, repeatable: bool) -> Result<AdminReply, ClientError> {
        let call = Call { request: Request::Admin { request, budget_ms: 0 }, repeatable, to: Addressee::Leader };
        match self.deliver(call, self.deadline()).await?.response {
            Response::Admin(reply) => Ok(reply),
            other => Err(mismatched(&other)),
        }
    }
}

fn strange(reply: &AdminReply) -> ClientError {
    ClientError::new(ErrorCode::InvalidReply, format!("{reply:?} answers another command"))
}
