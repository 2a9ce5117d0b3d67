//! Simplifications that are no removal from a list: an earlier end, a quiet world, fewer servers, shorter times.

use serde_json::Value;

use super::lists::{Clients, FaultPoints, Faults, Knobs, List};
use super::{Shrinker, Trial};
use crate::engine::plan::{Fault, PartitionShape, Plan, PlannedFault, Trigger, WorldKnobs};
use crate::world::Nanos;

impl<T: Trial> Shrinker<'_, T> {
    /// What comes after the violation cannot have caused it.
    pub(super) fn end_earlier(&mut self) {
        let Some(at) = self.best.at_ns else { return };
        let plan = &self.best.plan;
        let ends = [at + 10 * MS, at + 1000 * MS, at + 5000 * MS];
        let candidates: Vec<Plan> =
            ends.into_iter().filter(|end| *end < plan.duration_ns).map(|end| ending(plan, end)).collect();
        self.take_first(candidates);
    }

    /// Everything of one kind, before parts of it are tried: often it never mattered.
    pub(super) fn simplify_at_once(&mut self) {
        let quiet = WorldKnobs { disk: self.best.plan.world.disk, ..WorldKnobs::quiet() };
        self.take(Plan { world: WorldKnobs::quiet(), ..self.best.plan.clone() });
        self.take(Plan { world: quiet, ..self.best.plan.clone() });
        self.fewer_servers();
        while self.take(sooner(&self.best.plan)) {}
        for list in [&FaultPoints as &dyn List, &Knobs(self.knobs), &Faults, &Clients] {
            let plan = &self.best.plan;
            let candidate = list.without(plan, 0..list.len(plan));
            self.take(candidate);
        }
    }

    /// Fewer servers, a world with less noise, shorter and earlier faults and operations.
    pub(super) fn simplify(&mut self) {
        self.fewer_servers();
        self.calm_world();
        for number in 0..self.best.plan.faults.len() {
            while self.take_first(shorter_fault(&self.best.plan, number)).is_some() {}
        }
        while self.take(sooner(&self.best.plan)) {}
    }

    fn fewer_servers(&mut self) {
        for servers in [1, 3] {
            if let Some(candidate) = with_servers(&self.best.plan, servers) {
                self.take(candidate);
            }
        }
    }

    fn calm_world(&mut self) {
        let quiet = WorldKnobs::quiet();
        let parts: [fn(&mut WorldKnobs, &WorldKnobs); 6] = [
            |world, quiet| world.order.clone_from(&quiet.order),
            |world, quiet| (world.hold_ppm, world.hold_ns_max) = (quiet.hold_ppm, quiet.hold_ns_max),
            |world, quiet| world.network = quiet.network.clone(),
            |world, quiet| world.disk = quiet.disk,
            |world, _| world.clocks.clear(),
            |world, _| world.slow_pairs.clear(),
        ];
        for calm in parts {
            let mut candidate = self.best.plan.clone();
            calm(&mut candidate.world, &quiet);
            self.take(candidate);
        }
    }
}

/// The plan that ends at `end`.
fn ending(plan: &Plan, end: Nanos) -> Plan {
    let mut plan = plan.clone();
    plan.duration_ns = end;
    plan.faults.retain(|fault| fault.when.not_before_ns() < end);
    for client in &mut plan.clients {
        client.ops.retain(|op| op.not_before_ns < end);
    }
    plan
}

/// The plan with so many servers, without the faults that name others; `None` when it has no more already.
fn with_servers(plan: &Plan, servers: u32) -> Option<Plan> {
    if plan.servers <= servers {
        return None;
    }
    let mut smaller = plan.clone();
    smaller.servers = servers;
    smaller.faults.retain(|planned| !names_beyond(&planned.fault, servers));
    Some(smaller)
}

fn names_beyond(fault: &Fault, servers: u32) -> bool {
    if let Fault::Partition { shape: PartitionShape::Split { side }, .. } = fault {
        return side.iter().any(|server| *server >= servers);
    }
    let number =
        fault.target().and_then(|target| target.strip_prefix("Server(")?.strip_suffix(')')?.parse::<u32>().ok());
    number.is_some_and(|server| server >= servers)
}

/// One fault with half its times and strengths, or at a time instead of at a site or operation.
fn shorter_fault(plan: &Plan, number: usize) -> Vec<Plan> {
    let PlannedFault { when, fault } = &plan.faults[number];
    let with = |planned: PlannedFault| {
        let mut plan = plan.clone();
        plan.faults[number] = planned;
        plan
    };
    let mut candidates = Vec::new();
    if let Some(fault) = halved(fault) {
        candidates.push(with(PlannedFault { when: when.clone(), fault }));
    }
    if let Trigger::DiskOp { after_ns, nth, then_ns } = when
        && *then_ns > 0
    {
        let when = Trigger::DiskOp { after_ns: *after_ns, nth: *nth, then_ns: 0 };
        candidates.push(with(PlannedFault { when, fault: fault.clone() }));
    }
    candidates
}

/// Halves every duration of a fault: its fields named `*_ns`. `None` when they are short already.
fn halved(fault: &Fault) -> Option<Fault> {
    let mut value = serde_json::to_value(fault).expect("a fault is plain data");
    let shorter = halve_durations(&mut value);
    shorter.then(|| serde_json::from_value(value).expect("only numbers were changed"))
}

/// Returns whether any was long enough to be halved. Families nest.
fn halve_durations(value: &mut Value) -> bool {
    let Some(fields) = value.as_object_mut() else { return false };
    let mut shorter = false;
    for (name, field) in fields.iter_mut() {
        match field.as_u64() {
            Some(ns) if name.ends_with("_ns") && ns >= SHORT_NS => {
                *field = Value::from(ns / 2 / MS * MS);
                shorter = true;
            }
            _ => shorter |= halve_durations(field),
        }
    }
    shorter
}

/// The longest of the durations of a fault: of its fields named `*_ns`.
pub(super) fn longest_ns(fault: &Fault) -> Nanos {
    longest(&serde_json::to_value(fault).expect("a fault is plain data"))
}

fn longest(value: &Value) -> Nanos {
    let fields = value.as_object().into_iter().flatten();
    let durations = fields.map(|(name, field)| match field.as_u64() {
        Some(ns) if name.ends_with("_ns") => ns,
        _ => longest(field),
    });
    durations.max().unwrap_or(0)
}

/// Everything in the time between the beginning and the end comes at half its time.
pub(super) fn sooner(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    if plan.duration_ns < 2 * START_NS {
        return plan;
    }
    let halve = |ns: &mut Nanos| *ns = if *ns > START_NS { START_NS + (*ns - START_NS) / 2 } else { *ns };
    halve(&mut plan.duration_ns);
    for planned in &mut plan.faults {
        match &mut planned.when {
            Trigger::At { ns } => halve(ns),
            Trigger::Site { after_ns, .. } | Trigger::DiskOp { after_ns, .. } => halve(after_ns),
            Trigger::FirstStart { .. } => {}
        }
    }
    for op in plan.clients.iter_mut().flat_map(|client| &mut client.ops) {
        halve(&mut op.not_before_ns);
    }
    plan
}

const MS: Nanos = 1_000_000;
/// Durations below this are short enough.
const SHORT_NS: Nanos = 20 * MS;
/// A cluster needs about so long to form.
pub(super) const START_NS: Nanos = 1000 * MS;
