//! A spec: from which plans a seed draws.
//!
//! Written in TOML (`workloads/specs/*.toml`) or built in code. Ranges are `[least, most]`, both included; chances are
//! in percent. An unknown key is an error, since a misspelt fault is a fault that never happens.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::disk_faults;
use super::faults;
use super::plan::Conclusive;

/// Least and most, both included.
pub type Range = [u64; 2];

/// From which plans a seed draws.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub name: String,
    /// One line for people.
    pub about: String,
    /// One of these numbers is drawn.
    pub servers: Vec<u32>,
    pub duration_ms: Range,
    /// Bound on convergence after the faults ended.
    #[serde(default = "calm_ms_default")]
    pub calm_ms_max: u64,
    #[serde(default)]
    pub workloads: BTreeMap<String, WorkloadSpec>,
    #[serde(default)]
    pub world: WorldSpec,
    /// Fault families that may be switched on, by name.
    #[serde(default)]
    pub faults: BTreeMap<String, FamilySpec>,
    #[serde(default)]
    pub buggify: BuggifySpec,
    /// Chance that a tunable of the system under test is drawn from its extremes.
    #[serde(default)]
    pub knob_chance: u64,
    /// Tunables of the system under test for which one of these values is drawn, whatever their defaults and extremes.
    #[serde(default)]
    pub knobs: BTreeMap<String, Vec<i64>>,
    #[serde(default)]
    pub conclusive: Conclusive,
    /// The properties that a calibration spec must trip; empty for all others.
    #[serde(default)]
    pub expects: Vec<String>,
    /// The properties that a calibration spec may trip first in some runs, without owing it.
    #[serde(default)]
    pub tolerates: Vec<String>,
}

/// How much of a workload.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Chance that a run has it at all, in percent.
    #[serde(default = "always")]
    pub chance: u64,
    pub clients: Range,
    /// Mean pause between two operations of a client.
    #[serde(default = "pace_ms_default")]
    pub pace_ms: Range,
}

/// Ranges of [`WorldKnobs`](super::plan::WorldKnobs). The default is a quiet world.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldSpec {
    /// One of these is drawn.
    pub order: Vec<String>,
    pub hold_ppm: Range,
    pub hold_us_max: Range,
    pub latency_us: Range,
    pub jitter_us: Range,
    pub spike_ppm: Range,
    pub spike_ms_max: Range,
    pub loss_ppm: Range,
    pub disk_latency_percent: Range,
    /// Chance that a disk operation takes `disk_tail_factor` times as long.
    pub disk_tail_ppm: Range,
    pub disk_tail_factor: Range,
    /// Chance per disk operation that an episode begins in which nothing completes.
    pub disk_stall_ppm: Range,
    pub disk_stall_ms: Range,
    /// How far off the wall clock of each server is, either way.
    pub clock_offset_ms: Range,
    /// How wrong the rate of each server's clock is, either way.
    pub clock_rate_ppm: Range,
    /// How many pairs of servers are far apart, and how much longer their messages take.
    pub slow_pairs: Range,
    pub slow_pair_us: Range,
    /// Writes, and bytes of them, that the disk takes per second. 0 = no limit; half of the runs have none.
    pub disk_iops_max: Range,
    pub disk_bytes_per_s_max: Range,
    /// Calibration: chance in percent that in a run the data stays readable after a sync that failed.
    pub disk_failed_sync_stays_readable: u64,
}

impl Default for WorldSpec {
    fn default() -> Self {
        WorldSpec {
            order: vec!["uniform".to_owned()],
            hold_ppm: [0, 0],
            hold_us_max: [0, 0],
            latency_us: [200, 200],
            jitter_us: [300, 300],
            spike_ppm: [0, 0],
            spike_ms_max: [0, 0],
            loss_ppm: [0, 0],
            disk_latency_percent: [100, 100],
            disk_tail_ppm: [0, 0],
            disk_tail_factor: [1, 1],
            disk_stall_ppm: [0, 0],
            disk_stall_ms: [0, 0],
            clock_offset_ms: [0, 0],
            clock_rate_ppm: [0, 0],
            slow_pairs: [0, 0],
            slow_pair_us: [0, 0],
            disk_iops_max: [0, 0],
            disk_bytes_per_s_max: [0, 0],
            disk_failed_sync_stays_readable: 0,
        }
    }
}

/// One fault family.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilySpec {
    /// Chance that a run has it at all, in percent.
    pub chance: u64,
    /// How many faults a run that has it gets.
    pub count: Range,
    /// How long each lasts; for crashes, how long the server is down.
    #[serde(default)]
    pub for_ms: Range,
    /// Strength, in the unit of the family: ppm of loss, us of latency, bytes left on a full disk, damaged sectors, ms of
    /// an image's age, ppm of lies; see [`faults`] for others.
    #[serde(default)]
    pub strength: Range,
    /// The role that the first fault hits, at a time: so that every run with this family has such a fault.
    #[serde(default)]
    pub first: Option<String>,
}

/// Fault points in product code.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuggifySpec {
    /// Chance that a site is live in a run, in percent.
    pub live: u64,
    /// Chance per visit of a live site, in percent.
    pub fire: u64,
}

/// A spec that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec {name}: {problem}")]
pub struct SpecError {
    pub name: String,
    pub problem: String,
}

impl Spec {
    /// Reads a spec. `name` is for the error message.
    pub fn parse(name: &str, toml: &str) -> Result<Spec, SpecError> {
        let error = |problem: String| SpecError { name: name.to_owned(), problem };
        let spec: Spec = toml::from_str(toml).map_err(|failure| error(failure.to_string()))?;
        spec.validate().map_err(error)?;
        Ok(spec)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), SpecError> {
        self.validate().map_err(|problem| SpecError { name: self.name.clone(), problem })
    }

