//! Property tests over plans: "whatever the clients do and whatever befalls the servers, this holds".
//!
//! A case is a plan and several keys: the same clients and faults under different luck. A counterexample is a plan as
//! data, made small by proptest; as an artifact it can be replayed, shrunk further and kept like any other failure.

use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::Verdict;
use sim_runtime::engine::strategy::Plans;
use sim_runtime::engine::{Plan, Spec};
use sim_runtime::isolate;

use crate::config::knobs;
use crate::specs::{run, simulation};

/// The plans from which the seeds of `spec` are drawn.
pub fn plans(spec: Spec) -> Plans {
    Plans::of(simulation(spec), knobs())
}

/// A run of a plan that violated something.
#[derive(Clone, Debug)]
pub struct Violated {
    /// The plan under the key that showed it, and the bug that was switched on.
    pub request: RunRequest,
    pub record: RunRecord,
}

/// Runs `plan` under its own key and those that follow it, `keys` in all, and returns how often the oracle of `property`
/// judged something that was not trivial. `bug` is a planted one to switch on.
///
/// # Errors
/// The first run that violated any property.
pub fn holds(plan: &Plan, keys: u64, property: &str, bug: Option<&str>) -> Result<u64, Box<Violated>> {
    let mut judged = 0;
    for offset in 0..keys {
        let plan = Plan { key: plan.key.wrapping_add(offset), ..plan.clone() };
        let plan_json = serde_json::to_value(&plan).expect("a plan is plain data");
        let request = RunRequest {
            seed: plan.seed,
            spec: plan.spec,
            bug: bug.map(str::to_owned),
            plan: Some(plan_json),
            ..RunRequest::default()
        };
        let record = isolate::in_process(|| run(&request));
        if record.report.verdict == Verdict::Fail {
            return Err(Box::new(Violated { request, record }));
        }
        let oracles = record.report.oracles.iter().flatten().filter(|oracle| oracle.property == property);
        judged += oracles.map(|oracle| oracle.nontrivial).sum::<u64>();
    }
    Ok(judged)
}
