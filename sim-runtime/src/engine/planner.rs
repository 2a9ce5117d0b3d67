//! From a spec and a seed to a plan.
//!
//! Every decision has a stream of its own (by purpose and entity), so that one more fault family in a spec changes
//! nothing about the others: neighbouring specs give comparable runs, and shrinking a plan reshuffles nothing.
//!
//! Swarm testing (Groce et al., ISSTA 2012): a run has a random subset of the families, at a random strength.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk_faults::{self, DiskFault};
use super::faults;
use super::plan::{
    BuggifyPlan, ClientPlan, ClockKnob, Fault, PLAN_VERSION, PartitionShape, Plan, PlannedFault, SlowPair, Trigger,
    WorldKnobs,
};
use super::spec::{FamilySpec, Range, Spec};
use super::system::{Knob, Shape, Workload};
use crate::disk::{DiskConfig, Latency, OpKind, Role, Stalls};
use crate::world::draws::{Key, Stream};
use crate::world::network::NetworkConfig;
use crate::world::{Nanos, Purpose};

/// What the planner must know of a system under test.
pub struct SystemFacts<'a> {
    pub roles: &'a dyn Fn(u32) -> Vec<String>,
    pub knobs: &'static [Knob],
    pub site_prefixes: &'static [&'static str],
}

/// Draws the plan of `seed`.
pub fn generate<E: 'static>(
    spec: &Spec,
    seed: u64,
    system: &SystemFacts<'_>,
    workloads: &[Arc<dyn Workload<E>>],
) -> Plan {
    let planner = Planner { seed, spec, system };
    let mut shape = planner.stream("plan topology", 0);
    let servers = spec.servers[index(&mut shape, spec.servers.len())];
    let duration_ns = millis(within(&mut shape, spec.duration_ms));
    Plan {
        version: PLAN_VERSION,
        spec: spec.name.clone(),
        seed,
        key: seed,
        servers,
        duration_ns,
        calm_ns_max: millis(spec.calm_ms_max),
        world: planner.world(servers),
        knobs: planner.knobs(),
        clients: planner.clients(servers, duration_ns, workloads),
        faults: planner.faults(servers, duration_ns),
        buggify: planner.buggify(),
        conclusive: spec.conclusive.clone(),
    }
}

struct Planner<'a> {
    seed: u64,
    spec: &'a Spec,
    system: &'a SystemFacts<'a>,
}

