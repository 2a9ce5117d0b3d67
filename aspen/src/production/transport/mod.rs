//! Messages over QUIC (iroh).
//!
//! A peer is its public key: it is dialled by it, and TLS proves it before anything else is read. Addresses are hints,
//! exchanged when two peers connect. No relay, no discovery service and no name server is contacted unless the operator
//! configures one.
//!
//! - [`place`]: a key and where it listens, as text
//! - [`frame`]: how a message lies on a stream; [`link`]: one connection and its streams
//! - [`hello`]: the handshake; [`gate`]: who is let in, and what each may ask
//! - [`dial`], [`accept`]: the two ways in which connections are made; [`pool`]: the ones that exist
//!
//! iroh runs on a runtime for one thread: on one for several threads each request takes three times as much CPU. If that of
//! the node is one, iroh shares it, and no message wakes a thread on its way; otherwise iroh has a thread of its own, and
//! requests are handled on the runtime of the node.
//!
//! Deadlines: 5 s for a connection with its handshake, 2 s for a lane, 10 s for each MiB of a message that has begun; a
//! connection that is silent for 6 s is dead. A call ends at the caller's own timeout, whatever is still in progress.

mod accept;
mod counters;
mod dial;
mod frame;
pub mod gate;
pub mod hello;
mod link;
mod place;
mod pool;
mod thread;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use iroh::endpoint::{AckFrequencyConfig, IdleTimeout, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, PublicKey, RelayMode, SecretKey};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

use crate::message::ClusterId;
use crate::production::secret::ClusterSecret;
use crate::production::transport::counters::Counters;
pub use crate::production::transport::counters::TransportStats;
use crate::production::transport::dial::DialError;
use crate::production::transport::frame::Kind;
use crate::production::transport::gate::{Gate, Role};
use crate::production::transport::hello::{Introduction, Rejection};
use crate::production::transport::link::{CODE_DONE, CODE_REFUSED, Link, LinkError};
use crate::production::transport::place::Parsed;
pub(crate) use crate::production::transport::place::check_at;
pub use crate::production::transport::place::{Place, PlaceError};
use crate::production::transport::pool::{DialResult, Pool, Way};
use crate::production::transport::thread::NetThread;
use crate::transport::{Handler, Transport, TransportError};
use crate::types::{Address, NodeId};

/// Names the protocol in the TLS handshake.
pub const ALPN: &[u8] = b"aspen/1";

/// A silent connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// A connection that stays silent is dead.
const IDLE_TIMEOUT_MS: u32 = 6000;
/// Streams of one peer that are open at once: the lane, and long messages.
const STREAMS_MAX: u32 = 256;
/// Bytes of one stream, and of all streams of a peer, that are on their way or wait to be read.
///
/// noq-proto 1.4 closes the connection when more than 1024 pieces of one stream wait for what is missing before them
/// (`MAX_CHUNKS` in its `connection/assembler.rs`), which a burst does that overflows a socket's buffer. A piece has
/// 1200 bytes at least, so a window of 1 MiB cannot hold as many. See `docs/trophies.md`.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const WINDOW_BYTES: u32 = 8 << 20;
/// Packets that may go without an acknowledgement of their own. The reply to a request carries one, mostly: with QUIC's usual
/// one in two, a third of the packets between two nodes said nothing else.
const UNACKNOWLEDGED_PACKETS_MAX: u32 = 9;

/// How to bind an endpoint.
pub struct TransportConfig {
    pub key: SecretKey,
    pub cluster: ClusterId,
    /// Where to listen.
    pub bind: SocketAddr,
    /// Drawn anew for every process.
    pub incarnation: u64,
    /// `None` for a client.
    pub node: Option<NodeId>,
    /// Where others reach this endpoint, if not where it is bound.
    pub advertise: Option<String>,
    /// Where the HTTP interface is, for others to know.
    pub http: Option<String>,
    /// Admits this endpoint elsewhere as a client.
    pub secret: Option<ClusterSecret>,
    /// Admits this endpoint elsewhere as a joiner.
    pub ticket: Option<String>,
    /// A relay to use, if the operator runs one.
    pub relay: Option<iroh::RelayUrl>,
    pub gate: Arc<dyn Gate>,
    pub message_bytes_max: usize,
    pub connections_max: usize,
}

