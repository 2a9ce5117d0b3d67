//! One run, from a request to a record; and many, until they have shown what they should.
//!
//! Every run: setup, chaos, calm, checks. In the chaos phase clients work and faults happen; then everything heals and
//! restarts, the system must converge within its bound, and the checks look at what is left.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::fleet::Fleet;
use super::log;
use super::nemesis::Nemesis;
use super::parts::{Parts, Stage};
use super::plan::{PLAN_VERSION, Plan};
use super::planner::{SystemFacts, generate};
use super::record::{BUGGIFY, Look, RunRecord, RunRequest};
use super::spec::Spec;
use super::system::{Client, Cluster, Knob, Phase, System, Workload};
use crate::disk::Disk;
use crate::world::{self, HostId};

/// A system, its workloads and a spec: everything but the seed.
pub struct Simulation<E> {
    spec: Spec,
    system: Box<dyn Fn() -> Rc<dyn System<Event = E>> + Send + Sync>,
    workloads: Vec<Arc<dyn Workload<E>>>,
}

impl<E: Clone + 'static> Simulation<E> {
    /// `system` makes a new system under test for every run.
    ///
    /// # Panics
    /// If the spec was built in code and cannot be used, for instance because it names a family of faults that is none.
    pub fn new<S: System<Event = E>>(spec: Spec, system: impl Fn() -> S + Send + Sync + 'static) -> Simulation<E> {
        spec.check().unwrap_or_else(|error| panic!("{error}"));
        Simulation { spec, system: Box::new(move || Rc::new(system())), workloads: Vec::new() }
    }

    /// Adds a workload that the spec may name.
    pub fn workload(mut self, workload: impl Workload<E>) -> Simulation<E> {
        self.workloads.push(Arc::new(workload));
        self
    }

    pub(super) fn spec_name(&self) -> &str {
        &self.spec.name
    }

    pub(super) fn knobs(&self) -> &'static [Knob] {
        (self.system)().knobs()
    }

    /// What `seed` stands for.
    pub fn plan(&self, seed: u64) -> Plan {
        self.plan_for(&*(self.system)(), seed, &[])
    }

    fn plan_for(&self, system: &dyn System<Event = E>, seed: u64, ablate: &[String]) -> Plan {
        let facts = SystemFacts {
            roles: &|servers| system.roles(servers),
            knobs: system.knobs(),
            site_prefixes: system.site_prefixes(),
        };
        let mut spec = self.spec.clone();
        // Each family draws by itself, so the others stay as they are.
        spec.faults.retain(|family, _| !ablate.contains(family));
        let mut plan = generate(&spec, seed, &facts, &self.workloads);
        if ablate.iter().any(|family| family == BUGGIFY) {
            plan.buggify.live.clear();
        }
        plan
    }

    /// Runs one request on this thread. The process should run nothing else: see `isolate`.
    ///
    /// Panics if the request carries a plan that is not one of this version.
    pub fn run(&self, request: &RunRequest) -> RunRecord {
        let system = (self.system)();
        let mut plan: Plan = match &request.plan {
            Some(json) => {
                serde_json::from_value(json.clone()).expect("the plan was checked when the artifact was read")
            }
            None => self.plan_for(&*system, request.seed, &request.ablate),
        };
        assert_eq!(plan.version, PLAN_VERSION, "the plan was checked when the artifact was read");
        // A plan from before a tunable existed.
        for knob in system.knobs() {
            plan.knobs.entry(knob.name.to_owned()).or_insert(knob.default);
        }
        let plan = Rc::new(plan);
        let parts = Parts::new(&plan, system, request);
        let (outcome, lines) = match &request.log {
            Some(filter) => log::capture(filter, || parts.world.run(self.play(&parts))),
            None => (parts.world.run(self.play(&parts)), Vec::new()),
        };
        RunRecord { log: lines, ..parts.into_record(request, outcome) }
    }

    /// Sets the stage of a run that is made by hand: the servers are there, down, and so is the nemesis.
    pub(super) fn set(&self, request: &RunRequest, change: impl FnOnce(&mut Plan)) -> (Parts<E>, Stage<E>) {
        let system = (self.system)();
        let mut plan = self.plan_for(&*system, request.seed, &request.ablate);
        change(&mut plan);
        let parts = Parts::new(&Rc::new(plan), system, request);
        let stage = parts.world.enter(|| self.stage(&parts));
        (parts, stage)
    }

    fn stage(&self, parts: &Parts<E>) -> Stage<E> {
        let Parts { plan, run, coverage, .. } = parts;
        let fleet = Fleet::new(Rc::clone(plan), Rc::clone(run));
        for host in &fleet.hosts {
            let disk = Disk::of(*host);
            disk.set_config(plan.world.disk);
            disk.set_roles(run.system.file_role());
        }
        let nemesis = Nemesis::new(Rc::clone(&fleet), Rc::clone(coverage));
        nemesis.prepare(&plan.world);
        parts.stage.replace(Some((Rc::clone(&fleet), Rc::clone(&nemesis))));
        if parts.stop_at.is_some() {
            let (looked_at, look) = (Rc::downgrade(&fleet), Rc::clone(&parts.look));
            world::at_the_end(move || {
                if let Some(fleet) = looked_at.upgrade() {
                    let (at_ns, events) = (world::now_ns(), world::events());
                    look.replace(Look { at_ns, events, early: false, nodes: fleet.inspect() });
                }
            });
        }
        (fleet, nemesis)
    }

    async fn play(&self, parts: &Parts<E>) {
        let Parts { plan, run, .. } = parts;
        let (fleet, nemesis) = self.stage(parts);
        nemesis.await_first_starts(&plan.faults);
        fleet.boot_all();
        let cluster = Cluster {
            servers: fleet.hosts.clone(),
            bound_ns: FORM_NS_MAX,
            lost: BTreeSet::new(),
            clock_slow_ppm_max: plan.clock_slow_ppm_max(),
        };
        if let Err(reason) = run.system.form(&cluster).await {
            parts.trouble.borrow_mut().push(format!("the cluster did not form: {reason}"));
        }

        let clients = self.start_clients(parts, plan, &fleet.hosts);
        nemesis.unleash(&plan.faults, clients);
        while world::now_ns() < plan.duration_ns && !parts.is_over() {
            let next = (world::now_ns() + WATCH_NS).min(plan.duration_ns);
            world::sleep_until_ns(next).await;
        }
        if parts.is_over() {
            return;
        }
        let mut names: Vec<&str> = plan.clients.iter().map(|client| client.workload.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        self.settle(parts, &names, &BTreeSet::new()).await;
    }

    /// Ends all faults; the system must converge; then the workloads of these `names` check what is left. Nobody counts
    /// on the servers that are `away` for good.
    pub(super) async fn settle(&self, parts: &Parts<E>, names: &[&str], away: &BTreeSet<u32>) {
        let Parts { plan, run, .. } = parts;
        let (fleet, nemesis) = parts.stage.borrow().clone().expect("the stage was set");
        nemesis.calm();
        fleet.boot_all();
        // With too much lost nothing more is owed than that nobody lies.
        let beyond = fleet.beyond_at_ns.get().is_some();
        if !beyond {
            run.system.phase(Phase::Calm);
        }
        let calm_from = world::now_ns();
        let calm_until = calm_from + plan.calm_ns_max;
        while !run.clients_busy().is_empty() && world::now_ns() < calm_until && !parts.is_over() {
            world::sleep(Duration::from_nanos(WATCH_NS)).await;
            fleet.boot_all();
        }
        if parts.is_over() {
            return;
        }
        if beyond {
            parts.tell_power_losses();
            run.system.phase(Phase::End);
            return;
        }
        if away.is_empty() && parts.is_stuck_since(calm_from) {
            return;
        }
        let mut lost = fleet.lost();
        lost.extend(away);
        let bound_ns = calm_until.saturating_sub(world::now_ns());
        let clock_slow_ppm_max = plan.clock_slow_ppm_max();
        let cluster = Cluster { servers: fleet.hosts.clone(), bound_ns, lost, clock_slow_ppm_max };
        let converged = run.system.converge(&cluster).await;
        run.system.phase(Phase::Converged(converged.clone()));
        if let Err(reason) = converged {
            run.violate_convergence(reason, world::now_ns());
        }
        self.check(plan, names, &cluster, parts).await;
        parts.tell_power_losses();
        run.system.phase(Phase::End);
    }

    fn start_clients(&self, parts: &Parts<E>, plan: &Plan, servers: &[HostId]) -> Vec<HostId> {
        let mut hosts = Vec::new();
        for (index, client) in (0u32..).zip(&plan.clients) {
            parts.clients.set(index + 1);
            let host = world::add_host(&format!("client-{index}"));
            hosts.push(host);
            let workload = self.workload_named(&client.workload);
            let (servers, ops, until_ns) = (servers.to_vec(), client.ops.clone(), plan.duration_ns);
            let knobs = plan.knobs.clone();
            world::boot(host, move || workload.client(Client::new(index, servers, until_ns, knobs), ops));
        }
        hosts
    }

    /// Lets every workload check what is left, one after the other.
    async fn check(&self, plan: &Plan, names: &[&str], cluster: &Cluster, parts: &Parts<E>) {
        for (index, name) in (parts.clients.get()..).zip(names) {
            let host = world::add_host(&format!("checker-{index}"));
            let (workload, servers, knobs) = (self.workload_named(name), cluster.servers.clone(), plan.knobs.clone());
            world::boot(host, move || {
                let check = workload.check(Client::new(index, servers, u64::MAX, knobs));
                check.unwrap_or_else(|| Box::pin(async {}))
            });
            let deadline = world::now_ns() + CHECK_NS_MAX;
            while world::running(host).is_some() && world::now_ns() < deadline && !parts.is_over() {
                world::sleep(Duration::from_nanos(CHECK_WATCH_NS)).await;
            }
            if world::running(host).is_some() && !parts.is_over() {
                parts.hangs(format!("the final checks of {name} did not end in {} s", CHECK_NS_MAX / 1_000_000_000));
            }
        }
    }

    fn workload_named(&self, name: &str) -> Arc<dyn Workload<E>> {
        let found = self.workloads.iter().find(|workload| workload.name() == name);
        Arc::clone(found.unwrap_or_else(|| panic!("the plan names the workload {name}, which nobody offers")))
    }
}

/// How often the run looks whether it is over.
const WATCH_NS: u64 = 100_000_000;
const CHECK_WATCH_NS: u64 = 10_000_000;
/// Bound on forming a cluster.
pub(super) const FORM_NS_MAX: u64 = 20_000_000_000;
/// Bound on the final checks of one workload, in ns.
pub const CHECK_NS_MAX: u64 = 20_000_000_000;
