//! Administration over HTTP. What only the leader can do is sent on to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::env::Env as _;
use crate::message::Refusal;
use crate::node::InitializeFailed;
use crate::production::admin::{
    self, AddLearner, AdminReply, ChangeMembership, Operator, PromoteLearner, RemoveNode, TransferLeader,
};
use crate::production::http::App;
use crate::production::http::error::{Effect, Failure};
use crate::production::http::schema::parse;
use crate::production::secret;
use crate::production::ticket::{PEERS_MAX, Ticket, USES_MAX};
use crate::production::transport::Place;
use crate::types::{Address, NodeId};

/// A change takes so long at most.
const BUDGET: Duration = Duration::from_secs(30);
/// How long a ticket is valid that names no time.
const TICKET_SECONDS_DEFAULT: u64 = 3600;
const TICKET_SECONDS_MAX: u64 = 30 * 24 * 3600;

type Reply<T> = Result<Json<T>, Failure>;

/// The founders of a cluster; this node alone if none are named.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    members: Option<Vec<Founder>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Founder {
    node_id: NodeId,
    address: String,
}

pub(super) async fn init(State(app): State<Arc<App>>, body: Bytes) -> Reply<AdminReply> {
    let InitRequest { members } = body_of(&body)?;
    let me = (app.node.id(), app.transport.place());
    let founders = match members {
        None => BTreeMap::from([(me.0, me.1)]),
        Some(members) => founders(members, &me, app.config.store.limits.voters_max).map_err(Failure::malformed)?,
    };
    let founders = founders.into_iter().map(|(id, place)| (id, place.address())).collect();
    // To its end, also when the client has hung up.
    let node = app.node.clone();
    let formed = tokio::spawn(async move { admin::initialize(&node, founders).await }).await;
    formed.map_err(|error| stopped(&error))?.map(Json).map_err(|error| not_formed(&error))
}

/// Who forms the cluster. There is no second time, so a list that cannot be meant is refused. `me` is this node.
fn founders(members: Vec<Founder>, me: &(NodeId, Place), voters_max: usize) -> Result<BTreeMap<NodeId, Place>, String> {
    if members.is_empty() || members.len() > voters_max {
        let number = members.len();
        return Err(format!(
            "members: {number} are named, 1 to {voters_max} form a cluster; without members it is this node alone"
        ));
    }
    let mut founders: BTreeMap<NodeId, Place> = BTreeMap::new();
    for Founder { node_id, address } in members {
        let place: Place = dialled(&address)?;
        if node_id == 0 {
            return Err("members: node ids begin with 1".to_owned());
        }
        if let Some((other, _)) = founders.iter().find(|(_, known)| known.key == place.key || known.at == place.at) {
            return Err(format!("members: nodes {other} and {node_id} have the same key or address"));
        }
        if founders.insert(node_id, place).is_some() {
            return Err(format!("members: node {node_id} is named twice"));
        }
    }
    match founders.get(&me.0) {
        Some(place) if place.key != me.1.key => {
            Err(format!("members: node {} is this one, and its key is {}", me.0, me.1.key))
        }
        Some(_) => Ok(founders),
        None => Err(format!("members: this node, {}, is not among them: ask one of the founders", me.0)),
    }
}

pub(super) async fn add_learner(State(app): State<Arc<App>>, body: Bytes) -> Reply<AdminReply> {
    let request: AddLearner = body_of(&body)?;
    place(&request.address)?;
    done(&app, operator(&app).add_learner(request).await)
}

pub(super) async fn promote_learner(State(app): State<Arc<App>>, body: Bytes) -> Reply<AdminReply> {
    let request: PromoteLearner = body_of(&body)?;
    done(&app, operator(&app).promote(request).await)
}

pub(super) async fn change_membership(State(app): State<Arc<App>>, body: Bytes) -> Reply<AdminReply> {
    let request: ChangeMembership = body_of(&body)?;
    if request.voters.is_some() == request.finish {
        return Err(Failure::malformed("either voters or finish is needed, and not both"));
    }
    done(&app, operator(&app).change_membership(request).await)
}

