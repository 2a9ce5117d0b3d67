//! `verify`: equal runs, leaks found to the event, deaths compared.

use serde_json::json;

use crate::program::Desk;
use crate::subject::LEAK_AT;

pub const TESTS: &[super::Test] = &[
    ("equal_runs_verify", equal_runs_verify),
    ("a_leak_is_blamed_on_its_event", a_leak_is_blamed_on_its_event),
    ("what_the_digest_does_not_cover_is_compared_too", what_the_digest_does_not_cover_is_compared_too),
];

fn equal_runs_verify() {
    let desk = Desk::new();
    let value = desk.json("verify --seed 3", 0);
    assert_eq!(
        (&value["deterministic"], &value["verdict"], &value["difference"]),
        (&json!(true), &json!("pass"), &json!(null))
    );
    assert_eq!(value["digest"], desk.json("run --seed 3", 0)["digest"]);
    assert!(desk.call("verify --seed 3").stdout.contains("two fresh processes gave the same run"));
    // A violation that is the same both times is still a violation, and so is a death.
    assert_eq!(desk.json("verify --seed 3 --spec fails", 1)["deterministic"], json!(true));
    assert_eq!(desk.json("verify --seed 3 --spec aborts", 1)["deterministic"], json!(true));
    assert_eq!(desk.json("verify --seed 3 --spec doubtful", 5)["deterministic"], json!(true));
}

fn a_leak_is_blamed_on_its_event() {
    let desk = Desk::new();
    let value = desk.json("verify --seed 3 --spec leaks", 3);
    assert_eq!((&value["deterministic"], &value["verdict"]), (&json!(false), &json!("pass")));
    let difference = &value["difference"];
    assert_eq!(difference["first_event"], json!(LEAK_AT));
    assert_eq!(difference["window"], json!([256, 320]), "between two checkpoints");
    let (left, right) = (difference["left"]["text"].as_str().unwrap(), difference["right"]["text"].as_str().unwrap());
    assert!(left.contains(" at 0x") && right.contains(" at 0x") && left != right, "{left}, {right}");
    assert_eq!(difference["before"].as_array().unwrap().last().unwrap()["number"], json!(LEAK_AT - 1));
    assert!(desk.path(value["artifact"].as_str().unwrap()).is_file());
    let called = desk.call("verify --seed 3 --spec leaks");
    assert_eq!(called.code, 3);
    for part in ["NOT DETERMINISTIC", "the first differing event is #300", "in the first process", "#299 "] {
        assert!(called.stdout.contains(part), "{part:?} is missing in\n{}", called.stdout);
    }
}

fn what_the_digest_does_not_cover_is_compared_too() {
    let desk = Desk::new();
    let value = desk.json("verify --seed 3 --spec leaks-silently", 3);
    let message = value["difference"]["message"].as_str().unwrap();
    assert!(message.contains("`sim_time_ns`"), "{message}");
}
