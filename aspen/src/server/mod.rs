//! The serving side of a node: every request that arrives, and who answers it.
//!
//! Requests of other nodes are served from the first moment, since without them nobody recovers. Clients are served
//! once the node has recovered what it knew before it was started, and no longer when it stops.
//!
//! Invariant: each wait has a deadline and each kind of request a bound; what does not fit is refused at once, for a
//! definite reason.

mod admin;
mod gate;
mod heard;
mod log_time;
mod raft_calls;
mod read;
mod snapshot;
mod stale;
mod upkeep;
mod write;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::WatchChangeHandle;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ForwardReason, ForwardToLeader};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use crate::env::Env;
use crate::error::ErrorCode;
use crate::log_store::LogStore;
use crate::message::{Envelope, LeaderHint, Refusal, Request, Response, decode_request, encode_response};
use crate::node::{NodeConfig, NodeRaft};
use crate::planted::planted;
use crate::room::Room;
use crate::server::gate::Gate;
use crate::server::log_time::LogClock;
use crate::server::snapshot::Receiver;
use crate::server::stale::Freshness;
use crate::state_machine::StateReader;
use crate::transport::{Handler, ReplyFuture};
use crate::types::{LeaderId, NodeId, Term, TypeConfig};
use buggify::{assert_reachable, buggify};

/// Answers the requests to one node. Cheap to clone.
pub(crate) struct Server<E: Env> {
    shared: Arc<Shared<E>>,
}

impl<E: Env> Clone for Server<E> {
    fn clone(&self) -> Self {
        Server { shared: self.shared.clone() }
    }
}

struct Shared<E: Env> {
    env: E,
    config: NodeConfig,
    raft: NodeRaft<E>,
    log: LogStore<E>,
    reader: StateReader<E>,
    phase: AtomicU8,
    proposals: Gate,
    reads: Gate,
    raft_calls: Gate,
    clock: Mutex<LogClock<InstantOf<TypeConfig<E>>>>,
    /// When an append of a leader was last taken.
    heard: Mutex<Option<InstantOf<TypeConfig<E>>>>,
    freshness: Freshness<E>,
    room: Room<InstantOf<TypeConfig<E>>>,
    snapshots: Receiver<E>,
}

/// What a node does for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing yet: it catches up with what it knew before it was started.
    Recovering = 0,
    Serving = 1,
    /// Nothing more.
    Stopping = 2,
}

type Refused<T> = Result<T, Refusal>;

