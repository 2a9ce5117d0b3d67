//! One real node: its interface, its errors, its stop and its return after `kill -9`.
#![cfg(feature = "production")]

mod production_support;

use production_support::Site;
use serde_json::{Value, json};

/// The walk through the interface of a node that was started with no configuration but its addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_serves_every_request() {
    let site = Site::new();
    let node = site.start("dev", &["--dev"]).await;
    let url = |path: &str| format!("{}{path}", node.url);
    let write = async |command: Value| site.post(&url("/write"), command, None).await;

    let (status, reply) = write(json!({"set": {"key": "a", "value": "1"}})).await;
    assert_eq!((status, &reply["result"], &reply["version"]), (200, &json!("written"), &json!(1)));
    let first = reply["revision"].as_u64().unwrap();
    let (_, reply) = site.get(&url("/read?key=a")).await;
    assert_eq!(reply["row"]["value"], "1");
    assert_eq!(reply["row"]["mod_revision"], first);
    assert!(reply["revision"].as_u64().unwrap() >= first);
    let (_, reply) = site.post(&url("/read"), json!({"key": "none"}), None).await;
    assert_eq!(reply["row"], Value::Null);

    let bytes = json!({"base64": "/wA="});
    write(json!({"set": {"key": bytes, "value": bytes}})).await;
    let (_, reply) = site.post(&url("/read"), json!({"key": bytes}), None).await;
    assert_eq!((&reply["row"]["key"], &reply["row"]["value"]), (&bytes, &bytes));

    let cas = |expect: Value, value: &str| json!({"cas": {"key": "a", "expect": expect, "value": value}});
    let (_, reply) = write(cas(json!("absent"), "x")).await;
    assert_eq!((&reply["result"], &reply["found"]["mod_revision"]), (&json!("not_matched"), &json!(first)));
    assert_eq!(write(cas(json!({"value": "1"}), "2")).await.1["result"], "written");
    let (_, reply) =
        write(json!({"set_multi": {"pairs": [{"key": "b", "value": "3"}, {"key": "c", "value": "4"}]}})).await;
    let multi = reply["revision"].clone();
    assert_eq!(write(cas(json!({"mod_revision": multi}), "x")).await.1["result"], "not_matched");
    assert_eq!(write(json!({"delete": {"key": "c"}})).await.1["existed"], true);

    let (_, reply) = site.post(&url("/scan"), json!({"start": "a", "end": "z"}), None).await;
    let keys: Vec<_> = reply["rows"].as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert_eq!((keys, &reply["more"]), (vec!["a", "b"], &json!(false)));
    let (_, reply) = site.get(&url("/scan?prefix=&limit=1")).await;
    assert_eq!((reply["rows"].as_array().unwrap().len(), &reply["more"]), (1, &json!(true)));

    let (_, reply) = write(json!({"open_session": {"ttl_ms": 60000}})).await;
    let session = reply["session"].as_u64().unwrap();
    let named = |seq: u64, value: &str| json!({"set": {"key": "s", "value": value}, "session": {"session": session, "seq": seq}});
    let first = write(named(1, "once")).await;
    assert_eq!(write(named(1, "again")).await, first, "a retry is answered with the first reply");
    assert_eq!(site.value(&node.url, "s").await.as_deref(), Some("once"));
    assert_eq!(write(json!({"refresh_session": {"session": session}})).await.1["result"], "session_refreshed");
    assert_eq!(write(json!({"close_session": {"session": session}})).await.1["result"], "session_closed");
    assert_eq!(write(named(2, "late")).await.1["result"], "session_unknown");

    let (status, reply) = site.get(&url(&format!("/read?key=s&min_revision={}&max_age_ms=60000", multi))).await;
    assert_eq!((status, &reply["row"]["value"]), (200, &json!("once")));
    let (status, reply) = site.get(&url("/read?key=s&min_revision=1000000&timeout_ms=50")).await;
    assert_eq!((status, &reply["code"], &reply["outcome"]), (503, &json!("too-stale"), &json!("definite")));

    let (_, reply) = site.get(&url("/leader")).await;
    assert_eq!(reply["leader"]["id"], 1);
    assert_eq!(format!("http://{}", reply["leader"]["http"].as_str().unwrap()), node.url);
    let (status, reply) = site.get(&url("/health")).await;
    assert!(status == 200 || reply["components"].to_string().contains("critical"), "{reply}");
    let names: Vec<_> = reply["components"].as_array().unwrap().iter().map(|part| part["name"].clone()).collect();
    assert_eq!(names, ["raft", "leader", "disk", "storage", "wal"]);
    let (_, info) = site.get(&url("/node-info")).await;
    assert_eq!((&info["phase"], &info["members"][0]["kind"]), (&json!("serving"), &json!("voter")));
    let (_, raft) = site.get(&url("/raft-metrics")).await;
    assert_eq!((&raft["role"], &raft["voters"]), (&json!("leader"), &json!([[1]])));
    let (_, page) = site.get(&url("/metrics")).await;
    let page = page.as_str().unwrap();
    for name in
        ["aspen_raft_term 1", "aspen_raft_state{state=\"leader\"} 1", "aspen_wal_bytes", "aspen_log_commits_total"]
    {
        assert!(page.contains(name), "{name}: {page}");
    }
    assert!(page.contains("aspen_http_errors_total{endpoint=\"/read\",code=\"too-stale\"} 1"), "{page}");
}

