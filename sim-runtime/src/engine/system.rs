//! What a stranger writes to test a system of their own: a [`System`] and one or more [`Workload`]s.
//!
//! Both live outside the world's machines; what they start (server processes, clients) lives on simulated hosts and
//! talks to the world only. A process gets a [`Server`] or [`Client`] handle: who it is, and how it tells oracles what
//! happened.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use super::oracle::Oracle;
use super::plan::PlannedOp;
use super::report::{Metrics, PowerLossReport};
use super::run::{self, OpOutcome};
use crate::disk::{PowerLossOutcome, Role};
use crate::sync::oneshot;
use crate::world::draws::Stream;
use crate::world::{self, HostId, Incarnation, Nanos};

/// A process on a simulated host.
pub type Process = Pin<Box<dyn Future<Output = Exit>>>;
/// A future that lives outside all machines.
pub type Outside<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// How a server process ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to stop.
    Stopped,
    /// It gave up, for this reason: for instance because its disk failed. A supervisor starts it again.
    Failed(String),
}

/// A tunable of the system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knob {
    pub name: &'static str,
    /// Unit and meaning.
    pub about: &'static str,
    pub default: i64,
    /// Values at which something changes; drawn instead of the default in some runs.
    pub extremes: &'static [i64],
}

/// A system under test.
pub trait System: 'static {
    /// What its oracles see.
    type Event: Clone + 'static;

    /// One boot of one server: what runs on the host until it is killed or exits.
    fn server(&self, server: Server<Self::Event>) -> Process;

    /// Makes a cluster of the freshly booted servers. Called once.
    fn form<'a>(&'a self, cluster: &'a Cluster) -> Outside<'a, Result<(), String>> {
        let _ = cluster;
        Box::pin(async { Ok(()) })
    }

    /// The server that plays `role` now, by its number. `Server(n)` is resolved before this is asked.
    fn resolve(&self, role: &str) -> Option<u32> {
        let _ = role;
        None
    }

    /// Role names that faults may target in a run with so many servers, besides `Server(n)`.
    fn roles(&self, servers: u32) -> Vec<String> {
        let _ = servers;
        Vec::new()
    }

    fn knobs(&self) -> &'static [Knob] {
        &[]
    }

    /// Module prefixes whose assertion and fault sites may trigger faults.
    fn site_prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// What a file is for, by its path: counted in reports, aimed at by disk errors and damage. A system that gives no file
    /// a role has them aimed at any file.
    fn file_role(&self) -> fn(&str) -> Role {
        |_| Role::Other
    }

    /// Faults are over and every server was started: waits until the system has recovered, or says why it has not within
    /// [`Cluster::bound_ns`], which violates the property `convergence`.
    ///
    /// By default it has recovered when every server that is not lost has said [`Server::serving`].
    fn converge<'a>(&'a self, cluster: &'a Cluster) -> Outside<'a, Result<(), String>> {
        Box::pin(run::all_serve::<Self::Event>(cluster))
    }

    /// Begins (`on`) or ends what a family of the system's own does, at this strength. Such families have a `/` in their
    /// names. How often it was felt is told by [`run::notice`].
    fn misbehave(&self, family: &str, strength: u64, on: bool) {
        let _ = (family, strength, on);
    }

    /// Whether this server may lose its disk now: replacing it needs an operator, and a cluster that lost too many
    /// cannot be expected to survive.
    fn may_be_wiped(&self, server: u32) -> bool {
        let _ = server;
        false
    }

    /// Whether this server's disk may be damaged soon, so that it stays away for good, besides those that
    /// [`losses_max`](System::losses_max) counts.
    fn may_be_damaged(&self, server: u32) -> bool {
        let _ = server;
        true
    }

    /// Whether this server, which is down, was taken out of service since: before it boots it gets an empty disk.
    fn starts_anew(&self, server: u32) -> bool {
        let _ = server;
        false
    }

    /// The server lost its disk while it was down; it boots with an empty one.
    fn wiped(&self, server: u32, host: HostId, boot: u32) {
        let _ = (server, host, boot);
    }

    /// A server was killed or exited.
    fn down(&self, server: u32, host: HostId, boot: u32, cause: DownCause) {
        let _ = (server, host, boot, cause);
    }

    /// How many of so many servers may lose what they stored, for good, while the others go on: of a system that needs a
    /// majority, less than half.
    fn losses_max(&self, servers: u32) -> u32 {
        servers.saturating_sub(1) / 2
    }

    /// The disk of a server, which is down, was damaged or lost on purpose: what it promised to keep is void.
    fn damaged(&self, server: u32, host: HostId) {
        let _ = (server, host);
    }

    /// The disk of a server, which is down, holds something else than it did, and nobody was told: calibration, oracles must
    /// find out.
    fn swapped(&self, server: u32, host: HostId) {
        let _ = (server, host);
    }

    /// The engine announces a phase; the system may emit events of its own about it.
    fn phase(&self, phase: Phase) {
        let _ = phase;
    }

    fn oracles(&self) -> Vec<Box<dyn Oracle<Self::Event>>> {
        Vec::new()
    }

    /// Adds what only the system knows (elections, leader changes).
    fn metrics(&self, metrics: &mut Metrics) {
        let _ = metrics;
    }

    /// What the losses of power of the run took: told once, before [`Phase::End`], so that a system can say how hard they
    /// have to be for its runs to mean something.
    fn power_lost(&self, losses: &[PowerLossOutcome], report: &PowerLossReport) {
        let _ = (losses, report);
    }

    /// What is known of a server, for people who look at a run that was stopped: role, term, log range. Must leave the run
    /// as it is.
    fn inspect(&self, server: u32) -> BTreeMap<String, serde_json::Value> {
        let _ = server;
        BTreeMap::new()
    }

    /// Whether an event belongs to the history that a run which did not pass leaves in its artifact.
    fn is_history(&self, event: &Self::Event) -> bool {
        let _ = event;
        false
    }

    /// Renders an event of the history.
    fn history(&self, event: &Self::Event) -> serde_json::Value {
        let _ = event;
        serde_json::Value::Null
    }
}

