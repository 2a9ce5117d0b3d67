//! What nodes ask each other beside Raft: to be let in, and administration that is sent on to the leader. As JSON.
//!
//! A ticket has as many slots as it admits nodes. A joiner takes one by a compare-and-swap on a key of the store, so that
//! no two take the same whatever leads; the index of that entry in the log is its node id, which no other node can ever
//! have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use iroh::PublicKey;
use serde::{Deserialize, Serialize};

use crate::command::{Command, Expect, Outcome};
use crate::error::ErrorCode;
use crate::message::{Request, Response};
use crate::production::admin::{self, AddLearner, AdminError, AdminReply, AdminRequest};
use crate::production::http::App;
use crate::production::ticket::Ticket;
use crate::production::transport::gate::Role;
use crate::production::transport::{Place, Side};
use crate::transport::{ReplyFuture, TransportError};
use crate::types::{Address, NodeId};

/// Keys of the node itself begin so; clients do not see them.
pub const RESERVED_PREFIX: &[u8] = b"\0aspen/";
/// A join takes so long at most.
const JOIN_BUDGET: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SideRequest {
    /// By the holder of a ticket, or sent on by the member that it asked.
    Join {
        ticket: String,
        /// Where the joiner listens.
        address: String,
        /// Tells a repeated request from a second node.
        incarnation: u64,
    },
    Admin {
        request: AdminRequest,
        budget_ms: u64,
    },
}

/// What a joiner is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub node_id: NodeId,
    pub members: BTreeMap<NodeId, Address>,
}

type Answer<T> = Result<T, AdminError>;

/// Answers for one node.
pub struct SideServer(pub Arc<App>);

impl Side for SideServer {
    fn handle(&self, from: PublicKey, role: Role, request: Vec<u8>) -> ReplyFuture {
        let app = self.0.clone();
        Box::pin(async move {
            let answer = match serde_json::from_slice(&request) {
                Ok(SideRequest::Join { ticket, address, incarnation }) => {
                    encode(&join(&app, from, role, &ticket, &address, incarnation).await)
                }
                Ok(SideRequest::Admin { request, budget_ms }) if role == Role::Member => {
                    encode(&change_here(&app, request, Duration::from_millis(budget_ms)).await)
                }
                Ok(_) => encode::<()>(&Err(AdminError::definite(403, "forbidden", "not for this peer", "be a member"))),
                Err(error) => encode::<()>(&Err(malformed(&error.to_string()))),
            };
            answer
        })
    }
}

fn encode<T: Serialize>(answer: &Answer<T>) -> Vec<u8> {
    serde_json::to_vec(answer).expect("an answer has string keys only")
}

fn malformed(message: &str) -> AdminError {
    AdminError::definite(400, ErrorCode::Malformed.name(), message, "both nodes should be of the same version")
}

/// Carries out a change at this node, which must lead.
pub(crate) async fn change_here(app: &App, request: AdminRequest, budget: Duration) -> Answer<AdminReply> {
    let voters_max = app.config.store.limits.voters_max;
    let silence_max = Duration::from_millis(2 * app.config.raft.election_max_ms);
    admin::execute(&app.node, request, voters_max, silence_max, budget).await
}

/// Asks another node for a change.
pub(crate) async fn ask_admin(app: &App, to: &Address, request: SideRequest, budget: Duration) -> Answer<AdminReply> {
    ask(app, to, &request, budget).await
}

async fn ask<T: for<'de> Deserialize<'de>>(
    app: &App,
    to: &Address,
    request: &SideRequest,
    budget: Duration,
) -> Answer<T> {
    let request = serde_json::to_vec(request).expect("a request has string keys only");
    let replied = app.transport.ask_side(to, request, budget).await;
    read_answer(replied)
}