/// Nothing listens.
#[derive(Debug, thiserror::Error)]
#[error("QUIC cannot be bound to {at}: {why}")]
pub struct BindError {
    pub at: SocketAddr,
    pub why: String,
}

/// An endpoint. Clones are the same endpoint.
#[derive(Clone)]
pub struct IrohTransport {
    shared: Arc<Shared>,
    /// Ends with the last clone; `None` if iroh runs where the node does.
    _thread: Option<Arc<NetThread>>,
}

/// What the tasks of an endpoint share.
pub(crate) struct Shared {
    endpoint: Endpoint,
    /// Where iroh runs, and where requests are handled.
    net: Handle,
    app: Handle,
    parsed: Parsed,
    pool: Pool,
    counters: Counters,
    gate: RwLock<Arc<dyn Gate>>,
    node_handler: RwLock<Option<Arc<dyn Handler>>>,
    client_handler: RwLock<Option<Arc<dyn Handler>>>,
    side_handler: RwLock<Option<Arc<dyn Side>>>,
    introduction: Mutex<Introduction>,
    cluster: ClusterId,
    secret: Option<ClusterSecret>,
    ticket: Option<String>,
    finds_addresses: bool,
    message_bytes_max: usize,
    connections_max: usize,
    closed: AtomicBool,
    /// Ends when the endpoint is closed.
    closing: Mutex<Option<JoinHandle<()>>>,
}

/// Answers requests that are not the node's: a joiner that asks to be added, administration that was forwarded.
pub trait Side: Send + Sync + 'static {
    fn handle(&self, from: PublicKey, role: Role, request: Vec<u8>) -> crate::transport::ReplyFuture;
}

impl IrohTransport {
    /// Binds an endpoint. Requests are handled on the runtime that this is called on.
    pub async fn bind(config: TransportConfig) -> Result<IrohTransport, BindError> {
        let app = Handle::current();
        let at = config.bind;
        let fail = |why: String| BindError { at, why };
        let thread = match app.runtime_flavor() {
            RuntimeFlavor::CurrentThread => None,
            _ => Some(Arc::new(NetThread::start().map_err(|error| fail(error.to_string()))?)),
        };
        let net = thread.as_ref().map_or_else(|| app.clone(), |thread| thread.handle());
        let finds_addresses = config.relay.is_some();
        let relay_mode = match &config.relay {
            Some(relay) => RelayMode::custom([relay.clone()]),
            None => RelayMode::Disabled,
        };
        let builder = Endpoint::builder(presets::Minimal)
            .relay_mode(relay_mode)
            .clear_ip_transports()
            .bind_addr(at)
            .map_err(|error| fail(error.to_string()))?
            .secret_key(config.key)
            .alpns(vec![ALPN.to_vec()])
            .transport_config(quic());
        let bound = net.spawn(async move { builder.bind().await }).await;
        let endpoint = bound.map_err(|error| fail(error.to_string()))?.map_err(|error| fail(format!("{error:#}")))?;
        let listens = match config.advertise {
            Some(at) => vec![at],
            None => endpoint.bound_sockets().iter().map(ToString::to_string).take(1).collect(),
        };
        let introduction =
            Introduction { incarnation: config.incarnation, node: config.node, listens, http: config.http };
        let shared = Arc::new(Shared {
            endpoint,
            net: net.clone(),
            app,
            parsed: Parsed::default(),
            pool: Pool::default(),
            counters: Counters::default(),
            gate: RwLock::new(config.gate),
            node_handler: RwLock::default(),
            client_handler: RwLock::default(),
            side_handler: RwLock::default(),
            introduction: Mutex::new(introduction),
            cluster: config.cluster,
            secret: config.secret,
            ticket: config.ticket,
            finds_addresses,
            message_bytes_max: config.message_bytes_max,
            connections_max: config.connections_max,
            closed: AtomicBool::new(false),
            closing: Mutex::default(),
        });
        net.spawn(accept::run(shared.clone()));
        Ok(IrohTransport { shared, _thread: thread })
    }

