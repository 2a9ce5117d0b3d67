//! `verify`: equal runs, leaks found to the event, deaths compared.

use serde_json::json;

use crate::leaks::BEFORE;
use crate::program::Desk;
use crate::subject::LEAK_AT;

pub const TESTS: &[super::Test] = &[
    ("equal_runs_verify", equal_runs_verify),
    ("a_leak_is_blamed_on_its_event", a_leak_is_blamed_on_its_event),
    ("leaks_of_a_real_world_are_blamed_on_their_event", leaks_of_a_real_world_are_blamed_on_their_event),
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

/// Not only that a leak is noticed: the first event that differs is the one that carries it.
fn leaks_of_a_real_world_are_blamed_on_their_event() {
    let desk = Desk::new();
    assert_eq!(desk.json("verify --seed 5 --spec leaks-nothing", 0)["deterministic"], json!(true));
    for (spec, class) in [
        ("leaks-map-order", "observe"),
        // Arming a timer is no event; that it fires, and when, is.
        ("leaks-address", "timer"),
        ("leaks-padding", "send"),
        ("leaks-a-byte", "disk-write"),
    ] {
        let value = desk.json(&format!("verify --seed 5 --spec {spec}"), 3);
        let difference = &value["difference"];
        let first = difference["first_event"].as_u64().unwrap_or_else(|| panic!("{spec}: {value}"));
        let (left, right) = (&difference["left"], &difference["right"]);
        assert_eq!((&left["class"], &right["class"]), (&json!(class), &json!(class)), "{spec}: {difference}");
        assert_ne!((&left["text"], &left["at_ns"]), (&right["text"], &right["at_ns"]), "{spec}");
        // A map of a thousand keys may begin with the same one; opening the file is an event before the write.
        let slack = match spec {
            "leaks-map-order" => 3,
            "leaks-a-byte" => 1,
            _ => 0,
        };
        assert!((BEFORE..=BEFORE + slack).contains(&first), "{spec}: event {first}");
        let before = difference["before"].as_array().unwrap().last().unwrap();
        assert_eq!(before["number"], json!(first - 1), "{spec}");
    }
}

fn what_the_digest_does_not_cover_is_compared_too() {
    let desk = Desk::new();
    let value = desk.json("verify --seed 3 --spec leaks-silently", 3);
    let message = value["difference"]["message"].as_str().unwrap();
    assert!(message.contains("`sim_time_ns`"), "{message}");
}