impl Planner<'_> {
    fn stream(&self, purpose: &'static str, entity: u64) -> Stream {
        Key::of_seed(self.seed).stream(Purpose(purpose), entity)
    }

    fn world(&self, servers: u32) -> WorldKnobs {
        let spec = &self.spec.world;
        let mut draws = self.stream("plan world", 0);
        WorldKnobs {
            order: spec.order[index(&mut draws, spec.order.len())].clone(),
            hold_ppm: ppm(within(&mut draws, spec.hold_ppm)),
            hold_ns_max: micros(within(&mut draws, spec.hold_us_max)),
            network: NetworkConfig {
                latency_ns: micros(within(&mut draws, spec.latency_us)),
                jitter_ns: micros(within(&mut draws, spec.jitter_us)),
                spike_ppm: ppm(within(&mut draws, spec.spike_ppm)),
                spike_ns_max: millis(within(&mut draws, spec.spike_ms_max)),
                loss_ppm: ppm(within(&mut draws, spec.loss_ppm)),
                ..NetworkConfig::default()
            },
            disk: self.disk(&mut self.stream("plan disk", 0)),
            clocks: (0..servers).map(|server| self.clock(server)).collect(),
            slow_pairs: self.slow_pairs(servers),
        }
    }

    fn clock(&self, server: u32) -> ClockKnob {
        let spec = &self.spec.world;
        let mut draws = self.stream("plan clock", u64::from(server));
        let mut either_way = |range: Range, unit: i64| {
            let size = i64::try_from(within(&mut draws, range)).unwrap_or(i64::MAX).saturating_mul(unit);
            if draws.below(2) == 0 { size } else { -size }
        };
        ClockKnob {
            offset_ns: either_way(spec.clock_offset_ms, 1_000_000),
            rate_ppm: either_way(spec.clock_rate_ppm, 1),
        }
    }

    /// Some of all pairs, each at most once.
    fn slow_pairs(&self, servers: u32) -> Vec<SlowPair> {
        let spec = &self.spec.world;
        let mut draws = self.stream("plan slow pairs", 0);
        let mut pairs: Vec<(u32, u32)> = (0..servers).flat_map(|a| (a + 1..servers).map(move |b| (a, b))).collect();
        let mut slow = Vec::new();
        for _ in 0..within(&mut draws, spec.slow_pairs) {
            if !pairs.is_empty() {
                let (a, b) = pairs.swap_remove(index(&mut draws, pairs.len()));
                slow.push(SlowPair { a, b, extra_ns: micros(within(&mut draws, spec.slow_pair_us)) });
            }
        }
        slow
    }

    /// Latencies between half and the whole of the default times the drawn percentage: operations of a quiet disk
    /// (100 %) all take the default.
    fn disk(&self, draws: &mut Stream) -> DiskConfig {
        let spec = &self.spec.world;
        let percent = within(draws, spec.disk_latency_percent);
        let scaled = |latency: Latency| Latency {
            ns_min: if percent == 100 { latency.ns_min } else { (latency.ns_min * percent / 200).max(1) },
            ns_max: (latency.ns_max * percent / 100).max(1),
        };
        let quiet = DiskConfig::default();
        let stall_ns = millis(within(draws, spec.disk_stall_ms));
        let mut steady = DiskConfig {
            read: scaled(quiet.read),
            write: scaled(quiet.write),
            sync: scaled(quiet.sync),
            name: scaled(quiet.name),
            tail_ppm: ppm(within(draws, spec.disk_tail_ppm)),
            tail_factor: ppm(within(draws, spec.disk_tail_factor)),
            stalls: Stalls {
                ppm: ppm(within(draws, spec.disk_stall_ppm)),
                length: Latency { ns_min: stall_ns / 4, ns_max: stall_ns },
                syncs_only: draws.below(2) == 0,
            },
            ..quiet
        };
        // Half of the runs that may have a limit have it.
        let mut limit = |range: Range| if range[1] > 0 && draws.below(2) == 0 { within(draws, range) } else { 0 };
        steady.iops_max = limit(spec.disk_iops_max);
        steady.bytes_per_s_max = limit(spec.disk_bytes_per_s_max);
        steady.failed_sync_stays_readable = draws.below(100) < spec.disk_failed_sync_stays_readable;
        steady
    }

    fn knobs(&self) -> BTreeMap<String, i64> {
        let known = |name: &String| self.system.knobs.iter().any(|knob| knob.name == name);
        if let Some(unknown) = self.spec.knobs.keys().find(|name| !known(name)) {
            panic!("spec {} sets the tunable {unknown}, which nobody has", self.spec.name);
        }
        let mut values = BTreeMap::new();
        for knob in self.system.knobs {
            let mut draws = self.stream("plan knob", name_entity(knob.name));
            if let Some(listed) = self.spec.knobs.get(knob.name) {
                values.insert(knob.name.to_owned(), listed[index(&mut draws, listed.len())]);
                continue;
            }
            let extreme = percent(&mut draws, self.spec.knob_chance) && !knob.extremes.is_empty();
            let value = if extreme { knob.extremes[index(&mut draws, knob.extremes.len())] } else { knob.default };
            values.insert(knob.name.to_owned(), value);
        }
        values
    }

    fn clients<E: 'static>(
        &self,
        servers: u32,
        duration_ns: Nanos,
        workloads: &[Arc<dyn Workload<E>>],
    ) -> Vec<ClientPlan> {
        let mut clients = Vec::new();
        for (name, spec) in &self.spec.workloads {
            let workload = workloads
                .iter()
                .find(|workload| workload.name() == name)
                .unwrap_or_else(|| panic!("spec {} names the workload {name}, which nobody offers", self.spec.name));
            if !percent(&mut self.stream("plan workload at all", name_entity(name)), spec.chance) {
                continue;
            }
            let mut draws = self.stream("plan workload", name_entity(name));
            let shape = Shape {
                servers,
                clients: u32::try_from(within(&mut draws, spec.clients)).unwrap_or(u32::MAX),
                duration_ns,
                pace_ns: millis(within(&mut draws, spec.pace_ms)),
            };
            for ops in workload.plan(&shape, &mut draws) {
                clients.push(ClientPlan { workload: name.clone(), ops });
            }
        }
        clients
    }

    fn faults(&self, servers: u32, duration_ns: Nanos) -> Vec<PlannedFault> {
        let mut faults = Vec::new();
        for (name, family) in &self.spec.faults {
            let mut draws = self.stream("plan family", name_entity(name));
            if !percent(&mut draws, family.chance) {
                continue;
            }
            for nth in 0..within(&mut draws, family.count) {
                // What ends a run's usefulness leaves time before it, to have something to lose, and after it, to ask.
                let (from_ns, until_ns) = match name.as_str() {
                    "store-lost-beyond" => (duration_ns / 3, duration_ns / 3 * 2),
                    _ => (0, duration_ns),
                };
                let from_ns = from_ns.max(FAULTS_BEGIN_NS);
                let at = from_ns + draws.below(until_ns.saturating_sub(from_ns).max(1));
                let mut planned = self.fault(name, family, servers, (at, nth), &mut draws);
                if let Some(role) = family.first.as_ref().filter(|_| nth == 0) {
                    planned.fault.aim_at(role);
                    planned.when = Trigger::At { ns: at };
                }
                faults.push(planned);
            }
        }
        faults.extend(self.aftermath(&faults));
        faults.sort_by_key(|planned| planned.when.not_before_ns());
        faults
    }

    /// Losses of power soon after some of the disk errors, and during some of the hanging syncs. What an ignored error left
    /// undone, or was said before its sync, shows then, and only then: the next sync that succeeds covers it up.
    fn aftermath(&self, faults: &[PlannedFault]) -> Vec<PlannedFault> {
        let Some(power_loss) = self.spec.faults.get("power-loss") else { return Vec::new() };
        let mut draws = self.stream("plan aftermath", 0);
        let mut losses = Vec::new();
        for PlannedFault { when, fault } in faults {
            let (target, within_ns) = match fault {
                Fault::DiskError { target, op: OpKind::Write | OpKind::Sync, .. } => (target, AFTERMATH_NS_MAX),
                Fault::Disk(DiskFault::SyncHang { target, for_ns, .. }) => (target, *for_ns),
                _ => continue,
            };
            if draws.below(2) == 0 {
                let ns = when.not_before_ns() + draws.below(within_ns.max(1));
                let fault =
                    Fault::PowerLoss { target: target.clone(), down_ns: millis(within(&mut draws, power_loss.for_ms)) };
                losses.push(PlannedFault { when: Trigger::At { ns }, fault });
            }
        }
        losses
    }

    fn fault(
        &self,
        name: &str,
        family: &FamilySpec,
        servers: u32,
        (at, nth): (Nanos, u64),
        draws: &mut Stream,
    ) -> PlannedFault {
        let for_ns = millis(within(draws, family.for_ms));
        let strength = within(draws, family.strength);
        let now = Trigger::At { ns: at };
        match name {
            "crash" => {
                let fault = Fault::Crash { target: self.target(servers, draws), down_ns: for_ns };
                PlannedFault { when: self.moment(at, false, draws), fault }
            }
            "stop" => {
                let fault = Fault::Stop { target: self.target(servers, draws), down_ns: for_ns };
                PlannedFault { when: self.moment(at, false, draws), fault }
            }
            "power-loss" => {
                let fault = Fault::PowerLoss { target: self.target(servers, draws), down_ns: for_ns };
                PlannedFault { when: self.moment(at, true, draws), fault }
            }
            "power-loss-at-start" => {
                let target = format!("Server({})", draws.below(u64::from(servers)));
                let nth = 1 + draws.below(START_DISK_OPS_MAX);
                let then_ns = if draws.below(4) == 0 { 0 } else { draws.below(DISK_OP_THEN_NS_MAX) };
                let fault = Fault::PowerLoss { target, down_ns: for_ns };
                PlannedFault { when: Trigger::FirstStart { nth, then_ns }, fault }
            }
            "cluster-power-loss" => PlannedFault { when: now, fault: Fault::ClusterPowerLoss { down_ns: for_ns } },
            "partition" => {
                let shape = self.partition(servers, draws);
                PlannedFault { when: now, fault: Fault::Partition { shape, for_ns } }
            }
            "loss" => PlannedFault { when: now, fault: Fault::Loss { ppm: ppm(strength), for_ns } },
            "latency" => PlannedFault { when: now, fault: Fault::Latency { extra_ns: micros(strength), for_ns } },
            "disk-error" => {
                let op = [OpKind::Read, OpKind::Write, OpKind::Sync][index(draws, 3)];
                let role = [Role::Log, Role::State, Role::Snapshot][index(draws, 3)];
                let fault = Fault::DiskError { target: self.target(servers, draws), op, role, skip: draws.below(20) };
                PlannedFault { when: now, fault }
            }
            other if disk_faults::FAMILIES.contains(&other) => {
                let target = self.target(servers, draws);
                let of = disk_faults::Draws { stream: draws, servers, nth, target, for_ns, strength };
                let fault = Fault::Disk(disk_faults::draw(other, of).expect("it is one of these families"));
                PlannedFault { when: now, fault }
            }
            other => {
                let mut target = |stream: &mut Stream| self.target(servers, stream);
                let draws = faults::Draws { stream: draws, servers, for_ns, strength, target: &mut target };
                let fault = faults::draw(other, draws)
                    .unwrap_or_else(|| unreachable!("the spec was validated, yet names the family {other}"));
                PlannedFault { when: now, fault }
            }
        }
    }

    /// When a node goes down: at a time, at a site, or (power loss) within a disk operation.
    fn moment(&self, at: Nanos, within_disk_op: bool, draws: &mut Stream) -> Trigger {
        let sites: Vec<_> = buggify::catalogue()
            .iter()
            .filter(|site| self.system.site_prefixes.iter().any(|prefix| site.module.starts_with(prefix)))
            .collect();
        match draws.below(3) {
            0 | 2 if within_disk_op => Trigger::DiskOp {
                after_ns: at,
                nth: 1 + draws.below(DISK_OPS_AHEAD_MAX),
                then_ns: if draws.below(4) == 0 { 0 } else { draws.below(DISK_OP_THEN_NS_MAX) },
            },
            1 if !sites.is_empty() => Trigger::Site {
                after_ns: at,
                site: sites[index(draws, sites.len())].id(),
                nth: 1 + draws.below(SITE_VISITS_AHEAD_MAX),
            },
            _ => Trigger::At { ns: at },
        }
    }

    fn target(&self, servers: u32, draws: &mut Stream) -> String {
        let roles = (self.system.roles)(servers);
        if roles.is_empty() || draws.below(3) == 0 {
            format!("Server({})", draws.below(u64::from(servers)))
        } else {
            roles[index(draws, roles.len())].clone()
        }
    }

    fn partition(&self, servers: u32, draws: &mut Stream) -> PartitionShape {
        match draws.below(6) {
            0 => PartitionShape::OneWay { target: self.target(servers, draws), inbound: draws.below(2) == 0 },
            1 => PartitionShape::Bridge { bridge: u32::try_from(draws.below(u64::from(servers))).expect("a server") },
            2 if servers > 3 => PartitionShape::Ring,
            2 | 3 => PartitionShape::Isolate { target: self.target(servers, draws), clients: draws.below(3) == 0 },
            _ => {
                let mask = if servers < 2 { 0 } else { 1 + draws.below((1 << servers.min(63)) - 2) };
                PartitionShape::Split { side: (0..servers).filter(|server| mask >> server & 1 == 1).collect() }
            }
        }
    }

    fn buggify(&self) -> BuggifyPlan {
        let live = buggify::catalogue()
            .iter()
            .filter(|site| site.kind == buggify::Kind::Buggify)
            .map(|site| site.id())
            .filter(|id| percent(&mut self.stream("plan site", name_entity(id)), self.spec.buggify.live))
            .collect();
        BuggifyPlan { live, fire_ppm: ppm(self.spec.buggify.fire * 10_000) }
    }
}

