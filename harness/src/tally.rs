//! Many runs added up: the JSON of `sweep`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use sim_runtime::engine::listing::SpecInfo;
use sim_runtime::engine::record::RunRecord;
use sim_runtime::engine::report::{FaultCount, Ops, PowerLossReport, SCHEMA, Verdict};

use crate::Exit;
use crate::coverage::{Coverage, CoverageReport};

/// A failing seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub seed: u64,
    pub property: String,
    pub message: String,
    /// Path of the artifact.
    pub artifact: Option<String>,
}

/// A seed that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doubt {
    pub seed: u64,
    pub reasons: Vec<String>,
}

/// Property of a seed that gave two different runs.
pub const DETERMINISM: &str = "determinism";

#[derive(Clone, Debug)]
pub struct Tally {
    spec: SpecInfo,
    start: u64,
    pub seeds_run: u64,
    pub passed: u64,
    pub failed: u64,
    pub inconclusive: u64,
    /// Seeds run again with the same result.
    pub verified: u64,
    /// It was ended before all seeds had run.
    pub interrupted: bool,
    pub failures: Vec<Failure>,
    pub doubts: Vec<Doubt>,
    pub coverage: Coverage,
    /// Every property that any run violated; of a calibration spec, what each run violated first.
    fired: BTreeSet<String>,
    pub power_loss: PowerLossReport,
    pub runs_lost_then_served: u64,
    pub ops: Ops,
    pub faults: BTreeMap<String, FaultCount>,
    pub sim_time: Duration,
    pub cpu_time: Duration,
}

/// The JSON of `sweep`.
#[derive(Clone, Debug, Serialize)]
pub struct SweepReport<'a> {
    schema: u32,
    spec: &'a str,
    start: u64,
    seeds_run: u64,
    passed: u64,
    failed: u64,
    inconclusive: u64,
    failures: &'a [Failure],
    doubts: &'a [Doubt],
    coverage: CoverageReport,
    power_loss: SummedPowerLoss,
    ops: Ops,
    faults: &'a BTreeMap<String, FaultCount>,
    seeds_per_minute: f64,
    sim_s_per_cpu_s: f64,
    acked_ops_per_cpu_s: f64,
    verified: u64,
    interrupted: bool,
}

#[derive(Clone, Debug, Serialize)]
struct SummedPowerLoss {
    #[serde(flatten)]
    sum: PowerLossReport,
    runs_lost_then_served: u64,
}

impl Tally {
    pub fn new(spec: SpecInfo, start: u64) -> Tally {
        let coverage = Coverage::owed_by(&spec.name);
        Tally {
            spec,
            start,
            seeds_run: 0,
            passed: 0,
            failed: 0,
            inconclusive: 0,
            verified: 0,
            interrupted: false,
            failures: Vec::new(),
            doubts: Vec::new(),
            coverage,
            fired: BTreeSet::new(),
            power_loss: PowerLossReport::default(),
            runs_lost_then_served: 0,
            ops: Ops::default(),
            faults: BTreeMap::new(),
            sim_time: Duration::ZERO,
            cpu_time: Duration::ZERO,
        }
    }

    /// Adds one run. `failure` is how it failed, if it did; a run that was not deterministic has failed whatever its
    /// own verdict.
    pub fn add(&mut self, record: &RunRecord, cpu_time: Duration, failure: Option<Failure>) {
        let report = &record.report;
        self.seeds_run += 1;
        match (&failure, report.verdict) {
            (Some(_), _) | (None, Verdict::Fail) => self.failed += 1,
            (None, Verdict::Pass) => self.passed += 1,
            (None, Verdict::Inconclusive) => {
                self.inconclusive += 1;
                self.doubts.push(Doubt { seed: report.seed, reasons: report.doubts.clone() });
            }
        }
        // In a calibration spec what fires first counts: the rest are its consequences.
        let counted = if self.is_calibration() { 1 } else { usize::MAX };
        self.fired.extend(report.violations.iter().take(counted).map(|violation| violation.property.clone()));
        if let Some(failure) = failure {
            self.fired.insert(failure.property.clone());
            self.failures.push(failure);
        }
        self.coverage.add(report.assertions.as_deref().unwrap_or_default());
        self.cpu_time += cpu_time;
        self.sim_time += Duration::from_nanos(report.sim_time_ns.unwrap_or_default());
        add_ops(&mut self.ops, report.ops.unwrap_or_default());
        for (kind, count) in report.faults.iter().flatten() {
            let sum = self.faults.entry(kind.clone()).or_default();
            sum.injected += count.injected;
            sum.noticed += count.noticed;
        }
        let power_loss = report.power_loss.unwrap_or_default();
        add_power_loss(&mut self.power_loss, power_loss);
        self.runs_lost_then_served += u64::from(power_loss.lost_then_served > 0);
    }