/// Why a server is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownCause {
    Crash,
    PowerLoss,
    Stopped,
    Failed,
}

/// Phases of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Faults are over; everything is healed and restarted.
    Calm,
    /// What [`System::converge`] returned.
    Converged(Result<(), String>),
    /// The final checks of the workloads are done; the nodes still run.
    End,
}

/// What clients do.
pub trait Workload<E>: Send + Sync + 'static {
    /// As in specs and plans.
    fn name(&self) -> &'static str;

    /// Draws what each of `clients` clients does, in order. Called before the world exists.
    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>>;

    /// One client on a host of its own, going through its operations. It ends every operation that it begins, in the calm
    /// phase at the latest, as [`OpOutcome::Unknown`] if need be: one that waits all through it violates the property
    /// `hang`.
    fn client(&self, client: Client<E>, ops: Vec<PlannedOp>) -> ClientProcess;

    /// The system has converged: final reads and checks, on a host of its own. Checks that take longer than
    /// [`CHECK_NS_MAX`](super::simulation::CHECK_NS_MAX) violate the property `hang`.
    fn check(&self, client: Client<E>) -> Option<ClientProcess> {
        let _ = client;
        None
    }
}

/// A client's process.
pub type ClientProcess = Pin<Box<dyn Future<Output = ()>>>;

/// What a workload needs to know to plan.
#[derive(Clone, Debug)]
pub struct Shape {
    pub servers: u32,
    pub clients: u32,
    /// Operations begin before this time.
    pub duration_ns: Nanos,
    /// Mean pause between two operations of a client.
    pub pace_ns: Nanos,
}

/// The hosts of the servers, for code outside the machines.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub servers: Vec<HostId>,
    /// Time left for what is asked.
    pub bound_ns: Nanos,
    /// Servers with a damaged disk, by their numbers: some run, some have given up. The others are the core that must
    /// converge.
    pub lost: BTreeSet<u32>,
    /// By so many ppm the monotonic clock of a server is too slow at any time of the run, at worst.
    pub clock_slow_ppm_max: u64,
}

