//! The run in progress on this thread: where servers and clients leave what they did.
//!
//! Processes on simulated hosts hold no reference to the engine, only numbers; they reach the run through a
//! thread-local. What a dead incarnation says is void; what is said inside a blocking section counts when the section
//! has ended in virtual time.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::oracle::{Oracle, Stamped, Verdicts};
use super::report::{Latency, Ops, Violation};
use super::system::{Cluster, Exit, OpKind, System};
use crate::world::{self, HostId, Incarnation, Nanos, section};

thread_local! {
    static RUN: RefCell<Option<Rc<dyn Any>>> = const { RefCell::new(None) };
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// Answered by the system.
    Ok,
    /// Nothing happened, ever.
    Failed,
    /// Anything may have happened, or may still.
    Unknown,
}

/// Everything observed in one run.
pub struct Run<E> {
    pub system: Rc<dyn System<Event = E>>,
    oracles: RefCell<Vec<Box<dyn Oracle<E>>>>,
    pub verdicts: RefCell<Verdicts>,
    /// Violations that no oracle found: assertions, panics, hangs.
    pub other_violations: RefCell<Vec<Violation>>,
    ops: RefCell<Vec<Op>>,
    /// Rendered when it is asked for, which is rare: as JSON it is many times as long.
    history: RefCell<Vec<Stamped<E>>>,
    /// Hosts that serve, with the boot they do it in; and whether un-synced sectors were lost before.
    serving: RefCell<Vec<(HostId, u32)>>,
    /// Per host, power losses that dropped sectors and whose host has not served since.
    pub lost_unserved: RefCell<Vec<(HostId, u64)>>,
    pub lost_then_served: Cell<u64>,
    violated: Cell<bool>,
    /// Faults that the system under test felt, by kind.
    noticed: RefCell<BTreeMap<String, u64>>,
    /// Why a server last failed by itself, by its host.
    failures: RefCell<BTreeMap<HostId, String>>,
    /// Properties whose oracles do not look.
    without: Vec<String>,
    /// Told when a server process ends by itself.
    on_exit: RefCell<Option<OnExit>>,
}

/// Index of the server, its incarnation, how it ended.
type OnExit = Box<dyn Fn(u32, Incarnation, Exit)>;

#[derive(Clone, Copy)]
struct Op {
    client: u32,
    begun_ns: Nanos,
    end: Option<(Nanos, OpKind, OpOutcome)>,
}

