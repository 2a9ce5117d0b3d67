//! `sweep` and `mutants`: totals, coverage, thresholds, calibration, samples.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::Desk;

pub const TESTS: &[super::Test] = &[
    ("a_sweep_adds_up_and_never_stops_at_a_failure", a_sweep_adds_up_and_never_stops_at_a_failure),
    ("a_sweep_is_the_same_with_any_number_of_jobs", a_sweep_is_the_same_with_any_number_of_jobs),
    ("coverage_is_by_site", coverage_is_by_site),
    ("two_percent_may_be_inconclusive", two_percent_may_be_inconclusive),
    ("calibration_specs_must_fire", calibration_specs_must_fire),
    ("a_sample_is_verified", a_sample_is_verified),
    ("time_ends_a_sweep", time_ends_a_sweep),
    ("a_signal_ends_a_sweep_with_what_it_has", a_signal_ends_a_sweep_with_what_it_has),
    ("mutants_are_hunted", mutants_are_hunted),
    ("mutants_have_a_median", mutants_have_a_median),
    ("mutants_show_what_contributes", mutants_show_what_contributes),
    ("a_scoreboard_says_what_each_part_contributes", a_scoreboard_says_what_each_part_contributes),
];

fn a_sweep_adds_up_and_never_stops_at_a_failure() {
    let desk = Desk::new();
    let value = desk.json("sweep --seeds 30 --spec mixed --jobs 2", 1);
    let numbers = ["start", "seeds_run", "passed", "failed", "inconclusive"].map(|name| value[name].as_u64().unwrap());
    assert_eq!(numbers, [0, 30, 21, 6, 3]);
    let failures = value["failures"].as_array().unwrap();
    let seeds: Vec<_> = failures.iter().map(|failure| failure["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [3, 7, 13, 17, 23, 27], "in the order of the seeds");
    assert_eq!(failures[0]["property"], json!("durability"));
    assert_eq!((&failures[1]["property"], &failures[1]["message"]), (&json!("process"), &json!("abort")));
    let doubts: Vec<_> = value["doubts"].as_array().unwrap().iter().map(|doubt| doubt["seed"].clone()).collect();
    assert_eq!(doubts, [json!(5), json!(15), json!(25)]);
    assert_eq!(value["doubts"][0]["reasons"], json!(["too few steps"]));
    for failure in failures {
        assert!(desk.path(failure["artifact"].as_str().unwrap()).is_file());
    }
    // Three runs died, so 27 reported.
    assert_eq!(value["ops"], json!({ "attempted": 2700, "ok": 2565, "failed": 54, "unknown": 81 }));
    assert_eq!(value["faults"], json!({ "power-loss": { "injected": 54, "noticed": 27 } }));
    assert_eq!(value["power_loss"]["shapes"]["holes"], json!(54));
    assert_eq!(value["power_loss"]["runs_lost_then_served"], json!(12));
    assert_eq!(value["verified"], json!(0));
    for rate in ["seeds_per_minute", "sim_s_per_cpu_s", "acked_ops_per_cpu_s"] {
        assert!(value[rate].as_f64().unwrap() > 0.0, "{rate}");
    }
    let called = desk.call("sweep --seeds 30 --spec mixed");
    for part in [
        "FAIL  30 seeds from 0, spec mixed",
        "Violated durability: 3 seeds",
        "Violated process: 3 seeds",
        "seed 15: too few steps",
        "replay target/harness/mixed-13.json",
    ] {
        assert!(called.stdout.contains(part), "{part:?} is missing in\n{}", called.stdout);
    }
    assert!(called.stderr.contains("seed 3 violates durability"), "failures are told while it runs");
    let last = desk.json(&format!("sweep --start {} --seeds 2", u64::MAX - 1), 0);
    assert_eq!(last["seeds_run"], json!(2));
    assert_eq!(desk.json("sweep --seeds 0", 0)["seeds_per_minute"], json!(0.0));
}

fn a_sweep_is_the_same_with_any_number_of_jobs() {
    let desk = Desk::new();
    let sweep = |jobs: u32, extent: &str, code| {
        let mut value = desk.json(&format!("sweep --spec mixed {extent} --jobs {jobs} --artifacts a"), code);
        let fields = value.as_object_mut().unwrap();
        for rate in ["seeds_per_minute", "sim_s_per_cpu_s", "acked_ops_per_cpu_s"] {
            fields.remove(rate).unwrap();
        }
        value
    };
    assert_eq!(sweep(1, "--seeds 40", 1), sweep(5, "--seeds 40", 1));
    let covered = "--start 90 --until-covered";
    assert_eq!(sweep(1, covered, 0), sweep(4, covered, 0));
}

fn coverage_is_by_site() {
    let desk = Desk::new();
    // Seed 3 is the first that leaves a remainder of three.
    let value = desk.json("sweep --until-covered", 0);
    assert_eq!((value["seeds_run"].as_u64(), value["passed"].as_u64()), (Some(4), Some(4)));
    assert_eq!(value["coverage"], json!({ "reached": 2, "total": 2, "unreached": [] }));
    let value = desk.json("sweep --seeds 2", 0);
    let site = "cli::subject: a seed leaves a remainder of three";
    assert_eq!(value["coverage"], json!({ "reached": 1, "total": 2, "unreached": [site] }));
    let value = desk.json("sweep --until-covered --max-seeds 6 --spec uncovered", 4);
    assert_eq!((value["seeds_run"].as_u64(), value["coverage"]["reached"].as_u64()), (Some(6), Some(0)));
    // Without being asked for, missing coverage is no error, but it is told by file and line.
    let called = desk.call("sweep --seeds 2 --spec uncovered");
    assert_eq!(called.code, 0);
    assert!(called.stdout.contains("Never reached"), "{}", called.stdout);
    assert!(called.stdout.contains("cli::subject: no sweep comes here  (sometimes, "), "{}", called.stdout);
    assert!(called.stdout.contains("tests/cli/subject.rs:"), "{}", called.stdout);
}

fn two_percent_may_be_inconclusive() {
    let desk = Desk::new();
    assert_eq!(desk.json("sweep --seeds 50 --spec mostly", 0)["inconclusive"], json!(1));
    assert_eq!(desk.json("sweep --seeds 49 --spec mostly", 5)["inconclusive"], json!(1));
    desk.json("sweep --seeds 2 --spec doubtful", 5);
    // A violation tells more than a doubt, and a doubt more than missing coverage.
    desk.json("sweep --seeds 6 --spec mixed", 1);
    desk.json("sweep --until-covered --max-seeds 2 --spec doubtful", 5);
}

fn calibration_specs_must_fire() {
    let desk = Desk::new();
    assert_eq!(desk.json("run --seed 1 --spec calibrated", 1)["verdict"], json!("fail"));
    let value = desk.json("sweep --seeds 10 --spec calibrated", 0);
    assert_eq!((value["failed"].as_u64(), value["failures"].as_array().unwrap().len()), (Some(5), 5));
    assert!(desk.call("sweep --seeds 10 --spec calibrated").stdout.contains("every expected property fired"));
    desk.json("sweep --seeds 1 --spec calibrated", 1);
    let called = desk.call("sweep --seeds 4 --spec silent");
    assert_eq!(called.code, 1);
    assert!(called.stdout.contains("expected but never fired: election-safety"), "{}", called.stdout);
    let called = desk.call("sweep --seeds 4 --spec overdone");
    assert_eq!(called.code, 1);
    assert!(called.stdout.contains("fired without being expected: durability"), "{}", called.stdout);
    desk.json("sweep --seeds 4 --spec tolerant", 0);
    // What is tolerated does not stand for what is expected.
    desk.json("sweep --start 3 --seeds 1 --spec tolerant", 1);
}

fn a_sample_is_verified() {
    let desk = Desk::new();
    assert_eq!(desk.json("sweep --seeds 10 --verify 1", 0)["verified"], json!(10));
    let some = desk.json("sweep --seeds 40 --verify 0.25", 0)["verified"].as_u64().unwrap();
    assert!((4..=18).contains(&some), "{some} of 40");
    // Deaths are compared too.
    assert_eq!(desk.json("sweep --start 7 --seeds 1 --spec mixed --verify 1", 1)["verified"], json!(1));
    let value = desk.json("sweep --seeds 3 --spec leaks --verify 1", 3);
    assert_eq!((value["verified"].as_u64(), value["failed"].as_u64()), (Some(0), Some(3)));
    let properties: Vec<&Value> =
        value["failures"].as_array().unwrap().iter().map(|failure| &failure["property"]).collect();
    assert_eq!(properties, [&json!("determinism"); 3]);
    let called = desk.call("sweep --seeds 1 --spec leaks --verify 1");
    assert!(called.stdout.contains("verify --seed 0 --spec leaks"), "{}", called.stdout);
    // Unverified, nobody sees it.
    desk.json("sweep --seeds 3 --spec leaks", 0);
}

fn time_ends_a_sweep() {
    let desk = Desk::new();
    let value = desk.json("sweep --time 300ms", 0);
    let run = value["seeds_run"].as_u64().unwrap();
    assert!(run >= 1 && value["passed"].as_u64() == Some(run));
}

fn a_signal_ends_a_sweep_with_what_it_has() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let desk = Desk::new();
        let called = desk.interrupt("sweep --seeds 1000000 --spec mixed --json", signal);
        // It had failures before, and says so first.
        assert_eq!(called.code, 1, "{called:?}");
        let value: Value = serde_json::from_str(&called.stdout).unwrap();
        assert_eq!(value["interrupted"], json!(true));
        let run = value["seeds_run"].as_u64().unwrap();
        assert!((3..1_000_000).contains(&run), "{run}");
        assert!(desk.path(value["failures"][0]["artifact"].as_str().unwrap()).is_file());
    }
}

