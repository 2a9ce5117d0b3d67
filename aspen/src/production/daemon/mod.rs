//! A running `aspen-node`: the node, its edges, and their common life.
//!
//! Start: configuration, the lock of the data directory, listeners, secrets, identity (a joiner asks for one), the node,
//! then what goes on in the background ([`tasks`]). Stop: the node hands over and closes its stores, then the edges end.
//! Nothing here survives the node: when it fails, the process ends and says why, and a supervisor starts it anew.
//!
//! - [`lock`]: one process uses the directory, and a start that is refused leaves nothing in it
//! - [`identity`]: who the node is; [`join`]: a new node asks to be let in; [`form`]: a founder completes its cluster

mod form;
mod identity;
mod join;
mod lock;
mod tasks;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

pub use self::identity::{Identity, IdentityError};
pub use self::lock::DirectoryLock;
use crate::message::ClusterId;
use crate::node::{Node, NodeConfig, StartError};
use crate::production::config::{Kept, Secret, Settings, cluster_of};
use crate::production::disk::Disk;
use crate::production::env::RealEnv;
use crate::production::http::auth::Guard;
use crate::production::http::metrics::HttpMetrics;
use crate::production::http::{self, App};
use crate::production::membership::ClusterGate;
use crate::production::secret::{self, ClusterSecret, Fresh, SecretError, Token};
use crate::production::side::SideServer;
use crate::production::ticket::{Ticket, TicketError};
use crate::production::transport::{BindError, IrohTransport, Place, TransportConfig};
use crate::transport::Transport as _;
use crate::types::NodeId;

/// Why the node does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("HTTP cannot be bound to {at}: {error}")]
    Http { at: SocketAddr, error: std::io::Error },
    #[error("the ticket: {0}")]
    Ticket(#[from] TicketError),
    #[error("the cluster does not let this node in: {0}")]
    NotAdmitted(String),
    #[error("{0}")]
    Identification(String),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the ticket cannot be written to {path}: {problem}")]
    TicketOut { path: PathBuf, problem: String },
    #[error("the node stopped: {0}")]
    Failed(String),
}

/// Names of files in the data directory.
pub const KEY_FILE: &str = "node.key";
pub const COOKIE_FILE: &str = "cookie";
pub const TOKEN_FILE: &str = "http-token";
/// The last words on a connection.
const FAREWELL: Duration = Duration::from_secs(1);
/// What is known before anything listens.
struct Credentials {
    ticket: Option<Ticket>,
    ticket_text: Option<String>,
    secret: Option<ClusterSecret>,
    token: Token,
    cluster: ClusterId,
}

/// Runs a node until `stop` resolves or it fails. `started` is told when it serves HTTP.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(&App),
) -> Result<(), DaemonError> {
    let dir = settings.data_dir.clone();
    let mut lock = DirectoryLock::take(&dir)?;
    let kept = Kept::read(&dir);
    if let Some(problem) = kept.problems().into_iter().next() {
        return Err(DaemonError::Identification(problem));
    }
    let Kept { identity, key, cookie, token } = kept;
    let known = identity?;
    let http_error = |error| DaemonError::Http { at: settings.http_addr, error };
    let listener = TcpListener::bind(settings.http_addr).await.map_err(http_error)?;
    let http_address = listener.local_addr().map_err(http_error)?;
    // Until the node has an identity, a start that fails leaves none of them behind.
    let mut fresh = Fresh::default();
    let key = match key? {
        Some(key) => key,
        None => fresh.node_key(&dir.join(KEY_FILE))?,
    };
    let credentials = credentials(&settings, &known, (cookie, token), &mut fresh)?;
    let peers = settings.peers.iter().cloned().chain(known.iter().flat_map(|known| known.places()));
    let peers: Vec<_> = peers.chain(credentials.ticket.iter().flat_map(|said| said.peers.clone())).collect();
    let gate = ClusterGate::new(key.public(), credentials.secret.clone(), peers.iter().map(|place| place.key));
    let gate = Arc::new(gate);
    let incarnation = u64::from_le_bytes(secret::random());
    let transport = IrohTransport::bind(TransportConfig {
        key,
        cluster: credentials.cluster,
        bind: settings.bind_addr,
        incarnation,
        node: known.as_ref().map(|known| known.node_id),
        advertise: settings.advertise_addr.clone(),
        http: advertised(&settings, http_address),
        secret: credentials.secret.clone(),
        ticket: credentials.ticket_text.clone(),
        relay: settings.relay_url.clone(),
        gate: gate.clone(),
        message_bytes_max: settings.store.limits.message_bytes_max,
        connections_max: settings.store.limits.connections_max,
    })
    .await?;
    peers.iter().for_each(|place| transport.learn(place));

    let edges = Edges { transport: transport.clone(), gate, listener, http_address, incarnation };
    let result = run_on(&settings, known, credentials, (fresh, &mut lock), edges, stop, started).await;
    transport.close();
    transport.closed(FAREWELL).await;
    result
}

/// What listens.
struct Edges {
    transport: IrohTransport,
    gate: Arc<ClusterGate>,
    listener: TcpListener,
    http_address: SocketAddr,
    incarnation: u64,
}

