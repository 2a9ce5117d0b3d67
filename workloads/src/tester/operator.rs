//! What the operator of a tester does: looks, makes one change, looks again, until the cluster is as it was asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use aspen::error::{ClientError, ErrorCode};
use aspen::membership::Change;
use aspen::message::ClusterStatus;
use aspen::types::{Address, NodeId};
use sim_runtime::world;

use super::client::Hand;
use crate::machines;

/// How the membership shall be.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    Learner {
        id: NodeId,
        address: Address,
    },
    /// This node votes, and none that is on no machine does.
    Voter {
        id: NodeId,
        machines: usize,
    },
    /// Exactly these vote. Who did stays on as a learner.
    Voters(BTreeSet<NodeId>),
    /// This one is no member.
    Gone {
        id: NodeId,
    },
}

impl Wish {
    /// What is to be done, if anything is. `voters` are those of the status.
    fn change(&self, status: &ClusterStatus, voters: &BTreeSet<NodeId>) -> Option<Change> {
        match self {
            Wish::Learner { id, address } => {
                let is_member = voters.contains(id) || status.learners.contains(id);
                (!is_member).then(|| Change::AddLearner { id: *id, address: address.clone() })
            }
            Wish::Voter { id, machines } => {
                let living: BTreeSet<NodeId> = machines::all(*machines).into_iter().flatten().collect();
                let gone = voters.difference(&living).copied().collect();
                let add = [*id].into();
                (!voters.contains(id)).then_some(Change::Voters { add, remove: gone, retain: false })
            }
            Wish::Voters(wanted) => (voters != wanted).then(|| Change::Voters {
                add: wanted.difference(voters).copied().collect(),
                remove: voters.difference(wanted).copied().collect(),
                retain: true,
            }),
            Wish::Gone { id } if voters.contains(id) => {
                Some(Change::Voters { add: BTreeSet::new(), remove: [*id].into(), retain: false })
            }
            Wish::Gone { id } => status.learners.contains(id).then_some(Change::RemoveLearner { id: *id }),
        }
    }
}

/// Changes the membership until it is as wished, finishing what was interrupted.
pub(super) async fn fulfil(hand: &Hand, wish: Wish) -> Result<(), ClientError> {
    let deadline = world::now_ns() + PATIENCE_NS;
    loop {
        let done = try_once(hand, &wish).await;
        match done {
            Ok(true) => return Ok(()),
            Err(error) if world::now_ns() > deadline => return Err(error),
            Ok(false) if world::now_ns() > deadline => {
                return Err(ClientError::new(
                    ErrorCode::Timeout,
                    format!("the membership is not yet as wished: {wish:?}"),
                ));
            }
            Ok(false) | Err(_) => world::sleep(LOOK).await,
        }
    }
}

/// One look and one change. Returns whether nothing was left to do.
pub(super) async fn try_once(hand: &Hand, wish: &Wish) -> Result<bool, ClientError> {
    let status = hand.aspen.cluster_status().await?;
    let change = match status.voters.as_slice() {
        _ if !status.is_committed => return Ok(false),
        [voters] => wish.change(&status, voters),
        _ => Some(Change::Finish),
    };
    match change {
        None => Ok(true),
        Some(change) => hand.aspen.change_membership(change, status.membership).await.map(|_| false),
    }
}

const PATIENCE_NS: u64 = 20_000_000_000;
const LOOK: Duration = Duration::from_millis(50);
