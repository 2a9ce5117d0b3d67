//! The command `aspen` against real nodes: every subcommand, for people and for programs.
#![cfg(feature = "production")]

mod production_support;

use std::process::{Command, Output};

use production_support::{Process, Site};
use serde_json::Value;

fn aspen(node: &Process, arguments: &[&str]) -> Output {
    let token = node.dir.join("http-token").display().to_string();
    let with = ["--endpoint", &node.url, "--token-file", &token];
    Command::new(env!("CARGO_BIN_EXE_aspen")).args(with).args(arguments).output().unwrap()
}

/// Standard output, and whether it exited with this code.
fn says(node: &Process, arguments: &[&str], code: i32) -> String {
    let output = aspen(node, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}{error}");
    text
}

fn json(node: &Process, arguments: &[&str], code: i32) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let text = says(node, &all, code);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_works_for_people_and_for_programs() {
    let site = Site::new();
    let mut node = site.start("dev", &["--dev"]).await;
    assert!(says(&node, &["kv", "set", "greeting", "hello"], 0).starts_with("stored, version 1"));
    assert_eq!(says(&node, &["kv", "get", "greeting"], 0), "hello\n");
    assert_eq!(says(&node, &["kv", "get", "greeting", "--max-age", "60000"], 0), "hello\n");
    assert_eq!(json(&node, &["kv", "get", "nothing"], 1)["row"], Value::Null);
    assert!(says(&node, &["kv", "cas", "greeting", "x", "--absent"], 1).starts_with("not as expected"));
    assert_eq!(json(&node, &["kv", "cas", "greeting", "again", "--expect", "hello"], 0)["result"], "written");
    assert!(says(&node, &["kv", "scan", "greet"], 0).contains("greeting  again"));
    assert_eq!(json(&node, &["kv", "scan"], 0)["rows"][0]["value"], "again");
    assert_eq!(json(&node, &["kv", "delete", "greeting"], 0)["existed"], true);

    assert!(says(&node, &["member", "list"], 0).contains("voter  leader"));
    assert_eq!(json(&node, &["leader", "show"], 0)["leader"]["id"], 1);
    assert_eq!(json(&node, &["leader", "transfer", "7"], 1)["error"]["code"], "precondition-failed");
    assert_eq!(json(&node, &["member", "promote", "7"], 1)["error"]["code"], "precondition-failed");
    assert_eq!(json(&node, &["member", "remove", "1"], 1)["error"]["code"], "precondition-failed");
    assert!(says(&node, &["status"], 0).contains("leader"));
    assert!(says(&node, &["ticket"], 0).starts_with("aspen"));
    assert_eq!(json(&node, &["snapshot"], 0)["done"], true);
    let bench = ["bench", "--clients", "4", "--seconds", "0.3", "--mode", "mixed"];
    let measured = json(&node, &bench, 0);
    assert!(measured["operations"].as_u64().unwrap() > 0 && measured["errors"] == 0, "{measured}");
    let cookie = node.dir.join("cookie").display().to_string();
    let over_iroh = [&bench[..], &["--transport", "iroh", "--cookie-file", &cookie]].concat();
    let measured = json(&node, &over_iroh, 0);
    assert!(measured["operations"].as_u64().unwrap() > 0 && measured["errors"] == 0, "{measured}");

    let dir = node.dir.display().to_string();
    assert!(says(&node, &["check", &dir], 1).is_empty(), "the node uses it");
    assert!(node.stop().success());
    let checked = json(&node, &["check", &dir], 0);
    assert_eq!(checked["sound"], true);
    assert!(checked["log"]["entries"].as_u64().unwrap() > 0, "{checked}");
    std::fs::write(node.dir.join("data").join("state.current"), b"nonsense").unwrap();
    assert_eq!(json(&node, &["check", &dir], 1)["sound"], false);
}

#[test]
fn a_mistake_ends_with_2_and_nobody_there_with_1() {
    let run = |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_aspen")).args(arguments).output().unwrap();
    assert_eq!(run(&["kv", "get"]).status.code(), Some(2));
    assert_eq!(run(&["--token-file", "/nowhere", "status"]).status.code(), Some(2));
    assert_eq!(run(&["check", "/nowhere"]).status.code(), Some(2));
    let nobody = run(&["--endpoint", "127.0.0.1:9", "--timeout", "1", "--json", "kv", "set", "a", "b"]);
    assert_eq!(nobody.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&nobody.stdout).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["outcome"]), (&"unreachable".into(), &"definite".into()));
    assert_eq!(run(&["--endpoint", "127.0.0.1:9", "status"]).status.code(), Some(1));
}

/// `aspen-node config` shows every value with its origin, and no secret.
#[test]
fn the_configuration_is_shown_with_its_origins() {
    let show = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aspen-node"));
        command.arg("config").args(arguments).env("ASPEN_HTTP_TOKEN", "the secret token").env("ASPEN_NODE_ID", "7");
        command.output().unwrap()
    };
    let output = show(&["--json", "--data-dir", "here"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("the secret token"), "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["data-dir"]["origin"], "command line");
    assert_eq!(
        (&shown["node-id"]["value"], &shown["node-id"]["origin"]),
        (&"7".into(), &"environment ASPEN_NODE_ID".into())
    );
    assert_eq!(shown["http-addr"]["origin"], "default");
    let wrong = show(&["--http-addr", "nowhere"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("http-addr"));
}
