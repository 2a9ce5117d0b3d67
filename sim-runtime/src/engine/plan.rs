//! A run as data: everything that was decided before it began.
//!
//! A plan is generated from a spec and a seed, can be printed, edited and stored, and on the same build always gives
//! the same run. What is drawn rather than listed (latencies, scheduling, which sectors survive) hangs on
//! [`Plan::key`]; another key gives the same plan under other luck.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::disk_faults::DiskFault;
use super::faults::clock::{ClockChange, ClockFault};
use super::faults::link::LinkFault;
use super::faults::process::ProcessFault;
use super::faults::system::SystemFault;
use crate::disk::{DiskConfig, OpKind, Role};
use crate::world::Nanos;
use crate::world::network::NetworkConfig;

/// Version of the serialised form.
pub const PLAN_VERSION: u32 = 1;
/// Servers of a run.
pub const SERVERS_MAX: u32 = 64;

/// The first thing in `value` that is not in `known`, which was read from it.
fn unknown(value: &Value, known: &Value) -> Option<String> {
    match (value, known) {
        (Value::Object(value), Value::Object(known)) => value.iter().find_map(|(name, inner)| match known.get(name) {
            // What has no value may be left out.
            None => (!inner.is_null()).then(|| name.clone()),
            Some(known) => unknown(inner, known).map(|path| format!("{name}.{path}")),
        }),
        (Value::Array(value), Value::Array(known)) => value
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(at, (inner, known))| unknown(inner, known).map(|path| format!("{at}.{path}"))),
        _ => None,
    }
}

/// Everything decided before the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    pub spec: String,
    pub seed: u64,
    /// Key of all draws made during the run.
    pub key: u64,
    /// Servers of the system under test.
    pub servers: u32,
    /// Virtual time at which faults and clients end.
    pub duration_ns: Nanos,
    /// Bound on convergence after the faults ended.
    pub calm_ns_max: Nanos,
    pub world: WorldKnobs,
    /// Tunables of the system under test, by name.
    pub knobs: BTreeMap<String, i64>,
    pub clients: Vec<ClientPlan>,
    pub faults: Vec<PlannedFault>,
    pub buggify: BuggifyPlan,
    /// Below these a run without violation is inconclusive.
    pub conclusive: Conclusive,
}

/// How the simulated world behaves in this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorldKnobs {
    /// `uniform`, `fifo` or `pct`.
    pub order: String,
    /// Chance that a ready task is held, in millionths.
    pub hold_ppm: u32,
    pub hold_ns_max: Nanos,
    pub network: NetworkConfig,
    pub disk: DiskConfig,
    /// How far off the clock of each server is, by its number.
    #[serde(default)]
    pub clocks: Vec<ClockKnob>,
    /// Pairs of servers that are far apart, always.
    #[serde(default)]
    pub slow_pairs: Vec<SlowPair>,
}

/// How far off a clock is from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockKnob {
    /// Of the wall clock.
    pub offset_ns: i64,
    /// The monotonic clock, and the wall clock with it, gains so many microseconds per second.
    pub rate_ppm: i64,
}

/// Two servers between which every message takes longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowPair {
    pub a: u32,
    pub b: u32,
    pub extra_ns: Nanos,
}

impl WorldKnobs {
    /// No noise: every task runs when it is ready, messages and disks are quick and even.
    pub fn quiet() -> WorldKnobs {
        WorldKnobs {
            order: "uniform".to_owned(),
            hold_ppm: 0,
            hold_ns_max: 0,
            network: NetworkConfig::default(),
            disk: DiskConfig::default(),
            clocks: Vec::new(),
            slow_pairs: Vec::new(),
        }
    }
}

/// What one client does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientPlan {
    pub workload: String,
    pub ops: Vec<PlannedOp>,
}

/// One operation: begun when its time has come and the one before it has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedOp {
    pub not_before_ns: Nanos,
    /// In the workload's own vocabulary.
    pub op: Value,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedFault {
    pub when: Trigger,
    pub fault: Fault,
}