impl<E: Clone + 'static> Run<E> {
    /// Judged by the oracles of the system, but for those of the properties in `without`.
    pub fn new(system: Rc<dyn System<Event = E>>, without: &[String]) -> Rc<Run<E>> {
        let mut oracles = system.oracles();
        oracles.retain(|oracle| !without.iter().any(|property| property == oracle.property()));
        let mut verdicts = Verdicts::default();
        for oracle in &oracles {
            verdicts.judge(oracle.property());
        }
        Rc::new(Run {
            system,
            oracles: RefCell::new(oracles),
            verdicts: RefCell::new(verdicts),
            other_violations: RefCell::default(),
            ops: RefCell::default(),
            history: RefCell::default(),
            serving: RefCell::default(),
            lost_unserved: RefCell::default(),
            lost_then_served: Cell::new(0),
            violated: Cell::new(false),
            noticed: RefCell::default(),
            failures: RefCell::default(),
            without: without.to_vec(),
            on_exit: RefCell::default(),
        })
    }

    pub fn on_exit(&self, handler: impl Fn(u32, Incarnation, Exit) + 'static) {
        self.on_exit.replace(Some(Box::new(handler)));
    }

    /// Makes this the run of the thread until the guard is dropped.
    pub fn install(self: &Rc<Self>) -> Installed {
        RUN.set(Some(Rc::clone(self) as Rc<dyn Any>));
        Installed
    }

    fn deliver(&self, stamped: &Stamped<E>) {
        if self.system.is_history(&stamped.event) {
            self.history.borrow_mut().push(stamped.clone());
        }
        let mut oracles = self.oracles.borrow_mut();
        let mut verdicts = self.verdicts.borrow_mut();
        for oracle in oracles.iter_mut() {
            let mut judge = verdicts.judge(oracle.property());
            oracle.on_event(stamped, &mut judge);
        }
        if !self.violated.get() && !verdicts.violations().is_empty() {
            self.mark_violated();
        }
    }

    /// The run is over: oracles of whole histories speak.
    pub fn finish(&self, at_ns: Nanos) {
        let mut oracles = self.oracles.borrow_mut();
        let mut verdicts = self.verdicts.borrow_mut();
        for oracle in oracles.iter_mut() {
            let mut judge = verdicts.judge(oracle.property());
            oracle.finish(at_ns, &mut judge);
        }
    }

    /// Properties that only clients of this workload bring about, by name.
    pub fn workload_of(&self, property: &str) -> Option<&'static str> {
        let oracles = self.oracles.borrow();
        oracles.iter().find(|oracle| oracle.property() == property).and_then(|oracle| oracle.workload())
    }

    pub fn violate(&self, property: String, message: String, at_ns: Nanos, node: Option<String>) {
        self.other_violations.borrow_mut().push(Violation { property, message, at_ns: Some(at_ns), node });
        self.mark_violated();
    }

    fn mark_violated(&self) {
        self.violated.set(true);
        world::mark_violation();
    }

    /// The system has not converged. Said once: by its own oracle if it has one, otherwise here.
    pub fn violate_convergence(&self, reason: String, at_ns: Nanos) {
        if !self.is_violated() && !self.without.iter().any(|property| property == CONVERGENCE) {
            self.violate(CONVERGENCE.to_owned(), reason, at_ns, None);
        }
    }

    /// A violation was seen; the run need not go on for long.
    pub fn is_violated(&self) -> bool {
        self.violated.get()
    }

    pub fn ops(&self) -> Ops {
        let mut total = Ops::default();
        for op in self.ops.borrow().iter() {
            total.attempted += 1;
            match op.end {
                Some((_, _, OpOutcome::Ok)) => total.ok += 1,
                Some((_, _, OpOutcome::Failed)) => total.failed += 1,
                Some((_, _, OpOutcome::Unknown)) | None => total.unknown += 1,
            }
        }
        total
    }

    /// Operations under way after this time: begun then, or not answered by then and so asked again.
    pub fn asked_since(&self, at_ns: Nanos) -> u64 {
        let under_way = |op: &&Op| op.begun_ns >= at_ns || op.end.is_none_or(|(ended_ns, ..)| ended_ns > at_ns);
        self.ops.borrow().iter().filter(under_way).count() as u64
    }

    /// Acknowledged operations of one kind.
    pub fn acknowledged(&self, kind: OpKind) -> u64 {
        u64::try_from(self.latencies(kind).len()).unwrap_or(u64::MAX)
    }

    /// Latencies of acknowledged operations of one kind.
    pub fn latency(&self, kind: OpKind) -> Latency {
        let sorted = self.latencies(kind);
        let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
        let micros = |nanos: Option<&Nanos>| nanos.map_or(0, |nanos| nanos / 1000);
        Latency { p50: micros(at(50)), p95: micros(at(95)), p99: micros(at(99)), max: micros(sorted.last()) }
    }

    fn latencies(&self, kind: OpKind) -> Vec<Nanos> {
        let ops = self.ops.borrow();
        let mut latencies: Vec<Nanos> = ops
            .iter()
            .filter_map(|op| match op.end {
                Some((end, of, OpOutcome::Ok)) if of == kind => Some(end - op.begun_ns),
                _ => None,
            })
            .collect();
        latencies.sort_unstable();
        latencies
    }

    /// What the system said of its own faults.
    pub fn noticed(&self) -> BTreeMap<String, u64> {
        self.noticed.borrow().clone()
    }

    /// Clients with an operation under way.
    pub fn clients_busy(&self) -> Vec<u32> {
        self.ops.borrow().iter().filter(|op| op.end.is_none()).map(|op| op.client).collect()
    }

    /// Clients with an operation that began by then and is still under way, each with the oldest one: its id and when it
    /// began.
    pub fn clients_stuck_since(&self, at_ns: Nanos) -> BTreeMap<u32, (u64, Nanos)> {
        let mut stuck = BTreeMap::new();
        for (id, op) in (0u64..).zip(self.ops.borrow().iter()) {
            if op.end.is_none() && op.begun_ns <= at_ns {
                stuck.entry(op.client).or_insert((id, op.begun_ns));
            }
        }
        stuck
    }

    pub fn take_history(&self) -> Vec<serde_json::Value> {
        let render = |stamped: Stamped<E>| {
            let event = self.system.history(&stamped.event);
            serde_json::json!({ "at_ns": stamped.at_ns, "host": stamped.host.0, "event": event })
        };
        self.history.take().into_iter().map(render).collect()
    }

    /// Whether this very boot of the host has said that it serves.
    pub fn is_serving(&self, host: HostId, boot: u32) -> bool {
        self.serving.borrow().contains(&(host, boot))
    }

    /// The first of these servers that does not serve, and why as far as that is known. A system that never says that it
    /// serves is believed to.
    fn not_serving(&self, cluster: &Cluster) -> Option<String> {
        let serves = |host: HostId| world::running(host).is_some_and(|now| self.is_serving(host, now.boot));
        let expected = (0u32..).zip(&cluster.servers).filter(|(server, _)| !cluster.lost.contains(server));
        let (server, host) = expected.into_iter().find(|(_, host)| !serves(**host))?;
        if self.serving.borrow().is_empty() {
            return None;
        }
        let failures = self.failures.borrow();
        let why = failures.get(host).map(|why| format!("; it last failed with: {why}")).unwrap_or_default();
        Some(format!("server-{server} does not serve although all faults are over{why}"))
    }
}