fn mutants_are_hunted() {
    let desk = Desk::new();
    let value = desk.json("mutants --max-seeds 10", 4);
    let bugs = value["bugs"].as_array().unwrap();
    let shown: Vec<_> =
        bugs.iter().map(|bug| (bug["bug"].as_str().unwrap(), bug["found"].as_bool().unwrap())).collect();
    assert_eq!(shown, [("easy", true), ("hidden", false), ("foreseen", false)]);
    assert_eq!((&bugs[0]["seeds_to_detection"], &bugs[0]["property"]), (&json!(5), &json!("durability")));
    assert_eq!((&bugs[0]["family"], &bugs[0]["spec"]), (&json!("durability"), &json!("default")));
    assert_eq!((&bugs[1]["seeds_to_detection"], &bugs[1]["property"]), (&json!(null), &json!(null)));
    assert!(bugs[1]["cpu_s"].as_f64().unwrap() > 0.0);
    desk.json("mutants --bug easy", 0);
    desk.json("mutants --bug easy --max-seeds 4", 4);
    let called = desk.call("mutants --bug easy");
    assert!(called.stdout.contains("1 of 1 planted bugs found"), "{}", called.stdout);
    // The bug is on only where it is asked for.
    desk.json("sweep --seeds 10", 0);
    desk.json("sweep --seeds 10 --bug easy", 1);
    assert_eq!(desk.json("run --seed 6 --bug easy", 1)["artifact"], json!("target/harness/default-easy-6.json"));
    desk.json("replay target/harness/default-easy-6.json", 1);
}