impl Plan {
    /// Reads a plan that somebody may have edited.
    ///
    /// # Errors
    /// When it is of another version, lacks something, says something that would have no effect, or cannot be run.
    pub fn read(value: &Value) -> Result<Plan, String> {
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(PLAN_VERSION)) {
            let found = version.map_or("no version".to_owned(), |version| format!("version {version}"));
            return Err(format!("the plan has {found}, this build runs version {PLAN_VERSION}"));
        }
        let plan = Plan::deserialize(value).map_err(|error| format!("the plan cannot be read: {error}"))?;
        let known = serde_json::to_value(&plan).map_err(|error| format!("the plan cannot be compared: {error}"))?;
        if let Some(path) = unknown(value, &known) {
            return Err(format!("the plan says something of {path}, which this build does not know"));
        }
        match plan.servers {
            1..=SERVERS_MAX => Ok(plan),
            servers => Err(format!("the plan has {servers} servers, 1 to {SERVERS_MAX} are possible")),
        }
    }

    /// By so many ppm the monotonic clock of a server is too slow at any time of the run, at worst: as if everything that
    /// slows clocks met.
    pub fn clock_slow_ppm_max(&self) -> u64 {
        let slow = |ppm: i64| if ppm < 0 { ppm.unsigned_abs() } else { 0 };
        let always = self.world.clocks.iter().map(|clock| slow(clock.rate_ppm)).max().unwrap_or(0);
        let faults = self.faults.iter().map(|planned| match &planned.fault {
            Fault::Clock(ClockFault { change: ClockChange::Rate { ppm }, .. }) => slow(*ppm),
            _ => 0,
        });
        faults.fold(always, u64::saturating_add)
    }
}

/// When a fault happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    At {
        ns: Nanos,
    },
    /// At the `nth` visit (from 1) of a site on the fault's target, counted from `after_ns` on.
    Site {
        after_ns: Nanos,
        site: String,
        nth: u64,
    },
    /// Within the `nth` disk operation (from 1) of the fault's target, counted from `after_ns` on, or `then_ns` later:
    /// what follows a write is a sync, which takes longer.
    DiskOp {
        after_ns: Nanos,
        nth: u64,
        then_ns: Nanos,
    },
    /// The same, counted from the first start of the target on: before the cluster has formed.
    FirstStart {
        nth: u64,
        then_ns: Nanos,
    },
}

impl Trigger {
    /// The earliest time at which it may fire.
    pub fn not_before_ns(&self) -> Nanos {
        match self {
            Trigger::At { ns } => *ns,
            Trigger::Site { after_ns, .. } | Trigger::DiskOp { after_ns, .. } => *after_ns,
            Trigger::FirstStart { .. } => 0,
        }
    }
}

/// What happens. A target is a role: `Server(2)` always works, the system under test resolves others (`Leader`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The process dies; its files stay as the operating system has them. Restarted after `down_ns`.
    Crash { target: String, down_ns: Nanos },
    /// The process is asked to stop and stops in order. Started again `down_ns` later.
    Stop { target: String, down_ns: Nanos },
    /// The machine loses power: of the un-synced sectors a legal subset survives.
    PowerLoss { target: String, down_ns: Nanos },
    /// All servers lose power at the same instant.
    ClusterPowerLoss { down_ns: Nanos },
    /// Some servers cannot reach others.
    Partition { shape: PartitionShape, for_ns: Nanos },
    /// Every packet is lost with this chance, in millionths.
    Loss { ppm: u32, for_ns: Nanos },
    /// Every packet is later by this much.
    Latency { extra_ns: Nanos, for_ns: Nanos },
    /// One disk operation of the target fails.
    DiskError { target: String, op: OpKind, role: Role, skip: u64 },
    /// Processes stand still, are slow, are killed again and again, or lose their disk.
    Process(ProcessFault),
    /// Clocks jump, stand still, or run at another rate.
    Clock(ClockFault),
    /// Links duplicate, reorder, corrupt, refuse, break, clog.
    Link(LinkFault),
    /// Whatever the system under test does.
    System(SystemFault),
    /// The disk is full, goes bad, or is lost.
    Disk(DiskFault),
}

