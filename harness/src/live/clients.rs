//! The clients of a simulation at real nodes: the same operations of the same workloads by the same code, over HTTP or over
//! iroh.
//!
//! What they are told is recorded with the monotonic clock, in the order in which it happened: one thread carries all
//! clients, and an event is stamped when it is recorded.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspen::client::{Client as Aspen, ClientConfig};
use aspen::command::{self, Answer, Command, KeyMeta, KeyValue, Outcome, Query, Reply, SessionSeq};
use aspen::error::{ClientError, ErrorCode};
use aspen::message::StaleBound;
use aspen::production::client::{ClientOptions, HttpClient, HttpError};
use aspen::production::env::RealEnv;
use aspen::production::http::schema::{Row, ScanRequest, Stale, TxnResult, WriteReply, WriteResult};
use aspen::production::http::text::Text;
use aspen::production::secret::{node_key, random};
use aspen::production::transport::gate::Open;
use aspen::production::transport::{IrohTransport, TransportConfig};
use sim_runtime::engine::plan::Plan;
use sim_runtime::engine::report::{Latency, Ops};
use sim_runtime::engine::{OpKind, OpOutcome, PlannedOp, Stamped};
use sim_runtime::world::HostId;
use tokio::task::spawn_local;
use workloads::event::Event;
use workloads::seat::{Desk, Store, in_session};
use workloads::teller::Teller;
use workloads::{admin, append_list, bank, config, kv, lock, session_storm};

use super::cluster::Cluster;
use crate::UsageError;

/// Everything that was said and done.
pub struct Record {
    begun: Instant,
    until_ns: u64,
    next: Cell<u64>,
    events: RefCell<Vec<Stamped<Event>>>,
    ops: RefCell<Vec<Op>>,
}

struct Op {
    workload: String,
    begun_ns: u64,
    end: Option<(u64, OpKind, OpOutcome)>,
}

impl Record {
    pub fn begin(until_ns: u64) -> Rc<Record> {
        let (next, events, ops) = Default::default();
        Rc::new(Record { begun: Instant::now(), until_ns, next, events, ops })
    }

    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub fn emit(&self, event: Event) {
        let stamped = Stamped { at_ns: self.now_ns(), host: HostId(u32::MAX), boot: 1, event };
        self.events.borrow_mut().push(stamped);
    }

    pub fn events(&self) -> Vec<Stamped<Event>> {
        self.events.borrow().clone()
    }

    /// A line of JSON per event, for people.
    pub fn history(&self) -> Vec<String> {
        let line = |stamped: &Stamped<Event>| {
            let value = match &stamped.event {
                Event::Invoked { client, op, action } => {
                    serde_json::json!({"at_ns": stamped.at_ns, "client": client, "op": op, "invoked": **action})
                }
                Event::Returned { client, op, result } => {
                    serde_json::json!({"at_ns": stamped.at_ns, "client": client, "op": op, "returned": **result})
                }
                other => serde_json::json!({"at_ns": stamped.at_ns, "event": format!("{other:?}")}),
            };
            value.to_string()
        };
        self.events.borrow().iter().map(line).collect()
    }

    pub fn ops(&self) -> Ops {
        let mut total = Ops::default();
        self.ops.borrow().iter().for_each(|op| count(op, &mut total));
        total
    }

    /// The same by workload. What operators had done by `admin` is upkeep, not operations, and acknowledged only is known of
    /// it.
    pub fn ops_by_workload(&self, plan: &Plan) -> BTreeMap<String, Ops> {
        let planned = plan.clients.iter().map(|client| (client.workload.clone(), Ops::default()));
        let mut by_workload: BTreeMap<String, Ops> = planned.collect();
        for op in self.ops.borrow().iter() {
            count(op, by_workload.entry(op.workload.clone()).or_default());
        }
        let upkept = self.events.borrow().iter().filter(|of| matches!(of.event, Event::Upkept { .. })).count();
        if let Some(ops) = by_workload.get_mut(ADMIN) {
            ops.ok = u64::try_from(upkept).unwrap_or(u64::MAX);
        }
        by_workload
    }