fn mutants_have_a_median() {
    let desk = Desk::new();
    // Looks begin at the seeds 0, 5 and 10; from 4 on every seed shows the bug.
    let value = desk.json("mutants --bug easy --max-seeds 5 --starts 3", 0);
    let bug = &value["bugs"][0];
    assert_eq!((&bug["seeds_to_detection"], &bug["seeds_min"], &bug["seeds_max"]), (&json!(1), &json!(1), &json!(5)));
    let starts: Vec<_> =
        bug["starts"].as_array().unwrap().iter().map(|start| start["seed"].as_u64().unwrap()).collect();
    assert_eq!(starts, [0, 5, 10]);
    // Where one of two starts finds nothing there is no median.
    let value = desk.json("mutants --bug easy --max-seeds 4 --starts 2", 4);
    let bug = &value["bugs"][0];
    assert_eq!((&bug["found"], &bug["seeds_min"], &bug["seeds_max"]), (&json!(false), &json!(1), &json!(null)));
    let called = desk.call("mutants --bug easy --max-seeds 5 --starts 3");
    assert!(called.stdout.contains("from 3 starts") && called.stdout.contains("1..5"), "{}", called.stdout);
    desk.usage_error("mutants --max-seeds 18446744073709551615 --starts 2", "choose fewer");
}

