//! Plans as a strategy of proptest: a property of a system, tested over many plans, whose counterexample is a small one.
//!
//! What proptest draws is a seed; the plan is what the seed stands for under the spec. A plan that fails is made smaller
//! by leaving things out of it (faults, clients, fault points, operations, tunables) and by bringing what is left
//! closer together, as [`shrink`](super::shrink) does. Since draws hang on stable names, what is left out reshuffles
//! nothing.

use std::fmt;
use std::sync::Arc;

use proptest::arbitrary::any;
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::plan::Plan;
use super::shrink::cuts::Cuts;
use super::simulation::Simulation;
use super::system::Knob;

/// The plans of a simulation.
#[derive(Clone)]
pub struct Plans {
    of_seed: Arc<dyn Fn(u64) -> Plan + Send + Sync>,
    knobs: &'static [Knob],
}

impl Plans {
    /// The plans that the seeds of `simulation` stand for. `knobs` are the tunables of its system.
    pub fn of<E: Clone + 'static>(simulation: Simulation<E>, knobs: &'static [Knob]) -> Plans
    where
        Simulation<E>: Send + Sync,
    {
        Plans { of_seed: Arc::new(move |seed| simulation.plan(seed)), knobs }
    }
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plans")
    }
}

impl Strategy for Plans {
    type Tree = PlanTree;
    type Value = Plan;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let seed = any::<u64>().new_tree(runner)?.current();
        Ok(PlanTree { candidate: None, cuts: Cuts::new((self.of_seed)(seed), self.knobs) })
    }
}

/// A plan, and the smaller ones below it.
#[derive(Clone, Debug)]
pub struct PlanTree {
    cuts: Cuts,
    /// What is being tried in the place of the best one.
    candidate: Option<Plan>,
}

impl ValueTree for PlanTree {
    type Value = Plan;

    fn current(&self) -> Plan {
        self.candidate.as_ref().unwrap_or(self.cuts.best()).clone()
    }

    /// The current plan fails: what about a smaller one?
    fn simplify(&mut self) -> bool {
        if let Some(failing) = self.candidate.take() {
            self.cuts.accept(failing);
        }
        self.candidate = self.cuts.next();
        self.candidate.is_some()
    }

    /// The current plan does not fail: back to the one that did, and what about another smaller one?
    fn complicate(&mut self) -> bool {
        if self.candidate.take().is_some() {
            self.cuts.refuse();
            self.candidate = self.cuts.next();
        }
        self.candidate.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::test_runner::{Config, TestError, TestRunner};

    use super::*;
    use crate::engine::plan::{
        BuggifyPlan, ClientPlan, Conclusive, Fault, PLAN_VERSION, PlannedFault, PlannedOp, Trigger, WorldKnobs,
    };

    fn big_plan(seed: u64) -> Plan {
        let ops = |client: u64| {
            let op = |nth: u64| PlannedOp { not_before_ns: nth * 400_000_000, op: serde_json::json!([client, nth]) };
            (0..50).map(op).collect()
        };
        let crash = |nth: u64| PlannedFault {
            when: Trigger::At { ns: nth * 1_000_000_000 },
            fault: Fault::Crash { target: format!("Server({})", nth % 5), down_ns: 5_000_000_000 },
        };
        Plan {
            version: PLAN_VERSION,
            spec: "big".to_owned(),
            seed,
            key: seed,
            servers: 5,
            duration_ns: 20_000_000_000,
            calm_ns_max: 30_000_000_000,
            world: WorldKnobs::quiet(),
            knobs: [("idle".to_owned(), 2)].into(),
            clients: (0..8).map(|client| ClientPlan { workload: "kv".to_owned(), ops: ops(client) }).collect(),
            faults: (1..20).map(crash).collect(),
            buggify: BuggifyPlan { live: (0..30).map(|nth| format!("site {nth}")).collect(), fire_ppm: 250_000 },
            conclusive: Conclusive::default(),
        }
    }

    const KNOBS: &[Knob] = &[Knob { name: "idle", about: "", default: 1, extremes: &[2] }];

    fn counterexample(fails: impl Fn(&Plan) -> bool) -> (Plan, u32) {
        let plans = Plans { of_seed: Arc::new(big_plan), knobs: KNOBS };
        let config = Config { failure_persistence: None, max_shrink_iters: 10_000, ..Config::with_cases(1) };
        let tried = Cell::new(0);
        let result = TestRunner::new(config).run(&plans, |plan| {
            tried.set(tried.get() + 1);
            if fails(&plan) { Err(proptest::test_runner::TestCaseError::fail("fails")) } else { Ok(()) }
        });
        let Err(TestError::Fail(_, plan)) = result else { panic!("{result:?}") };
        (plan, tried.get())
    }

    #[test]
    fn a_counterexample_has_what_the_failure_needs_and_nothing_else() {
        let needs = |plan: &Plan| {
            let has = |op: serde_json::Value| plan.clients.iter().flat_map(|client| &client.ops).any(|it| it.op == op);
            let crashes = |of: &str| plan.faults.iter().any(|planned| planned.fault.target() == Some(of));
            has(serde_json::json!([3, 7])) && has(serde_json::json!([5, 40])) && crashes("Server(4)")
        };
        let (plan, tried) = counterexample(needs);
        let ops: Vec<_> = plan.clients.iter().flat_map(|client| &client.ops).map(|op| op.op.to_string()).collect();
        assert_eq!(ops, ["[3,7]", "[5,40]"]);
        assert_eq!(plan.faults.len(), 1);
        assert!(plan.buggify.live.is_empty());
        assert_eq!(plan.knobs["idle"], 1);
        assert!(plan.duration_ns < 2_100_000_000, "{} ns", plan.duration_ns);
        assert!(tried < 400, "{tried} plans");
    }

    #[test]
    fn what_needs_everything_is_left_alone_and_what_needs_nothing_is_left_with_nothing() {
        let (whole, _) = counterexample(|plan| *plan == big_plan(plan.seed));
        assert_eq!(whole, big_plan(whole.seed));
        let (empty, tried) = counterexample(|_| true);
        assert!(empty.faults.is_empty() && empty.clients.is_empty() && empty.buggify.live.is_empty());
        assert!(tried < 30, "{tried} plans");
    }
}
