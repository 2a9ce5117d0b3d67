//! A run explains itself, with the real program: the state of every node at any place in it, and what the nodes log.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Long enough for a leader and some writes, and well before the end.
const UNTIL_NS: u64 = 1_500_000_000;

fn call(directory: &Path, line: &str) -> (Value, String) {
    let Output { stdout, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(line.split(' '))
        .current_dir(directory)
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8(stderr).expect("logs are text");
    let value = serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{line}: {error}\n{stderr}"));
    (value, stderr)
}

#[test]
fn a_replay_shows_the_nodes_anywhere_and_what_they_log_and_stays_the_same_run() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let call = |line: &str| call(directory.path(), line);
    let (recorded, _) = call("run --seed 42 --save run.json --json");

    // At a time.
    let (stopped, _) = call("replay run.json --until 1.5s --json");
    let (place, nodes) = (&stopped["stopped"], stopped["nodes"].as_array().expect("a list"));
    assert_eq!((&place["early"], &stopped["replay"]["recurrence"]), (&json!(true), &json!("stopped")), "{place}");
    assert!(place["at_ns"].as_u64() <= Some(UNTIL_NS), "{place}");
    assert!(nodes.iter().any(|node| node["up"] == true && node["state"]["role"] == "Leader"), "{nodes:?}");
    for node in nodes.iter().filter(|node| node["state"]["role"].is_string()) {
        let state = node["state"].as_object().expect("an object");
        for name in ["node", "term", "vote", "leader", "log", "committed", "applied", "snapshot", "membership"] {
            assert!(state.contains_key(name), "{name}: {state:?}");
        }
        let file = |role: &str| {
            let files = node["files"].as_array().expect("a list");
            files.iter().find(|file| file["role"] == role).unwrap_or_else(|| panic!("{role}: {files:?}")).clone()
        };
        assert!(file("log")["synced_len_bytes"].as_u64() > Some(0), "{node}");
        assert!(file("state")["len_bytes"].as_u64() > Some(0), "{node}");
    }

    // After the event that came last there, the same nodes in the same state.
    let last = place["events"].as_u64().expect("a number") - 1;
    let (again, _) = call(&format!("replay run.json --until-event {last} --json"));
    assert_eq!(again["nodes"], stopped["nodes"]);

    // Nobody listens, somebody listens: one run.
    let (heard, log) = call("replay run.json --log debug --json");
    assert_eq!((&heard["replay"]["same_digest"], &heard["digest"]), (&json!(true), &recorded["digest"]));
    assert!(log.lines().any(|line| line.contains(" s server-0#1 DEBUG openraft::")), "{}", log.len());
    assert!(log.lines().any(|line| line.contains(" INFO aspen::store: opened /data")), "{}", log.len());
    let (_, log) = call("replay run.json --until 500ms --log aspen::store=info --json");
    assert!(log.lines().count() > 0 && log.lines().all(|line| line.contains("aspen::store")), "{log}");
}