    /// Of acknowledged operations of one kind, in real microseconds.
    pub fn latency(&self, kind: OpKind) -> Latency {
        let ops = self.ops.borrow();
        let took = |op: &Op| match op.end {
            Some((end, of, OpOutcome::Ok)) if of == kind => Some((end - op.begun_ns) / 1000),
            _ => None,
        };
        let mut took: Vec<u64> = ops.iter().filter_map(took).collect();
        took.sort_unstable();
        let at = |percent: usize| took.get(took.len() * percent / 100).or(took.last()).copied().unwrap_or(0);
        Latency { p50: at(50), p95: at(95), p99: at(99), max: took.last().copied().unwrap_or(0) }
    }
}

fn count(op: &Op, total: &mut Ops) {
    total.attempted += 1;
    match op.end {
        Some((_, _, OpOutcome::Ok)) => total.ok += 1,
        Some((_, _, OpOutcome::Failed)) => total.failed += 1,
        Some((_, _, OpOutcome::Unknown)) | None => total.unknown += 1,
    }
}

/// One client's place at the record.
struct Seat {
    index: u32,
    workload: String,
    record: Rc<Record>,
}

impl Desk for Seat {
    fn index(&self) -> u32 {
        self.index
    }

    async fn wait_for_turn(&self, op: &PlannedOp) -> bool {
        let left = op.not_before_ns.saturating_sub(self.record.now_ns());
        if left > 0 {
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
        self.record.now_ns() < self.record.until_ns
    }

    fn begin(&self) -> u64 {
        let op = self.record.next.get();
        self.record.next.set(op + 1);
        self.record.ops.borrow_mut().push(Op {
            workload: self.workload.clone(),
            begun_ns: self.record.now_ns(),
            end: None,
        });
        op
    }

    fn emit(&self, event: Event) {
        self.record.emit(event);
    }

    fn end(&self, op: u64, kind: OpKind, outcome: OpOutcome) {
        let now = self.record.now_ns();
        let place = usize::try_from(op).expect("as many operations as memory holds");
        self.record.ops.borrow_mut()[place].end = Some((now, kind, outcome));
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(duration)
    }

    async fn within<T>(&self, patience: Duration, asked: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(patience, asked).await.ok()
    }
}

/// Starts the clients of the plan; the future ends when all have.
pub async fn start(
    cluster: &Rc<Cluster>,
    record: &Rc<Record>,
    plan: &Plan,
) -> Result<impl Future<Output = ()> + use<>, UsageError> {
    let iroh = over_iroh(cluster).await?;
    let mut tasks = Vec::new();
    for (index, planned) in (0u32..).zip(&plan.clients) {
        let workload = planned.workload.clone();
        if !WORKLOADS.contains(&workload.as_str()) {
            return Err(UsageError::new(format!("no client of the workload {workload} asks real nodes")));
        }
        let (desk, ops) = (Seat { index, workload, record: record.clone() }, planned.ops.clone());
        // A storm names its operations itself, and upkeep needs no session.
        let in_session = in_session(index) && ![STORM, ADMIN].contains(&planned.workload.as_str());
        let config = client_config(plan, cluster, index, in_session, false);
        let (env, addresses) = (RealEnv::new(iroh.clone()), addresses(cluster));
        let over_iroh = move |config: &ClientConfig| Aspen::new(env.clone(), addresses.clone(), config.clone());
        // Both ways to work and both ways to ask, in every combination. A single node is asked for upkeep over iroh only.
        tasks.push(if planned.workload == ADMIN {
            let cluster = cluster.clone();
            let place = move |server: u32| {
                let node = cluster.nodes.get(usize::try_from(server).ok()?)?;
                Some((u64::from(server) + 1, node.address.clone()))
            };
            spawn_local(async move { admin::work(desk, over_iroh(&config), place, |_| {}, ops).await })
        } else if index / 2 % 2 == 0 {
            let cluster = cluster.clone();
            spawn_local(async move { work(desk, move || http(&cluster, &config), ops).await })
        } else {
            spawn_local(async move { work(desk, move || over_iroh(&config), ops).await })
        });
    }
    Ok(async move {
        for task in tasks {
            // A client that panicked has said so; what it left open stays unknown.
            let _ = task.await;
        }
    })
}

const STORM: &str = "session-storm";
const ADMIN: &str = "admin";
/// Whose clients ask real nodes.
const WORKLOADS: [&str; 6] = ["kv", "lock", "bank", "append-list", STORM, ADMIN];

/// One client at work. `anew` makes a store that knows nothing yet.
async fn work<S: Store>(desk: Seat, anew: impl Fn() -> S, ops: Vec<PlannedOp>) {
    let workload = desk.workload.clone();
    let teller = |desk| Teller::new(desk, anew());
    match workload.as_str() {
        "lock" => lock::client::work(teller(desk), ops).await,
        "bank" => bank::client::work(teller(desk), ops).await,
        "append-list" => append_list::client::work(teller(desk), ops).await,
        STORM => session_storm::client::work(teller(desk), ops).await,
        _ => kv::client::work(desk, anew, ops).await,
    }
}

/// The last word of each workload, as in a simulation.
pub async fn check(cluster: &Rc<Cluster>, record: &Rc<Record>, plan: &Plan) {
    let mut index = u32::try_from(plan.clients.len()).unwrap_or(u32::MAX);
    let mut seat = |workload: &str| {
        index += 1;
        let desk = Seat { index: index - 1, workload: workload.to_owned(), record: record.clone() };
        (desk, client_config(plan, cluster, index - 1, workload == "kv", true))
    };
    let (desk, config) = seat("kv");
    kv::client::final_checks(desk, || http(cluster, &config), Vec::new()).await;
    if plan.clients.iter().any(|client| client.workload == STORM) {
        let (desk, config) = seat(STORM);
        session_storm::client::abandon(Teller::new(desk, http(cluster, &config))).await;
    }
}

fn client_config(plan: &Plan, cluster: &Cluster, index: u32, session: bool, patient: bool) -> ClientConfig {
    let knob = |name: &str| plan.knobs.get(name).copied().unwrap_or_else(|| panic!("plans set the tunable {name}"));
    ClientConfig { cluster: cluster.secret.cluster(), ..config::client_config(knob, index, session, patient) }
}

fn addresses(cluster: &Cluster) -> Vec<aspen::types::Address> {
    cluster.nodes.iter().map(|node| node.address.clone()).collect()
}

async fn over_iroh(cluster: &Cluster) -> Result<IrohTransport, UsageError> {
    let own = match &cluster.network {
        Some(network) => std::net::IpAddr::V4(network.clients_address()),
        None => std::net::Ipv4Addr::LOCALHOST.into(),
    };
    let unbound = |error: &dyn std::fmt::Display| UsageError::new(format!("no QUIC endpoint for the clients: {error}"));
    let directory = tempfile::tempdir().map_err(|error| unbound(&error))?;
    let bound = IrohTransport::bind(TransportConfig {
        key: node_key(&directory.path().join("key")).map_err(|error| unbound(&error))?,
        cluster: cluster.secret.cluster(),
        bind: std::net::SocketAddr::from((own, 0)),
        incarnation: u64::from_le_bytes(random()),
        node: None,
        advertise: None,
        http: None,
        secret: Some(cluster.secret.clone()),
        ticket: None,
        relay: None,
        gate: Arc::new(Open),
        message_bytes_max: 10 << 20,
        connections_max: 100,
    });
    bound.await.map_err(|error| unbound(&error))
}

/// The store behind the HTTP interface.
struct Http {
    client: HttpClient,
}

fn http(cluster: &Cluster, config: &ClientConfig) -> Http {
    let endpoints = cluster.nodes.iter().map(|node| format!("http://{}", node.http)).collect();
    let options = ClientOptions {
        deadline: Duration::from_millis(config.tuning.deadline_ms),
        attempt: Duration::from_millis(config.tuning.attempt_ms),
        session: config.session,
        session_ttl: Duration::from_millis(config.tuning.session_ttl_ms),
        token: Some(cluster.token.clone()),
    };
    Http { client: HttpClient::new(endpoints, options) }
}

impl Store for Http {
    async fn execute(&self, command: Command) -> Result<Reply, ClientError> {
        self.client.execute(command).await.map(reply).map_err(failed)
    }

