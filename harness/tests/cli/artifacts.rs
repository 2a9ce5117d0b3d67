//! Artifacts: written for every failure, replayed exactly, and refused with a clear line when they are unfit.

use serde_json::{Value, json};

use crate::program::{Desk, read};

pub const TESTS: &[super::Test] = &[
    ("a_saved_run_replays", a_saved_run_replays),
    ("a_violation_recurs", a_violation_recurs),
    ("what_was_edited_is_another_run", what_was_edited_is_another_run),
    ("nothing_recurs_where_nothing_was_violated", nothing_recurs_where_nothing_was_violated),
    ("another_digest_is_judged_by_the_build", another_digest_is_judged_by_the_build),
    ("unfit_files_get_one_clear_line", unfit_files_get_one_clear_line),
];

fn a_saved_run_replays() {
    let desk = Desk::new();
    assert_eq!(desk.json("run --seed 4 --save deep/run.json", 0)["artifact"], json!("deep/run.json"));
    let value = desk.json("replay deep/run.json", 0);
    assert_eq!(value["seed"], json!(4));
    let replay = &value["replay"];
    assert_eq!(
        (&replay["recurrence"], &replay["same_build"], &replay["same_digest"]),
        (&json!("passes"), &json!(true), &json!(true))
    );
    assert!(desk.call("replay deep/run.json").stdout.contains("the same run, event for event"));
    // Nothing but the file is left there.
    assert_eq!(std::fs::read_dir(desk.path("deep")).unwrap().count(), 1);
    assert_eq!(desk.json("run --seed 4 --spec doubtful --save doubt.json", 5)["artifact"], json!("doubt.json"));
    desk.json("replay doubt.json", 5);
}

fn a_violation_recurs() {
    let desk = Desk::new();
    desk.json("run --seed 4 --spec fails", 1);
    let value = desk.json("replay target/harness/fails-4.json", 1);
    assert_eq!(value["replay"]["recurrence"], json!("recurs"));
    let called = desk.call("replay target/harness/fails-4.json");
    assert!(called.stdout.contains("the same property was violated"), "{}", called.stdout);
    // Recorded with the bug, replayed with its trigger edited out of it: the run passes.
    desk.json("run --seed 6 --bug easy --save bug.json", 1);
    edit(&desk, "bug.json", |artifact| artifact["request"]["bug"] = json!(null));
    assert_eq!(desk.json("replay bug.json", 0)["replay"]["recurrence"], json!("passes"));
}

fn what_was_edited_is_another_run() {
    let desk = Desk::new();
    desk.json("run --seed 4 --save run.json", 0);
    edit(&desk, "run.json", |artifact| {
        artifact["request"]["bug"] = json!("easy");
        artifact["record"]["report"]["digest"] = json!("0".repeat(32));
    });
    assert_eq!(desk.json("replay run.json", 1)["replay"]["same_plan"], json!(false));
    // The plan is of its seed.
    desk.json("run --seed 4 --save seed.json", 0);
    edit(&desk, "seed.json", |artifact| {
        artifact["request"]["plan"]["seed"] = json!(4);
        artifact["request"]["seed"] = json!(5);
    });
    desk.usage_error("replay seed.json", "asks for seed 5 with the plan of another");
}

fn nothing_recurs_where_nothing_was_violated() {
    let desk = Desk::new();
    desk.json("run --seed 4 --save run.json", 0);
    assert_eq!(desk.json("replay run.json --tries 1000000000", 0)["replay"]["recurrence"], json!("passes"));
}

fn another_digest_is_judged_by_the_build() {
    let desk = Desk::new();
    desk.json("run --seed 4 --save run.json", 0);
    edit(&desk, "run.json", |artifact| artifact["record"]["report"]["digest"] = json!("0".repeat(32)));
    assert_eq!(desk.json("replay run.json", 3)["replay"]["same_digest"], json!(false));
    assert!(desk.call("replay run.json").stdout.contains("NOT DETERMINISTIC"));
    edit(&desk, "run.json", |artifact| artifact["build"] = json!("0".repeat(32)));
    assert_eq!(desk.json("replay run.json", 0)["replay"]["same_build"], json!(false));
    // An edited plan is another run by intention.
    desk.json("run --seed 4 --save plan.json", 0);
    edit(&desk, "plan.json", |artifact| artifact["request"]["plan"]["steps"] = json!(200));
    let value = desk.json("replay plan.json", 0);
    assert_eq!((&value["events"], &value["replay"]["same_plan"]), (&json!(200), &json!(false)));
}

fn unfit_files_get_one_clear_line() {
    let desk = Desk::new();
    desk.json("run --seed 4 --save run.json", 0);
    let text = read(&desk.path("run.json"));
    std::fs::write(desk.path("cut.json"), &text[..text.len() / 2]).unwrap();
    std::fs::write(desk.path("empty.json"), "").unwrap();
    std::fs::write(desk.path("binary.json"), [0u8, 159, 146, 150]).unwrap();
    std::fs::write(desk.path("other.json"), "{\"version\": 1}").unwrap();
    std::fs::write(desk.path("newer.json"), "{\"format\": \"harness artifact\", \"version\": 2, \"new\": []}").unwrap();
    std::fs::write(desk.path("damaged.json"), "{\"format\": \"harness artifact\", \"version\": 1}").unwrap();
    desk.json("run --seed 4 --save unknown.json", 0);
    edit(&desk, "unknown.json", |artifact| artifact["request"]["spec"] = json!("gone"));
    desk.json("run --seed 4 --save plan.json", 0);
    edit(&desk, "plan.json", |artifact| artifact["request"]["plan"]["steps"] = json!("many"));
    for (file, part) in [
        ("plan.json", "the plan in plan.json cannot be run: `steps` is not a number"),
        ("missing.json", "cannot read missing.json"),
        (".", "cannot read ."),
        ("cut.json", "cut.json is truncated"),
        ("empty.json", "empty.json is truncated"),
        ("binary.json", "binary.json is not an artifact"),
        ("other.json", "other.json is not an artifact"),
        ("newer.json", "newer.json has version 2, this program reads up to 1"),
        ("damaged.json", "damaged.json is damaged"),
        ("unknown.json", "unknown spec `gone`"),
    ] {
        desk.usage_error(&format!("replay {file}"), part);
    }
}

fn edit(desk: &Desk, name: &str, change: impl FnOnce(&mut Value)) {
    let path = desk.path(name);
    let mut artifact: Value = serde_json::from_str(&read(&path)).unwrap();
    change(&mut artifact);
    std::fs::write(path, artifact.to_string()).unwrap();
}
