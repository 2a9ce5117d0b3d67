//! A running `aspen-node`: the node, its edges, and their common life.
//!
//! Start: configuration, secrets, the lock of the data directory, listeners, identity (a joiner asks for one), the node,
//! then what goes on in the background ([`tasks`]). Stop: the node hands over and closes its stores, then the edges end.
//! Nothing here survives the node: when it fails, the process ends and says why, and a supervisor starts it anew.

mod identity;
mod tasks;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

pub use self::identity::{DirectoryLock, Identity, IdentityError};
use crate::message::ClusterId;
use crate::node::{Node, NodeConfig, StartError};
use crate::production::config::{Secret, Settings};
use crate::production::disk::Disk;
use crate::production::env::RealEnv;
use crate::production::http::auth::Guard;
use crate::production::http::metrics::HttpMetrics;
use crate::production::http::{self, App};
use crate::production::membership::ClusterGate;
use crate::production::secret::{self, ClusterSecret, SecretError, Token};
use crate::production::side::{self, JoinRequest, Joined, NotJoined, SideServer};
use crate::production::ticket::{Ticket, TicketError};
use crate::production::transport::{BindError, IrohTransport, TransportConfig};
use crate::transport::Transport as _;
use crate::types::NodeId;

/// Why the node does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("the data directory {path}: {error}")]
    Directory { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("HTTP cannot be bound to {at}: {error}")]
    Http { at: std::net::SocketAddr, error: std::io::Error },
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
const COOKIE_FILE: &str = "cookie";
pub const TOKEN_FILE: &str = "http-token";
/// A joiner asks again after so long.
const JOIN_PAUSE: Duration = Duration::from_millis(500);
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// The last words on a connection.
const FAREWELL: Duration = Duration::from_secs(1);
/// The ticket that is written at the start is valid for so long.
const TICKET_OUT_SECONDS: u64 = 24 * 3600;

/// Runs a node until `stop` resolves or it fails. `started` is told when it serves HTTP.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(&App),
) -> Result<(), DaemonError> {
    let dir = settings.data_dir.clone();
    std::fs::create_dir_all(&dir).map_err(|error| DaemonError::Directory { path: dir.clone(), error })?;
    let _lock = DirectoryLock::take(&dir)?;
    let known = Identity::read(&dir)?;
    let key = secret::node_key(&dir.join(KEY_FILE))?;
    let ticket = text_of(&settings.ticket)?;
    let secret = cluster_secret(&settings, ticket.is_some())?;
    let token = match text_of(&settings.http_token)? {
        Some(text) => text,
        None => secret::read_or_create(&dir.join(TOKEN_FILE))?,
    };
    let said = ticket.as_deref().map(Ticket::parse).transpose()?;
    let cluster = cluster_of(&known, &said, &secret)?;

    let http_error = |error| DaemonError::Http { at: settings.http_addr, error };
    let listener = TcpListener::bind(settings.http_addr).await.map_err(http_error)?;
    let http_address = listener.local_addr().map_err(http_error)?;
    let peers = settings.peers.iter().cloned().chain(known.iter().flat_map(|known| known.places()));
    let peers: Vec<_> = peers.chain(said.iter().flat_map(|said| said.peers.clone())).collect();
    let gate = Arc::new(ClusterGate::new(key.public(), secret.clone(), peers.iter().map(|place| place.key)));
    let incarnation = u64::from_le_bytes(secret::random());
    let transport = IrohTransport::bind(TransportConfig {
        key,
        cluster,
        bind: settings.bind_addr,
        incarnation,
        node: known.as_ref().map(|known| known.node_id),
        advertise: settings.advertise_addr.clone(),
        http: Some(http_address.to_string()),
        secret: secret.clone(),
        ticket: ticket.clone(),
        relay: settings.relay_url.clone(),
        gate: gate.clone(),
        message_bytes_max: settings.store.limits.message_bytes_max,
        connections_max: settings.store.limits.connections_max,
    })
    .await?;
    peers.iter().for_each(|place| transport.learn(place));

    let mut stop = std::pin::pin!(stop);
    let identity = tokio::select! {
        identity = identify(&settings, known, cluster, &said, ticket.as_deref(), &transport, &gate, incarnation) => identity?,
        () = &mut stop => return Ok(()),
    };
    transport.set_node(identity.node_id);
    let config = NodeConfig {
        id: identity.node_id,
        cluster,
        address: transport.place().address(),
        data_dir: dir.join("data"),
        raft: settings.raft.clone(),
        store: settings.store.clone(),
    };
    let data_dir = config.data_dir.clone();
    std::fs::create_dir_all(&data_dir).map_err(|error| DaemonError::Directory { path: data_dir.clone(), error })?;
    let node = Node::start(RealEnv::new(transport.clone()), config.clone()).await?;
    transport.serve_clients(node.client_handler());
    let app = Arc::new(App {
        node: node.clone(),
        transport: transport.clone(),
        config,
        cluster,
        http_address,
        guard: Guard::new(Token::new(&token), http_address.ip()),
        gate,
        secret,
        disk: Arc::new(Disk::new(&data_dir)),
        metrics: HttpMetrics::default(),
        joins: tokio::sync::Mutex::default(),
        started: Instant::now(),
    });
    transport.serve_side(Arc::new(SideServer(app.clone())));
    let background = tasks::start(&app);
    let (end_http, http_ends) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(http::serve(app.clone(), listener, async move { drop(http_ends.await) }));
    let result = live(&settings, &app, &mut stop, started).await;
    background.abort();
    node.shutdown().await;
    drop(end_http);
    drop(tokio::time::timeout(http::GRACE, server).await);
    transport.close();
    transport.closed(FAREWELL).await;
    result
}

