//! `/leader`, `/node-info`, `/raft-metrics`: what the node knows of itself and of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use crate::node::Phase;
use crate::production::http::App;
use crate::production::http::error::{Failure, LeaderBody};
use crate::types::{LogId, NodeId};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderReply {
    pub term: u64,
    pub leader: LeaderBody,
}

pub(super) async fn leader(State(app): State<Arc<App>>) -> Result<Json<LeaderReply>, Failure> {
    let term = app.node.raft().metrics().borrow_watched().current_term;
    match app.leader() {
        Some(hint) => Ok(Json(LeaderReply { term, leader: app.leader_body(&hint) })),
        None => {
            let hint = "an election may be going on: try again, at another node";
            Err(Failure::definite(StatusCode::SERVICE_UNAVAILABLE, "no-leader", "no leader is known", hint))
        }
    }
}

/// Who the node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub node_id: NodeId,
    /// 16 hexadecimal digits.
    pub cluster: String,
    pub version: String,
    /// How other nodes dial it: `KEY@HOST:PORT`.
    pub address: String,
    /// Where clients reach its HTTP interface, if it knows.
    pub http: Option<String>,
    /// `recovering`, `serving` or `stopping`.
    pub phase: String,
    pub role: String,
    pub data_dir: String,
    pub uptime_ms: u64,
    /// What was found on disk when it was started.
    pub recovery: String,
    pub members: Vec<MemberInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    pub node_id: NodeId,
    pub address: String,
    /// `voter` or `learner`.
    pub kind: String,
    pub leader: bool,
}

pub(super) async fn node_info(State(app): State<Arc<App>>) -> Json<NodeInfo> {
    Json(info(&app))
}

pub(super) fn info(app: &App) -> NodeInfo {
    let metrics = app.node.raft().metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let voters: Vec<NodeId> = membership.voter_ids().collect();
    let members = membership.nodes().map(|(id, member)| MemberInfo {
        node_id: *id,
        address: member.address.to_string(),
        kind: if voters.contains(id) { "voter" } else { "learner" }.to_owned(),
        leader: metrics.current_leader == Some(*id),
    });
    let phase = match app.node.phase() {
        Phase::Recovering => "recovering",
        Phase::Serving => "serving",
        Phase::Stopping => "stopping",
    };
    NodeInfo {
        node_id: app.node.id(),
        cluster: app.cluster.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: app.transport.place().to_string(),
        http: app.http_advertised.clone(),
        phase: phase.to_owned(),
        role: format!("{:?}", metrics.state).to_lowercase(),
        data_dir: app.config.data_dir.display().to_string(),
        uptime_ms: u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        recovery: app.node.recovery().to_string(),
        members: members.collect(),
    }
}

/// The state of Raft, in a form of our own: openraft's changes between versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftStatus {
    pub node_id: NodeId,
    pub role: String,
    pub term: u64,
    pub leader: Option<NodeId>,
    /// Why Raft has stopped, if it has.
    pub fatal: Option<String>,
    pub last_log_index: Option<u64>,
    /// Term and index of each.
    pub committed: Option<Point>,
    pub applied: Option<Point>,
    pub snapshot: Option<Point>,
    pub purged: Option<Point>,
    pub voters: Vec<Vec<NodeId>>,
    pub learners: Vec<NodeId>,
    /// For how long no leader was heard or, by the leader, no quorum, in ms.
    pub silence_ms: Option<u64>,
    /// Of the leader only.
    pub followers: BTreeMap<NodeId, FollowerStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub term: u64,
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// The last entry that it is known to have.
    pub matched: Option<u64>,
    /// Entries that it lacks.
    pub lag: u64,
    /// Since it last answered a heartbeat, in ms.
    pub heartbeat_age_ms: Option<u64>,
}

impl From<&LogId> for Point {
    fn from(id: &LogId) -> Self {
        Point { term: id.committed_leader_id().term, index: id.index }
    }
}

pub(super) async fn raft_metrics(State(app): State<Arc<App>>) -> Json<RaftStatus> {
    Json(raft_status(&app))
}

pub(super) fn raft_status(app: &App) -> RaftStatus {
    let metrics = app.node.raft().metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let last = metrics.last_log_index.unwrap_or(0);
    let mut followers = BTreeMap::new();
    for (id, matched) in metrics.replication.iter().flatten().filter(|(id, _)| **id != app.node.id()) {
        let matched = matched.as_ref().map(|matched| matched.index);
        let heard = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(id)).copied().flatten();
        let age = heard.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        let lag = last.saturating_sub(matched.unwrap_or(0));
        followers.insert(*id, FollowerStatus { matched, lag, heartbeat_age_ms: age });
    }
    let point = |id: &Option<LogId>| id.as_ref().map(Point::from);
    RaftStatus {
        node_id: metrics.id,
        role: format!("{:?}", metrics.state).to_lowercase(),
        term: metrics.current_term,
        leader: metrics.current_leader,
        fatal: metrics.running_state.as_ref().err().map(ToString::to_string),
        last_log_index: metrics.last_log_index,
        committed: point(&metrics.local_committed),
        applied: point(&metrics.last_applied),
        snapshot: point(&metrics.snapshot),
        purged: point(&metrics.purged),
        voters: membership.get_joint_config().iter().map(|config| config.iter().copied().collect()).collect(),
        learners: membership.learner_ids().collect(),
        silence_ms: app.node.silence().map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
        followers,
    }
}