    async fn execute_as(&self, name: SessionSeq, command: Command) -> Result<Reply, ClientError> {
        self.client.execute_as(name, command).await.map(reply).map_err(failed)
    }

    async fn query(&self, query: Query) -> Result<Answer, ClientError> {
        self.read(query, None).await
    }

    async fn query_stale(&self, query: Query, bound: StaleBound) -> Result<Answer, ClientError> {
        let max_age_ms = bound.max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        self.read(query, Some(Stale { max_age_ms, min_revision: bound.min_revision })).await
    }

    async fn close_session(&self) -> Result<(), ClientError> {
        self.client.close_session().await.map_err(failed)
    }
}

impl Http {
    async fn read(&self, query: Query, stale: Option<Stale>) -> Result<Answer, ClientError> {
        match query {
            Query::Get { key } => {
                let read = self.client.read(Text(key), stale).await.map_err(failed)?;
                Ok(Answer { revision: read.revision, rows: read.row.into_iter().map(row).collect(), more: false })
            }
            Query::Scan { start, end, limit } => {
                let request = ScanRequest {
                    start: Some(Text(start)),
                    end: end.map(|end| Text(end.into_vec())),
                    limit: Some(limit),
                    stale,
                    ..ScanRequest::default()
                };
                let scan = self.client.scan(&request).await.map_err(failed)?;
                let rows = scan.rows.into_iter().map(row).collect();
                Ok(Answer { revision: scan.revision, rows, more: scan.more })
            }
        }
    }
}

fn reply(reply: WriteReply) -> Reply {
    let outcome = match reply.result {
        WriteResult::Nothing => Outcome::Nothing,
        WriteResult::Written { version } => Outcome::Written { version },
        WriteResult::Deleted { existed } => Outcome::Deleted { existed },
        WriteResult::NotMatched { found } => Outcome::NotMatched { found: found.map(meta) },
        WriteResult::SessionOpened { session } => Outcome::SessionOpened { session },
        WriteResult::SessionRefreshed => Outcome::SessionRefreshed,
        WriteResult::SessionClosed => Outcome::SessionClosed,
        WriteResult::SessionUnknown => Outcome::SessionUnknown,
        WriteResult::SessionStale => Outcome::SessionStale,
        WriteResult::Transacted { matched, results } => {
            Outcome::Transacted { matched, results: results.into_iter().map(part).collect() }
        }
    };
    Reply { revision: reply.revision, outcome }
}

/// What one operation of a transaction did.
fn part(result: TxnResult) -> command::TxnResult {
    match result {
        TxnResult::Written { version } => command::TxnResult::Written { version },
        TxnResult::Deleted { existed } => command::TxnResult::Deleted { existed },
        TxnResult::Got { row: got } => command::TxnResult::Got { row: got.map(row) },
        TxnResult::Omitted { meta: of } => command::TxnResult::Omitted { meta: meta(of) },
    }
}

fn meta(meta: aspen::production::http::schema::Meta) -> KeyMeta {
    KeyMeta { create_revision: meta.create_revision, mod_revision: meta.mod_revision, version: meta.version }
}

fn row(row: Row) -> KeyValue {
    KeyValue { key: row.key.0, value: row.value.0, meta: meta(row.meta) }
}

/// Only the outcome and the text are judged.
fn failed(error: HttpError) -> ClientError {
    ClientError { outcome: error.outcome(), ..ClientError::new(ErrorCode::Timeout, error.to_string()) }
}
