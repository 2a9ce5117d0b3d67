//! Candidates of a shrink, each run in a process of its own, several at a time.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use sim_runtime::engine::Plan;
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::Verdict;
use sim_runtime::engine::shrink::{Failing, Trial};
use sim_runtime::isolate::Pool;

use crate::Subject;
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// Runs candidates until the budget is used up.
pub struct Processes {
    subject: Subject,
    pool: Pool,
    request: RunRequest,
    property: String,
    /// Keys per candidate.
    tries: u64,
    budget: Duration,
    started: Instant,
    interrupt: Interrupt,
    progress: Progress,
    pub runs: u64,
}

impl Processes {
    /// Candidates of `request` that must violate `property`. An interrupt ends them like the end of the budget.
    pub fn new(
        subject: &Subject,
        jobs: NonZeroUsize,
        request: &RunRequest,
        property: &str,
        tries: u64,
        budget: Duration,
        interrupt: Interrupt,
    ) -> Processes {
        Processes {
            subject: *subject,
            pool: Pool::new(jobs, subject.limits),
            request: RunRequest { plan: None, window: None, ..request.clone() },
            property: property.to_owned(),
            tries: tries.max(1),
            budget,
            started: Instant::now(),
            interrupt,
            progress: Progress::over("plans", None),
            runs: 0,
        }
    }

    pub fn finish(self) -> u64 {
        self.progress.finish();
        self.runs
    }
}

impl Trial for Processes {
    fn first_failing(&mut self, candidates: impl Iterator<Item = Plan> + Send) -> Option<(usize, Failing)> {
        let (started, budget, request, tries) = (self.started, self.budget, &self.request, self.tries);
        let (check_plan, interrupt) = (self.subject.check_plan, &self.interrupt);
        let keyed = candidates.enumerate().flat_map(|(number, plan)| {
            (0..tries).map(move |attempt| (number, Plan { key: plan.key.wrapping_add(attempt), ..plan.clone() }))
        });
        // A candidate that cannot be run (a tester that knows no such cluster) is none.
        let numbered = keyed.filter_map(|(number, plan)| {
            let plan = serde_json::to_value(plan).expect("a plan is plain data");
            check_plan(&plan).is_ok().then(|| (number, RunRequest { plan: Some(plan), ..request.clone() }))
        });
        let mut found = None;
        let (runs, progress, property) = (&mut self.runs, &mut self.progress, &self.property);
        self.pool.each(
            numbered.take_while(|_| started.elapsed() < budget && !interrupt.is_asked()),
            |runner, (number, request)| {
                let outcome = runner.run(&request);
                (number, outcome.into_record(&request), request)
            },
            |(number, record, request)| {
                *runs += 1;
                progress.step(|| format!("{} s left", budget.saturating_sub(started.elapsed()).as_secs()));
                if !violates(&record, property) {
                    return ControlFlow::Continue(());
                }
                let plan = request.plan.and_then(|plan| serde_json::from_value(plan).ok()).expect("it was a plan");
                found = Some((number, Failing { plan, at_ns: violated_at(&record, property) }));
                ControlFlow::Break(())
            },
        );
        found
    }

    fn is_over(&self) -> bool {
        self.started.elapsed() >= self.budget || self.interrupt.is_asked()
    }
}

/// Whether `property` is among what a run violated.
pub fn violates(record: &RunRecord, property: &str) -> bool {
    record.report.verdict == Verdict::Fail && record.report.violations.iter().any(|found| found.property == property)
}

/// When it was violated first, in virtual ns.
pub fn violated_at(record: &RunRecord, property: &str) -> Option<u64> {
    record.report.violations.iter().find(|found| found.property == property).and_then(|found| found.at_ns)
}
