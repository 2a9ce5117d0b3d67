//! What nodes ask each other beside what [`crate::message`] has: to be let in, and whether they were removed. As JSON.
//!
//! A leader sends nothing more to who was removed, so that such a node may never see the entry that says so.
//!
//! A ticket has as many slots as it admits nodes. A joiner takes one by a compare-and-swap on a key of the store, so that
//! no two take the same whatever leads; the index of that entry in the log is its node id, which no other node can ever
//! have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use iroh::PublicKey;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};

use crate::command::{Command, Expect, KeyMeta, Outcome, Query};
use crate::error::ErrorCode;
use crate::message::{Refusal, Request, Response};
use crate::production::admin::{self, AddLearner, Operator};
use crate::production::http::App;
use crate::production::ticket::Ticket;
use crate::production::transport::gate::Role;
use crate::production::transport::hello::Rejection;
use crate::production::transport::{Place, Side};
use crate::transport::{ReplyFuture, TransportError};
use crate::types::{Address, NodeId};

/// Keys of the node itself begin so; clients do not see them.
pub const RESERVED_PREFIX: &[u8] = b"\0aspen/";
/// A join takes so long at most.
const JOIN_BUDGET: Duration = Duration::from_secs(10);

/// By the holder of a ticket, or sent on by the member that it asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    pub ticket: String,
    /// Where the joiner listens, `KEY@HOST:PORT`.
    pub address: String,
    /// Tells a repeated request from a second node.
    pub incarnation: u64,
}

/// What a joiner is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub node_id: NodeId,
    pub members: BTreeMap<NodeId, Address>,
}

/// By a member that hears no leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandingRequest {
    /// Index of the newest membership in its log.
    pub membership_index: u64,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingReply {
    /// A newer membership is committed, and the node that asks is not in it.
    pub is_removed: bool,
}

/// Why it was not let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotJoined {
    /// It never will be, with this ticket.
    pub is_final: bool,
    pub message: String,
}

impl NotJoined {
    fn never(message: impl Into<String>) -> Self {
        NotJoined { is_final: true, message: message.into() }
    }

    fn not_yet(message: impl Into<String>) -> Self {
        NotJoined { is_final: false, message: message.into() }
    }
}

impl From<Refusal> for NotJoined {
    fn from(refusal: Refusal) -> Self {
        NotJoined::not_yet(refusal.message)
    }
}

type Answer = Result<Joined, NotJoined>;

/// Answers for one node.
pub struct SideServer(pub Arc<App>);

impl Side for SideServer {
    fn handle(&self, from: PublicKey, role: Role, request: Vec<u8>) -> ReplyFuture {
        let app = self.0.clone();
        Box::pin(async move {
            if let Ok(request) = serde_json::from_slice::<StandingRequest>(&request) {
                let reply = StandingReply { is_removed: is_removed(&app, &from, request.membership_index) };
                return serde_json::to_vec(&reply).expect("a reply has string keys only");
            }
            let answer = match serde_json::from_slice::<JoinRequest>(&request) {
                Ok(request) => join(&app, from, role, request).await,
                Err(error) => Err(NotJoined::never(format!("the request is malformed: {error}"))),
            };
            serde_json::to_vec(&answer).expect("an answer has no keys but numbers and strings")
        })
    }
}

/// What came back from another node.
pub fn read_answer(replied: Result<Vec<u8>, TransportError>) -> Answer {
    let reply = replied.map_err(|error| NotJoined::not_yet(error.to_string()))?;
    let answer = serde_json::from_slice(&reply);
    answer.unwrap_or_else(|error| Err(NotJoined::not_yet(format!("the answer is malformed: {error}"))))
}

fn is_removed(app: &App, who: &PublicKey, membership_index: u64) -> bool {
    let metrics = app.node.raft().metrics();
    let metrics = metrics.borrow_watched();
    let committed = &metrics.committed_membership_config;
    let is_newer = committed.log_id().as_ref().is_some_and(|id| id.index > membership_index);
    is_newer && !committed.membership().nodes().any(|(_, member)| is_at(&member.address, who))
}

/// Asks a member whether this node was removed; `None` if it does not say.
pub async fn ask_standing(app: &App, member: &Address, timeout: Duration) -> Option<bool> {
    let membership_index = {
        let metrics = app.node.raft().metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.log_id().as_ref().map_or(0, |id| id.index)
    };
    let request = serde_json::to_vec(&StandingRequest { membership_index }).expect("a request has string keys only");
    let replied = app.transport.ask_side(member, request, timeout).await.ok()?;
    serde_json::from_slice(&replied).ok().map(|StandingReply { is_removed }| is_removed)
}