/// From the first connection to the last.
async fn run_on(
    settings: &Settings,
    known: Option<Identity>,
    credentials: Credentials,
    (fresh, lock): (Fresh, &mut DirectoryLock),
    edges: Edges,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(&App),
) -> Result<(), DaemonError> {
    let dir: &Path = &settings.data_dir;
    let Edges { transport, gate, listener, http_address, incarnation } = edges;
    let mut stop = std::pin::pin!(stop);
    let identity = match known {
        Some(known) => {
            if credentials.ticket.is_some() {
                tracing::info!("node {} has joined before: the ticket is not used", known.node_id);
            }
            known
        }
        None => {
            let identity = tokio::select! {
                identity = identify(settings, &credentials, &transport, &gate, incarnation) => identity?,
                () = &mut stop => return Ok(()),
            };
            identity.write(dir)?;
            identity
        }
    };
    fresh.keep();
    lock.keep();
    transport.set_node(identity.node_id);
    let mut store = settings.store.clone();
    store.must_exist = identity.served;
    let config = NodeConfig {
        id: identity.node_id,
        cluster: credentials.cluster,
        address: transport.place().address(),
        data_dir: dir.join("data"),
        raft: settings.raft.clone(),
        store,
    };
    let is_new = !config.data_dir.exists();
    let node = match Node::start(RealEnv::new(transport.clone()), config.clone()).await {
        Ok(node) => node,
        Err(error) => {
            if is_new {
                // Nothing was stored in it, or it is not empty and stays.
                let _ = std::fs::remove_dir(&config.data_dir);
            }
            return Err(error.into());
        }
    };
    if !identity.served {
        // From here on it may have voted: without its stores it is not started again.
        Identity::update(dir, |identity| identity.served = true)?;
    }
    transport.serve_clients(node.client_handler());
    let app = Arc::new(App {
        node: node.clone(),
        transport: transport.clone(),
        cluster: credentials.cluster,
        http_address,
        http_advertised: advertised(settings, http_address),
        guard: Guard::new(credentials.token, http_address.ip()),
        gate,
        secret: credentials.secret,
        disk: Arc::new(Disk::new(&config.data_dir)),
        config,
        metrics: HttpMetrics::default(),
        joins: tokio::sync::Mutex::default(),
        has_joined: identity.has_joined(),
        is_disowned: AtomicBool::new(false),
        started: Instant::now(),
    });
    transport.serve_side(Arc::new(SideServer(app.clone())));
    let background = tasks::start(&app);
    let (end_http, http_ends) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(http::serve(app.clone(), listener, async move { drop(http_ends.await) }));
    let result = live(settings, &identity, &app, &mut stop, started).await;
    drop(background);
    node.shutdown().await;
    drop(end_http);
    drop(tokio::time::timeout(http::GRACE, server).await);
    result
}

/// From the first request to the last.
async fn live(
    settings: &Settings,
    identity: &Identity,
    app: &Arc<App>,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(&App),
) -> Result<(), DaemonError> {
    form::form_cluster(settings, identity, app).await?;
    started(app);
    tokio::select! {
        () = stop => Ok(()),
        reason = app.node.failed() => Err(DaemonError::Failed(reason)),
    }
}

/// Where clients are told that the HTTP interface is. Nobody can connect to an address that means all of them.
fn advertised(settings: &Settings, bound: SocketAddr) -> Option<String> {
    settings.http_advertise.clone().or_else(|| (!bound.ip().is_unspecified()).then(|| bound.to_string()))
}

/// All secrets: given, kept from an earlier start, or made. A joiner needs no cookie, and a node that has joined keeps having
/// none.
fn credentials(
    settings: &Settings,
    known: &Option<Identity>,
    (cookie, token): (Result<Option<String>, SecretError>, Result<Option<String>, SecretError>),
    fresh: &mut Fresh,
) -> Result<Credentials, DaemonError> {
    let given = |secret: &Option<Secret>| secret.as_ref().map(|Secret(text)| text.clone());
    let ticket_text = given(&settings.ticket);
    let ticket = ticket_text.as_deref().map(Ticket::parse).transpose()?;
    let cookie = match given(&settings.cookie) {
        Some(text) => Some(text),
        None => match cookie? {
            Some(text) => Some(text),
            None if ticket.is_some() || known.is_some() => None,
            None => Some(fresh.secret(&settings.data_dir.join(COOKIE_FILE))?),
        },
    };
    let token = match given(&settings.http_token) {
        Some(text) => text,
        None => match token? {
            Some(text) => text,
            None => fresh.secret(&settings.data_dir.join(TOKEN_FILE))?,
        },
    };
    let cluster = cluster_of(known.as_ref(), ticket.as_ref(), cookie.as_deref());
    let cluster = cluster
        .map_err(DaemonError::Identification)?
        .ok_or_else(|| DaemonError::Identification("no cluster is known: name a cookie file or a ticket".to_owned()))?;
    let secret = cookie.as_deref().map(ClusterSecret::new);
    Ok(Credentials { ticket, ticket_text, secret, token: Token::new(&token), cluster })
}

/// The identity of a new node: chosen by the operator, or given by the cluster.
async fn identify(
    settings: &Settings,
    credentials: &Credentials,
    transport: &IrohTransport,
    gate: &ClusterGate,
    incarnation: u64,
) -> Result<Identity, DaemonError> {
    let cluster = credentials.cluster.0;
    if let (Some(said), Some(ticket)) = (&credentials.ticket, &credentials.ticket_text) {
        let joined = join::ask_to_join(said, ticket, transport, incarnation).await?;
        let places: Vec<Place> = joined.members.values().filter_map(|address| address.0.parse().ok()).collect();
        for place in &places {
            gate.add_peer(place.key);
            transport.learn(place);
        }
        let peers = places.iter().map(ToString::to_string).collect();
        return Ok(Identity { node_id: joined.node_id, cluster, peers, served: false, expect: None });
    }
    let founder: Option<NodeId> = settings.expect.map(|_| 1);
    let Some(node_id) = settings.node_id.or(founder) else {
        let message = "the node has no id: name one with --node-id, or join with a ticket, or use --dev";
        return Err(DaemonError::Identification(message.to_owned()));
    };
    let expect = settings.expect.filter(|expect| *expect > 1);
    Ok(Identity { node_id, cluster, peers: Vec::new(), served: false, expect })
}
