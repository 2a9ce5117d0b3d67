//! What one run is made of, and what it comes to: its record, its doubts, its figures.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::coverage::{Coverage, Hook};
use super::fleet::Fleet;
use super::nemesis::Nemesis;
use super::plan::Plan;
use super::record::{Look, RunRecord, RunRequest, StopAt};
use super::report::{FaultCount, Metrics, PowerLossReport, RunReport, SCHEMA, Verdict};
use super::run::{self, Run};
use super::simulation::{CHECK_NS_MAX, FORM_NS_MAX};
use super::surroundings::{self, Surroundings};
use super::system::{OpKind, System};
use crate::disk::{Disk, Moment, PowerLossOutcome, Role, Shape, fault};
use crate::escape;
use crate::world::diagnose::listed;
use crate::world::draws::Key;
use crate::world::{self, Halt, Nanos, Order, PanicRecord, Purpose, World, WorldConfig, network};

/// What one run is made of.
pub(super) struct Parts<E> {
    pub plan: Rc<Plan>,
    pub world: World,
    pub run: Rc<Run<E>>,
    pub(super) coverage: Rc<Coverage>,
    pub(super) stage: RefCell<Option<Stage<E>>>,
    /// Why the run may not pass although nothing was violated.
    pub(super) trouble: RefCell<Vec<String>>,
    pub(super) stop_at: Option<StopAt>,
    /// The servers, where the run was stopped.
    pub(super) look: Rc<RefCell<Look>>,
    /// Numbers of clients that are taken.
    pub clients: Cell<u32>,
    _installed: (run::Installed, buggify::Installed, Surroundings),
}

/// The servers, and what befalls them.
pub(super) type Stage<E> = (Rc<Fleet<E>>, Rc<Nemesis<E>>);

