//! A node: stores, Raft, server and their common life.
//!
//! Start: the stores are opened and checked, then requests of other nodes are served, then Raft may campaign. Clients
//! are served once the node has recovered what it knew before.
//!
//! Stop: in order and bounded when it is asked for; at once when a store fails or Raft dies. Nothing is retried on a
//! store that failed: the node stops, says why ([`Node::stopped`]), and whoever supervises it starts it anew.

mod compaction;
mod stop;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{WatchReceiverOf, WatchSenderOf};
use openraft::{Raft, WatchChangeHandle};

use crate::command::{Answer, Query};
use crate::config::{ConfigError, RaftTuning};
use crate::env::Env;
use crate::health::Health;
use crate::limits::PROPOSALS_IN_FLIGHT_CEILING;
use crate::log_store::{LogStats, LogStore};
pub use crate::message::StaleBound;
use crate::message::{ClusterId, Refusal, Request, Response};
use crate::network::Network;
pub use crate::node::stop::StopReason;
pub use crate::server::Phase;
use crate::server::Server;
use crate::state_machine::{StateMachine, StateReader};
use crate::store::{self, RecoveryReport, StoreConfig, StoreError};
use crate::transport::{Handler, Transport};
use crate::types::{Address, Member, NodeId, TypeConfig};
use buggify::{assert_sometimes, buggify};

/// openraft's handle to a node.
pub type NodeRaft<E> = Raft<TypeConfig<E>, StateMachine<E>>;

/// One node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Never reused: a node that lost its disk comes back under another id.
    pub id: NodeId,
    pub cluster: ClusterId,
    /// Where other nodes and clients reach this one.
    pub address: Address,
    /// Directory of the log, the state and the snapshots. Nobody else may use it.
    pub data_dir: PathBuf,
    pub raft: RaftTuning,
    /// Carries the limits of the whole node.
    pub store: StoreConfig,
}

impl NodeConfig {
    /// Checks the whole configuration.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.raft.validate()?;
        let in_flight = self.store.limits.proposals_in_flight_max;
        if in_flight == 0 || in_flight > PROPOSALS_IN_FLIGHT_CEILING {
            return Err(ConfigError::new(format!(
                "proposals_in_flight_max is {in_flight}, 1 to {PROPOSALS_IN_FLIGHT_CEILING} are allowed"
            )));
        }
        let limits = &self.store.limits;
        let overhead = limits.replication_batch_bytes_max.max(limits.command_bytes_max) + MESSAGE_OVERHEAD_BYTES;
        if overhead.max(limits.snapshot_chunk_bytes + MESSAGE_OVERHEAD_BYTES) > limits.message_bytes_max {
            return Err(ConfigError::new("a command, a replication batch and a snapshot chunk must fit in a message"));
        }
        // A row is its key and value, and up to 48 bytes around them.
        let rows =
            limits.key_bytes_max + limits.value_bytes_max + 48 * usize::try_from(limits.scan_rows_max).unwrap_or(0);
        if self.store.scan_bytes_max + rows + MESSAGE_OVERHEAD_BYTES > limits.message_bytes_max {
            return Err(ConfigError::new("scan_bytes_max and one row more must fit in a message"));
        }
        if limits.snapshot_chunk_bytes == 0 {
            return Err(ConfigError::new("snapshot_chunk_bytes is 0"));
        }
        Ok(())
    }
}

/// What a message adds to the command, the batch or the chunk in it, at most, in bytes.
pub const MESSAGE_OVERHEAD_BYTES: usize = 64 << 10;

/// A running node. Clones are the same node.
///
/// Dropping it stops nothing: call [`Node::shutdown`].
pub struct Node<E: Env> {
    inner: Arc<Inner<E>>,
}

impl<E: Env> Clone for Node<E> {
    fn clone(&self) -> Self {
        Node { inner: self.inner.clone() }
    }
}

struct Inner<E: Env> {
    env: E,
    id: NodeId,
    tuning: RaftTuning,
    raft: NodeRaft<E>,
    server: Server<E>,
    /// Ends with the node. A handle is not `Sync`.
    _offices: Mutex<WatchChangeHandle<TypeConfig<E>>>,
    log: LogStore<E>,
    reader: StateReader<E>,
    health: Health<E>,
    recovery: RecoveryReport,
    status: WatchReceiverOf<TypeConfig<E>, Status>,
    /// A sender is not `Sync`.
    status_sender: Mutex<WatchSenderOf<TypeConfig<E>, Status>>,
}

/// What is known of a node's life.
#[derive(Clone, Debug, Default)]
struct Status {
    serving: bool,
    /// Somebody has begun to stop the node, for this reason.
    stopping: Option<StopReason>,
    stopped: bool,
}

