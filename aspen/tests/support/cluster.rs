//! A cluster of real nodes in one process.

use std::collections::BTreeMap;
use std::time::Duration;

use aspen::client::{Client, ClientConfig, ClientTuning};
use aspen::command::{Answer, Command, Query};
use aspen::config::RaftTuning;
use aspen::message::ClusterId;
use aspen::node::{Node, NodeConfig};
use aspen::store::StoreConfig;
use aspen::types::{Address, Member, NodeId};
use openraft::async_runtime::watch::WatchReceiver;

use super::net::{MemNet, NetEnv};

pub const CLUSTER: ClusterId = ClusterId(7);
/// Nothing in a test takes so long, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes 1 to n at addresses `node-1` to `node-n`.
pub struct Cluster {
    pub net: MemNet,
    pub nodes: BTreeMap<NodeId, Node<NetEnv>>,
    pub envs: BTreeMap<NodeId, NetEnv>,
    pub tuning: RaftTuning,
    pub store: StoreConfig,
    dir: tempfile::TempDir,
}

pub fn name(id: NodeId) -> String {
    format!("node-{id}")
}

pub fn address(id: NodeId) -> Address {
    Address(name(id))
}

/// Fast, but not so fast that a busy machine loses its leader all the time.
pub fn tuning() -> RaftTuning {
    RaftTuning {
        heartbeat_ms: 100,
        election_min_ms: 400,
        election_max_ms: 800,
        backoff_ms: 50,
        ..RaftTuning::default()
    }
}

impl Cluster {
    /// `size` nodes with a leader that serves.
    pub async fn start(size: u64) -> Self {
        Self::start_with(size, tuning(), StoreConfig::default()).await
    }

    pub async fn start_with(size: u64, tuning: RaftTuning, store: StoreConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, envs) = (BTreeMap::new(), BTreeMap::new());
        let mut cluster = Cluster { net: MemNet::default(), nodes, envs, tuning, store, dir };
        for id in 1..=size {
            cluster.start_node(id).await;
        }
        let members = (1..=size).map(|id| (id, Member { address: address(id) })).collect();
        cluster.nodes[&1].initialize(members).await.unwrap();
        cluster.leader().await;
        cluster
    }

    pub fn config(&self, id: NodeId) -> NodeConfig {
        NodeConfig {
            id,
            cluster: CLUSTER,
            address: address(id),
            data_dir: self.dir.path().join(name(id)),
            raft: self.tuning.clone(),
            store: self.store.clone(),
        }
    }

    pub async fn start_node(&mut self, id: NodeId) {
        let env = NetEnv::new(self.net.endpoint(&name(id)));
        let node = Node::start(env.clone(), self.config(id)).await.unwrap();
        self.nodes.insert(id, node);
        self.envs.insert(id, env);
    }

    /// Cuts the node off, so that it cannot hand anything over, and stops it.
    pub async fn kill(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        let gone = address(id);
        self.net.rule(move |from, to, _| {
            if *from == gone || *to == gone { super::net::Fate::Unreachable } else { super::net::Fate::Deliver }
        });
        node.shutdown().await;
        self.net.heal();
    }

    /// A leader that most nodes agree on and that serves clients.
    pub async fn leader(&self) -> NodeId {
        self.leader_among(&self.nodes.keys().copied().collect::<Vec<_>>()).await
    }

    pub async fn leader_among(&self, ids: &[NodeId]) -> NodeId {
        self.until("a leader serves", || {
            let views: Vec<_> =
                ids.iter().map(|id| self.nodes[id].raft().metrics().borrow_watched().current_leader).collect();
            let leader = views[0]?;
            let agreed = ids.contains(&leader) && views.iter().all(|view| *view == Some(leader));
            (agreed && self.nodes[&leader].phase() == aspen::node::Phase::Serving).then_some(leader)
        })
        .await
    }

    /// Waits until `found` finds something.
    pub async fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let search = async {
            loop {
                match found() {
                    Some(value) => return value,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let searched = tokio::time::timeout(PATIENCE, search).await;
        searched.unwrap_or_else(|_| panic!("it never came true: {what}"))
    }

    /// The same for what must be waited for each time.
    pub async fn until_async<T>(&self, what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
        let search = async {
            loop {
                match found().await {
                    Some(value) => return value,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let searched = tokio::time::timeout(PATIENCE, search).await;
        searched.unwrap_or_else(|_| panic!("it never came true: {what}"))
    }

    /// Waits until all nodes have applied what the furthest has, and their states are the same.
    pub async fn converge(&self) {
        let applied = |node: &Node<NetEnv>| node.reader().applied();
        let furthest = self.nodes.values().map(applied).max().unwrap();
        self.until("every node has applied all", || {
            self.nodes.values().all(|node| applied(node) >= furthest).then_some(())
        })
        .await;
        let mut hashes = Vec::new();
        for node in self.nodes.values() {
            hashes.push(node.reader().verify().await.unwrap());
        }
        assert!(hashes.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1 == pair[1].1), "{hashes:?}");
    }

    pub fn client(&self, session: bool) -> Client<NetEnv> {
        self.client_with(session, ClientTuning { deadline_ms: 20_000, ..ClientTuning::default() })
    }

    pub fn client_with(&self, session: bool, tuning: ClientTuning) -> Client<NetEnv> {
        let env = NetEnv::new(self.net.endpoint(&self.net.fresh_name()));
        let addresses = self.nodes.keys().map(|id| address(*id)).collect();
        Client::new(env, addresses, ClientConfig { cluster: CLUSTER, tuning, session })
    }

    /// A client that knows one node only.
    pub fn client_of(&self, id: NodeId, tuning: ClientTuning) -> Client<NetEnv> {
        let env = NetEnv::new(self.net.endpoint(&format!("{}-client", name(id))));
        Client::new(env, vec![address(id)], ClientConfig { cluster: CLUSTER, tuning, session: false })
    }

    pub async fn stop(self) {
        for node in self.nodes.values() {
            node.shutdown().await;
        }
    }
}

pub fn set(key: &str, value: &str) -> Command {
    Command::Set { key: key.into(), value: value.into() }
}

pub fn get(key: &str) -> Query {
    Query::Get { key: key.into() }
}

pub fn value(answer: &Answer) -> Option<String> {
    answer.rows.first().map(|row| String::from_utf8(row.value.clone()).unwrap())
}
