//! The command `aspen` against real nodes: every subcommand, for people and for programs.
#![cfg(feature = "production")]

mod production_support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use production_support::{Site, aspen, says, says_json as json};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_works_for_people_and_for_programs() {
    let site = Site::new();
    let mut node = site.start("dev", &["--dev"]).await;
    assert!(says(&node, &["kv", "set", "greeting", "hello"], 0).starts_with("stored, version 1"));
    assert_eq!(says(&node, &["kv", "get", "greeting"], 0), "hello", "a program gets the value and nothing else");
    assert_eq!(says(&node, &["kv", "get", "greeting", "--max-age", "60000"], 0), "hello");
    assert_eq!(json(&node, &["kv", "get", "nothing"], 3)["row"], Value::Null);
    assert!(says(&node, &["kv", "cas", "greeting", "x", "--absent"], 3).starts_with("not as expected"));
    assert_eq!(json(&node, &["kv", "cas", "greeting", "again", "--expect", "hello"], 0)["result"], "written");
    assert!(says(&node, &["kv", "scan", "greet"], 0).contains("greeting  again"));
    assert_eq!(json(&node, &["kv", "scan"], 0)["rows"][0]["value"], "again");
    let absent =
        r#"{"compare": [{"key": "greeting", "expect": "absent"}], "otherwise": [{"get": {"key": "greeting"}}]}"#;
    assert!(says(&node, &["kv", "txn", absent], 3).contains("greeting = again"));
    let both = r#"{"then": [{"set": {"key": "g1", "value": "1"}}, {"set": {"key": "g2", "value": "2"}}]}"#;
    assert_eq!(json(&node, &["kv", "txn", both], 0)["matched"], true);
    says(&node, &["kv", "txn", "{"], 2);
    let some = json(&node, &["kv", "scan", "g", "--limit", "2"], 0);
    assert_eq!((some["rows"].as_array().unwrap().len(), &some["more"]), (2, &Value::Bool(true)));
    assert!(says(&node, &["kv", "scan", "g", "--limit", "1"], 0).ends_with("... and more\n"));
    assert_eq!(json(&node, &["kv", "delete", "greeting"], 0)["existed"], true);

    assert!(says(&node, &["member", "list"], 0).contains("voter  leader"));
    assert_eq!(json(&node, &["leader", "show"], 0)["leader"]["id"], 1);
    assert_eq!(json(&node, &["leader", "transfer", "7"], 1)["error"]["code"], "precondition-failed");
    assert_eq!(json(&node, &["member", "promote", "7"], 1)["error"]["code"], "precondition-failed");
    assert_eq!(json(&node, &["member", "remove", "1"], 1)["error"]["code"], "precondition-failed");
    assert!(says(&node, &["status"], 0).contains("leader"));
    assert!(says(&node, &["ticket"], 0).starts_with("aspen"));
    let out = site.path("ticket").display().to_string();
    let issued = json(&node, &["ticket", "--uses", "2", "--expires-in", "60", "--out", &out], 0);
    assert_eq!((&issued["uses"], issued.get("ticket")), (&2.into(), None), "{issued}");
    assert!(std::fs::read_to_string(&out).unwrap().starts_with("aspen"));
    assert!(!aspen::production::secret::is_exposed(std::path::Path::new(&out)));
    assert_eq!(json(&node, &["ticket", "--uses", "101"], 1)["error"]["code"], "malformed");
    assert_eq!(json(&node, &["snapshot"], 0)["done"], true);
    let bench = ["bench", "--clients", "4", "--seconds", "0.3", "--mode", "mixed"];
    let measured = json(&node, &bench, 0);
    assert!(measured["operations"].as_u64().unwrap() > 0 && measured["errors"] == 0, "{measured}");
    assert!(measured["log"]["batch"].as_f64().unwrap() >= 1.0, "{measured}");
    let too_long = says(&node, &["bench", "--clients", "1", "--seconds", "0.1", "--value-size", "2000000"], 1);
    assert!(too_long.contains("no latency") && too_long.contains("limit-exceeded, the first: "), "{too_long}");
    for nothing in ["--clients", "--keys", "--seconds"] {
        says(&node, &["bench", nothing, "0"], 2);
    }
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
    let damaged = |path: &str, bytes: Option<&[u8]>, what: &str| {
        let path = node.dir.join(path);
        let before = std::fs::read(&path).unwrap();
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let checked = json(&node, &["check", &dir], 1);
        assert!(checked["sound"] == false && checked["problem"].as_str().unwrap().contains(what), "{checked}");
        std::fs::write(&path, before).unwrap();
    };
    damaged("node.key", None, "node.key is missing");
    damaged("node.key", Some(b"nonsense nonsense nonsense"), "not a key");
    damaged("identity.json", None, "identity.json is missing");
    damaged("identity.json", Some(b"{"), "identity.json");
    damaged("data/log.redb", None, "the vote is lost");
    assert_eq!(json(&node, &["check", &dir], 0)["sound"], true);
    damaged("data/state.current", Some(b"nonsense"), "");
    damaged("data/log.redb", Some(b"nonsense"), "");
}