/// What came back from another node.
pub fn read_answer<T: for<'de> Deserialize<'de>>(replied: Result<Vec<u8>, TransportError>) -> Answer<T> {
    let reply = replied.map_err(|error| {
        if error.may_have_been_delivered() {
            AdminError::unknown(ErrorCode::Timeout, error.to_string())
        } else {
            let hint = "see that the node runs and can be reached";
            AdminError::definite(503, ErrorCode::Unreachable.name(), error.to_string(), hint)
        }
    })?;
    serde_json::from_slice(&reply)
        .unwrap_or_else(|error| Err(AdminError::unknown(ErrorCode::InvalidReply, error.to_string())))
}

/// Lets a node in as a learner.
async fn join(app: &App, from: PublicKey, role: Role, text: &str, address: &str, incarnation: u64) -> Answer<Joined> {
    let place: Place = address.parse().map_err(|_| malformed("the address is none"))?;
    let forwarded = role == Role::Member && place.key != from;
    if !forwarded && place.key != from {
        return Err(AdminError::definite(403, "forbidden", "the address is another node's", "send your own"));
    }
    let refused = |error: &dyn std::fmt::Display| {
        AdminError::definite(403, "ticket-refused", error.to_string(), "ask for a new ticket at a member")
    };
    // The member that sends it on has verified it; this node may not be able to.
    let ticket = match (forwarded, app.gate.verify(text)) {
        (_, Ok(ticket)) => ticket,
        (true, Err(_)) => Ticket::parse(text).map_err(|error| refused(&error))?,
        (false, Err(error)) => return Err(refused(&error)),
    };
    let leader = app.await_leader(JOIN_BUDGET / 2).await.ok_or_else(AdminError::not_leader)?;
    if leader.id != app.node.id() {
        if forwarded {
            return Err(AdminError::not_leader());
        }
        let request = SideRequest::Join { ticket: text.to_owned(), address: address.to_owned(), incarnation };
        return ask(app, &leader.address, &request, JOIN_BUDGET).await;
    }
    let node_id = take_slot(app, &ticket, &place, incarnation).await?;
    let request = AddLearner { node_id: Some(node_id), address: place.to_string(), wait: false };
    if !admin::members(&app.node).contains_key(&node_id) {
        change_here(app, AdminRequest::AddLearner(request), JOIN_BUDGET).await?;
    }
    tracing::info!("node {node_id} at {place} joined as a learner");
    Ok(Joined { node_id, members: admin::members(&app.node) })
}

/// Takes one of the ticket's slots. Returns the index of the entry that took it.
async fn take_slot(app: &App, ticket: &Ticket, place: &Place, incarnation: u64) -> Answer<NodeId> {
    let owner = format!("{} {incarnation:016x}", place.key).into_bytes();
    for slot in 0..ticket.uses {
        let name = format!("ticket/{}/{slot}", data_encoding::HEXLOWER.encode(&ticket.join_id));
        let key = [RESERVED_PREFIX, name.as_bytes()].concat();
        let command = Command::CompareAndSwap { key: key.clone(), expect: Expect::Absent, value: owner.clone() };
        let budget_ms = u32::try_from(JOIN_BUDGET.as_millis()).unwrap_or(u32::MAX);
        match app.node.ask(Request::Write { session: None, command, budget_ms }).await {
            Response::Written(reply) if matches!(reply.outcome, Outcome::Written { .. }) => return Ok(reply.revision),
            Response::Written(_) => {
                let query = crate::command::Query::Get { key };
                let answer = app.read(query, None).await.map_err(|failure| {
                    AdminError::definite(503, &failure.body.code, failure.body.message, "try again")
                })?;
                let mine = answer.rows.iter().find(|row| row.value == owner);
                if let Some(row) = mine {
                    return Ok(row.meta.create_revision);
                }
            }
            Response::Refused(refusal) => return Err(AdminError::unknown(refusal.code, refusal.message)),
            _ => return Err(AdminError::unknown(ErrorCode::InvalidReply, "the node answered another question")),
        }
    }
    let message = format!("the ticket has admitted {} nodes already", ticket.uses);
    Err(AdminError::definite(403, "ticket-used", message, "ask for a new ticket at a member"))
}
