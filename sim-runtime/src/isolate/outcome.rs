//! What became of a request.

use crate::engine::record::{RunRecord, RunRequest};
use crate::engine::report::{RunReport, SCHEMA, Verdict, Violation};

use super::Death;

/// One run as seen from outside.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub result: Result<RunRecord, Death>,
    /// The last of what the process wrote to stderr.
    pub stderr_tail: String,
    /// CPU time of the process in us.
    pub cpu_us: u64,
    /// Wall time from fork to the end in us.
    pub wall_us: u64,
    /// Largest resident memory of the process in KiB.
    pub memory_kib: u64,
}

impl Outcome {
    /// The record with its times filled in; for a dead run one that says how it died and nothing else.
    pub fn into_record(self, request: &RunRequest) -> RunRecord {
        let (wall_time_ms, cpu_time_ms) = (self.wall_us.div_ceil(1000), self.cpu_us.div_ceil(1000));
        let memory_peak_kib = self.memory_kib;
        let mut record = self.result.unwrap_or_else(|death| of_the_dead(&death, request));
        record.report.wall_time_ms = wall_time_ms;
        record.report.cpu_time_ms = cpu_time_ms;
        record.report.memory_peak_kib = memory_peak_kib;
        record
    }

    /// Why there is no record.
    pub fn death(&self) -> Option<&Death> {
        self.result.as_ref().err()
    }
}

fn of_the_dead(death: &Death, request: &RunRequest) -> RunRecord {
    let violation =
        Violation { property: death.property().to_owned(), message: death.to_string(), at_ns: None, node: None };
    let (verdict, violations, doubts) = match death.is_failure() {
        true => (Verdict::Fail, vec![violation], Vec::new()),
        false => (Verdict::Inconclusive, Vec::new(), vec![death.to_string()]),
    };
    RunRecord {
        report: RunReport {
            schema: SCHEMA,
            seed: request.seed,
            spec: request.spec.clone(),
            verdict,
            violations,
            doubts,
            digest: None,
            events: None,
            sim_time_ns: None,
            wall_time_ms: 0,
            cpu_time_ms: 0,
            memory_peak_kib: 0,
            ops: None,
            faults: None,
            assertions: None,
            buggify: None,
            oracles: None,
            power_loss: None,
            metrics: None,
            artifact: None,
        },
        plan: request.plan.clone().unwrap_or_default(),
        summary: vec![format!("the run left no record: {death}")],
        checkpoints: Vec::new(),
        events: Vec::new(),
        history: Vec::new(),
        look: None,
        log: Vec::new(),
    }
}
