//! `run`: verdicts, exit codes, deaths, and what people see.

use serde_json::json;

use crate::program::Desk;

pub const TESTS: &[super::Test] = &[
    ("a_passing_run_says_so", a_passing_run_says_so),
    ("flags_alone_mean_run", flags_alone_mean_run),
    ("a_failing_run_explains_itself", a_failing_run_explains_itself),
    ("an_inconclusive_run_is_neither", an_inconclusive_run_is_neither),
    ("every_death_is_the_seeds_verdict", every_death_is_the_seeds_verdict),
    ("a_stuck_run_is_inconclusive", a_stuck_run_is_inconclusive),
    ("the_subjects_noise_stays_out_of_the_json", the_subjects_noise_stays_out_of_the_json),
    ("a_lost_result_is_no_success", a_lost_result_is_no_success),
    ("wrong_calls_get_one_clear_line", wrong_calls_get_one_clear_line),
    ("the_digest_depends_on_the_seed_alone", the_digest_depends_on_the_seed_alone),
    ("real_processes_need_another_build", real_processes_need_another_build),
];

fn a_passing_run_says_so() {
    let desk = Desk::new();
    let called = desk.call("run --seed 42");
    assert_eq!(called.code, 0, "{called:?}");
    for part in [
        "PASS  seed 42, spec default",
        "topology     3 servers, 2 clients",
        "a line without a label",
        "500 ms simulated",
        "100 attempted: 95 ok, 2 definitely failed, 3 of unknown outcome (3.0 %)",
        "power-loss         2        1",
        "2 elections",
        "per commit: log 1.25",
        "holes 2",
        "durability         40            3",
        "digest       ",
        "verdict      pass",
    ] {
        assert!(called.stdout.contains(part), "{part:?} is missing in\n{}", called.stdout);
    }
    assert!(!called.stdout.contains('\x1b'), "no colour into a pipe");
    assert!(called.stdout.lines().all(|line| line.chars().count() <= 100), "{}", called.stdout);
}

fn flags_alone_mean_run() {
    let desk = Desk::new();
    let value = desk.json("--seed 42", 0);
    let fields = [
        "schema",
        "seed",
        "spec",
        "verdict",
        "violations",
        "doubts",
        "digest",
        "events",
        "sim_time_ns",
        "wall_time_ms",
        "cpu_time_ms",
        "memory_peak_kib",
        "ops",
        "faults",
        "assertions",
        "buggify",
        "oracles",
        "power_loss",
        "metrics",
        "artifact",
    ];
    assert_eq!(value.as_object().unwrap().len(), fields.len());
    for field in fields {
        assert!(value.get(field).is_some(), "{field} is missing");
    }
    assert_eq!((&value["schema"], &value["verdict"], &value["artifact"]), (&json!(1), &json!("pass"), &json!(null)));
    assert_eq!(value["digest"].as_str().unwrap().len(), 32);
    assert_eq!(desk.json(&format!("--seed {}", u64::MAX), 0)["seed"], json!(u64::MAX));
}

fn a_failing_run_explains_itself() {
    let desk = Desk::new();
    let called = desk.call("run --seed 5 --spec fails");
    assert_eq!(called.code, 1, "{called:?}");
    let replay = "replay target/harness/fails-5.json";
    for part in [
        "FAIL  seed 5, spec fails",
        "VIOLATED  durability at 0.490000 s on node-2",
        "seed 5 broke it",
        "also linearizability at 0.490000 s on node-2",
        "How it came about",
        "What happened around it",
        "> #488 ",
        "(from #481)",
        replay,
    ] {
        assert!(called.stdout.contains(part), "{part:?} is missing in\n{}", called.stdout);
    }
    // The chain starts at the earliest cause that was kept: 488 - 7 * 6 = 446 is the first one from 440 on.
    let chain = called.stdout.split("How it came about").nth(1).unwrap();
    assert!(chain.lines().nth(1).unwrap().contains("#446 "), "{chain}");
    // The command at the end is ready to be pasted.
    let line = called.stdout.lines().find(|line| line.contains(replay)).unwrap().trim();
    let again = std::process::Command::new("sh")
        .args(["-c", line])
        .current_dir(desk.path(""))
        .env(crate::program::SUBJECT, "1")
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1), "{line}: {again:?}");
    let value = desk.json("run --seed 5 --spec fails --artifacts elsewhere", 1);
    assert_eq!(value["artifact"], json!("elsewhere/fails-5.json"));
    assert_eq!(value["violations"][0]["property"], json!("durability"));
    assert!(desk.path("elsewhere/fails-5.json").is_file());
}

fn an_inconclusive_run_is_neither() {
    let desk = Desk::new();
    assert_eq!(desk.json("run --seed 1 --spec doubtful", 5)["verdict"], json!("inconclusive"));
    assert!(desk.call("run --seed 1 --spec doubtful").stdout.contains("INCONCLUSIVE"));
}