impl<E: Clone + 'static> Parts<E> {
    pub(super) fn new(plan: &Rc<Plan>, system: Rc<dyn System<Event = E>>, request: &RunRequest) -> Parts<E> {
        let world = World::new(world_config(plan, request));
        let coverage = Coverage::new(&plan.buggify);
        let run = Run::new(system, &request.without);
        let violated = Rc::downgrade(&run);
        coverage.on_violation(move |site, at_ns, who, details| {
            if let Some(run) = violated.upgrade() {
                let message = if details.is_empty() { site.message.to_owned() } else { details };
                run.violate(format!("always:{}", site.id()), message, at_ns, Some(world::host_name(who.host)));
            }
        });
        let hook = Rc::new(Hook(Rc::clone(&coverage)));
        let installed = (run.install(), buggify::install(hook), surroundings::install(plan.key));
        Parts {
            plan: Rc::clone(plan),
            world,
            run,
            coverage,
            stage: RefCell::default(),
            trouble: RefCell::default(),
            stop_at: request.stop_at,
            look: Rc::default(),
            clients: Cell::new(0),
            _installed: installed,
        }
    }

    /// A violation was seen: what follows can only blur it.
    pub fn is_over(&self) -> bool {
        self.run.is_violated() || !self.world.panics().is_empty()
    }

    /// Whether a client waits since the calm phase began, which is then over, for an operation that will never end.
    pub(super) fn is_stuck_since(&self, calm_from: Nanos) -> bool {
        let stuck = self.run.clients_stuck_since(calm_from);
        let Some((client, (op, begun_ns))) = stuck.first_key_value() else { return false };
        let calm_s = (world::now_ns() - calm_from) / 1_000_000_000;
        let others = match stuck.len() - 1 {
            0 => String::new(),
            others => format!(", and so do {others} other clients for theirs"),
        };
        self.hangs(format!(
            "{calm_s} s after the faults ended client-{client} still waits for its operation {op}, begun at {begun_ns} ns{others}"
        ));
        true
    }

    /// Everything is healed and runs, yet somebody waits and waits.
    pub(super) fn hangs(&self, what: String) {
        let tasks = listed(&self.world.tasks());
        self.run.violate("hang".to_owned(), format!("{what}; every task:{tasks}"), world::now_ns(), None);
    }

    pub fn into_record(self, request: &RunRequest, outcome: Result<(), Halt>) -> RunRecord {
        let at_ns = self.world.now();
        let is_spent = matches!(outcome, Err(Halt::TimeBudget { .. } | Halt::EventBudget { .. }));
        let early = self.stop_at.is_some() && is_spent;
        let look = self.stop_at.map(|_| Look { early, ..self.look.take() });
        if early {
            self.trouble.borrow_mut().push(format!("stopped as asked, at {at_ns} ns"));
        } else if let Err(halt) = &outcome
            // Panics are reported below, each with its host.
            && !matches!(halt, Halt::Panic { .. })
        {
            self.run.violate(halt.property().to_owned(), halt.to_string(), at_ns, None);
        }
        for panic in self.world.panics() {
            let node = Some(self.world.enter(|| world::host_name(panic.host)));
            let PanicRecord { task, message, place, .. } = panic;
            self.run.violate("panic".to_owned(), format!("{message} ({place}, task `{task}`)"), panic.at_ns, node);
        }
        for escape in escape::taken() {
            self.run.violate("process".to_owned(), format!("escape: {escape}"), at_ns, None);
        }
        if outcome.is_ok() {
            self.run.finish(at_ns);
        }
        let metrics = self.metrics();
        let mut violations = self.run.verdicts.borrow().violations().to_vec();
        violations.extend(self.run.other_violations.borrow().iter().cloned());
        violations.sort_by_key(|violation| violation.at_ns);
        let assertions = self.coverage.assertions();
        let oracles = self.run.verdicts.borrow().counts();
        let doubts = self.doubts(&metrics);
        let verdict = match (violations.is_empty(), doubts.is_empty()) {
            (false, _) => Verdict::Fail,
            (true, false) => Verdict::Inconclusive,
            (true, true) => Verdict::Pass,
        };
        let (high, low) = self.world.digest();
        let report = RunReport {
            schema: SCHEMA,
            seed: request.seed,
            spec: self.plan.spec.clone(),
            verdict,
            digest: Some(format!("{high:016x}{low:016x}")),
            events: Some(self.world.events()),
            sim_time_ns: Some(at_ns),
            wall_time_ms: 0,
            cpu_time_ms: 0,
            memory_peak_kib: 0,
            ops: Some(self.run.ops()),
            faults: Some(self.faults()),
            assertions: Some(assertions),
            buggify: Some(self.coverage.buggify(&self.plan.buggify)),
            oracles: Some(oracles),
            power_loss: Some(self.power_loss()),
            metrics: Some(metrics),
            artifact: None,
            violations,
            doubts,
        };
        if let Some((_, nemesis)) = self.stage.borrow().as_ref() {
            nemesis.forget();
        }
        let history = if report.verdict == Verdict::Pass { Vec::new() } else { self.run.take_history() };
        RunRecord {
            plan: serde_json::to_value(&*self.plan).expect("a plan is plain data"),
            summary: self.summary(),
            checkpoints: self.world.checkpoints(),
            events: self.world.trace(),
            history,
            look,
            log: Vec::new(),
            report,
        }
    }

    /// Why silence would mean nothing.
    fn doubts(&self, metrics: &Metrics) -> Vec<String> {
        let mut doubts = self.trouble.borrow().clone();
        let verdicts = self.run.verdicts.borrow();
        doubts.extend(verdicts.undecided().iter().cloned());
        let wanted = &self.plan.conclusive;
        let acked = self.run.ops().ok;
        if acked < wanted.acked_min {
            doubts.push(format!("only {acked} operations were acknowledged, {} are needed", wanted.acked_min));
        }
        if metrics.leader_changes < wanted.leader_changes_min {
            doubts.push(format!(
                "the leader changed {} times, {} are needed",
                metrics.leader_changes, wanted.leader_changes_min
            ));
        }
        for count in verdicts.counts() {
            let is_planned = |name| self.plan.clients.iter().any(|client| client.workload == name);
            let is_owed = self.run.workload_of(&count.property).is_none_or(is_planned);
            if count.nontrivial == 0 && is_owed && wanted.owes(&count.property) {
                doubts.push(format!("the oracle {} judged nothing", count.property));
            }
        }
        let assertions = self.coverage.assertions();
        if wanted.asked_after_loss_min > 0 {
            let stage = self.stage.borrow();
            let lost_at = stage.as_ref().and_then(|(fleet, _)| fleet.beyond_at_ns.get());
            match lost_at.map(|at_ns| self.run.asked_since(at_ns)) {
                None => doubts.push("no more was lost than the system can bear".to_owned()),
                Some(asked) if asked < wanted.asked_after_loss_min => {
                    doubts.push(format!("clients asked only {asked} times after the loss"));
                }
                Some(_) => {}
            }
        }
        for site in &wanted.sites {
            if !assertions.iter().any(|count| count.id == *site && count.passes > 0) {
                doubts.push(format!("stale: the site {site:?} was not reached"));
            }
        }
        doubts
    }

    fn metrics(&self) -> Metrics {
        let counts = self.world.enter(network::counts);
        let mut metrics = Metrics {
            rpcs: counts.sent,
            bytes_sent: counts.sent_bytes,
            write_latency_us: self.run.latency(OpKind::Write),
            read_latency_us: self.run.latency(OpKind::Read),
            ..Metrics::default()
        };
        if let Some((fleet, nemesis)) = self.stage.borrow().as_ref() {
            fleet.metrics(&mut metrics);
            metrics.partitions = nemesis.partitions.get();
            let writes = self.run.acknowledged(OpKind::Write) * u64::from(self.plan.servers);
            for role in [Role::Log, Role::State, Role::Snapshot] {
                let syncs = self.disks().iter().map(|disk| disk.counters().role(role).syncs).sum();
                metrics.syncs_per_commit.insert(role.name().to_owned(), ratio(syncs, writes));
            }
        }
        self.run.system.metrics(&mut metrics);
        metrics
    }

    /// The disks of the servers.
    fn disks(&self) -> Vec<Disk> {
        let hosts = self.stage.borrow().as_ref().map(|(fleet, _)| fleet.hosts.clone()).unwrap_or_default();
        self.world.enter(|| hosts.into_iter().map(Disk::of).collect())
    }

    fn power_loss(&self) -> PowerLossReport {
        let mut report = PowerLossReport::default();
        for outcome in self.disks().iter().flat_map(Disk::power_losses) {
            count_power_loss(&mut report, &outcome);
        }
        report.lost_then_served = self.run.lost_then_served.get();
        report
    }

    /// While the run lasts: what a system asserts afterwards is not counted.
    pub(super) fn tell_power_losses(&self) {
        let losses: Vec<PowerLossOutcome> = self.disks().iter().flat_map(Disk::power_losses).collect();
        self.run.system.power_lost(&losses, &self.power_loss());
    }

    /// What the nemesis did, and what disks and network did by themselves.
    fn faults(&self) -> BTreeMap<String, FaultCount> {
        let mut faults = self
            .stage
            .borrow()
            .as_ref()
            .map(|(_, nemesis)| {
                self.world.enter(|| {
                    nemesis.notice_at_end(self.plan.world.slow_pairs.len());
                    nemesis.ledger.counts()
                })
            })
            .unwrap_or_default();
        for (kind, noticed) in self.run.noticed() {
            faults.entry(kind).or_default().noticed += noticed;
        }
        for disk in self.disks() {
            for (kind, count) in disk.counters().faults {
                // Power losses are counted by the nemesis, and an error that it ordered is the error of its family.
                match kind {
                    fault::POWER_LOSS | fault::FULL => {}
                    fault::READ_ERROR | fault::WRITE_ERROR | fault::SYNC_ERROR => {
                        faults.entry("disk-error".to_owned()).or_default().noticed += count.noticed;
                    }
                    _ => {
                        let total = faults.entry(kind.to_owned()).or_default();
                        total.injected += count.injected;
                        total.noticed += count.noticed;
                    }
                }
            }
        }
        let counts = self.world.enter(network::counts);
        let spikes = faults.entry("spike".to_owned()).or_default();
        spikes.injected = counts.spikes;
        spikes.noticed = counts.spikes;
        faults
    }

    fn summary(&self) -> Vec<String> {
        let plan = &self.plan;
        let ops: usize = plan.clients.iter().map(|client| client.ops.len()).sum();
        vec![format!(
            "{} servers, {} clients, {ops} operations planned, {} faults planned, {} live fault points, order {}",
            plan.servers,
            plan.clients.len(),
            plan.faults.len(),
            plan.buggify.live.len(),
            plan.world.order,
        )]
    }
}

