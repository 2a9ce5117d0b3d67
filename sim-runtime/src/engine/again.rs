//! One run in this process, and the same run again: replayed from its plan, verified, made small.
//!
//! For tests of one's own, without the command line, which does the same in processes of their own. Each run is alone, on
//! a fresh thread under a process-wide lock: see [`isolate::in_process`].

use std::time::{Duration, Instant};

use super::difference::Difference;
use super::plan::Plan;
use super::record::{RunRecord, RunRequest};
use super::shrink::{Failing, Trial, shrink};
use super::simulation::Simulation;
use crate::isolate;

impl<E: Clone + 'static> Simulation<E> {
    /// Runs one seed.
    pub fn seed(&self, seed: u64) -> RunRecord {
        self.alone(&RunRequest { seed, spec: self.spec_name().to_owned(), ..RunRequest::default() })
    }

    /// Runs a plan: that of a record ([`RunRecord::planned`]), perhaps edited. The same plan is the same run.
    ///
    /// # Panics
    /// If the plan names a workload that nobody offers.
    pub fn replay(&self, plan: &Plan) -> RunRecord {
        let value = serde_json::to_value(plan).expect("a plan is plain data");
        let (seed, spec) = (plan.seed, plan.spec.clone());
        self.alone(&RunRequest { seed, spec, plan: Some(value), ..RunRequest::default() })
    }

    /// Runs one seed twice, the second time with other addresses on the heap.
    ///
    /// Both runs share this process and its environment, so what hangs on those goes unnoticed; what hangs on addresses,
    /// on uninitialised memory or on what ran before does not.
    ///
    /// # Errors
    /// The first event that differs: at most one step from the cause. `docs/determinism.md` lists the usual ones.
    pub fn verify(&self, seed: u64) -> Result<RunRecord, Box<Difference>> {
        let request = RunRequest { seed, spec: self.spec_name().to_owned(), ..RunRequest::default() };
        let (left, right) = (self.alone(&request), self.elsewhere(&request));
        let Some(mut difference) = Difference::between(&left, &right) else { return Ok(left) };
        if let Some(window) = difference.window {
            let request = RunRequest { window: Some(window), ..request };
            let inside = |record: RunRecord| {
                let kept = record.events.into_iter().filter(|event| (window.0..window.1).contains(&event.number));
                kept.collect::<Vec<_>>()
            };
            difference.locate(&inside(self.alone(&request)), &inside(self.elsewhere(&request)));
        }
        Err(Box::new(difference))
    }

    /// Makes the plan of a failing run as small as it gets in `budget` of wall time, such that it violates the same
    /// property. `None` if `record` did not fail, or does not again.
    pub fn shrink(&self, record: &RunRecord, budget: Duration) -> Option<Failing> {
        let property = &record.report.violations.first()?.property;
        let mut trial = InProcess { simulation: self, property, until: Instant::now() + budget };
        let original = trial.first_failing([record.planned()].into_iter())?.1;
        Some(shrink(original, self.knobs(), &mut trial))
    }

    fn alone(&self, request: &RunRequest) -> RunRecord {
        isolate::in_process(|| self.run(request))
    }

    /// As [`alone`](Simulation::alone), where everything has another address.
    fn elsewhere(&self, request: &RunRequest) -> RunRecord {
        isolate::in_process(|| {
            let shift: Vec<Vec<u8>> = (1..SHIFTED_SIZES).map(|size| vec![0xa5; size * 8]).collect();
            let record = self.run(request);
            drop(shift);
            record
        })
    }
}

/// Candidates of a shrink, one after the other.
struct InProcess<'a, E> {
    simulation: &'a Simulation<E>,
    property: &'a str,
    until: Instant,
}

impl<E: Clone + 'static> Trial for InProcess<'_, E> {
    fn first_failing(&mut self, candidates: impl Iterator<Item = Plan> + Send) -> Option<(usize, Failing)> {
        for (number, candidate) in candidates.enumerate() {
            if self.is_over() {
                return None;
            }
            // A candidate that passes by bad luck is given other keys.
            for attempt in 0..KEYS_TRIED {
                let plan = Plan { key: candidate.key.wrapping_add(attempt), ..candidate.clone() };
                let violations = self.simulation.replay(&plan).report.violations;
                if let Some(found) = violations.iter().find(|found| found.property == self.property) {
                    return Some((number, Failing { plan, at_ns: found.at_ns }));
                }
            }
        }
        None
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// Keys under which a candidate is run before it counts as one that passes.
const KEYS_TRIED: u64 = 3;
/// Allocations of so many sizes shift what is allocated after them.
const SHIFTED_SIZES: usize = 130;