/// A stable number for a name.
pub(super) fn name_entity(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

fn within(draws: &mut Stream, [least, most]: Range) -> u64 {
    least + draws.below(most - least + 1)
}

fn index(draws: &mut Stream, len: usize) -> usize {
    let len = u64::try_from(len).expect("a length is a u64");
    usize::try_from(draws.below(len)).expect("below a usize")
}

fn percent(draws: &mut Stream, chance: u64) -> bool {
    draws.below(100) < chance
}

fn ppm(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn millis(value: u64) -> Nanos {
    value * 1_000_000
}

fn micros(value: u64) -> Nanos {
    value * 1_000
}

/// Faults begin after the servers had time to form a cluster.
const FAULTS_BEGIN_NS: Nanos = 1_000_000_000;
/// So long after an error a loss of power may follow it.
const AFTERMATH_NS_MAX: Nanos = 500_000_000;
/// A fault within a disk operation picks one of so many after its time.
const DISK_OPS_AHEAD_MAX: u64 = 60;
/// A fault after a disk operation comes at most so late: about as long as a commit takes.
const DISK_OP_THEN_NS_MAX: Nanos = 300_000;
/// A fault within the first start of a server picks one of so many disk operations: those of a start, and a few more.
const START_DISK_OPS_MAX: u64 = 150;
/// A fault at a site picks one of so many visits after its time.
const SITE_VISITS_AHEAD_MAX: u64 = 8;
