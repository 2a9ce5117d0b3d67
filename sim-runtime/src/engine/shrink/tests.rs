//! Shrinking against a rule instead of a simulation: what is left is known in advance.

use serde_json::json;

use super::*;
use crate::engine::plan::{
    BuggifyPlan, ClientPlan, Conclusive, Fault, PLAN_VERSION, PlannedFault, PlannedOp, Trigger, WorldKnobs,
};

const KNOBS: &[Knob] = &[
    Knob { name: "needed", about: "", default: 1, extremes: &[2] },
    Knob { name: "idle", about: "", default: 1, extremes: &[2] },
];

fn big_plan() -> Plan {
    let ops = |client: u64| {
        (0..50).map(|nth| PlannedOp { not_before_ns: nth * 400_000_000, op: json!([client, nth]) }).collect()
    };
    let crash = |nth: u64| PlannedFault {
        when: Trigger::At { ns: nth * 1_000_000_000 },
        fault: Fault::Crash { target: format!("Server({})", nth % 5), down_ns: 5_000_000_000 },
    };
    Plan {
        version: PLAN_VERSION,
        spec: "default".to_owned(),
        seed: 1,
        key: 1,
        servers: 5,
        duration_ns: 20_000_000_000,
        calm_ns_max: 30_000_000_000,
        world: WorldKnobs { order: "pct".to_owned(), hold_ppm: 5, ..WorldKnobs::quiet() },
        knobs: [("needed".to_owned(), 2), ("idle".to_owned(), 2)].into(),
        clients: (0..8).map(|client| ClientPlan { workload: "kv".to_owned(), ops: ops(client) }).collect(),
        faults: (1..20).map(crash).collect(),
        buggify: BuggifyPlan { live: (0..30).map(|nth| format!("site {nth}")).collect(), fire_ppm: 250_000 },
        conclusive: Conclusive::default(),
    }
}

/// Fails by a rule, at 12 s.
struct Rule<F> {
    fails: F,
    tried: u64,
    tries_max: u64,
}

impl<F: Fn(&Plan) -> bool> Trial for Rule<F> {
    fn first_failing(&mut self, candidates: impl Iterator<Item = Plan> + Send) -> Option<(usize, Failing)> {
        for (number, plan) in candidates.enumerate() {
            self.tried += 1;
            if (self.fails)(&plan) {
                return Some((number, Failing { plan, at_ns: Some(12_000_000_000) }));
            }
        }
        None
    }

    fn is_over(&self) -> bool {
        self.tried >= self.tries_max
    }
}

fn has_op(plan: &Plan, op: &serde_json::Value) -> bool {
    plan.clients.iter().flat_map(|client| &client.ops).any(|planned| planned.op == *op)
}

fn targets(plan: &Plan) -> Vec<&str> {
    plan.faults.iter().filter_map(|planned| planned.fault.target()).collect()
}

/// Needs two operations of different clients, two crashes, one fault point and one tunable.
fn needs_little(plan: &Plan) -> bool {
    let crashes = targets(plan);
    has_op(plan, &json!([3, 17]))
        && has_op(plan, &json!([5, 29]))
        && crashes.contains(&"Server(0)")
        && crashes.contains(&"Server(2)")
        && plan.buggify.live.iter().any(|site| site == "site 13")
        && plan.knobs["needed"] == 2
}

fn shrink_by(fails: impl Fn(&Plan) -> bool, tries_max: u64) -> (Plan, u64) {
    let mut rule = Rule { fails, tried: 0, tries_max };
    let failing = Failing { plan: big_plan(), at_ns: Some(12_000_000_000) };
    let small = shrink(failing, KNOBS, &mut rule).plan;
    (small, rule.tried)
}

#[test]
fn what_is_left_is_what_the_failure_needs() {
    let (small, tried) = shrink_by(needs_little, u64::MAX);
    assert!(needs_little(&small));
    let size = Size::of(&small, KNOBS);
    assert_eq!((size.clients, size.operations, size.faults, size.fault_points, size.knobs), (2, 2, 2, 1, 1));
    assert_eq!(size.servers, 3, "both targets are below 3");
    assert_eq!(small.world, WorldKnobs::quiet());
    assert!(size.duration_ns < 12_000_000_000, "{size:?}");
    assert_eq!(small.clients.len(), 6, "client 5 keeps its number, those after it are gone");
    for planned in &small.faults {
        let Fault::Crash { down_ns, .. } = planned.fault else { panic!("{planned:?}") };
        assert!(down_ns < 20_000_000, "{down_ns}");
    }
    assert!(tried < 600, "{tried} plans were tried for {:?}", Size::of(&big_plan(), KNOBS));
}

#[test]
fn a_failure_that_needs_nothing_is_left_with_nothing() {
    let (small, tried) = shrink_by(|_| true, u64::MAX);
    let size = Size::of(&small, KNOBS);
    assert_eq!((size.servers, size.operations, size.faults, size.fault_points, size.knobs), (1, 0, 0, 0, 0));
    assert!(tried < 50, "{tried}");
}

#[test]
fn a_failure_that_needs_everything_is_left_alone() {
    let original = big_plan();
    let (small, _) = shrink_by(|plan| *plan == original, u64::MAX);
    assert_eq!(small, original);
}

#[test]
fn a_fault_that_the_others_are_in_the_way_of_is_found_alone() {
    let original = big_plan();
    let alone = |plan: &Plan| plan.faults.len() == 1 && targets(plan) == ["Server(2)"];
    let (small, tried) = shrink_by(|plan| alone(plan) || *plan == original, u64::MAX);
    assert!(alone(&small));
    let size = Size::of(&small, KNOBS);
    assert_eq!((size.operations, size.fault_points, size.servers), (0, 0, 3), "{tried} plans were tried");
}

/// Needs the operations of one second, all of them, while a server is down that went down before.
fn needs_a_second(plan: &Plan) -> bool {
    let ops = |client: u64| (30..32).all(|nth| has_op(plan, &json!([client, nth])));
    let first = plan.clients.iter().flat_map(|client| &client.ops).map(|op| op.not_before_ns).min();
    let down = |planned: &PlannedFault| match planned.fault {
        Fault::Crash { down_ns, .. } => Some(planned.when.not_before_ns() + down_ns) > first,
        _ => false,
    };
    (0..8).all(ops) && plan.faults.iter().any(down)
}

#[test]
fn a_stretch_of_the_run_is_enough() {
    let (small, tried) = shrink_by(needs_a_second, 60);
    assert!(needs_a_second(&small));
    assert!(
        Size::of(&small, KNOBS).operations <= 8 * 5,
        "a stretch of 2 s has 5 operations per client, {tried} were tried"
    );
    assert!(small.duration_ns <= 3_000_000_000, "{}", small.duration_ns);
}

#[test]
fn when_time_is_up_the_best_so_far_is_kept() {
    let (small, tried) = shrink_by(needs_little, 30);
    assert!(needs_little(&small));
    assert!(Size::of(&small, KNOBS).faults < 19, "some of it was done");
    assert!(tried < 30 + 400, "{tried}");
}

#[test]
fn a_server_that_a_fault_names_stays() {
    let (small, _) = shrink_by(|plan| targets(plan).contains(&"Server(4)"), u64::MAX);
    assert_eq!((small.servers, small.faults.len()), (5, 1));
}
