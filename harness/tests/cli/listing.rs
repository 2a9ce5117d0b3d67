//! `list`: names first, one a line.

use serde_json::json;

use crate::program::Desk;

pub const TESTS: &[super::Test] =
    &[("lists_are_one_item_a_line_with_the_name_first", lists_are_one_item_a_line_with_the_name_first)];

fn lists_are_one_item_a_line_with_the_name_first() {
    let desk = Desk::new();
    for (what, items, first) in [
        ("specs", 25, "default "),
        ("bugs", 3, "easy "),
        ("assertions", 3, "cli::subject: every run starts "),
        ("buggify", 1, "cli::subject: subject.pause "),
    ] {
        let called = desk.call(&format!("list {what}"));
        assert_eq!((called.code, called.stdout.lines().count()), (0, items), "{what}: {called:?}");
        assert!(called.stdout.starts_with(first), "{what}: {}", called.stdout);
        assert_eq!(desk.json(&format!("list {what}"), 0)[what].as_array().unwrap().len(), items);
    }
    assert!(desk.call("list specs").stdout.contains("(calibration: expects election-safety)"));
    let sites = desk.json("list assertions", 0);
    assert_eq!(sites["assertions"][2]["owed_by"], json!(["uncovered"]));
    assert_eq!(sites["assertions"][1]["kind"], json!("sometimes"));
}