pub(super) async fn remove_node(State(app): State<Arc<App>>, body: Bytes) -> Reply<AdminReply> {
    let request: RemoveNode = body_of(&body)?;
    done(&app, operator(&app).remove(request).await)
}

pub(super) async fn transfer_leader(State(app): State<Arc<App>>, body: Bytes) -> Reply<AdminReply> {
    let request: TransferLeader = body_of(&body)?;
    done(&app, operator(&app).transfer(request).await)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddPeer {
    address: String,
}

/// A request that says it all by its path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Serialize)]
pub struct Done {
    done: bool,
}

/// Lets a node in by its key, and remembers where it is. It becomes no member by that.
pub(super) async fn add_peer(State(app): State<Arc<App>>, body: Bytes) -> Reply<Done> {
    let AddPeer { address } = body_of(&body)?;
    let place = place(&address)?;
    app.gate.add_peer(place.key);
    app.transport.learn(&place);
    Ok(Json(Done { done: true }))
}

/// Takes a snapshot in the background, unless there is nothing new in it.
pub(super) async fn trigger_snapshot(State(app): State<Arc<App>>, body: Bytes) -> Reply<Done> {
    let Nothing {} = body_of(&body)?;
    let triggered = app.node.raft().trigger().snapshot().await;
    triggered.map(|()| Json(Done { done: true })).map_err(|fatal| stopped(&fatal))
}

/// Copies SQLite's write-ahead log into the database, as far as no reader is in the way.
pub(super) async fn checkpoint_wal(State(app): State<Arc<App>>, body: Bytes) -> Reply<Checkpointed> {
    let Nothing {} = body_of(&body)?;
    let before_bytes = app.disk.wal_bytes().map_err(|error| stopped(&error))?;
    app.node.reader().checkpoint().await.map_err(|error| stopped(&error))?;
    let after_bytes = app.disk.wal_bytes().map_err(|error| stopped(&error))?;
    Ok(Json(Checkpointed { before_bytes, after_bytes }))
}

#[derive(Debug, Serialize)]
pub struct Checkpointed {
    before_bytes: u64,
    after_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketRequest {
    /// Seconds from now.
    expires_in_s: Option<u64>,
    /// Nodes that it admits.
    uses: Option<u8>,
}

/// A ticket, which is a credential.
#[derive(Debug, Serialize, Deserialize)]
pub struct TicketReply {
    pub ticket: String,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    pub uses: u8,
}

pub(super) async fn cluster_ticket(State(app): State<Arc<App>>, body: Bytes) -> Reply<TicketReply> {
    let TicketRequest { expires_in_s, uses } = body_of(&body)?;
    issue_ticket(&app, expires_in_s.unwrap_or(TICKET_SECONDS_DEFAULT), uses.unwrap_or(1)).map(Json)
}

/// A ticket for `uses` nodes, which names this node first.
pub(crate) fn issue_ticket(app: &App, expires_in_s: u64, uses: u8) -> Result<TicketReply, Failure> {
    let Some(secret) = &app.secret else {
        let message = "this node does not hold the cluster's secret";
        let hint = "ask a node that was started with the cluster's cookie file";
        return Err(Failure::definite(StatusCode::CONFLICT, "no-secret", message, hint));
    };
    if !(1..=TICKET_SECONDS_MAX).contains(&expires_in_s) || !(1..=USES_MAX).contains(&uses) {
        let message = format!("a ticket is valid for 1 to {TICKET_SECONDS_MAX} seconds and 1 to {USES_MAX} nodes");
        return Err(Failure::malformed(message));
    }
    let me = app.transport.place();
    let members = admin::members(&app.node).into_values().filter_map(|address| address.0.parse::<Place>().ok());
    let others = members.filter(|place| place.key != me.key);
    let expires_at = app.env().wall_clock_ms() / 1000 + expires_in_s;
    let ticket = Ticket {
        cluster: app.cluster,
        peers: std::iter::once(me.clone()).chain(others).take(PEERS_MAX).collect(),
        expires_at,
        join_id: secret::random(),
        uses,
    };
    Ok(TicketReply { ticket: ticket.issue(secret), expires_at, uses })
}

fn operator(app: &App) -> Operator<'_> {
    Operator { app, budget: BUDGET }
}

fn done(app: &App, result: Result<AdminReply, Refusal>) -> Reply<AdminReply> {
    result.map(Json).map_err(|refusal| app.failure(refusal, Effect::Write))
}

fn not_formed(error: &InitializeFailed) -> Failure {
    let message = error.to_string();
    match error {
        InitializeFailed::Already => {
            Failure::definite(StatusCode::CONFLICT, "already-initialized", message, "/node-info shows the cluster")
        }
        InitializeFailed::NotAMember(_) => Failure::malformed(message),
        InitializeFailed::Stopped(_) => stopped(error),
    }
}

fn stopped(error: &dyn std::fmt::Display) -> Failure {
    let hint = "the node is stopping: see its log for the reason";
    Failure::definite(StatusCode::SERVICE_UNAVAILABLE, "stopping", error.to_string(), hint)
}

fn place(address: &str) -> Result<Place, Failure> {
    dialled(address).map_err(Failure::malformed)
}

/// A place that others can dial.
fn dialled(address: &str) -> Result<Place, String> {
    let place: Place = address.parse().map_err(|error| format!("address: {error}"))?;
    match place.at.parse::<SocketAddr>() {
        Ok(at) if at.ip().is_unspecified() => Err(format!("address: nobody can dial {at}: name an address or a host")),
        _ => Ok(place),
    }
}

/// No body is an empty object.
fn body_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = if body.is_empty() { b"{}" } else { body };
    parse(body).map_err(Failure::malformed)
}