fn every_death_is_the_seeds_verdict() {
    let desk = Desk::new();
    for (spec, message) in [
        ("aborts", "abort"),
        ("overflows", "stack overflow"),
        ("spins", "endless loop"),
        ("hoards", "out of memory"),
        ("exits", "exit 0 without a result"),
    ] {
        let value = desk.json(&format!("run --seed 9 --spec {spec}"), 1);
        assert_eq!(value["verdict"], json!("fail"), "{spec}");
        let expected = json!([{ "property": "process", "message": message, "at_ns": null, "node": null }]);
        assert_eq!(value["violations"], expected, "{spec}");
        for field in ["digest", "events", "sim_time_ns", "ops", "faults", "assertions", "oracles", "metrics"] {
            assert_eq!(value[field], json!(null), "{spec}: {field}");
        }
    }
    let value = desk.json("run --seed 9 --spec panics", 1);
    assert_eq!(value["violations"][0]["property"], json!("panic"));
    let message = value["violations"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("invariant of seed 9 broken") && message.contains("subject.rs:"), "{message}");
    // People see what the process said last.
    let called = desk.call("run --seed 9 --spec overflows");
    assert!(called.stdout.contains("has overflowed its stack"), "{}", called.stdout);
    assert!(called.stdout.contains("replay target/harness/overflows-9.json"), "{}", called.stdout);
    assert_eq!(desk.call("replay target/harness/overflows-9.json").code, 1);
}

fn a_stuck_run_is_inconclusive() {
    let desk = Desk::new();
    let value = desk.json("run --seed 1 --spec stuck", 5);
    assert_eq!((&value["verdict"], &value["violations"]), (&json!("inconclusive"), &json!([])));
    assert!(value["cpu_time_ms"].as_u64().unwrap() < 1000);
}

fn the_subjects_noise_stays_out_of_the_json() {
    let desk = Desk::new();
    assert_eq!(desk.json("run --seed 1 --spec noisy", 0)["verdict"], json!("pass"));
}

fn a_lost_result_is_no_success() {
    let desk = Desk::new();
    for line in ["run --seed 4", "run --seed 4 --json", "list specs", "--help"] {
        let called = desk.call_into(line, std::fs::File::create("/dev/full").unwrap());
        assert_eq!(called.code, 2, "{line}: {called:?}");
        assert!(called.stderr.contains("cannot be written to stdout"), "{line}: {called:?}");
    }
}

fn wrong_calls_get_one_clear_line() {
    let desk = Desk::new();
    std::fs::write(desk.path("file"), "").unwrap();
    for (line, part) in [
        ("", "no command given"),
        ("run", "--seed"),
        ("run --seed x", "--seed"),
        ("run --seed 18446744073709551616", "--seed"),
        ("run --seed 1 --spec nowhere", "unknown spec `nowhere`; there are: default, mixed"),
        ("run --seed 1 --bug nothing", "unknown bug `nothing`"),
        ("run --seed 1 --artifacts file", "cannot write to file"),
        ("run --seed 1 --artifacts file/below", "cannot write to file/below"),
        ("run --seed 1 --save file/below.json", "cannot write to file"),
        ("run --seed 1 --save .", "cannot write to ."),
        ("sweep", "--seeds"),
        ("sweep --seeds 3 --verify 2", "from 0 to 1"),
        ("sweep --seeds 3 --start 18446744073709551615", "start lower"),
        ("sweep --seeds 3 --jobs 0", "--jobs"),
        ("mutants --bug nothing", "unknown bug `nothing`"),
        ("replay file --until 3", "a number and a unit are needed"),
        ("replay file --until 3s --until-event 4", "cannot be used with"),
        ("replay file --until 3s --tries 2", "cannot be used with"),
        ("replay file --log loud=very", "--log"),
        ("list everything", "everything"),
        ("dance", "dance"),
    ] {
        desk.usage_error(line, part);
    }
}

fn the_digest_depends_on_the_seed_alone() {
    let desk = Desk::new();
    let digest = |arguments: &[&str], environment: &[(&str, &str)]| {
        let called = desk.call_with(arguments, environment);
        let value: serde_json::Value = serde_json::from_str(&called.stdout).unwrap();
        value["digest"].as_str().unwrap().to_owned()
    };
    let plain = digest(&["run", "--seed", "7", "--json"], &[]);
    assert_eq!(digest(&["run", "--seed", "7", "--json"], &[("TZ", "Asia/Tokyo"), ("RUST_BACKTRACE", "1")]), plain);
    assert_ne!(digest(&["run", "--seed", "8", "--json"], &[]), plain);
}

fn real_processes_need_another_build() {
    let desk = Desk::new();
    let called = desk.call("live --node-bin nowhere/aspen-node");
    assert_eq!((called.code, called.stderr.lines().count()), (2, 1), "{called:?}");
    let advice = if cfg!(feature = "live") { "cargo build --release -p aspen" } else { "--features live" };
    assert!(called.stderr.contains(advice), "{called:?}");
}