fn count_power_loss(report: &mut PowerLossReport, outcome: &PowerLossOutcome) {
    let moments = &mut report.moments;
    match outcome.moment {
        Moment::BeforeWrite => moments.before_write += 1,
        Moment::BetweenWriteAndSync => moments.between_write_and_sync += 1,
        Moment::InSync => moments.in_sync += 1,
        Moment::InRecovery => moments.in_recovery += 1,
    }
    let shapes = &mut report.shapes;
    match outcome.shape {
        None => report.nothing_pending += 1,
        Some(Shape::None) => shapes.none += 1,
        Some(Shape::All) => shapes.all += 1,
        Some(Shape::Prefix) => shapes.prefix += 1,
        Some(Shape::Suffix) => shapes.suffix += 1,
        Some(Shape::Holes) => shapes.holes += 1,
        Some(Shape::Torn) => shapes.torn += 1,
    }
}

/// Change points of a PCT order: a bug of depth d needs d - 1 of them, and nobody knows d.
fn pct_depth(key: u64) -> u32 {
    let drawn = Key::of_seed(key).draw(Purpose("pct depth"), 0, 0) % PCT_DEPTH_MAX;
    u32::try_from(1 + drawn).expect("at most PCT_DEPTH_MAX")
}

fn world_config(plan: &Plan, request: &RunRequest) -> WorldConfig {
    let knobs = &plan.world;
    let usual = WorldConfig::default();
    let time_budget = plan.duration_ns + plan.calm_ns_max + FORM_NS_MAX + CHECK_NS_MAX * 4;
    let (time_budget, event_budget) = match request.stop_at {
        Some(StopAt::Ns(at)) => (time_budget.min(at), usual.event_budget),
        Some(StopAt::Events(count)) => (time_budget, usual.event_budget.min(count)),
        None => (time_budget, usual.event_budget),
    };
    WorldConfig {
        seed: plan.key,
        order: match knobs.order.as_str() {
            "fifo" => Order::Fifo,
            "pct" => Order::Pct { depth: pct_depth(plan.key) },
            _ => Order::Uniform,
        },
        hold_probability_ppm: knobs.hold_ppm,
        hold_ns_max: knobs.hold_ns_max,
        time_budget,
        event_budget,
        window: request.window,
        network: knobs.network.clone(),
        ..usual
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Most change points of a PCT order.
const PCT_DEPTH_MAX: u64 = 5;