impl<E: Env> Server<E> {
    pub(crate) fn new(env: E, config: NodeConfig, raft: NodeRaft<E>, log: LogStore<E>, reader: StateReader<E>) -> Self {
        let in_flight_max = config.store.limits.proposals_in_flight_max;
        let raft_calls_max = usize::try_from(config.raft.raft_calls_max).unwrap_or(usize::MAX);
        let snapshots = Receiver::new(env.clone(), config.data_dir.clone());
        Server {
            shared: Arc::new(Shared {
                env,
                config,
                raft,
                log,
                reader,
                phase: AtomicU8::new(Phase::Recovering as u8),
                proposals: Gate::new(in_flight_max),
                reads: Gate::new(in_flight_max),
                raft_calls: Gate::new(raft_calls_max),
                clock: Mutex::new(LogClock::default()),
                heard: Mutex::default(),
                freshness: Freshness::default(),
                room: Room::default(),
                snapshots,
            }),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.shared.phase.load(Ordering::SeqCst) {
            0 => Phase::Recovering,
            1 => Phase::Serving,
            _ => Phase::Stopping,
        }
    }

    /// Begins to serve clients, unless the node is stopping.
    pub(crate) fn recovered(&self) {
        let (from, to) = (Phase::Recovering as u8, Phase::Serving as u8);
        // It may be stopping already, and stays so.
        let _ = self.shared.phase.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Refuses clients from now on. Proposals in flight are still answered.
    pub(crate) fn stop(&self) {
        self.shared.phase.store(Phase::Stopping as u8, Ordering::SeqCst);
    }

    /// Begins an office of the log clock whenever this node becomes the leader, until the handle is dropped.
    pub(crate) fn watch_offices(&self) -> WatchChangeHandle<TypeConfig<E>> {
        let server = self.clone();
        let begin = move |leader: LeaderId| {
            server.log_time_ms(leader.term);
            std::future::ready(())
        };
        self.shared.raft.on_leader_change(begin, |_| std::future::ready(()))
    }

    /// Log time for a proposal of this term, ms.
    fn log_time_ms(&self, term: Term) -> u64 {
        let mut clock = self.shared.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.stamp(term, self.shared.reader.log_time_ms(), TypeConfig::<E>::now())
    }

    /// Proposals whose outcome is not known yet.
    pub(crate) fn proposals_in_flight(&self) -> usize {
        self.shared.proposals.in_use()
    }

    async fn answer(&self, bytes: Vec<u8>) -> Response {
        let envelope = match decode_request(&bytes, self.shared.config.store.limits.message_bytes_max) {
            Ok(envelope) => envelope,
            Err(error) => return Response::Refused(Refusal::new(ErrorCode::Malformed, error.to_string())),
        };
        drop(bytes);
        let result = match self.check_addressee(&envelope) {
            Ok(()) => self.dispatch(envelope).await,
            Err(refusal) => Err(refusal),
        };
        result.unwrap_or_else(Response::Refused)
    }

    /// Answers a client of this process.
    pub(crate) async fn ask(&self, request: Request) -> Response {
        if of_node(&request) {
            return Response::Refused(Refusal::new(ErrorCode::Malformed, "not a request of a client"));
        }
        let NodeConfig { id, cluster, .. } = self.shared.config;
        let answered = self.dispatch(Envelope { cluster, to: Some(id), request }).await;
        answered.unwrap_or_else(Response::Refused)
    }

    /// Answers clients and refuses nodes.
    pub(crate) fn for_clients(&self) -> ClientServer<E> {
        ClientServer { server: self.clone() }
    }

    fn check_addressee(&self, envelope: &Envelope) -> Refused<()> {
        let NodeConfig { id, cluster, .. } = self.shared.config;
        if envelope.cluster != cluster {
            let message = format!("this is cluster {cluster}, not {}", envelope.cluster);
            return Err(Refusal::new(ErrorCode::WrongCluster, message));
        }
        match (envelope.to, of_node(&envelope.request)) {
            (Some(to), _) if to != id && !planted!("wrong-node-accepted") => {
                assert_reachable!("a request reached another node than it was meant for", owed_by = "");
                Err(Refusal::new(ErrorCode::WrongNode, format!("this is node {id}, not {to}")))
            }
            (None, true) => Err(Refusal::new(ErrorCode::Malformed, "a node's request names the node it is meant for")),
            _ => Ok(()),
        }
    }

    async fn dispatch(&self, envelope: Envelope) -> Refused<Response> {
        match envelope.request {
            Request::Write { session, command, budget_ms } => {
                self.admit_client()?;
                self.write(session, command, self.budget(budget_ms)).await.map(Response::Written)
            }
            Request::Read { query, budget_ms } => {
                self.admit_client()?;
                self.read(query, self.budget(budget_ms)).await.map(Response::Answered)
            }
            Request::Admin { request, budget_ms } => {
                self.admit_client()?;
                self.admin(request, self.budget(budget_ms)).await.map(Response::Admin)
            }
            Request::StaleRead { query, bound, budget_ms } => {
                self.read_stale(query, bound, self.budget(budget_ms)).await.map(Response::Answered)
            }
            Request::ReadIndex { budget_ms } => {
                let index = self.confirmed_index(self.budget(budget_ms)).await?;
                Ok(Response::ReadIndex { index })
            }
            Request::Leader => Ok(self.leader()),
            of_node => self.raft_call(of_node).await,
        }
    }

    fn admit_client(&self) -> Refused<()> {
        let refuse = |code, message: &str| Err(Refusal { leader: self.hint(), ..Refusal::new(code, message) });
        match self.phase() {
            Phase::Serving => Ok(()),
            Phase::Recovering => {
                assert_reachable!("a client met a node that was still recovering");
                refuse(ErrorCode::Recovering, "the node has not yet caught up with what it knew before")
            }
            Phase::Stopping => refuse(ErrorCode::Stopping, "the node is stopping"),
        }
    }

    /// How long to work on a client's request: as long as it waits, and never longer than the node allows.
    fn budget(&self, budget_ms: u32) -> Duration {
        Duration::from_millis(u64::from(budget_ms).min(self.shared.config.raft.request_timeout_ms))
    }

    fn leader(&self) -> Response {
        let metrics = self.shared.raft.metrics().borrow_watched().clone();
        let node = metrics.current_leader.and_then(|id| {
            let member = metrics.membership_config.membership().get_node(&id)?;
            Some(LeaderHint { id, address: member.address.clone() })
        });
        Response::Leader { term: metrics.current_term, leader: node }
    }

    /// The leader to send a client to: as far as this node knows, and never itself.
    fn hint(&self) -> Option<LeaderHint> {
        if buggify!(at "leader hint is wrong", 0.1) {
            return self.some_member();
        }
        match self.leader() {
            Response::Leader { leader, .. } => leader.filter(|hint| hint.id != self.shared.config.id),
            _ => None,
        }
    }

    /// Some other member, whoever leads.
    fn some_member(&self) -> Option<LeaderHint> {
        let metrics = self.shared.raft.metrics().borrow_watched().clone();
        let mut others = metrics.membership_config.membership().nodes().filter(|(id, _)| **id != self.shared.config.id);
        others.next().map(|(id, member)| LeaderHint { id: *id, address: member.address.clone() })
    }

    /// A refusal that sends the client to the leader.
    fn forward(&self, forward: ForwardToLeader<TypeConfig<E>>) -> Refusal {
        let (code, message) = match forward.reason {
            ForwardReason::NotLeader => (ErrorCode::NotLeader, "this node does not lead"),
            ForwardReason::LeadershipTransfer => (ErrorCode::Transferring, "the leader is handing over"),
            ForwardReason::LeaseExpired => (ErrorCode::NoQuorum, "the leader has not heard of a quorum for too long"),
        };
        let named = match (forward.leader_id, forward.leader_node) {
            (Some(id), Some(member)) => Some(LeaderHint { id, address: member.address }),
            _ => None,
        };
        let me: NodeId = self.shared.config.id;
        Refusal { leader: named.filter(|hint| hint.id != me).or_else(|| self.hint()), ..Refusal::new(code, message) }
    }
}

/// Whether a request comes from a node.
fn of_node(request: &Request) -> bool {
    !matches!(
        request,
        Request::Write { .. }
            | Request::Read { .. }
            | Request::StaleRead { .. }
            | Request::Leader
            | Request::Admin { .. }
    )
}

/// Answers the requests that are a client's.
pub(crate) struct ClientServer<E: Env> {
    server: Server<E>,
}

impl<E: Env> Handler for ClientServer<E> {
    fn handle(&self, request: Vec<u8>) -> ReplyFuture {
        let server = self.server.clone();
        Box::pin(async move {
            let response = match decode_request(&request, server.shared.config.store.limits.message_bytes_max) {
                Ok(envelope) if of_node(&envelope.request) => {
                    Response::Refused(Refusal::new(ErrorCode::Malformed, "not a request of a client"))
                }
                Ok(_) => server.answer(request).await,
                Err(error) => Response::Refused(Refusal::new(ErrorCode::Malformed, error.to_string())),
            };
            encode_response(&response)
        })
    }
}

impl<E: Env> Handler for Server<E> {
    fn handle(&self, request: Vec<u8>) -> ReplyFuture {
        let server = self.clone();
        Box::pin(async move {
            if buggify!(at "request is handled late", 0.02) {
                TypeConfig::<E>::sleep(Duration::from_millis(server.shared.config.raft.heartbeat_ms)).await;
            }
            encode_response(&server.answer(request).await)
        })
    }
}