/// Each mistake has a status, a code and a hint, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_answered_with_an_error_that_says_what_to_do() {
    let site = Site::new();
    let node = site.start("dev", &["--dev"]).await;
    let url = |path: &str| format!("{}{path}", node.url);
    let key = "k".repeat(1025);
    let cases = [
        ("/write", json!({"put": {}}), 400, "malformed"),
        ("/write", json!({"set": {"key": "", "value": ""}, "session": {"session": 1, "seq": 0}}), 400, "malformed"),
        ("/write", json!({"set": {"key": "\0aspen/x", "value": ""}}), 400, "malformed"),
        ("/write", json!({"set": {"key": key, "value": ""}}), 413, "limit-exceeded"),
        ("/write", json!({"set": {"key": "a", "value": "v".repeat(1 << 20) + "v"}}), 413, "limit-exceeded"),
        ("/write", json!({"set": {"key": "a", "value": "v".repeat(7 << 20)}}), 413, "limit-exceeded"),
        ("/read", json!({"key": 5}), 400, "malformed"),
        ("/scan", json!({"prefix": "a", "start": "a"}), 400, "malformed"),
        ("/scan", json!({"limit": 1_000_000}), 413, "limit-exceeded"),
        ("/nothing", json!({}), 404, "unknown-path"),
        ("/livez", json!({}), 405, "unknown-method"),
        ("/cluster-ticket", json!({}), 401, "unauthorized"),
        ("/trigger-snapshot", json!({}), 401, "unauthorized"),
    ];
    for (path, body, expected, code) in cases {
        let (status, error) = site.post(&url(path), body, None).await;
        assert_eq!((status, error["code"].as_str()), (expected, Some(code)), "{path}: {error}");
        assert_eq!(error["outcome"], "definite", "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty() && !error["hint"].as_str().unwrap().is_empty());
    }
    let (status, error) = site.post(&url("/write"), json!({"delete": {"key": "a"}}), Some("wrong")).await;
    assert_eq!((status, error["code"].as_str()), (401, Some("unauthorized")), "a wrong token is never ignored");
    let plain =
        raw(&node.url, "POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").await;
    assert!(plain.starts_with("HTTP/1.1 415"), "a web page cannot send what is not declared to be JSON: {plain}");
    let (_, scan) = site.get(&url("/scan")).await;
    assert_eq!(scan["rows"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administration_needs_the_token() {
    let site = Site::new();
    let node = site.start("dev", &["--dev"]).await;
    let token = node.token();
    let admin = async |path: &str, body: Value| site.post(&format!("{}{path}", node.url), body, Some(&token)).await;
    assert_eq!(admin("/init", json!({})).await.1["code"], "already-initialized");
    for (path, body) in [
        ("/promote-learner", json!({"node_id": 9})),
        ("/remove-node", json!({"node_id": 1})),
        ("/remove-node", json!({"node_id": 9})),
        ("/change-membership", json!({"voters": []})),
        ("/change-membership", json!({"finish": true})),
        ("/transfer-leader", json!({})),
        ("/transfer-leader", json!({"to": 9})),
    ] {
        let (status, error) = admin(path, body).await;
        assert_eq!((status, error["code"].as_str()), (409, Some("precondition-failed")), "{path}: {error}");
    }
    assert_eq!(admin("/add-learner", json!({"address": "x"})).await.1["code"], "malformed");
    assert_eq!(admin("/add-peer", json!({"address": "x"})).await.1["code"], "malformed");
    site.set(&node.url, "a", "1").await;
    let (status, reply) = admin("/admin/checkpoint-wal", json!({})).await;
    assert_eq!((status, &reply["after_bytes"]), (200, &json!(0)), "{reply}");
    assert_eq!(admin("/trigger-snapshot", json!({})).await.1["done"], true);
    let metrics = format!("{}/raft-metrics", node.url);
    site.until(&metrics, "there is a snapshot", |_, raft| raft["snapshot"]["index"].as_u64()).await;
    let (_, reply) = admin("/cluster-ticket", json!({"uses": 2, "expires_in_s": 60})).await;
    assert!(reply["ticket"].as_str().unwrap().starts_with("aspen"), "{reply}");
    assert_eq!(admin("/cluster-ticket", json!({"uses": 0})).await.0, 400);
}

/// Everything acknowledged is there after `kill -9` and after a stop that was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_comes_back_with_all_it_acknowledged() {
    let site = Site::new();
    let mut node = site.start("dev", &["--dev"]).await;
    for round in 0..3 {
        for n in 0..20 {
            site.set(&node.url, &format!("{round}-{n}"), "v").await;
        }
        if round == 1 {
            let status = node.stop();
            assert!(status.success(), "{status}");
        } else {
            node.kill();
        }
        node.restart();
        node.ready(&site).await;
        let (_, scan) = site.get(&format!("{}/scan", node.url)).await;
        assert_eq!(scan["rows"].as_array().unwrap().len(), 20 * (round + 1));
    }
}

/// A node that cannot start says why, and ends with the status of a mistake or of a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_start_says_why() {
    let site = Site::new();
    let mut wrong = site.spawn("wrong", &["--expect", "zero"]);
    assert_eq!(wrong.wait().code(), Some(2));
    let mut nameless = site.spawn("nameless", &[]);
    assert_eq!(nameless.wait().code(), Some(1), "no id");
    let node = site.start("dev", &["--dev"]).await;
    let mut second = site.spawn("dev", &["--dev"]);
    assert_eq!(second.wait().code(), Some(1), "the directory is in use");
    drop(node);
    std::fs::write(site.path("dev").join("data").join("log.redb"), b"nonsense").unwrap();
    let mut damaged = site.spawn("dev", &["--dev"]);
    assert_eq!(damaged.wait().code(), Some(1), "the log is damaged");
}

/// Sends bytes to a node and returns what comes back.
async fn raw(url: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}
