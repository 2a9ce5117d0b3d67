//! Three openraft nodes and one client that writes: what Raft costs on the world, with any stores.
//!
//! Heartbeats every 50 ms, elections after 150 to 300 ms, links of 1 to 10 ms, values of 128 bytes written one after the
//! other until 61 s; whoever leads is isolated for 5 s at 16, 31 and 46 s. Snapshots are off. Neither aspen's server nor
//! its client is here: the difference between two kinds of stores is the stores.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aspen::command::{Command, Proposal, Reply};
use aspen::log_store::LogStore;
use aspen::state_machine::StateMachine;
use aspen::store::{self, StoreConfig};
use aspen::transport::{Handler, ReplyFuture, Transport, TransportError};
use aspen::types::{Address, Member, NodeId, TypeConfig, Vote};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::type_config::alias::SnapshotOf;
use openraft::{Config, RaftNetworkFactory, RaftNetworkV2, SnapshotPolicy};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sim_runtime::adapters::sqlite;
use sim_runtime::world::network::{self, NetworkConfig};
use sim_runtime::world::{self, HostId, World, WorldConfig};

use super::Figures;
use crate::config::DATA_DIR;
use crate::env::SimEnv;
use crate::transport::{SimTransport, address};

const NODES: NodeId = 3;
const CLIENT_START_NS: u64 = 1_000_000_000;
const END_NS: u64 = 61_000_000_000;
const CLIENT_TIMEOUT: Duration = Duration::from_millis(500);
const CLIENT_PAUSE: Duration = Duration::from_millis(10);
const VALUE_BYTES: usize = 128;
const KEYS: u64 = 1000;
/// When the leader is isolated, and when it is back, in ns.
const ISOLATIONS_NS: [(u64, u64); 3] =
    [(16_000_000_000, 21_000_000_000), (31_000_000_000, 36_000_000_000), (46_000_000_000, 51_000_000_000)];

type Types = TypeConfig<SimEnv>;
type Raft<S> = openraft::Raft<Types, <S as Stores>::State>;
type Snapshot<S> = <<S as Stores>::State as RaftStateMachine<Types>>::SnapshotData;

/// Where the nodes keep their log and state.
pub trait Stores: Sized + 'static {
    type Log: RaftLogStorage<Types>;
    type State: RaftStateMachine<Types>;

    /// Opens the empty stores of a node.
    fn open(env: &SimEnv) -> impl Future<Output = (Self::Log, Self::State)>;
}

/// aspen's own, on the simulated disk.
pub struct Real;

impl Stores for Real {
    type Log = LogStore<SimEnv>;
    type State = StateMachine<SimEnv>;

    async fn open(env: &SimEnv) -> (Self::Log, Self::State) {
        let stores = store::open(env, Path::new(DATA_DIR), &StoreConfig::default()).await;
        let stores = stores.expect("an empty disk without faults can be used");
        (stores.log, stores.state)
    }
}

#[derive(Serialize, Deserialize)]
enum Call {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Write(Proposal),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Written(Reply),
    /// Not the leader; who is, if known.
    Elsewhere(Option<NodeId>),
    Failed,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data can be encoded")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect("nothing is corrupted here")
}

/// openraft's network over the simulated transport.
struct Network<S>(SimTransport, std::marker::PhantomData<fn() -> S>);

impl<S: Stores> RaftNetworkFactory<Types> for Network<S> {
    type Network = Peer<S>;

    async fn new_client(&mut self, _: NodeId, member: &Member) -> Peer<S> {
        Peer { transport: self.0.clone(), address: member.address.clone(), stores: std::marker::PhantomData }
    }
}

struct Peer<S> {
    transport: SimTransport,
    address: Address,
    stores: std::marker::PhantomData<fn() -> S>,
}

impl<S> Peer<S> {
    async fn call(&self, call: Call, option: RPCOption) -> Result<Answer, RPCError<Types>> {
        let reply = self.transport.call(&self.address, encode(&call), option.soft_ttl()).await;
        reply.map(|bytes| decode(&bytes)).map_err(|error| unreachable_peer(&error))
    }
}

fn unreachable_peer(error: &TransportError) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

/// The handler failed: its node is stopping.
fn no_answer<T>(peer: &Address) -> Result<T, RPCError<Types>> {
    Err(unreachable_peer(&TransportError::Reset(peer.clone())))
}

impl<S: Stores> RaftNetworkV2<Types> for Peer<S> {
    type SnapshotData = Snapshot<S>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Call::Append(rpc), option).await? {
            Answer::Append(response) => Ok(response),
            _ => no_answer(&self.address),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Call::Vote(rpc), option).await? {
            Answer::Vote(response) => Ok(response),
            _ => no_answer(&self.address),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Call::PreVote(rpc), option).await? {
            Answer::Vote(response) => Ok(response),
            _ => no_answer(&self.address),
        }
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: SnapshotOf<Types, Snapshot<S>>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(Unreachable::new(&std::io::Error::other("snapshots are off"))))
    }
}

/// A node as its peers and its client see it.
struct Service<S: Stores>(Raft<S>);

