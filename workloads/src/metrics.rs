//! openraft's metrics, reduced to what is judged.

use aspen::types::{StoredMembership, TypeConfig};
use openraft::{RaftMetrics, ServerState};

use crate::env::SimEnv;
use crate::event::{MembershipView, NodeMetrics, Role};

/// What the oracles see of `metrics`.
pub fn node_metrics(node: u64, metrics: &RaftMetrics<TypeConfig<SimEnv>>) -> NodeMetrics {
    NodeMetrics {
        node,
        role: match metrics.state {
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Shutdown,
        },
        term: metrics.current_term,
        vote: metrics.vote,
        leader: metrics.current_leader,
        last_log_index: metrics.last_log_index,
        committed: metrics.local_committed,
        applied: metrics.last_applied,
        snapshot: metrics.snapshot,
        purged: metrics.purged,
        membership: view(&metrics.membership_config),
        committed_membership: view(&metrics.committed_membership_config),
    }
}

fn view(stored: &StoredMembership) -> MembershipView {
    let membership = stored.membership();
    MembershipView {
        log_id: *stored.log_id(),
        voters: membership.get_joint_config().clone(),
        learners: membership.learner_ids().collect(),
    }
}