fn mutants_show_what_contributes() {
    let desk = Desk::new();
    // Another oracle finds it too, but only from seed 20 on.
    let value = desk.json("mutants --bug easy --max-seeds 30 --without durability", 0);
    assert_eq!((&value["without"], &value["ablate"]), (&json!(["durability"]), &json!([])));
    let bug = &value["bugs"][0];
    assert_eq!((&bug["seeds_to_detection"], &bug["property"]), (&json!(21), &json!("linearizability")));
    let both = "mutants --bug easy --max-seeds 30 --without durability --without linearizability";
    assert_eq!(desk.json(both, 4)["bugs"][0]["found"], json!(false));
    // A fault family that is off reaches the run.
    let value = desk.json("mutants --bug easy --ablate power-loss --ablate buggify", 0);
    assert_eq!(
        (&value["ablate"], &value["bugs"][0]["seeds_to_detection"]),
        (&json!(["power-loss", "buggify"]), &json!(11))
    );
    let called = desk.call("mutants --bug easy --ablate power-loss");
    assert!(called.stdout.contains("without power-loss faults"), "{}", called.stdout);
    desk.usage_error("mutants --without durabilty", "unknown oracle `durabilty`; there are: durability, ");
    desk.usage_error("mutants --ablate lightning", "there are: crash, stop");
}

fn a_scoreboard_says_what_each_part_contributes() {
    let desk = Desk::new();
    let board =
        desk.json("scoreboard --max-seeds 10 --starts 2 --ablation-seeds 20 --shrink-budget 5s --markdown board.md", 4);
    let easy = &board["bugs"][0];
    assert_eq!((&easy["bug"], &easy["seeds_max"]), (&json!("easy"), &json!(5)));
    // Seed 4 shows the bug. Without losses of power it is seed 10, without the oracle seed 20, and another one finds it.
    let without = |list: &str, name: &str| {
        let found = board[list].as_array().unwrap().iter().find(|part| part["without"] == json!(name));
        found.unwrap_or_else(|| panic!("{name} is not among the {list}"))["hunts"][0].clone()
    };
    let told = |hunt: &Value| (hunt["seeds_before"].clone(), hunt["seeds"].clone(), hunt["property"].clone());
    let expected = |seeds: u64, property: &str| (json!(5), json!(seeds), json!(property));
    assert_eq!(told(&without("families", "power-loss")), expected(11, "durability"));
    assert_eq!(told(&without("families", "buggify")), expected(5, "durability"));
    assert_eq!(told(&without("oracles", "durability")), expected(21, "linearizability"));
    let unproven = board["unproven"].as_array().unwrap();
    assert!(unproven.contains(&json!("linearizability")) && !unproven.contains(&json!("durability")));
    assert_eq!(board["shrunk"], json!([]), "these runs have no plans that could be made small");
    // Prose is broken into lines where it is too long.
    let page = std::fs::read_to_string(desk.path("board.md")).unwrap().replace('\n', " ");
    for part in [
        "1 of 3 planted bugs are found",
        "| `hidden` | ordering | default | - | -..- |",
        "| power-loss | 1 | 0 | easy (5 to 11) | - |",
        "| durability | 1 | 0 | easy (5 to 21 by linearizability) | - |",
        "Families that change nothing for any bug: buggify.",
        "| `easy` | a bug of the test | none in real life |",
    ] {
        assert!(page.contains(part), "{part:?} is missing in {page}");
    }
    // A page that cannot be written is noticed before the work.
    desk.usage_error("scoreboard --markdown no/such/place.md", "cannot be written");
}