impl<S: Stores> Handler for Service<S> {
    fn handle(&self, request: Vec<u8>) -> ReplyFuture {
        let raft = self.0.clone();
        Box::pin(async move {
            let answer = match decode(&request) {
                Call::Append(rpc) => raft.append_entries(rpc).await.map_or(Answer::Failed, Answer::Append),
                Call::Vote(rpc) => raft.vote(rpc).await.map_or(Answer::Failed, Answer::Vote),
                Call::PreVote(rpc) => raft.pre_vote(rpc).await.map_or(Answer::Failed, Answer::Vote),
                Call::Write(proposal) => match raft.client_write(proposal).await {
                    Ok(written) => Answer::Written(written.data),
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Answer::Elsewhere(to.leader_id),
                    Err(_) => Answer::Failed,
                },
            };
            encode(&answer)
        })
    }
}

type Nodes<S> = Rc<RefCell<BTreeMap<NodeId, Raft<S>>>>;

async fn node<S: Stores>(id: NodeId, nodes: Nodes<S>) {
    let config = Config {
        heartbeat_interval: 50,
        election_timeout_min: 150,
        election_timeout_max: 300,
        snapshot_policy: SnapshotPolicy::Never,
        ..Config::default()
    };
    let config = Arc::new(config.validate().expect("the settings fit together"));
    let env = SimEnv::new(None);
    let transport = aspen::env::Env::transport(&env).clone();
    let (log, state) = S::open(&env).await;
    let network = Network::<S>(transport.clone(), std::marker::PhantomData);
    let raft = openraft::Raft::new(id, config, network, log, state).await.expect("empty stores can be started on");
    transport.serve(Arc::new(Service::<S>(raft.clone())));
    nodes.borrow_mut().insert(id, raft);
    std::future::pending::<()>().await;
}

/// Whoever believes that it leads, in the highest term.
fn leader<S: Stores>(nodes: &Nodes<S>) -> Option<NodeId> {
    let nodes = nodes.borrow();
    let leading = nodes.iter().filter_map(|(id, raft)| {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader == Some(*id)).then_some((metrics.current_term, *id))
    });
    leading.max().map(|(_, id)| id)
}

/// Writes one value after the other, and looks for the leader when one fails.
async fn client(addresses: Vec<Address>, commits: Rc<Cell<u64>>) {
    let transport = SimTransport::bind();
    world::sleep_until_ns(CLIENT_START_NS).await;
    let mut to = 0;
    loop {
        let number = commits.get();
        let key = (number % KEYS).to_le_bytes().to_vec();
        let command = Command::Set { key, value: vec![number.to_le_bytes()[0]; VALUE_BYTES] };
        let call = encode(&Call::Write(Proposal { log_time_ms: 0, session: None, command }));
        let reply = transport.call(&addresses[to], call, CLIENT_TIMEOUT).await;
        let answer = reply.map(|bytes| decode(&bytes));
        if let Ok(Answer::Written(_)) = answer {
            commits.set(number + 1);
            continue;
        }
        let hint = match answer {
            Ok(Answer::Elsewhere(hint)) => hint.and_then(|id| usize::try_from(id - 1).ok()),
            _ => None,
        };
        to = hint.filter(|hint| *hint != to).unwrap_or((to + 1) % addresses.len());
        world::sleep(CLIENT_PAUSE).await;
    }
}

fn isolate(host: HostId, everyone: &[HostId], isolated: bool) {
    let change = if isolated { network::cut } else { network::heal };
    for &other in everyone.iter().filter(|other| **other != host) {
        change(host, other);
        change(other, host);
    }
}

async fn play<S: Stores>(commits: Rc<Cell<u64>>) {
    let nodes = Nodes::<S>::default();
    let mut hosts: Vec<HostId> = (1..=NODES).map(|id| world::add_host(&format!("node-{id}"))).collect();
    let addresses: Vec<Address> = hosts.iter().map(|host| address(*host)).collect();
    for (id, host) in (1..).zip(&hosts) {
        let nodes = nodes.clone();
        world::boot(*host, move || node::<S>(id, nodes));
    }
    while nodes.borrow().len() < hosts.len() {
        world::sleep(Duration::from_millis(1)).await;
    }
    let members: BTreeMap<NodeId, Member> =
        (1..).zip(&addresses).map(|(id, address)| (id, Member { address: address.clone() })).collect();
    let first = nodes.borrow()[&1].clone();
    first.initialize(members).await.expect("a new cluster can be formed");
    let client_host = world::add_host("client");
    hosts.push(client_host);
    world::boot(client_host, move || client(addresses, commits));
    for (cut, heal) in ISOLATIONS_NS {
        world::sleep_until_ns(cut).await;
        let id = loop {
            match leader::<S>(&nodes) {
                Some(id) => break id,
                None => world::sleep(Duration::from_millis(1)).await,
            }
        };
        let isolated = hosts[usize::try_from(id - 1).expect("few nodes")];
        isolate(isolated, &hosts, true);
        world::sleep_until_ns(heal).await;
        isolate(isolated, &hosts, false);
    }
    world::sleep_until_ns(END_NS).await;
}

/// Runs it with these stores.
///
/// # Panics
/// If the cluster does not form.
pub fn run<S: Stores>(seed: u64) -> Figures {
    let network = NetworkConfig { latency_ns: 1_000_000, jitter_ns: 9_000_000, ..NetworkConfig::default() };
    let _sqlite = sqlite::install();
    let world = World::new(WorldConfig { network, ..WorldConfig::seeded(seed) });
    let commits = Rc::new(Cell::new(0));
    world.run(play::<S>(commits.clone())).expect("the run reaches its end");
    Figures::of(&world, commits.get())
}