impl App {
    pub(crate) fn env(&self) -> crate::production::env::RealEnv {
        crate::production::env::RealEnv::new(self.transport.clone())
    }

    /// Where this node is reached by others.
    pub(crate) fn address(&self) -> Address {
        self.transport.place().address()
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn at(key: u8, at: &str) -> Place {
        Place::new(SecretKey::from_bytes(&[key; 32]).public(), at)
    }

    #[test]
    fn founders_that_cannot_be_meant_are_refused() {
        let named = |list: &[(NodeId, Place)]| {
            let founder =
                |(node_id, place): &(NodeId, Place)| Founder { node_id: *node_id, address: place.to_string() };
            founders(list.iter().map(founder).collect(), &(1, at(1, "127.0.0.1:1")), 3)
        };
        let (one, two) = ((1, at(1, "127.0.0.1:1")), (2, at(2, "127.0.0.1:2")));
        assert_eq!(named(&[one.clone(), two.clone()]), Ok([one.clone(), two.clone()].into()));
        // It may be reached by another name than it thinks.
        assert!(named(&[(1, at(1, "node-1.example:7080")), two.clone()]).is_ok());
        let refused: [(&[(NodeId, Place)], &str); 9] = [
            (&[], "0 are named"),
            (&[one.clone(), two.clone(), (3, at(3, "a:3")), (4, at(4, "a:4"))], "4 are named"),
            (&[one.clone(), (1, at(2, "127.0.0.1:2"))], "named twice"),
            (&[one.clone(), (2, at(1, "127.0.0.1:2"))], "same key"),
            (&[one.clone(), (2, at(2, "127.0.0.1:1"))], "same key or address"),
            (&[one.clone(), (0, at(2, "127.0.0.1:2"))], "begin with 1"),
            (&[one.clone(), (2, at(2, "0.0.0.0:2"))], "nobody can dial"),
            (&[(1, at(3, "127.0.0.1:1")), two.clone()], "its key is"),
            (std::slice::from_ref(&two), "not among them"),
        ];
        for (list, why) in refused {
            let error = named(list).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