    /// Properties that a calibration spec expects and no run violated.
    pub fn expected_but_silent(&self) -> Vec<&str> {
        let expected = self.spec.calibration.iter().flatten();
        expected.filter(|property| !self.fired.contains(*property)).map(String::as_str).collect()
    }

    /// Properties that were violated, without those that a calibration spec expects or tolerates.
    pub fn unexpected(&self) -> Vec<&str> {
        let expected = self.spec.calibration.as_deref().unwrap_or_default();
        let known = |property: &&String| expected.contains(property) || self.spec.tolerates.contains(property);
        self.fired.iter().filter(|property| !known(property)).map(String::as_str).collect()
    }

    pub fn is_calibration(&self) -> bool {
        self.spec.calibration.is_some()
    }

    /// More than 2 % of the runs said nothing.
    pub fn is_inconclusive(&self) -> bool {
        self.inconclusive * 50 > self.seeds_run
    }

    pub fn exit(&self, wants_coverage: bool) -> Exit {
        let mut exits = Vec::new();
        if self.fired.contains(DETERMINISM) {
            exits.push(Exit::NotDeterministic);
        }
        if self.interrupted {
            exits.push(Exit::Interrupted);
        }
        let violated = match self.is_calibration() {
            // What was to be expected might have come yet.
            true => !self.unexpected().is_empty() || !(self.interrupted || self.expected_but_silent().is_empty()),
            false => self.failed > 0,
        };
        if violated {
            exits.push(Exit::Violated);
        }
        // A calibration spec has said all it has to say once its oracles fired.
        if self.is_inconclusive() && !self.is_calibration() {
            exits.push(Exit::Inconclusive);
        }
        if wants_coverage && !self.coverage.is_complete() {
            exits.push(Exit::NotReached);
        }
        Exit::first_of(&exits)
    }

    pub fn sim_s_per_cpu_s(&self) -> f64 {
        ratio(self.sim_time.as_secs_f64(), self.cpu_time)
    }

    pub fn acked_ops_per_cpu_s(&self) -> f64 {
        ratio(to_f64(self.ops.ok), self.cpu_time)
    }

    pub fn seeds_per_minute(&self, wall_time: Duration) -> f64 {
        60.0 * ratio(to_f64(self.seeds_run), wall_time)
    }

    pub fn report(&self, wall_time: Duration) -> SweepReport<'_> {
        SweepReport {
            schema: SCHEMA,
            spec: &self.spec.name,
            start: self.start,
            seeds_run: self.seeds_run,
            passed: self.passed,
            failed: self.failed,
            inconclusive: self.inconclusive,
            failures: &self.failures,
            doubts: &self.doubts,
            coverage: self.coverage.report(),
            power_loss: SummedPowerLoss { sum: self.power_loss, runs_lost_then_served: self.runs_lost_then_served },
            ops: self.ops,
            faults: &self.faults,
            seeds_per_minute: self.seeds_per_minute(wall_time),
            sim_s_per_cpu_s: self.sim_s_per_cpu_s(),
            acked_ops_per_cpu_s: self.acked_ops_per_cpu_s(),
            verified: self.verified,
            interrupted: self.interrupted,
        }
    }
}

/// Finite also for an empty sweep, since JSON knows no infinity.
fn ratio(amount: f64, per: Duration) -> f64 {
    if per.is_zero() { 0.0 } else { amount / per.as_secs_f64() }
}

/// Exact below 2^53, and a count that large is none.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

fn add_ops(sum: &mut Ops, ops: Ops) {
    sum.attempted += ops.attempted;
    sum.ok += ops.ok;
    sum.failed += ops.failed;
    sum.unknown += ops.unknown;
}

fn add_power_loss(sum: &mut PowerLossReport, one: PowerLossReport) {
    sum.shapes.none += one.shapes.none;
    sum.shapes.all += one.shapes.all;
    sum.shapes.prefix += one.shapes.prefix;
    sum.shapes.suffix += one.shapes.suffix;
    sum.shapes.holes += one.shapes.holes;
    sum.shapes.torn += one.shapes.torn;
    sum.moments.before_write += one.moments.before_write;
    sum.moments.between_write_and_sync += one.moments.between_write_and_sync;
    sum.moments.in_sync += one.moments.in_sync;
    sum.moments.in_recovery += one.moments.in_recovery;
    sum.nothing_pending += one.nothing_pending;
    sum.lost_then_served += one.lost_then_served;
}
