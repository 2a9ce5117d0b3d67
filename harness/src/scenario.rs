//! What a shrunk plan must reach so that passing it means something.
//!
//! On fixed code the violation is gone, and a run that no longer comes near the place where it was would pass just as
//! well. So a scenario names sites it must reach and oracles that must have judged something: those of the failing run
//! that a run without faults does not have, and that correct code can have too.

use std::collections::BTreeSet;

use sim_runtime::engine::Plan;
use sim_runtime::engine::plan::Conclusive;
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::{RunReport, Verdict};
use sim_runtime::isolate::{Limits, Runner};

/// Keys given to correct code.
const KEYS_MAX: u64 = 8;

/// `plan` with the conditions under which a run of it is conclusive. `failing` is its failing run.
pub fn conclusive(plan: &Plan, request: &RunRequest, failing: &RunRecord, limits: Limits) -> Plan {
    let mut runner = Runner::new(limits);
    let mut report_of = |plan: &Plan, bug: Option<&String>| {
        let value = serde_json::to_value(plan).expect("a plan is plain data");
        let request = RunRequest { plan: Some(value), bug: bug.cloned(), ..request.clone() };
        runner.run(&request).into_record(&request).report
    };
    let mut plan = plan.clone();
    plan.conclusive = Conclusive { must_judge: Some(Vec::new()), ..Conclusive::default() };
    let calm = Plan { faults: Vec::new(), ..plan.clone() };
    let calm = report_of(&calm, request.bug.as_ref());
    let mut sites: BTreeSet<String> = reached(&failing.report).difference(&reached(&calm)).cloned().collect();
    let mut judged = judged(&failing.report);
    if request.bug.is_some() {
        // Of what the planted bug reached, keep what correct code reaches under some key.
        let correct = (0..KEYS_MAX).map(|offset| {
            let plan = Plan { key: plan.key.wrapping_add(offset), ..plan.clone() };
            report_of(&plan, None)
        });
        let best = correct
            .filter(|report| report.verdict != Verdict::Fail)
            .max_by_key(|report| reached(report).intersection(&sites).count());
        if let Some(correct) = best {
            sites = sites.intersection(&reached(&correct)).cloned().collect();
            judged = judged.intersection(&self::judged(&correct)).cloned().collect();
        }
    }
    plan.conclusive.sites = sites.into_iter().collect();
    plan.conclusive.must_judge = Some(judged.into_iter().collect());
    plan
}

fn reached(report: &RunReport) -> BTreeSet<String> {
    let sites = report.assertions.iter().flatten();
    sites
        .filter(|site| site.passes > 0 && matches!(site.kind.as_str(), "sometimes" | "reachable"))
        .map(|site| site.id.clone())
        .collect()
}

fn judged(report: &RunReport) -> BTreeSet<String> {
    let oracles = report.oracles.iter().flatten();
    oracles.filter(|oracle| oracle.nontrivial > 0).map(|oracle| oracle.property.clone()).collect()
}

/// What became of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    pub verdict: Verdict,
    /// The key under which it was reached, as a distance from the scenario's own.
    pub tries: u64,
    pub report: RunReport,
}

/// Runs a scenario under its own key, and under others as long as it does not reach what it must. A failure ends the
/// search: it is what the scenario is kept for.
pub fn verify(request: &RunRequest, tries_max: u64, runner: &mut Runner) -> Verified {
    let plan = request.plan.as_ref().and_then(|plan| serde_json::from_value::<Plan>(plan.clone()).ok());
    let mut tries = 0;
    loop {
        let request = match &plan {
            Some(plan) if tries > 0 => {
                let plan = Plan { key: plan.key.wrapping_add(tries), ..plan.clone() };
                RunRequest { plan: serde_json::to_value(plan).ok(), ..request.clone() }
            }
            _ => request.clone(),
        };
        let report = runner.run(&request).into_record(&request).report;
        tries += 1;
        if report.verdict != Verdict::Inconclusive || tries >= tries_max || plan.is_none() {
            return Verified { verdict: report.verdict, tries, report };
        }
    }
}