    /// This endpoint, as others dial it.
    pub fn place(&self) -> Place {
        let listens = self.shared.introduction().listens.first().cloned().unwrap_or_default();
        Place::new(self.shared.endpoint.id(), listens)
    }

    /// The node's id, for others to know from now on.
    pub fn set_node(&self, node: NodeId) {
        self.shared.introduction.lock().unwrap_or_else(PoisonError::into_inner).node = Some(node);
    }

    /// Whether a connection to the peer is open, whoever dialled.
    pub fn is_connected(&self, key: &PublicKey) -> bool {
        self.shared.pool.is_connected(key)
    }

    /// Remembers where a peer was once said to listen, unless something newer is known.
    pub fn learn_last(&self, place: &Place) {
        if self.shared.pool.places(&place.key).is_empty() {
            self.learn(place);
        }
    }

    /// Who is let in from now on. Connections of those who are not any more are closed by [`IrohTransport::expel`].
    pub fn set_gate(&self, gate: Arc<dyn Gate>) {
        *self.shared.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
    }

    /// Who answers requests of clients; without it they are not served.
    pub fn serve_clients(&self, handler: Arc<dyn Handler>) {
        *self.shared.client_handler.write().unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    /// Who answers the requests beside those of the node.
    pub fn serve_side(&self, side: Arc<dyn Side>) {
        *self.shared.side_handler.write().unwrap_or_else(PoisonError::into_inner) = Some(side);
    }

    /// Remembers where a peer listens.
    pub fn learn(&self, place: &Place) {
        self.shared.pool.learn(&place.key, &place.at);
    }

    /// What the peer at an address last said of itself.
    pub fn introduction(&self, address: &Address) -> Option<Introduction> {
        let place: Place = address.0.parse().ok()?;
        self.shared.pool.introduction(&place.key)
    }

    /// Closes the connections of those whom `unwanted` names.
    pub fn expel(&self, unwanted: impl Fn(&PublicKey) -> bool) {
        self.shared.pool.close_where(unwanted, CODE_REFUSED, "no longer a member");
    }

    /// Connects to a peer, unless a connection is open. Returns whether one is now.
    pub async fn greet(&self, place: &Place, timeout: Duration) -> bool {
        self.learn(place);
        let address = place.address();
        tokio::time::timeout(timeout, self.link(&address)).await.is_ok_and(|result| result.is_ok())
    }

    /// A request that is answered by the peer's [`Side`].
    pub async fn ask_side(&self, to: &Address, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, TransportError> {
        self.ask(Kind::Side, to, request, timeout).await
    }

    /// Why a peer refused the last connection that was tried from here, if it did.
    pub fn rejection(&self, key: &PublicKey) -> Option<Rejection> {
        self.shared.pool.rejection(key)
    }

    pub fn stats(&self) -> TransportStats {
        self.shared.counters.read(self.shared.pool.open_links())
    }

    /// Resolves once everything was said that could be said; at most so long after [`Transport::close`].
    pub async fn closed(&self, timeout: Duration) {
        let closing = self.shared.closing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(closing) = closing {
            let _ = tokio::time::timeout(timeout, closing).await;
        }
    }

    async fn ask(
        &self,
        kind: Kind,
        to: &Address,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let max = self.shared.message_bytes_max;
        if request.len() > max {
            return Err(TransportError::TooLarge { actual: request.len(), max });
        }
        // Until a connection is there nothing was sent.
        let begun = tokio::time::Instant::now();
        let link = match tokio::time::timeout(timeout, self.link(to)).await {
            Ok(link) => link?,
            Err(_) => return Err(TransportError::Unreachable(to.clone())),
        };
        match tokio::time::timeout_at(begun + timeout, link.ask(&self.shared, kind, &request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(LinkError::Unserved)) => Err(TransportError::Refused(to.clone())),
            Ok(Err(LinkError::Reset)) => Err(TransportError::Reset(to.clone())),
            Err(_) => Err(TransportError::Timeout(to.clone(), timeout)),
        }
    }

    /// An open connection to a peer. The attempt goes on when the caller gives up: the next one finds its result.
    async fn link(&self, to: &Address) -> Result<Arc<Link>, TransportError> {
        let shared = &self.shared;
        if shared.closed.load(Ordering::SeqCst) {
            return Err(TransportError::Closed);
        }
        let place = shared.parsed.place(to).map_err(|_| TransportError::Unreachable(to.clone()))?;
        let mut told = match shared.pool.way(&place.key) {
            Way::Open(link) => return Ok(link),
            Way::Dialling(told) => told,
            Way::Failed(error) => return Err(failed(to, &error)),
            Way::Dial(tell, told) => {
                let shared = shared.clone();
                shared.net.clone().spawn(async move {
                    let result: DialResult = dial::dial(&shared, place.key, &place.at).await;
                    shared.pool.dialled(&place.key, result.as_ref().err().cloned());
                    // Nobody may be waiting.
                    let _ = tell.send(Some(result));
                });
                told
            }
        };
        let result = told.wait_for(Option::is_some).await.map(|result| result.clone());
        match result {
            Ok(Some(Ok(link))) => Ok(link),
            Ok(Some(Err(error))) => Err(failed(to, &error)),
            Ok(None) | Err(_) => Err(TransportError::Unreachable(to.clone())),
        }
    }
}

impl Transport for IrohTransport {
    async fn call(&self, to: &Address, request: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, TransportError> {
        self.ask(Kind::Request, to, request, timeout).await
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        *self.shared.node_handler.write().unwrap_or_else(PoisonError::into_inner) = Some(handler);
    }

    fn close(&self) {
        let shared = self.shared.clone();
        if shared.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        *shared.node_handler.write().unwrap_or_else(PoisonError::into_inner) = None;
        *shared.client_handler.write().unwrap_or_else(PoisonError::into_inner) = None;
        *shared.side_handler.write().unwrap_or_else(PoisonError::into_inner) = None;
        shared.pool.close_where(|_| true, CODE_DONE, "closed");
        let endpoint = shared.endpoint.clone();
        let closing = self.shared.net.spawn(async move { endpoint.close().await });
        *shared.closing.lock().unwrap_or_else(PoisonError::into_inner) = Some(closing);
    }
}

impl Shared {
    fn gate(&self) -> Arc<dyn Gate> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn introduction(&self) -> Introduction {
        self.introduction.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who answers a request of this kind from this peer, if anybody does.
    fn handler_for(&self, kind: Kind, who: &PublicKey, admitted: Role) -> Option<Arc<dyn Handler>> {
        let role = self.gate().role(who, admitted);
        let read =
            |slot: &RwLock<Option<Arc<dyn Handler>>>| slot.read().unwrap_or_else(PoisonError::into_inner).clone();
        match (kind, role) {
            (Kind::Request, Role::Member) => read(&self.node_handler),
            (Kind::Request, Role::Client) => read(&self.client_handler),
            (Kind::Side, _) => {
                let side = self.side_handler.read().unwrap_or_else(PoisonError::into_inner).clone()?;
                Some(Arc::new(OneSide { side, from: *who, role }))
            }
            _ => None,
        }
    }
}

struct OneSide {
    side: Arc<dyn Side>,
    from: PublicKey,
    role: Role,
}

impl Handler for OneSide {
    fn handle(&self, request: Vec<u8>) -> crate::transport::ReplyFuture {
        self.side.handle(self.from, self.role, request)
    }
}

fn failed(to: &Address, error: &DialError) -> TransportError {
    tracing::debug!("{to}: {error}");
    match error {
        DialError::Unreachable(_) => TransportError::Unreachable(to.clone()),
        DialError::Refused(_) => TransportError::Refused(to.clone()),
    }
}

fn quic() -> QuicTransportConfig {
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED_PACKETS_MAX));
    QuicTransportConfig::builder()
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .ack_frequency_config(Some(acknowledgements))
        // noq-proto 1.4 gives the later datagrams of a batch the size of the first one, and writes frames that do not fit into
        // that without looking: the process ends in a panic when packets are lost. See `docs/trophies.md`.
        .enable_segmentation_offload(false)
        .build()
}
