//! From a planted bug to a corpus that guards against it, with the real program: a sweep finds it, a shrink makes it
//! small, a replay shows it, the corpus keeps it, and a build that has the bug again fails the corpus.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const BUG: &str = "append-acked-early";

/// Calls the program and returns its exit code and the JSON that it printed.
fn call(directory: &Path, line: &str) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(line.split(' '))
        .current_dir(directory)
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}\n{stderr}"));
    (output.status.code().expect("it exits"), value)
}

#[test]
fn a_planted_bug_is_found_shrunk_replayed_kept_and_guarded_against() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let call = |line: &str| call(directory.path(), line);

    let (code, sweep) = call(&format!("sweep --seeds 4 --bug {BUG} --artifacts found --json"));
    assert_eq!(code, 1, "{sweep}");
    let failure = &sweep["failures"][0];
    let (property, artifact) = (failure["property"].as_str().unwrap(), failure["artifact"].as_str().unwrap());

    let (code, shrunk) = call(&format!("shrink {artifact} --budget 60s --out small.json --json"));
    assert_eq!((code, shrunk["property"].as_str()), (0, Some(property)), "{shrunk}");
    let (from, to) = (&shrunk["from"], &shrunk["to"]);
    assert!(from["operations"].as_u64() > Some(100) && from["faults"].as_u64() > Some(5), "{from}");
    assert!(to["operations"].as_u64() <= Some(20) && to["faults"].as_u64() <= Some(5), "{to}");
    let test = std::fs::read_to_string(directory.path().join("small.rs")).unwrap();
    assert!(test.contains("#[test]") && test.contains("include_str!(\"small.json\")"), "{test}");

    let (code, replay) = call("replay small.json --json");
    assert_eq!((code, replay["replay"]["recurrence"].as_str()), (1, Some("recurs")), "{replay}");
    assert_eq!(replay["replay"]["same_digest"], Value::Bool(true));

    let (code, added) = call("seeds add small.json --why guards-the-sync --dir corpus --json");
    assert_eq!((code, added["verdict"].as_str()), (0, Some("pass")), "{added}");
    let (code, list) = call("seeds list --dir corpus --json");
    assert_eq!((code, list["seeds"][0]["property"].as_str()), (0, Some(property)), "{list}");
    assert_eq!(list["seeds"][0]["why"].as_str(), Some("guards-the-sync"));

    let (code, good) = call("seeds verify --dir corpus --json");
    assert_eq!((code, good["passed"].as_u64()), (0, Some(1)), "{good}");
    let (code, bad) = call(&format!("seeds verify --dir corpus --bug {BUG} --json"));
    assert_eq!((code, bad["failed"].as_u64()), (1, Some(1)), "{bad}");
    assert!(bad["seeds"][0]["reasons"][0].as_str().unwrap().starts_with(property), "{bad}");
}