/// From the first request to the last.
async fn live(
    settings: &Settings,
    app: &Arc<App>,
    stop: impl Future<Output = ()>,
    started: impl FnOnce(&App),
) -> Result<(), DaemonError> {
    if let Some(expect) = settings.expect {
        form_cluster(settings, app, expect).await?;
    }
    started(app);
    tokio::select! {
        () = stop => Ok(()),
        reason = app.node.failed() => Err(DaemonError::Failed(reason)),
    }
}

/// Forms a cluster of this node alone, unless it is part of one, and promotes whoever joins until it is complete.
async fn form_cluster(settings: &Settings, app: &Arc<App>, expect: usize) -> Result<(), DaemonError> {
    let members = BTreeMap::from([(app.node.id(), app.address())]);
    let fresh = crate::production::admin::initialize(&app.node, members).await.is_ok();
    if !fresh {
        return Ok(());
    }
    app.node.serving(Duration::from_millis(10 * app.config.raft.election_max_ms)).await;
    if let Some(path) = &settings.ticket_out {
        let fail = |problem: String| DaemonError::TicketOut { path: path.clone(), problem };
        let uses = u8::try_from(expect.saturating_sub(1).max(1)).unwrap_or(u8::MAX);
        let ticket = http::admin::issue_ticket(app, TICKET_OUT_SECONDS, uses);
        let ticket = ticket.map_err(|failure| fail(failure.body.message))?.ticket;
        secret::write(path, &ticket).map_err(|error| fail(error.to_string()))?;
    }
    if expect > 1 {
        tokio::spawn(tasks::promote_until(app.clone(), expect));
    }
    Ok(())
}

/// The secret of the cluster: given, kept from an earlier start, or made; a joiner needs none.
fn cluster_secret(settings: &Settings, joins: bool) -> Result<Option<ClusterSecret>, DaemonError> {
    let kept = settings.data_dir.join(COOKIE_FILE);
    let text = match text_of(&settings.cookie)? {
        Some(text) => text,
        None if joins && !kept.exists() => return Ok(None),
        // A node that has joined keeps having no secret.
        None if Identity::read(&settings.data_dir)?.is_some() && !kept.exists() => return Ok(None),
        None => secret::read_or_create(&kept)?,
    };
    Ok(Some(ClusterSecret::new(&text)))
}