/// Keeps a run installed on its thread.
#[must_use = "the run is removed when this is dropped"]
pub struct Installed;

impl Drop for Installed {
    fn drop(&mut self) {
        RUN.set(None);
    }
}

fn current<E: 'static>() -> Rc<Run<E>> {
    let run = RUN.with_borrow(|run| run.clone()).expect("servers and clients run inside a simulation");
    run.downcast().unwrap_or_else(|_| panic!("the event type is that of the running system"))
}

/// Adds an event at the time that the caller has reached.
pub fn emit<E: Clone + 'static>(host: HostId, boot: u32, event: E) {
    if !world::is_alive(Incarnation { host, boot }) {
        return;
    }
    let run = current::<E>();
    let stamped = Stamped { at_ns: world::now_ns(), host, boot, event };
    if section::active() {
        section::buffer(move || run.deliver(&stamped));
    } else {
        run.deliver(&stamped);
    }
}

/// Adds an event about a host that need not be alive. For the engine and the system under test, outside all machines.
pub fn emit_about<E: Clone + 'static>(host: HostId, boot: u32, event: E) {
    current::<E>().deliver(&Stamped { at_ns: world::now_ns(), host, boot, event });
}

/// A fault of this kind was felt.
pub fn notice<E: Clone + 'static>(kind: &str) {
    *current::<E>().noticed.borrow_mut().entry(kind.to_owned()).or_default() += 1;
}

pub(super) fn serving<E: Clone + 'static>(host: HostId, boot: u32) {
    if !world::is_alive(Incarnation { host, boot }) {
        return;
    }
    crate::disk::declare_recovered();
    let run = current::<E>();
    run.serving.borrow_mut().push((host, boot));
    let mut lost = run.lost_unserved.borrow_mut();
    for (_, losses) in lost.iter().filter(|(of, _)| *of == host) {
        run.lost_then_served.set(run.lost_then_served.get() + losses);
    }
    lost.retain(|(of, _)| *of != host);
}

/// Waits until every server that is not lost serves.
pub(super) async fn all_serve<E: Clone + 'static>(cluster: &Cluster) -> Result<(), String> {
    let until = world::now_ns() + cluster.bound_ns;
    while let Some(reason) = current::<E>().not_serving(cluster) {
        if world::now_ns() >= until {
            return Err(reason);
        }
        world::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

pub(super) fn exited<E: Clone + 'static>(server: u32, who: Incarnation, exit: Exit) {
    let run = current::<E>();
    if let Exit::Failed(why) = &exit {
        run.failures.borrow_mut().insert(who.host, why.clone());
    }
    if let Some(handler) = run.on_exit.borrow().as_ref() {
        handler(server, who, exit);
    }
}

pub(super) fn begin_op<E: Clone + 'static>(client: u32) -> u64 {
    let run = current::<E>();
    let mut ops = run.ops.borrow_mut();
    ops.push(Op { client, begun_ns: world::now_ns(), end: None });
    u64::try_from(ops.len() - 1).expect("a length is a u64")
}

pub(super) fn end_op<E: Clone + 'static>(op: u64, kind: OpKind, outcome: OpOutcome) {
    let run = current::<E>();
    let at = world::now_ns();
    let outcome_code = match outcome {
        OpOutcome::Ok => 0,
        OpOutcome::Failed => 1,
        OpOutcome::Unknown => 2,
    };
    world::record(world::Class::Client, &[op, outcome_code], &[]);
    let index = usize::try_from(op).expect("ids are indices");
    run.ops.borrow_mut()[index].end = Some((at, kind, outcome));
}

/// The property of a system that does not recover once all faults are over.
const CONVERGENCE: &str = "convergence";
/// How often it is looked whether all servers serve.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
