//! `shrink` and `seeds` on files that are unfit for them. What they do with fit ones needs a real system: see `walk.rs`.

use serde_json::json;

use crate::program::Desk;

pub const TESTS: &[super::Test] = &[
    ("what_cannot_be_shrunk_says_why", what_cannot_be_shrunk_says_why),
    ("a_corpus_is_a_directory_of_artifacts", a_corpus_is_a_directory_of_artifacts),
    ("what_cannot_be_kept_says_why", what_cannot_be_kept_says_why),
];

fn what_cannot_be_shrunk_says_why() {
    let desk = Desk::new();
    desk.usage_error("shrink missing.json", "missing.json");
    desk.json("run --seed 4 --save pass.json", 0);
    desk.usage_error("shrink pass.json", "records no violation");
    desk.json("run --seed 4 --spec fails --save fail.json", 1);
    desk.usage_error("shrink fail.json", "not one that can be shrunk");
    desk.usage_error("shrink fail.json --budget 5", "--budget");
    desk.json("run --seed 6 --bug easy --save fixed.json", 1);
    let path = desk.path("fixed.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"bug\": \"easy\"", "\"bug\": null");
    std::fs::write(&path, text).unwrap();
    desk.usage_error("shrink fixed.json", "on this build");
}

fn a_corpus_is_a_directory_of_artifacts() {
    let desk = Desk::new();
    for command in ["list", "verify"] {
        desk.usage_error(&format!("seeds {command}"), "pass the corpus with --dir");
    }
    desk.json("run --seed 4 --save good.json", 0);
    let added = desk.json("seeds add good.json --why guards", 0);
    assert_eq!((&added["name"], &added["path"]), (&json!("good"), &json!("seeds/good.json")));
    desk.json("run --seed 4 --spec fails --save bad.json", 1);
    assert_eq!(desk.json("seeds add bad.json --why open --name still-open", 0)["verdict"], json!("fail"));
    let list = desk.json("seeds list", 0);
    let names: Vec<_> = list["seeds"].as_array().unwrap().iter().map(|seed| seed["name"].clone()).collect();
    assert_eq!(names, [json!("good"), json!("still-open")]);
    let verified = desk.json("seeds verify", 1);
    assert_eq!((&verified["passed"], &verified["failed"], &verified["stale"]), (&json!(1), &json!(1), &json!(0)));
    let called = desk.call("seeds verify");
    assert!(
        called.stdout.contains("FAIL   still-open") && called.stdout.contains("1 passed, 1 failed"),
        "{}",
        called.stdout
    );
    std::fs::write(desk.path("seeds/broken.json"), "{").unwrap();
    desk.usage_error("seeds verify", "broken.json is truncated");
}

fn what_cannot_be_kept_says_why() {
    let desk = Desk::new();
    desk.json("run --seed 4 --save good.json", 0);
    desk.usage_error("seeds add good.json", "--why");
    desk.usage_error("seeds add good.json --why x --name ../up", "no name for a scenario");
    desk.json("seeds add good.json --why x", 0);
    desk.usage_error("seeds add good.json --why x", "exists already");
    desk.json("run --seed 4 --spec doubtful --save doubt.json", 5);
    desk.usage_error("seeds add doubt.json --why x", "says nothing about the code as it is");
    // A scenario that has become stale.
    let path = desk.path("doubt.json");
    std::fs::copy(&path, desk.path("seeds/doubt.json")).unwrap();
    assert_eq!(desk.json("seeds verify", 5)["stale"], json!(1));
    assert!(desk.call("seeds verify").stdout.contains("STALE  doubt"));
}