fn text_of(secret: &Secret) -> Result<Option<String>, SecretError> {
    match secret {
        Secret::None => Ok(None),
        Secret::Text(text) => Ok(Some(text.trim().to_owned())),
        Secret::File(path) => secret::read(path).map(Some),
    }
}

/// The cluster that all we have speaks of.
fn cluster_of(
    known: &Option<Identity>,
    ticket: &Option<Ticket>,
    secret: &Option<ClusterSecret>,
) -> Result<ClusterId, DaemonError> {
    let named = [
        ("the data directory", known.as_ref().map(Identity::cluster)),
        ("the cookie", secret.as_ref().map(ClusterSecret::cluster)),
        ("the ticket", ticket.as_ref().map(|ticket| ticket.cluster)),
    ];
    let mut named = named.into_iter().filter_map(|(what, cluster)| Some((what, cluster?)));
    let Some((first, cluster)) = named.next() else {
        return Err(DaemonError::Identification("no cluster is known: name a cookie file or a ticket".to_owned()));
    };
    match named.find(|(_, other)| *other != cluster) {
        None => Ok(cluster),
        Some((second, other)) => Err(DaemonError::Identification(format!(
            "{first} is of cluster {cluster}, but {second} is of cluster {other}: one of them is the wrong one"
        ))),
    }
}

/// This node's identity: stored, chosen by the operator, or given by the cluster.
#[allow(clippy::too_many_arguments, reason = "one call, in one place")]
async fn identify(
    settings: &Settings,
    known: Option<Identity>,
    cluster: ClusterId,
    said: &Option<Ticket>,
    ticket: Option<&str>,
    transport: &IrohTransport,
    gate: &ClusterGate,
    incarnation: u64,
) -> Result<Identity, DaemonError> {
    let dir: &Path = &settings.data_dir;
    if let Some(known) = known {
        if settings.node_id.is_some_and(|id| id != known.node_id) && said.is_none() {
            let message = format!("the data directory is of node {}, not {:?}", known.node_id, settings.node_id);
            return Err(DaemonError::Identification(message));
        }
        return Ok(known);
    }
    let identity = match (said, ticket) {
        (Some(said), Some(ticket)) => {
            let joined = ask_to_join(said, ticket, transport, incarnation).await?;
            let places = joined.members.values().filter_map(|address| address.0.parse().ok());
            let places: Vec<crate::production::transport::Place> = places.collect();
            for place in &places {
                gate.add_peer(place.key);
                transport.learn(place);
            }
            let peers = places.iter().map(ToString::to_string).collect();
            Identity { node_id: joined.node_id, cluster: cluster.0, peers }
        }
        _ => {
            let founder: Option<NodeId> = settings.expect.map(|_| 1);
            let Some(node_id) = settings.node_id.or(founder) else {
                let message = "the node has no id: name one with --node-id, or join with a ticket, or use --dev";
                return Err(DaemonError::Identification(message.to_owned()));
            };
            Identity { node_id, cluster: cluster.0, peers: Vec::new() }
        }
    };
    identity.write(dir)?;
    Ok(identity)
}

/// Asks one member after the other until one lets this node in, or says no for good.
async fn ask_to_join(
    said: &Ticket,
    ticket: &str,
    transport: &IrohTransport,
    incarnation: u64,
) -> Result<Joined, DaemonError> {
    let address = transport.place().to_string();
    let request = JoinRequest { ticket: ticket.to_owned(), address, incarnation };
    let request = serde_json::to_vec(&request).expect("a request has string keys only");
    let mut last = String::new();
    loop {
        for place in &said.peers {
            let replied = transport.ask_side(&place.address(), request.clone(), JOIN_TIMEOUT).await;
            match side::read_answer(replied) {
                Ok(joined) => return Ok(joined),
                Err(NotJoined { is_final: true, message }) => return Err(DaemonError::NotAdmitted(message)),
                Err(NotJoined { message, .. }) if message != last => {
                    tracing::warn!("{place}: not yet joined: {message}");
                    last = message;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}