/// Values of any kind go in and come out as they were, and a table of them stays one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_value_survives_the_command_line() {
    let site = Site::new();
    let node = site.start("dev", &["--dev"]).await;
    let set = |key: &str, value: &[u8]| {
        let mut child =
            aspen(&node).args(["kv", "set", key, "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(value).unwrap();
        assert!(child.wait().unwrap().success());
    };
    let values =
        [b"no newline".to_vec(), b"newlines\n\n".to_vec(), vec![0, 0xff, b'\n'], Vec::new(), vec![b'v'; 70_000]];
    for (n, value) in values.iter().enumerate() {
        let key = format!("key-{n}");
        set(&key, value);
        let got = aspen(&node).args(["kv", "get", &key]).output().unwrap();
        assert!(got.status.success() && got.stdout == *value, "{key}");
    }
    set("line\nbreak\x1b[31m", b"tab\tand \\");
    let text = says(&node, &["kv", "scan"], 0);
    assert_eq!(text.lines().count(), 1 + values.len() + 1, "one line for each: {}", &text[..400]);
    assert!(text.contains(r"line\nbreak\u{1b}[31m  tab\tand \\"), "{}", text.lines().last().unwrap());
    assert_eq!(json(&node, &["kv", "scan"], 0)["rows"].as_array().unwrap().len(), values.len() + 1);
    let missing = aspen(&node).args(["kv", "get", "none"]).output().unwrap();
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(3), 0));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("there is no such key"));

    // Who cannot write says so; a reader who has seen enough is no failure.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = aspen(&node).args(["kv", "scan"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("standard output") && !error.contains("panic"), "{error}");
    let mut child = aspen(&node).args(["kv", "scan"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Two nodes with tokens of their own: the one that takes the token is found, and the one that does not is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_refuses_the_token_is_passed_over() {
    let site = Site::new();
    let (one, two) = (site.start("one", &["--dev"]).await, site.start("two", &["--dev"]).await);
    let both = format!("{},{}", one.url, two.url);
    let ticket = |token: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aspen"));
        command.args(["--endpoint", &both, "--token-file"]).arg(token).arg("ticket").output().unwrap()
    };
    let (first, second) = (ticket(&one.dir.join("http-token")), ticket(&two.dir.join("http-token")));
    assert!(first.status.success() && second.status.success(), "{first:?} {second:?}");
    let wrong = site.path("wrong");
    std::fs::write(&wrong, "a token of no node").unwrap();
    let begun = Instant::now();
    let refused = ticket(&wrong);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && error.contains("unauthorized"), "{error}");
    assert!([&one, &two].iter().any(|node| error.contains(&node.url)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "it is not asked again and again");
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
    let status = run(&["--endpoint", "127.0.0.1:9", "status"]);
    let page = String::from_utf8(status.stdout).unwrap();
    let lines: Vec<&str> = page.lines().collect();
    assert_eq!((status.status.code(), lines.len()), (Some(1), 3), "{page}");
    assert!(lines[1].ends_with("no answer") && lines[2].contains("Connection refused"), "{page}");
    assert_eq!(run(&["--timeout", "0", "status"]).status.code(), Some(2));
    assert_eq!(run(&["--endpoint", "https://a", "status"]).status.code(), Some(2));
    for (variable, text) in [("ASPEN_HTTP_TOKEN", ""), ("ASPEN_HTTP_TOKEN", "short"), ("ASPEN_ENDPOINT", "ftp://x")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aspen"));
        let refused = command.arg("status").env(variable, text).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{variable}={text}: {refused:?}");
    }
}

/// Nodes that take connections and never answer: the time that was given is kept, for all of them together.
#[test]
fn a_timeout_is_kept_and_a_read_that_met_it_changed_nothing() {
    let silent: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let endpoints: Vec<_> = silent.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aspen"));
        command.args(["--endpoint", &endpoints.join(","), "--timeout", "1", "--json"]).args(arguments).output().unwrap()
    };
    let begun = Instant::now();
    assert_eq!(run(&["status"]).status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let read: Value = serde_json::from_slice(&run(&["kv", "get", "a"]).stdout).unwrap();
    let error = &read["error"];
    assert_eq!((&error["code"], &error["outcome"]), (&"timeout".into(), &"definite".into()), "{error}");
    assert!(!error["hint"].as_str().unwrap().contains("session"), "{error}");
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
    assert_eq!((&shown["peers"]["value"], &shown["peers"]["origin"]), (&Value::Null, &"unset".into()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspen-node"));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let unwritten = command.args(["config", "--node-id", "7"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(unwritten.status.code(), Some(1));
    assert!(String::from_utf8(unwritten.stderr).unwrap().contains("standard output"));
    let wrong = show(&["--http-addr", "nowhere"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("http-addr"));
}