fn is_at(address: &Address, key: &PublicKey) -> bool {
    address.0.parse::<Place>().is_ok_and(|place| place.key == *key)
}

/// Lets a node in as a learner.
async fn join(app: &App, from: PublicKey, role: Role, request: JoinRequest) -> Answer {
    let place: Place = request.address.parse().map_err(|_| NotJoined::never("the address is none"))?;
    let sent_on = role == Role::Member && place.key != from;
    if !sent_on && place.key != from {
        return Err(NotJoined::never("the address is that of another node"));
    }
    // The member that sends it on has verified it; this node may not hold the secret.
    let ticket = match app.gate.verify(&request.ticket) {
        Err(_) if sent_on => Ticket::parse(&request.ticket),
        Err(_) if app.secret.is_none() => return Err(NotJoined::not_yet(Rejection::TicketUnproved.to_string())),
        verified => verified,
    };
    let ticket = ticket.map_err(|error| NotJoined::never(error.to_string()))?;
    let leader = app.await_leader(JOIN_BUDGET / 2).await.ok_or_else(|| NotJoined::not_yet("no leader is known"))?;
    if leader.id != app.node.id() {
        if sent_on {
            return Err(NotJoined::not_yet("the leader has changed"));
        }
        let request = serde_json::to_vec(&request).expect("a request has string keys only");
        return read_answer(app.transport.ask_side(&leader.address, request, JOIN_BUDGET).await);
    }
    // One at a time: an id must be newer than the membership when it is used.
    let _one = app.joins.lock().await;
    if let Some(id) = member_with(app, &place.key) {
        return Err(NotJoined::never(format!(
            "the key is that of node {id}: remove that one, and start this one with an empty directory"
        )));
    }
    let node_id = take_slot(app, &ticket, &place, request.incarnation).await?;
    if !admin::members(&app.node).contains_key(&node_id) {
        let operator = Operator { app, budget: JOIN_BUDGET };
        operator.add_learner(AddLearner { node_id: Some(node_id), address: place.to_string() }).await?;
        tracing::info!("node {node_id} at {place} joined as a learner");
    }
    Ok(Joined { node_id, members: admin::members(&app.node) })
}

/// The member that has this key.
fn member_with(app: &App, key: &PublicKey) -> Option<NodeId> {
    admin::members(&app.node).into_iter().find(|(_, address)| is_at(address, key)).map(|(id, _)| id)
}

/// Takes one of the ticket's slots. Returns the index of the entry that took it.
async fn take_slot(app: &App, ticket: &Ticket, place: &Place, incarnation: u64) -> Result<NodeId, NotJoined> {
    let owner = format!("{} {incarnation:016x}", place.key).into_bytes();
    for slot in 0..ticket.uses {
        let name = format!("ticket/{}/{slot}", HEXLOWER.encode(&ticket.join_id));
        let key = [RESERVED_PREFIX, name.as_bytes()].concat();
        if let Some(id) = swap(app, &key, Expect::Absent, &owner).await? {
            return Ok(id);
        }
        let answer = match app
            .ask(Request::Read { query: Query::Get { key: key.clone() }, budget_ms: budget_ms() }, JOIN_BUDGET)
            .await?
        {
            Response::Answered(answer) => answer,
            _ => return Err(NotJoined::not_yet("the node answered another question")),
        };
        let Some(KeyMeta { mod_revision, .. }) = answer.rows.iter().find(|row| row.value == owner).map(|row| row.meta)
        else {
            continue;
        };
        if admin::members(&app.node).contains_key(&mod_revision) {
            return Ok(mod_revision);
        }
        // It was taken, but the node was not added: others may have been since, so the id must be a newer one.
        if let Some(id) = swap(app, &key, Expect::ModRevision(mod_revision), &owner).await? {
            return Ok(id);
        }
    }
    Err(NotJoined::never(format!("the ticket has admitted {} nodes already", ticket.uses)))
}

/// The index of the entry that wrote the key, if the key was as expected.
async fn swap(app: &App, key: &[u8], expect: Expect, value: &[u8]) -> Result<Option<NodeId>, NotJoined> {
    let command = Command::CompareAndSwap { key: key.to_vec(), expect, value: value.to_vec() };
    let write = Request::Write { session: None, command, budget_ms: budget_ms() };
    match app.ask(write, JOIN_BUDGET).await? {
        Response::Written(reply) => Ok(matches!(reply.outcome, Outcome::Written { .. }).then_some(reply.revision)),
        _ => Err(NotJoined::not_yet(ErrorCode::InvalidReply.name())),
    }
}

fn budget_ms() -> u32 {
    u32::try_from(JOIN_BUDGET.as_millis()).unwrap_or(u32::MAX)
}
