//! openraft's metrics, reduced to what is judged.

use aspen::types::{LogId, StoredMembership, TypeConfig};
use openraft::{RaftMetrics, ServerState};
use serde_json::{Value, json};

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

/// The same for people. Ids of log entries are `term-leader.index`, as openraft prints them.
pub fn described(metrics: &NodeMetrics) -> [(&'static str, Value); 10] {
    let id = |id: Option<LogId>| id.map_or(Value::Null, |id| id.to_string().into());
    let first = metrics.purged.map_or(0, |id| id.index + 1);
    [
        ("node", metrics.node.into()),
        ("role", format!("{:?}", metrics.role).into()),
        ("term", metrics.term.into()),
        ("vote", metrics.vote.to_string().into()),
        ("leader", metrics.leader.into()),
        ("log", json!({ "first": first, "last": metrics.last_log_index, "purged": id(metrics.purged) })),
        ("committed", id(metrics.committed)),
        ("applied", id(metrics.applied)),
        ("snapshot", id(metrics.snapshot)),
        (
            "membership",
            json!({
                "log_id": id(metrics.membership.log_id),
                "voters": metrics.membership.voters,
                "learners": metrics.membership.learners,
            }),
        ),
    ]
}

fn view(stored: &StoredMembership) -> MembershipView {
    let membership = stored.membership();
    MembershipView {
        log_id: *stored.log_id(),
        voters: membership.get_joint_config().clone(),
        learners: membership.learner_ids().collect(),
    }
}
