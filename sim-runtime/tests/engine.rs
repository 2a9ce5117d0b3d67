//! The engine, tested with a system that is not Raft: the lock service of the examples.

use std::time::Duration;

use sim_runtime::engine::by_hand::ByHand;
use sim_runtime::engine::record::{RunRecord, RunRequest, StopAt};
use sim_runtime::engine::report::Verdict;
use sim_runtime::engine::{Plan, Simulation, Spec, Until};
use sim_runtime::isolate::in_process;
use sim_runtime::world;

#[path = "../examples/lock.rs"]
#[expect(dead_code, reason = "the example's main is not called here")]
mod lock;

fn run<E: Clone + 'static>(simulation: &Simulation<E>, seed: u64, plan: Option<&Plan>) -> RunRecord {
    let plan = plan.map(|plan| serde_json::to_value(plan).expect("a plan is plain data"));
    in_process(|| simulation.run(&RunRequest { seed, spec: "lock".to_owned(), plan, ..RunRequest::default() }))
}

#[test]
fn a_correct_system_passes() {
    let sweep = lock::simulation(true).sweep(100, Until::Seeds(20));
    sweep.assert_clean();
    assert!(sweep.acknowledged > 1000, "only {} locks were taken", sweep.acknowledged);
}

#[test]
fn a_missing_sync_is_found_and_explained() {
    let sweep = lock::simulation(false).sweep(0, Until::Seeds(30));
    let record = sweep.failed.first().expect("30 seeds suffice");
    let violation = &record.report.violations[0];
    assert_eq!(violation.property, "mutual-exclusion");
    let at = violation.at_ns.expect("the run lived");
    assert!(record.events.iter().any(|event| event.at_ns <= at), "the events that led to it are kept");
    assert_eq!(record.report.verdict, Verdict::Fail);
}

#[test]
fn the_same_seed_is_the_same_run_and_so_is_its_plan() {
    let simulation = lock::simulation(true);
    let first = run(&simulation, 7, None);
    let again = run(&simulation, 7, None);
    let replayed = run(&simulation, 7, Some(&simulation.plan(7)));
    assert_eq!(first.report.digest, again.report.digest);
    assert_eq!(first.checkpoints, again.checkpoints);
    assert_eq!(first.report.digest, replayed.report.digest);
    assert_ne!(first.report.digest, run(&simulation, 8, None).report.digest);
}

#[test]
fn another_key_is_another_run_of_the_same_plan() {
    let simulation = lock::simulation(true);
    let mut plan = simulation.plan(7);
    let before = run(&simulation, 7, Some(&plan));
    plan.key += 1;
    let after = run(&simulation, 7, Some(&plan));
    assert_ne!(before.report.digest, after.report.digest);
    assert_eq!(after.report.digest, run(&simulation, 7, Some(&plan)).report.digest);
    // Faults with a time of their own happen under every key.
    let faults = |record: &RunRecord, kind: &str| record.report.faults.as_ref().expect("the run lived")[kind].injected;
    for kind in ["partition", "loss"] {
        assert_eq!(faults(&before, kind), faults(&after, kind), "{kind}");
    }
    assert_eq!((before.report.verdict, after.report.verdict), (Verdict::Pass, Verdict::Pass));
    for part in ["clients", "faults", "world"] {
        assert_eq!(before.plan[part], after.plan[part], "{part}");
    }
}

#[test]
fn faults_are_counted_and_noticed() {
    let simulation = lock::simulation(true);
    let (mut injected, mut noticed) = (0, 0);
    for seed in 0..10 {
        for count in run(&simulation, seed, None).report.faults.expect("the run lived").values() {
            injected += count.injected;
            noticed += count.noticed;
        }
    }
    assert!(injected >= 20 && noticed * 2 > injected, "{noticed} of {injected} faults were noticed");
}

#[test]
fn a_quiet_run_injects_nothing() {
    let spec = Spec::quiet("lock", 1, 5).with_workload("contenders", [3, 3], [10, 10]);
    let record = run(&lock::simulation_of(spec, true), 1, None);
    assert_eq!(record.report.verdict, Verdict::Pass, "{:?}", record.report);
    for (kind, count) in record.report.faults.expect("the run lived") {
        assert_eq!((count.injected, count.noticed), (0, 0), "{kind}");
    }
}

#[test]
fn an_oracle_that_judged_nothing_makes_the_run_inconclusive() {
    let spec = Spec::quiet("lock", 1, 1).with_workload("contenders", [0, 0], [10, 10]);
    let record = run(&lock::simulation_of(spec, true), 1, None);
    assert_eq!(record.report.verdict, Verdict::Inconclusive);
    assert!(
        record.report.doubts.iter().any(|line| line.contains("mutual-exclusion judged nothing")),
        "{:?}",
        record.report
    );
}

#[test]
fn a_spec_says_what_is_wrong_with_it() {
    let read = |text: &str| Spec::parse("mine", text).expect_err("it is wrong").to_string();
    let head = "name = \"mine\"\nabout = \"x\"\nservers = [3]\nduration_ms = [1, 2]\n";
    assert!(read(&format!("{head}[faults.earthquake]\nchance = 1\ncount = [1, 1]\n")).contains("earthquake"));
    assert!(read(&format!("{head}[world]\norder = [\"random\"]\n")).contains("random"));
    assert!(read(&format!("{head}[world]\nloss_ppm = [5, 1]\n")).contains("world.loss_ppm"));
    assert!(read(&format!("{head}colour = 1\n")).contains("colour"));
    assert!(read(&head.replace("[3]", "[0]")).contains("servers"));
    assert!(read(&format!("{head}[knobs]\nsize = []\n")).contains("knobs.size"));
}