    /// A quiet world without faults: `servers` servers for `seconds` virtual seconds.
    pub fn quiet(name: &str, servers: u32, seconds: u64) -> Spec {
        Spec {
            name: name.to_owned(),
            about: String::new(),
            servers: vec![servers],
            duration_ms: [seconds * 1000, seconds * 1000],
            calm_ms_max: calm_ms_default(),
            workloads: BTreeMap::new(),
            world: WorldSpec::default(),
            faults: BTreeMap::new(),
            buggify: BuggifySpec::default(),
            knob_chance: 0,
            knobs: BTreeMap::new(),
            conclusive: Conclusive::default(),
            expects: Vec::new(),
            tolerates: Vec::new(),
        }
    }

    /// Adds a workload with so many clients, each of which pauses `pace_ms` milliseconds on average between two operations.
    pub fn with_workload(mut self, name: &str, clients: Range, pace_ms: Range) -> Spec {
        self.workloads.insert(name.to_owned(), WorkloadSpec { chance: always(), clients, pace_ms });
        self
    }

    /// Adds a fault family that every run has, `count` times, each for `for_ms` milliseconds of virtual time (both ends
    /// included), at a strength that is felt. `docs/faults.md` lists the families and what their time means; another
    /// strength is set in [`Spec::faults`], in the unit that is named there.
    pub fn with_faults(mut self, family: &str, count: Range, for_ms: Range) -> Spec {
        let strength = match family {
            "loss" => [100_000, 400_000],
            "latency" => [5_000, 50_000],
            "disk-full" => [0, 20_000],
            "latent-sector" | "bit-rot" | "lost-write" | "misdirected-write" => [1, 8],
            "old-image" => [1_000, 3_000],
            "lying-sync" => [200_000, 600_000],
            other => faults::strength_default(other),
        };
        self.faults.insert(family.to_owned(), FamilySpec { chance: 100, count, for_ms, strength, first: None });
        self
    }

    fn validate(&self) -> Result<(), String> {
        if self.servers.is_empty() || self.servers.contains(&0) {
            return Err("`servers` lists how many servers a run may have, each at least 1".to_owned());
        }
        if let Some(name) = self.knobs.iter().find(|(_, values)| values.is_empty()).map(|(name, _)| name) {
            return Err(format!("`knobs.{name}` lists the values of which one is drawn, at least one"));
        }
        if let Some(order) = self.world.order.iter().find(|order| !ORDERS.contains(&order.as_str())) {
            return Err(format!("`world.order` {order:?} is not one of {ORDERS:?}"));
        }
        if let Some(family) = self.faults.keys().find(|family| !is_family(family)) {
            let known: Vec<&str> = families().collect();
            return Err(format!("fault family {family:?} is not one of {known:?}"));
        }
        let world = &self.world;
        let mut ranges = vec![
            ("duration_ms", self.duration_ms),
            ("world.hold_ppm", world.hold_ppm),
            ("world.hold_us_max", world.hold_us_max),
            ("world.latency_us", world.latency_us),
            ("world.jitter_us", world.jitter_us),
            ("world.spike_ppm", world.spike_ppm),
            ("world.spike_ms_max", world.spike_ms_max),
            ("world.loss_ppm", world.loss_ppm),
            ("world.disk_latency_percent", world.disk_latency_percent),
            ("world.disk_tail_ppm", world.disk_tail_ppm),
            ("world.disk_tail_factor", world.disk_tail_factor),
            ("world.disk_stall_ppm", world.disk_stall_ppm),
            ("world.disk_stall_ms", world.disk_stall_ms),
            ("world.clock_offset_ms", world.clock_offset_ms),
            ("world.clock_rate_ppm", world.clock_rate_ppm),
            ("world.slow_pairs", world.slow_pairs),
            ("world.slow_pair_us", world.slow_pair_us),
            ("world.disk_iops_max", world.disk_iops_max),
            ("world.disk_bytes_per_s_max", world.disk_bytes_per_s_max),
        ];
        for workload in self.workloads.values() {
            ranges.push(("clients", workload.clients));
            ranges.push(("pace_ms", workload.pace_ms));
        }
        for family in self.faults.values() {
            ranges.push(("count", family.count));
            ranges.push(("for_ms", family.for_ms));
            ranges.push(("strength", family.strength));
        }
        if let Some((name, [least, most])) = ranges.into_iter().find(|(_, [least, most])| least > most) {
            return Err(format!("`{name} = [{least}, {most}]` is empty: the first number is the least"));
        }
        Ok(())
    }
}

fn calm_ms_default() -> u64 {
    30_000
}

fn always() -> u64 {
    100
}

fn pace_ms_default() -> Range {
    [10, 10]
}

/// Scheduling orders.
pub const ORDERS: &[&str] = &["uniform", "fifo", "pct"];

/// Fault families that need no module of their own.
const FAMILIES: &[&str] = &[
    "crash",
    "stop",
    "power-loss",
    "power-loss-at-start",
    "cluster-power-loss",
    "partition",
    "loss",
    "latency",
    "disk-error",
];

/// All families that the engine knows, by name.
pub fn families() -> impl Iterator<Item = &'static str> {
    use faults::{clock, link, process};
    [FAMILIES, disk_faults::FAMILIES, process::FAMILIES, clock::FAMILIES, link::FAMILIES].into_iter().flatten().copied()
}

/// Whether a spec may name this family: the engine's, or one that only the system under test knows.
fn is_family(name: &str) -> bool {
    name.contains(faults::system::MARK) || families().any(|family| family == name)
}