impl Fault {
    /// The family, as in reports and specs.
    pub fn family(&self) -> &str {
        match self {
            Fault::Crash { .. } => "crash",
            Fault::Stop { .. } => "stop",
            Fault::PowerLoss { .. } => "power-loss",
            Fault::ClusterPowerLoss { .. } => "cluster-power-loss",
            Fault::Partition { .. } => "partition",
            Fault::Loss { .. } => "loss",
            Fault::Latency { .. } => "latency",
            Fault::DiskError { .. } => "disk-error",
            Fault::Process(fault) => fault.family(),
            Fault::Clock(fault) => fault.change.family(),
            Fault::Link(fault) => fault.family(),
            Fault::System(fault) => &fault.family,
            Fault::Disk(fault) => fault.family(),
        }
    }

    /// Makes it hit `role`, if it hits one server.
    pub fn aim_at(&mut self, role: &str) {
        if let Some(target) = self.target_mut() {
            *target = role.to_owned();
        }
    }

    /// Whom it hits, if it hits one server.
    pub fn target(&self) -> Option<&str> {
        match self {
            Fault::Crash { target, .. }
            | Fault::Stop { target, .. }
            | Fault::PowerLoss { target, .. }
            | Fault::DiskError { target, .. } => Some(target),
            Fault::Process(fault) => fault.target(),
            Fault::Clock(fault) => Some(&fault.target),
            Fault::Link(fault) => fault.target(),
            Fault::Disk(fault) => fault.target().map(String::as_str),
            _ => None,
        }
    }

    fn target_mut(&mut self) -> Option<&mut String> {
        match self {
            Fault::Crash { target, .. }
            | Fault::Stop { target, .. }
            | Fault::PowerLoss { target, .. }
            | Fault::DiskError { target, .. } => Some(target),
            Fault::Process(fault) => fault.target_mut(),
            Fault::Clock(fault) => Some(&mut fault.target),
            Fault::Link(fault) => fault.target_mut(),
            Fault::Disk(fault) => fault.target_mut(),
            Fault::ClusterPowerLoss { .. }
            | Fault::Partition { .. }
            | Fault::Loss { .. }
            | Fault::Latency { .. }
            | Fault::System(_) => None,
        }
    }
}

/// Who is separated from whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionShape {
    /// The named servers against the rest, both ways; clients reach both sides.
    Split { side: Vec<u32> },
    /// One role against all other servers, both ways; with `clients` also against them.
    Isolate { target: String, clients: bool },
    /// Between the target and the other servers one direction is cut: towards the target if `inbound`.
    OneWay { target: String, inbound: bool },
    /// Two halves that meet only in one server, which reaches both.
    Bridge { bridge: u32 },
    /// Each server reaches only the two next to it.
    Ring,
}

impl PartitionShape {
    /// The kind, as in reports.
    pub fn kind(&self) -> &'static str {
        match self {
            PartitionShape::Split { .. } => "partition-split",
            PartitionShape::Isolate { .. } => "partition-isolate",
            PartitionShape::OneWay { .. } => "partition-one-way",
            PartitionShape::Bridge { .. } => "partition-bridge",
            PartitionShape::Ring => "partition-ring",
        }
    }
}

/// Kinds of partitions, as in reports.
pub const PARTITION_KINDS: &[&str] =
    &["partition-split", "partition-isolate", "partition-one-way", "partition-bridge", "partition-ring"];

/// Which fault points may fire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuggifyPlan {
    /// Ids of the live sites.
    pub live: Vec<String>,
    /// Chance per visit of a live site that names none, in millionths.
    pub fire_ppm: u32,
}

/// What a run must have seen for its silence to mean something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conclusive {
    /// Acknowledged operations.
    pub acked_min: u64,
    pub leader_changes_min: u64,
    /// Every oracle must have judged something nontrivial, but for these.
    pub may_be_idle: Vec<String>,
    /// Only these must have, whatever other oracles there are by now. A scenario says so, since it outlives the set of
    /// oracles that it was made under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub must_judge: Option<Vec<String>>,
    /// Sites that must have been reached.
    pub sites: Vec<String>,
    /// The system must have lost more servers than it can bear, and clients must have asked this often afterwards.
    pub asked_after_loss_min: u64,
}

impl Conclusive {
    /// Whether the oracle of this property must have judged something.
    pub fn owes(&self, property: &str) -> bool {
        match &self.must_judge {
            Some(listed) => listed.iter().any(|of| of == property),
            None => !self.may_be_idle.iter().any(|of| of == property),
        }
    }
}
