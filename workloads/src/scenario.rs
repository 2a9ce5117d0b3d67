//! Scenarios as tests: what `harness shrink` wrote, run inside `cargo test`.

use serde::Deserialize;
use sim_runtime::engine::Plan;
use sim_runtime::engine::record::RunRequest;
use sim_runtime::engine::report::Verdict;
use sim_runtime::isolate;

/// Keys that a scenario is given until it reaches what it must.
const TRIES_MAX: u64 = 64;

/// The part of an artifact that says what to run.
#[derive(Deserialize)]
struct Scenario {
    request: RunRequest,
}

/// Runs the scenario in this file (its text) on the code as it is, without any planted bug.
///
/// # Panics
/// If it violates a property, or under none of 64 keys reaches what it must, or cannot be run by this build.
pub fn assert_passes(text: &str) {
    let scenario: Scenario = serde_json::from_str(text).expect("the file is a scenario that `harness shrink` wrote");
    let plan = scenario.request.plan.clone().expect("a scenario has a plan");
    if let Err(wrong) = crate::check_plan(&plan) {
        panic!("this build cannot run the scenario: {wrong}");
    }
    let plan: Plan = serde_json::from_value(plan).expect("the plan was checked");
    let mut doubts = Vec::new();
    for offset in 0..TRIES_MAX {
        let keyed = Plan { key: plan.key.wrapping_add(offset), ..plan.clone() };
        let keyed = serde_json::to_value(keyed).expect("a plan is plain data");
        let request = RunRequest { plan: Some(keyed), bug: None, ..scenario.request.clone() };
        let report = isolate::in_process(|| crate::run(&request)).report;
        match report.verdict {
            Verdict::Pass => return,
            Verdict::Fail => {
                let first = &report.violations[0];
                panic!("violates {} under key {}: {}", first.property, plan.key.wrapping_add(offset), first.message);
            }
            Verdict::Inconclusive => doubts = report.doubts,
        }
    }
    panic!("the scenario is stale, {TRIES_MAX} keys were tried: {}", doubts.join("; "));
}