#[test]
fn disk_faults_reach_a_system_that_gives_its_files_no_role() {
    let spec = Spec::quiet("lock", 1, 10)
        .with_workload("contenders", [3, 3], [10, 10])
        .with_faults("disk-error", [8, 8], [10, 10])
        .with_faults("sync-hang", [8, 8], [100, 500])
        .with_faults("lying-sync", [1, 1], [3000, 3000]);
    let faults = run(&lock::simulation_of(spec, true), 1, None).report.faults.expect("the run lived");
    for family in ["disk-error", "lying-sync", "sync-hang"] {
        assert!(faults[family].noticed > 0, "{family}: {:?}", faults[family]);
    }
}

#[test]
fn damage_keeps_to_what_the_system_can_lose() {
    let spec = |servers| {
        Spec::quiet("lock", servers, 5)
            .with_workload("contenders", [3, 3], [10, 10])
            .with_faults("store-lost", [5, 5], [10, 10])
            .with_faults("bit-rot", [5, 5], [10, 10])
    };
    let counts = |servers, kind: &str| {
        let record = run(&lock::simulation_of(spec(servers), true), 1, None);
        record.report.faults.expect("the run lived")[kind].injected
    };
    assert_eq!(counts(1, "store-lost"), 0, "the only server may not be lost");
    assert_eq!(counts(2, "store-lost"), 0, "nor one of two");
    assert_eq!(counts(5, "store-lost"), 2, "five bear the loss of two");
}

#[test]
fn a_run_that_is_stopped_is_the_beginning_of_the_whole_one() {
    let simulation = lock::simulation(true);
    let until = |stop_at: StopAt| {
        let request = RunRequest { seed: 7, stop_at: Some(stop_at), ..RunRequest::default() };
        in_process(|| simulation.run(&request))
    };
    let whole = run(&simulation, 7, None);
    let end_ns = whole.report.sim_time_ns.expect("the run lived");

    let half = until(StopAt::Ns(end_ns / 2));
    let look = half.look.expect("it was asked for");
    assert!(look.early && look.at_ns <= end_ns / 2 && half.report.verdict == Verdict::Inconclusive);
    assert!(!half.checkpoints.is_empty());
    // The last may count the end of the hosts.
    let common = whole.checkpoints.iter().zip(&half.checkpoints).filter(|(one, _)| one.events <= look.events);
    for (one, other) in common {
        assert_eq!(one, other);
    }
    let servers = look.nodes.len();
    assert_eq!(u32::try_from(servers), Ok(simulation.plan(7).servers));
    assert!(look.nodes.iter().any(|node| !node.files.is_empty()), "{:?}", look.nodes);

    let after = until(StopAt::Events(look.events)).look.expect("it was asked for");
    assert_eq!((after.at_ns, after.events, &after.nodes), (look.at_ns, look.events, &look.nodes));

    // Nothing is left of having looked.
    let beyond = until(StopAt::Ns(u64::MAX));
    assert!(!beyond.look.expect("it was asked for").early);
    assert_eq!((beyond.report.verdict, beyond.report.digest), (whole.report.verdict, whole.report.digest));
}

#[test]
fn an_oracle_and_a_fault_family_can_be_left_out() {
    let broken = lock::simulation(false);
    let run = |request: &RunRequest| in_process(|| broken.run(request));
    let failing = broken.sweep(0, Until::Seeds(30)).failed.first().map(|record| record.report.seed);
    let seed = failing.expect("30 seeds suffice");
    let blind = run(&RunRequest { seed, without: vec!["mutual-exclusion".to_owned()], ..RunRequest::default() });
    assert!(blind.report.violations.is_empty(), "{:?}", blind.report.violations);

    let families = |ablate: &[&str]| {
        let ablate: Vec<String> = ablate.iter().map(|family| (*family).to_owned()).collect();
        let plan = run(&RunRequest { seed, ablate, ..RunRequest::default() }).plan;
        let plan: Plan = serde_json::from_value(plan).expect("a plan");
        plan.faults.iter().map(|planned| planned.fault.family().to_owned()).collect::<Vec<_>>()
    };
    let all = families(&[]);
    let left_out = all.first().expect("the seed fails because of a fault");
    let rest: Vec<_> = all.iter().filter(|family| *family != left_out).cloned().collect();
    // The others are what they were.
    assert_eq!(families(&[left_out]), rest);
}

#[test]
fn a_run_by_hand_leaves_down_what_goes_down_and_ends_like_any_other() {
    let record = in_process(|| {
        let request = RunRequest { seed: 3, spec: "lock".to_owned(), ..RunRequest::default() };
        let by_hand = ByHand::new(lock::simulation(true), request, |_| {});
        let sleep = |s| async move { world::sleep(Duration::from_secs(s)).await };
        let up = |by_hand: &ByHand<_>| by_hand.fleet().is_up(0);
        assert!(!up(&by_hand), "nobody has started it");
        by_hand.enter(|| by_hand.fleet().boot_all());
        by_hand.drive(sleep(1)).expect("the server runs");
        assert!(up(&by_hand));
        by_hand.enter(|| by_hand.fleet().crash(0, 1));
        by_hand.drive(sleep(5)).expect("time passes without it");
        assert!(!up(&by_hand), "nobody supervises");
        by_hand.finish(&[])
    });
    assert_eq!(record.report.violations, []);
    assert!(record.report.sim_time_ns.is_some_and(|time| time >= 6_000_000_000));
    assert_eq!(record.report.metrics.map(|metrics| (metrics.crashes, metrics.restarts)), Some((1, 1)));
}