impl<E: Env> Node<E> {
    /// Starts a node on its data directory. It serves requests of other nodes when this returns, and clients when it
    /// has recovered. On an error nothing runs and nothing is open.
    pub async fn start(env: E, config: NodeConfig) -> Result<Node<E>, StartError> {
        config.validate()?;
        let stores = store::open(&env, &config.data_dir, &config.store).await?;
        let (id, tuning) = (config.id, config.raft.clone());
        let network = Network::new(env.clone(), id, config.cluster, tuning.clone(), config.store.limits.clone());
        let raft_config = Arc::new(tuning.openraft_config(&config.cluster.to_string())?);
        let (log, reader) = (stores.log.clone(), stores.reader.clone());
        let raft = match Raft::build(id, raft_config, network, stores.log, stores.state).await {
            Ok(raft) => raft,
            Err(fatal) => {
                stop::close_stores(&log, &reader, Duration::from_millis(tuning.stop_timeout_ms)).await;
                return Err(StartError::Raft(fatal.to_string()));
            }
        };
        assert_sometimes!(
            stores.recovery.log.committed > stores.recovery.state.applied,
            "a node started with committed entries to apply again"
        );
        let server = Server::new(env.clone(), config, raft.clone(), log.clone(), reader.clone());
        let offices = server.watch_offices();
        let (sender, status) = TypeConfig::<E>::watch_channel(Status::default());
        let inner = Inner {
            env,
            id,
            tuning,
            raft,
            server,
            _offices: Mutex::new(offices),
            log,
            reader,
            health: stores.health,
            recovery: stores.recovery,
            status,
            status_sender: Mutex::new(sender),
        };
        let node = Node { inner: Arc::new(inner) };
        node.inner.env.transport().serve(Arc::new(node.inner.server.clone()));
        node.inner.raft.run();
        drop(TypeConfig::<E>::spawn(node.clone().supervise()));
        drop(TypeConfig::<E>::spawn(node.clone().recover()));
        drop(TypeConfig::<E>::spawn(node.clone().keep_compact()));
        Ok(node)
    }

    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// For membership changes, metrics and tests. Writing through it passes the node's limits by.
    pub fn raft(&self) -> &NodeRaft<E> {
        &self.inner.raft
    }

    /// Reads what is applied here, however stale.
    pub fn reader(&self) -> &StateReader<E> {
        &self.inner.reader
    }

    /// What was found on disk.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.recovery
    }

    pub fn phase(&self) -> Phase {
        self.inner.server.phase()
    }

    /// Answers a client of this process as if its request had come over the transport.
    pub async fn ask(&self, request: Request) -> Response {
        self.inner.server.ask(request).await
    }

    /// Reads what is applied here, if it is within `bound`; waits for `budget` at most until it is.
    pub async fn read_stale(&self, query: Query, bound: StaleBound, budget: Duration) -> Result<Answer, Refusal> {
        self.inner.server.read_stale(query, bound, budget).await
    }

    /// How long this node has heard no leader or, as the leader, no quorum; `None` if it neither leads nor heard a leader.
    pub fn silence(&self) -> Option<Duration> {
        self.inner.server.silence()
    }

    /// Answers clients and nobody else: for connections that may not do what nodes do.
    pub fn client_handler(&self) -> Arc<dyn Handler> {
        Arc::new(self.inner.server.for_clients())
    }

    /// Why a store failed, if one did. The node is stopping then.
    pub fn store_failure(&self) -> Option<Arc<str>> {
        self.inner.health.reason()
    }

    /// Proposals whose outcome is not known yet.
    pub fn proposals_in_flight(&self) -> usize {
        self.inner.server.proposals_in_flight()
    }

    /// What the log did since it was opened.
    pub fn log_stats(&self) -> LogStats {
        self.inner.log.stats()
    }

    /// Forms a new cluster of `members`, this node among them. Once, on one of them, all of them pristine.
    pub async fn initialize(&self, members: BTreeMap<NodeId, Member>) -> Result<(), InitializeFailed> {
        self.inner.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => InitializeFailed::Already,
            RaftError::APIError(InitializeError::NotInMembers(_)) => InitializeFailed::NotAMember(self.inner.id),
            RaftError::Fatal(fatal) => InitializeFailed::Stopped(fatal.to_string()),
        })
    }

    /// Waits until clients are served. `false` if the node stops instead, or `timeout` passes.
    pub async fn serving(&self, timeout: Duration) -> bool {
        let mut status = self.inner.status.clone();
        let served = status.wait_until(|status| status.serving || status.stopping.is_some());
        match TypeConfig::<E>::timeout(timeout, served).await {
            Ok(Ok(status)) => status.serving && status.stopping.is_none(),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Waits until the node has recovered what it knew before it was started: every entry that it may have applied or
    /// shown to a client is committed and applied again.
    async fn recover(self) {
        // With neither leader nor quorum, or outside any cluster, this takes for ever. A timeout of openraft's would be no
        // better: it formats its metrics in local time, and looks for the zone.
        if self.inner.raft.wait_for_recovery(None).await.is_err() {
            return;
        }
        if buggify!(at "recovery ends late") {
            TypeConfig::<E>::sleep(Duration::from_millis(self.inner.tuning.election_max_ms)).await;
        }
        self.inner.server.recovered();
        self.inner.update(|status| status.serving = true);
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Raft cannot start on what is stored: {0}")]
    Raft(String),
}

/// Why no cluster was formed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitializeFailed {
    #[error("the node is part of a cluster already")]
    Already,
    #[error("node {0} is not among the members")]
    NotAMember(NodeId),
    #[error("the node has stopped: {0}")]
    Stopped(String),
}
