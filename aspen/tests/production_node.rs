//! One real node: its interface, its errors, its stop and its return after `kill -9`.
#![cfg(feature = "production")]

mod production_support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use axum::http::Method;
use production_support::{PATIENCE, Site};
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
        ("/write", json!({"set": {"key": "a", "value": ""}, "session": {"session": 1, "seq": 0}}), 400, "malformed"),
        ("/write", json!({"set": {"key": "\0aspen/x", "value": ""}}), 400, "malformed"),
        ("/write", json!({"set": {"key": key, "value": ""}}), 413, "limit-exceeded"),
        ("/write", json!({"set": {"key": "", "value": ""}}), 400, "limit-exceeded"),
        ("/write", json!({"set_multi": {"pairs": []}}), 400, "limit-exceeded"),
        ("/write", json!({"txn": {}}), 400, "limit-exceeded"),
        ("/write", json!({"open_session": {"ttl_ms": 0}}), 400, "limit-exceeded"),
        ("/write", json!({"set": {"key": "a", "value": "v".repeat(1 << 20) + "v"}}), 413, "limit-exceeded"),
        ("/write", json!({"set": {"key": "a", "value": "v".repeat(7 << 20)}}), 413, "limit-exceeded"),
        ("/read", json!({"key": 5}), 400, "malformed"),
        ("/scan", json!({"prefix": "a", "start": "a"}), 400, "malformed"),
        ("/scan", json!({"limit": 1_000_000}), 400, "limit-exceeded"),
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
    let (status, error) = site.get(&url("/read?key=%ff")).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("malformed")), "another key would be read: {error}");
    assert_eq!(site.get(&url("/read?key=%C3%A9")).await.0, 200);
    let asks = async |line: &str, headers: &str, body: &str| {
        let length = body.len();
        raw(
            &node.url,
            &format!("{line} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"),
        )
        .await
    };
    let plain = asks("POST /write", "Host: localhost\r\n", "{}").await;
    assert!(plain.starts_with("HTTP/1.1 415"), "a web page cannot send what is not declared to be JSON: {plain}");
    let elsewhere = asks("GET /read?key=a", "Host: attacker.example\r\n", "").await;
    assert!(elsewhere.starts_with("HTTP/1.1 403") && elsewhere.contains("foreign-request"), "{elsewhere}");
    let page = asks("GET /read?key=a", "Host: localhost\r\nOrigin: http://localhost:3000\r\n", "").await;
    assert!(page.starts_with("HTTP/1.1 403"), "{page}");
    let method = asks("DELETE /read", "Host: localhost\r\n", "").await.to_lowercase();
    assert!(method.starts_with("http/1.1 405") && method.contains("allow: post,get,head"), "{method}");
    let nobody = asks("POST /trigger-snapshot", "Host: localhost\r\n", "").await.to_lowercase();
    assert!(nobody.starts_with("http/1.1 401") && nobody.contains("www-authenticate: bearer"), "{nobody}");
    let token = format!("Host: localhost\r\nAuthorization: Bearer {}\r\n", node.token());
    let bare = asks("POST /trigger-snapshot", &token, "").await;
    assert!(bare.starts_with("HTTP/1.1 200") && bare.ends_with(r#"{"done":true}"#), "nothing need be said: {bare}");
    let more = site.post(&url("/trigger-snapshot"), json!({"now": true}), Some(&node.token())).await;
    assert_eq!(more.0, 400, "{}", more.1);
    let (_, scan) = site.get(&url("/scan")).await;
    assert_eq!(scan["rows"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administration_needs_the_token() {
    let site = Site::new();
    let node = site.start("dev", &["--dev", "--http-advertise", "node-1.example:80"]).await;
    assert_eq!(site.get(&format!("{}/leader", node.url)).await.1["leader"]["http"], "node-1.example:80");
    let token = node.token();
    let admin = async |path: &str, body: Value| site.post(&format!("{}{path}", node.url), body, Some(&token)).await;
    for path in [
        "/init",
        "/add-learner",
        "/promote-learner",
        "/change-membership",
        "/remove-node",
        "/transfer-leader",
        "/add-peer",
        "/trigger-snapshot",
        "/cluster-ticket",
        "/admin/checkpoint-wal",
    ] {
        let url = format!("{}{path}", node.url);
        for token in [None, Some("not the token of this node")] {
            let (status, error) = site.post(&url, json!({}), token).await;
            assert_eq!((status, error["code"].as_str()), (401, Some("unauthorized")), "{path}: {error}");
        }
    }
    assert_eq!(admin("/init", json!({})).await.1["code"], "already-initialized");
    let own = site.get(&format!("{}/node-info", node.url)).await.1["address"].clone();
    let (status, error) = admin("/add-learner", json!({"address": own})).await;
    assert_eq!((status, error["code"].as_str()), (409, Some("precondition-failed")), "its own key: {error}");
    for (path, body) in [
        ("/add-learner", json!({"address": format!("{}@127.0.0.1:1", "0".repeat(64))})),
        ("/add-learner", json!({"address": format!("{}@0.0.0.0:1", own.as_str().unwrap().split_once('@').unwrap().0)})),
        ("/change-membership", json!({})),
        ("/change-membership", json!({"voters": [1], "finish": true})),
        ("/admin/checkpoint-wal", json!({"x": 1})),
    ] {
        let (status, error) = admin(path, body).await;
        assert_eq!((status, error["code"].as_str()), (400, Some("malformed")), "{path}: {error}");
    }
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
        match round {
            0 => assert!(node.hang_up().success(), "its terminal was closed"),
            1 => assert!(node.stop().success()),
            _ => node.kill(),
        }
        node.restart();
        node.ready(&site).await;
        let (_, scan) = site.get(&format!("{}/scan", node.url)).await;
        assert_eq!(scan["rows"].as_array().unwrap().len(), 20 * (round + 1));
    }
}

/// A mistake ends the start with 2, whatever cannot be had with 1; everything that is wrong is said, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_start_says_why() {
    let site = Site::new();
    let refused = |arguments: &[&str], variables: &[(&str, &OsStr)], code: i32, whys: &[&str]| {
        let (ended, said) = site.refused("home", arguments, variables);
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        for why in whys {
            assert!(said.contains(why), "{arguments:?}, {why:?} is missing: {said}");
        }
        assert!(!site.path("home").exists(), "{arguments:?}: {:?}", site.files("home"));
    };
    let bytes = OsStr::from_bytes(b"\xff");
    refused(&["--expect", "zero"], &[], 2, &["expect"]);
    refused(&[], &[], 2, &["node-id", "--ticket-file", "--dev"]);
    let many = ["--http-token-file", "/nowhere", "--log", "=="];
    let all = ["node-id", "/nowhere", "log", "ASPEN_COOKIE", "ASPEN_X"];
    refused(&many, &[("ASPEN_COOKIE", "abc".as_ref()), ("ASPEN_X", bytes)], 2, &all);
    let config = [&["config"], &many[..]].concat();
    refused(&config, &[("ASPEN_COOKIE", "abc".as_ref()), ("ASPEN_X", bytes)], 2, &all);
    refused(&["--dev"], &[("ASPEN_HTTP_TOKEN", "".as_ref())], 2, &["ASPEN_HTTP_TOKEN"]);
    refused(&["config", "--dev"], &[("SOMEBODY_ELSES", bytes), ("ASPEN_ENDPOINT", "x".as_ref())], 0, &[]);
}

/// What is in use is left alone, and a data directory that lost a part is not made whole again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_lost_something_is_refused() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut http = site.spawn_at("http", &taken.local_addr().unwrap().to_string(), &["--dev"]);
    assert_eq!(http.wait().code(), Some(1), "the port is in use");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut quic = site.spawn("quic", &["--dev", "--bind-addr", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(quic.wait().code(), Some(1), "the port is in use");
    for name in ["http", "quic"] {
        assert!(!site.path(name).exists(), "{name}: {:?}", site.files(name));
    }

    let mut node = site.start("dev", &["--dev"]).await;
    let (ended, said) = site.refused("dev", &["--dev"], &[]);
    assert!(ended == Some(1) && said.contains("another process"), "{said}");
    assert!(node.stop().success());
    let refused = |arguments: &[&str], code: i32, why: &str| {
        let (ended, said) = site.refused("dev", arguments, &[]);
        assert!(ended == Some(code) && said.contains(why), "{arguments:?} {why:?}: {said}");
    };
    refused(&["--node-id", "7"], 2, "of node 1, not of node 7");
    let other = site.path("other");
    std::fs::write(&other, "the cookie of another cluster").unwrap();
    refused(&["--cookie-file", other.to_str().unwrap()], 2, "one of them is the wrong one");
    let away = |path: &str| std::fs::rename(node.dir.join(path), site.path("away")).unwrap();
    let back = |path: &str| std::fs::rename(site.path("away"), node.dir.join(path)).unwrap();
    away("node.key");
    refused(&["--dev"], 2, "node.key is missing");
    back("node.key");
    away("data");
    refused(&["--dev"], 1, "the vote is lost");
    refused(&["--dev"], 1, "add one with a new id");
    assert!(!node.dir.join("data").exists(), "nothing was made in its place");
    back("data");
    std::fs::write(node.dir.join("data").join("log.redb"), b"nonsense").unwrap();
    refused(&["--dev"], 1, "damaged");
}

/// A node that waits for its cluster says so at once, and takes no list of founders that cannot be meant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_outside_any_cluster_says_what_it_waits_for() {
    let site = Site::new();
    // Below the ports that the system gives away.
    let any = format!("0.0.0.0:{}", 10_000 + std::process::id() % 20_000);
    let token = site.path("token");
    std::fs::write(&token, "the token of this test").unwrap();
    let more = ["--node-id", "1", "--http-token-file", token.to_str().unwrap()];
    let node = site.spawn_at("n1", &any, &more);
    let url = |path: &str| format!("{}{path}", node.url);
    node.lives(&site).await;
    let begun = std::time::Instant::now();
    let token = Some("the token of this test");
    let (status, error) = site.get(&url("/readyz")).await;
    assert!(status == 503 && error["message"].as_str().unwrap().contains("in no cluster yet"), "{error}");
    for (path, body) in [
        ("/transfer-leader", json!({})),
        ("/remove-node", json!({"node_id": 2})),
        ("/write", json!({"set": {"key": "a", "value": "1"}})),
        ("/read", json!({"key": "a"})),
        ("/read", json!({"key": "a", "stale": {}})),
    ] {
        let (status, error) = site.post(&url(path), body, token).await;
        assert_eq!((status, error["code"].as_str()), (503, Some("no-cluster")), "{path}: {error}");
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
    let place = site.post(&url("/node-info"), json!({}), token).await;
    assert_eq!(place.0, 405, "{}", place.1);
    let (status, _) = site.get(&url("/node-info")).await;
    assert_eq!(status, 401, "beyond loopback everything needs the token");
    for members in [json!([]), json!([{"node_id": 1, "address": "x"}])] {
        let (status, error) = site.post(&url("/init"), json!({"members": members}), token).await;
        assert_eq!((status, error["code"].as_str()), (400, Some("malformed")), "{error}");
    }
    let formed = site.http.call(Method::POST, &url("/init"), token, Vec::new(), PATIENCE).await.unwrap();
    assert_eq!(formed.0.as_u16(), 200, "{formed:?}");
    node.ready(&site).await;
    // It is bound to every address, none of which it can name.
    let leader = site.http.call(Method::GET, &url("/leader"), token, Vec::new(), PATIENCE).await.unwrap();
    let leader: Value = serde_json::from_slice(&leader.1).unwrap();
    assert_eq!(leader["leader"]["http"], Value::Null, "{leader}");
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