/// One boot of one server.
pub struct Server<E> {
    /// From 0.
    pub index: u32,
    pub servers: u32,
    pub host: HostId,
    pub boot: u32,
    /// Hosts of all servers, by index.
    pub hosts: Vec<HostId>,
    knobs: BTreeMap<String, i64>,
    stop: Option<oneshot::Receiver<()>>,
    event: PhantomData<fn(E)>,
}

impl<E: Clone + 'static> Server<E> {
    pub(super) fn new(
        index: u32,
        host: HostId,
        boot: u32,
        hosts: Vec<HostId>,
        knobs: BTreeMap<String, i64>,
        stop: oneshot::Receiver<()>,
    ) -> Server<E> {
        let servers = u32::try_from(hosts.len()).expect("the number of servers is a u32");
        Server { index, servers, host, boot, hosts, knobs, stop: Some(stop), event: PhantomData }
    }

    /// The value of a tunable in this run. Panics for a name that the system does not list.
    pub fn knob(&self, name: &str) -> i64 {
        knob(&self.knobs, name)
    }

    /// Tells the oracles. Void once this boot is dead.
    pub fn emit(&self, event: E) {
        run::emit(self.host, self.boot, event);
    }

    /// Resolves when this boot is asked to stop. A process that never takes the signal is never stopped, only killed.
    ///
    /// # Panics
    /// If it was taken before.
    pub fn stop_signal(&mut self) -> impl Future<Output = ()> + Send + use<E> {
        let signal = self.stop.take().expect("the signal is taken once");
        async move {
            if signal.await.is_err() {
                // Nobody can ask any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// This boot has recovered and serves.
    pub fn serving(&self) {
        run::serving::<E>(self.host, self.boot);
    }
}

fn knob(knobs: &BTreeMap<String, i64>, name: &str) -> i64 {
    *knobs.get(name).unwrap_or_else(|| panic!("the system lists no knob named {name}"))
}

/// One client.
pub struct Client<E> {
    /// Unique in the run, over all workloads.
    pub index: u32,
    pub host: HostId,
    pub boot: u32,
    /// Hosts of the servers, by index.
    pub servers: Vec<HostId>,
    /// No operation begins after this time.
    pub until_ns: Nanos,
    knobs: BTreeMap<String, i64>,
    event: PhantomData<fn(E)>,
}

impl<E: Clone + 'static> Client<E> {
    /// For the current incarnation.
    pub(super) fn new(index: u32, servers: Vec<HostId>, until_ns: Nanos, knobs: BTreeMap<String, i64>) -> Client<E> {
        let Incarnation { host, boot } = world::current();
        Client { index, host, boot, servers, until_ns, knobs, event: PhantomData }
    }

    /// The value of a tunable in this run. Panics for a name that the system does not list.
    pub fn knob(&self, name: &str) -> i64 {
        knob(&self.knobs, name)
    }

    /// Waits until an operation may begin; `false` when the time for operations is over.
    pub fn wait_for_turn(&self, op: &PlannedOp) -> impl Future<Output = bool> + Send + use<E> {
        let (not_before_ns, until_ns) = (op.not_before_ns, self.until_ns);
        async move {
            if not_before_ns > world::now_ns() {
                world::sleep_until_ns(not_before_ns).await;
            }
            world::now_ns() < until_ns
        }
    }

    /// Tells the oracles.
    pub fn emit(&self, event: E) {
        run::emit(self.host, self.boot, event);
    }

    /// Begins an operation and returns its id, unique and ascending over the run.
    pub fn begin(&self) -> u64 {
        run::begin_op::<E>(self.index)
    }

    /// Ends an operation. One that never ends counts as unknown.
    pub fn end(&self, op: u64, kind: OpKind, outcome: OpOutcome) {
        run::end_op::<E>(op, kind, outcome);
    }
}

/// For which latency distribution an operation counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    Read,
    Write,
}
