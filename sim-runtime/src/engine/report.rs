//! What a run reports: the JSON that scripts rely on, field by field.
//!
//! The shapes are those of the command line's contract (`docs/cli.md`); `schema` grows by one when a field changes its meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the JSON written by `run` and `sweep`.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    Inconclusive,
}

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Kebab-case name of the oracle, `always:<id>`, or one of `deadlock`, `livelock`, `hang`, `budget`, `panic`,
    /// `process`, `determinism`.
    pub property: String,
    pub message: String,
    /// Virtual time in ns; `None` when the run died without a record.
    pub at_ns: Option<u64>,
    /// Host name; `None` when no single host is to blame.
    pub node: Option<String>,
}

/// Client operations, each counted once however often it was retried. `attempted = ok + failed + unknown` at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ops {
    pub attempted: u64,
    /// Answered by the state machine, reads and non-matching compares included. The same as *acknowledged*.
    pub ok: u64,
    /// Definite failures: nothing happened, ever.
    pub failed: u64,
    /// Anything may have happened, or may still happen.
    pub unknown: u64,
}

/// One kind of fault: how often it was done, and how often its own observable showed that it mattered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCount {
    pub injected: u64,
    pub noticed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionCount {
    pub id: String,
    pub kind: String,
    pub file: String,
    pub line: u32,
    pub hits: u64,
    pub passes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuggifyCount {
    pub id: String,
    pub live: bool,
    pub visits: u64,
    pub fired: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OracleCount {
    pub property: String,
    pub evaluated: u64,
    pub nontrivial: u64,
}

/// What survived of the sectors that were pending when the power went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerLossShapes {
    pub none: u64,
    pub all: u64,
    pub prefix: u64,
    pub suffix: u64,
    pub holes: u64,
    pub torn: u64,
}

/// What the disk was doing when the power went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerLossMoments {
    pub before_write: u64,
    pub between_write_and_sync: u64,
    pub in_sync: u64,
    pub in_recovery: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerLossReport {
    pub shapes: PowerLossShapes,
    pub moments: PowerLossMoments,
    /// Power losses that found no pending sector; they have no shape.
    pub nothing_pending: u64,
    /// Power losses that dropped un-synced sectors of a node that later served.
    pub lost_then_served: u64,
}

/// A latency distribution in virtual microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    pub elections: u64,
    pub leader_changes: u64,
    pub crashes: u64,
    pub power_losses: u64,
    pub restarts: u64,
    pub partitions: u64,
    pub rpcs: u64,
    pub bytes_sent: u64,
    /// File role (`log`, `state`, `snapshot`) to syncs per acknowledged commit.
    pub syncs_per_commit: BTreeMap<String, f64>,
    pub write_latency_us: Latency,
    pub read_latency_us: Latency,
    /// Highest values of what the system under test measures itself, by name.
    #[serde(default)]
    pub gauges: BTreeMap<String, u64>,
}

/// The JSON of `run`. What only a dead child knew is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    pub schema: u32,
    pub seed: u64,
    pub spec: String,
    pub verdict: Verdict,
    pub violations: Vec<Violation>,
    /// Why the run says too little to pass; empty when it passed.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// 32 hex digits.
    pub digest: Option<String>,
    pub events: Option<u64>,
    pub sim_time_ns: Option<u64>,
    pub wall_time_ms: u64,
    pub cpu_time_ms: u64,
    /// Largest resident memory of the run's process, in KiB.
    #[serde(default)]
    pub memory_peak_kib: u64,
    pub ops: Option<Ops>,
    pub faults: Option<BTreeMap<String, FaultCount>>,
    pub assertions: Option<Vec<AssertionCount>>,
    pub buggify: Option<Vec<BuggifyCount>>,
    pub oracles: Option<Vec<OracleCount>>,
    pub power_loss: Option<PowerLossReport>,
    pub metrics: Option<Metrics>,
    /// Path of the artifact that replays this run.
    pub artifact: Option<String>,
}
