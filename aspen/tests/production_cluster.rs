//! Clusters of real nodes over QUIC on loopback: formed with a ticket or by hand, and put through what operators do.
#![cfg(feature = "production")]

mod production_support;

use std::time::{Duration, Instant};

use aspen::command::Command;
use aspen::production::client::{ClientOptions, HttpClient};
use aspen::production::http::schema::{ScanRequest, WriteResult};
use production_support::{Process, Site, own_address, says, says_json};
use serde_json::{Value, json};

/// Three nodes: the first forms the cluster and writes a ticket, the others join with it.
async fn three(site: &Site) -> Vec<Process> {
    let ticket = site.path("ticket").display().to_string();
    let first = site.start("n1", &["--expect", "3", "--ticket-out", &ticket]).await;
    site.ticket(&ticket).await;
    let second = site.spawn("n2", &["--ticket-file", &ticket]);
    let third = site.spawn("n3", &["--ticket-file", &ticket]);
    voters(site, &first.url, 3).await;
    for node in [&second, &third] {
        node.ready(site).await;
        voters(site, &node.url, 3).await;
    }
    vec![first, second, third]
}

/// The same, but the founder is killed before the cluster is complete, and its ticket is lost. It goes on when it is back.
async fn three_after_a_restart(site: &Site) -> Vec<Process> {
    let ticket = site.path("ticket").display().to_string();
    let mut first = site.start("n1", &["--expect", "3", "--ticket-out", &ticket]).await;
    let old = site.ticket(&ticket).await;
    let second = site.spawn("n2", &["--ticket-file", &ticket]);
    second.ready(site).await;
    first.kill();
    std::fs::remove_file(&ticket).unwrap();
    first.restart();
    assert_ne!(site.ticket(&ticket).await, old);
    let third = site.spawn("n3", &["--ticket-file", &ticket]);
    for node in [&first, &second, &third] {
        node.ready(site).await;
        voters(site, &node.url, 3).await;
    }
    let identity = first.dir.join("identity.json");
    let begun = Instant::now();
    while std::fs::read_to_string(&identity).unwrap().contains("expect") {
        assert!(begun.elapsed() < production_support::PATIENCE, "it does not notice that it is complete");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    vec![first, second, third]
}

/// Waits until a node knows of so many voters, in one configuration.
async fn voters(site: &Site, url: &str, count: usize) {
    let found = |_: u16, raft: &Value| {
        let voters = raft["voters"].as_array()?;
        (voters.len() == 1 && voters[0].as_array()?.len() == count).then_some(())
    };
    site.until(&format!("{url}/raft-metrics"), &format!("there are {count} voters"), found).await;
}

async fn leader(site: &Site, url: &str) -> u64 {
    site.until(&format!("{url}/leader"), "there is a leader", |_, reply| reply["leader"]["id"].as_u64()).await
}

async fn node_id(site: &Site, node: &Process) -> u64 {
    site.until(&format!("{}/node-info", node.url), "the node answers", |_, info| info["node_id"].as_u64()).await
}

/// The walk of the README: three nodes, a write, the leader killed, a read, a fourth added and promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_survive_their_leader_and_take_a_fourth() {
    let site = Site::new();
    let mut nodes = three_after_a_restart(&site).await;
    let ids = [node_id(&site, &nodes[0]).await, node_id(&site, &nodes[1]).await, node_id(&site, &nodes[2]).await];
    site.set(&nodes[1].url, "greeting", "hello").await;

    let leads = leader(&site, &nodes[1].url).await;
    let position = ids.iter().position(|id| *id == leads).unwrap();
    nodes[position].kill();
    let alive = nodes.iter().enumerate().find(|(index, _)| *index != position).unwrap().1;
    let begun = Instant::now();
    assert_eq!(site.value(&alive.url, "greeting").await.as_deref(), Some("hello"));
    site.set(&alive.url, "after", "the failover").await;
    assert!(begun.elapsed() < Duration::from_secs(10), "the failover took {:?}", begun.elapsed());

    nodes[position].restart();
    nodes[position].ready(&site).await;
    assert_eq!(site.value(&nodes[position].url, "after").await.as_deref(), Some("the failover"));

    let first = &nodes[0];
    let (status, reply) = site.post(&format!("{}/cluster-ticket", first.url), json!({}), Some(&first.token())).await;
    assert_eq!(status, 200, "{reply}");
    let ticket = site.path("ticket-4");
    std::fs::write(&ticket, reply["ticket"].as_str().unwrap()).unwrap();
    let fourth = site.start("n4", &["--ticket-file", &ticket.display().to_string()]).await;
    let id = node_id(&site, &fourth).await;
    let admin =
        async |path: &str, body: Value| site.post(&format!("{}{path}", first.url), body, Some(&first.token())).await;
    let begun = Instant::now();
    loop {
        let (status, reply) = admin("/promote-learner", json!({"node_id": id})).await;
        if status == 200 {
            assert!(reply["voters"].as_array().unwrap().contains(&json!(id)), "{reply}");
            break;
        }
        assert!(begun.elapsed() < production_support::PATIENCE, "{reply}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    voters(&site, &fourth.url, 4).await;
    assert_eq!(site.value(&fourth.url, "after").await.as_deref(), Some("the failover"));

    let (status, reply) = admin("/transfer-leader", json!({"to": id})).await;
    assert_eq!((status, &reply["leader"]), (200, &json!(id)), "{reply}");
    let (status, reply) = admin("/remove-node", json!({"node_id": ids[1]})).await;
    assert_eq!(status, 200, "{reply}");
    voters(&site, &fourth.url, 3).await;
    let (status, reply) = admin("/change-membership", json!({"voters": [ids[0], id]})).await;
    assert_eq!((status, &reply["voters"]), (200, &json!([ids[0], id])), "{reply}");
    site.set(&fourth.url, "last", "word").await;
    // The one that was removed knows, or is told by those who do not know it any more.
    let is_removed = |status: u16, error: &Value| {
        (status == 503 && error["message"].as_str()?.contains("removed from the cluster")).then_some(())
    };
    site.until(&format!("{}/readyz", nodes[1].url), "it says that it was removed", is_removed).await;
}

/// Nodes that share a cookie and know each other's keys, and `/init` on one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_by_hand() {
    let site = Site::new();
    let cookie = site.path("cookie");
    std::fs::write(&cookie, "a cookie for the test cluster").unwrap();
    let cookie = cookie.display().to_string();
    let places: Vec<String> = (1..=5).map(|n| format!("{}@{}", key(&site, n), own_address())).collect();
    let peers = places.join(",");
    let nodes: Vec<Process> = (1..=5)
        .map(|n| {
            let bind = places[n - 1].split_once('@').unwrap().1;
            let id = n.to_string();
            let more = ["--node-id", &id, "--cookie-file", &cookie, "--peers", &peers, "--bind-addr", bind];
            site.spawn(&format!("n{n}"), &more)
        })
        .collect();
    for node in &nodes {
        node.lives(&site).await;
    }
    let members: Vec<Value> =
        places.iter().enumerate().map(|(n, place)| json!({"node_id": n + 1, "address": place})).collect();
    let (status, reply) =
        site.post(&format!("{}/init", nodes[0].url), json!({"members": members}), Some(&nodes[0].token())).await;
    assert_eq!(status, 200, "{reply}");
    for node in &nodes {
        node.ready(&site).await;
    }
    for (n, node) in nodes.iter().enumerate() {
        site.set(&node.url, &format!("key-{n}"), "value").await;
    }
    let (_, scan) = site.get(&format!("{}/scan?prefix=key-", nodes[4].url)).await;
    assert_eq!(scan["rows"].as_array().unwrap().len(), 5);
    let mut nodes = nodes;
    nodes[1].kill();
    nodes[3].kill();
    site.set(&nodes[4].url, "with", "three of five").await;
    nodes[1].restart();
    nodes[1].ready(&site).await;
    assert_eq!(site.value(&nodes[1].url, "with").await.as_deref(), Some("three of five"));

    // A sixth takes the place of the fourth, which is gone. It is added before it runs, and gets its id by that.
    let place = format!("{}@{}", key(&site, 6), own_address());
    let asked = &nodes[0];
    let admin =
        async |path: &str, body: Value| site.post(&format!("{}{path}", asked.url), body, Some(&asked.token())).await;
    assert_eq!(admin("/add-peer", json!({"address": place})).await, (200, json!({"done": true})));
    let added = says_json(asked, &["member", "add", &place], 0);
    let id = added["node_id"].as_u64().unwrap();
    assert!(id > 5 && added["learners"] == json!([id]), "{added}");
    let refused = async |body: Value, why: &str| {
        let (status, error) = admin("/add-learner", body).await;
        assert_eq!((status, error["code"].as_str()), (409, Some("precondition-failed")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    };
    refused(json!({"address": place}), &format!("that of node {id}")).await;
    refused(json!({"address": places[0], "node_id": 0}), "that of node 1").await;
    let fresh = format!("{}@{}", key(&site, 7), own_address());
    refused(json!({"address": fresh, "node_id": id}), "a member already").await;
    refused(json!({"address": fresh, "node_id": 0}), "node ids begin with 1").await;
    let text = id.to_string();
    let bind = place.split_once('@').unwrap().1;
    let more = ["--node-id", &text, "--cookie-file", &cookie, "--peers", &peers, "--bind-addr", bind];
    let sixth = site.start("n6", &more).await;
    assert_eq!(admin("/promote-learner", json!({"node_id": id, "replace": 9, "force": true})).await.0, 409);
    until_done(&admin, "/promote-learner", json!({"node_id": id, "replace": 4, "force": true})).await;
    refused(json!({"address": fresh, "node_id": 4}), "never used again").await;
    let retained = until_done(&admin, "/change-membership", json!({"voters": [1, 2, 3, id], "retain": true})).await;
    assert_eq!((&retained["voters"], &retained["learners"]), (&json!([1, 2, 3, id]), &json!([5])));
    assert_eq!(admin("/change-membership", json!({"finish": true})).await.0, 409, "nothing is to be finished");
    assert!(says(asked, &["member", "promote", "5"], 0).contains("5"));
    until_done(&admin, "/transfer-leader", json!({"to": 1})).await;
    assert!(says(asked, &["leader", "transfer", &text], 0).contains(&format!("node {text} leads")));
    assert!(says(asked, &["member", "remove", "5"], 0).contains("voters"));
    site.value(&sixth.url, "with").await;
    // What the leader says of its followers.
    let (_, page) = site.get(&format!("{}/metrics", sixth.url)).await;
    let page = page.as_str().unwrap();
    for follower in 1..=3 {
        for name in ["aspen_replication_lag_entries", "aspen_heartbeat_age_seconds"] {
            assert!(page.contains(&format!("{name}{{node=\"{follower}\"}} ")), "{name} of {follower}: {page}");
        }
    }
    assert!(page.contains("aspen_raft_state{state=\"leader\"} 1\n"), "{page}");
}

/// Asks until a change is safe.
async fn until_done(admin: &impl AsyncFn(&str, Value) -> (u16, Value), path: &str, body: Value) -> Value {
    let begun = Instant::now();
    loop {
        let (status, reply) = admin(path, body.clone()).await;
        if status == 200 {
            return reply;
        }
        assert!(begun.elapsed() < production_support::PATIENCE, "{path} {body}: {reply}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `aspen-node key` makes the key that the node will have.
fn key(site: &Site, n: usize) -> String {
    let dir = site.path(&format!("n{n}"));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_aspen-node"))
        .args(["key", "--data-dir", &dir.display().to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A ticket admits as many nodes as it says, and none of another cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_used_up() {
    let site = Site::new();
    let ticket = site.path("ticket").display().to_string();
    let first = site.start("n1", &["--expect", "1", "--ticket-out", &ticket]).await;
    site.ticket(&ticket).await;
    let learner = site.start("n2", &["--ticket-file", &ticket]).await;
    assert_eq!(site.value(&learner.url, "nothing").await, None);
    let (_, info) = site.get(&format!("{}/node-info", learner.url)).await;
    assert_eq!(info["role"], "learner", "a ticket makes no voter: {info}");
    let mut late = site.spawn("n3", &["--ticket-file", &ticket]);
    assert_eq!(late.wait().code(), Some(1), "the ticket was for one node");
    let other = site.path("other").display().to_string();
    let _second_cluster = site.start("m1", &["--expect", "1", "--ticket-out", &other]).await;
    let text = site.ticket(&other).await;
    std::fs::write(&other, &text[..text.len() - 8]).unwrap();
    let mut cut = site.spawn("n4", &["--ticket-file", &other]);
    assert_eq!(cut.wait().code(), Some(2), "a cut ticket is none");
    // Not the last character, which may stand for less than five bits.
    let (head, tail) = text.split_at(text.len() - 2);
    let changed = if tail.starts_with('a') { "e" } else { "a" };
    std::fs::write(&other, format!("{head}{changed}{}", &tail[1..])).unwrap();
    let mut forged = site.spawn("n5", &["--ticket-file", &other]);
    assert_eq!(forged.wait().code(), Some(1), "who holds the secret says that it was changed");
    let (_, short) =
        site.post(&format!("{}/cluster-ticket", first.url), json!({"expires_in_s": 1}), Some(&first.token())).await;
    std::fs::write(&other, short["ticket"].as_str().unwrap()).unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let mut late = site.spawn("n6", &["--ticket-file", &other]);
    assert_eq!(late.wait().code(), Some(2), "it has expired, as the node can see itself");
    for name in ["n3", "n4", "n5", "n6"] {
        assert!(site.files(name).iter().all(|file| file == "lock"), "{name}: {:?}", site.files(name));
    }
    // The cluster keeps keys of its own in the store. Who does not ask for them does not see them.
    for key in ["a", "b"] {
        site.set(&first.url, key, "1").await;
    }
    let keys = async |query: &str| {
        let (status, scan) = site.get(&format!("{}/scan?{query}", first.url)).await;
        assert_eq!(status, 200, "{query}: {scan}");
        let rows = scan["rows"].as_array().unwrap().iter();
        (rows.map(|row| row["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), scan["more"] == true)
    };
    assert_eq!(keys("").await, (vec!["a".to_owned(), "b".to_owned()], false));
    assert_eq!(keys("limit=1").await, (vec!["a".to_owned()], true));
    assert_eq!(keys("prefix=%00").await, (vec![], false));
    let (reserved, _) = keys("prefix=%00aspen/").await;
    assert!(reserved.len() == 1 && reserved[0].starts_with("\0aspen/ticket/"), "{reserved:?}");
    // The learner has no secret, so it issues no tickets; it can be removed without a vote.
    let (status, reply) =
        site.post(&format!("{}/cluster-ticket", learner.url), json!({}), Some(&learner.token())).await;
    assert_eq!((status, &reply["code"]), (409, &json!("no-secret")));
    let id = info["node_id"].as_u64().unwrap();
    let (status, reply) =
        site.post(&format!("{}/remove-node", first.url), json!({"node_id": id}), Some(&first.token())).await;
    assert_eq!((status, &reply["learners"]), (200, &json!([])), "{reply}");
}

/// A client keeps writing while the leader is killed: every write is acknowledged, and has one effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_session_writes_through_a_failover() {
    let site = Site::new();
    let mut nodes = three(&site).await;
    let options = ClientOptions { deadline: production_support::PATIENCE, ..ClientOptions::default() };
    let client = HttpClient::new(nodes.iter().map(|node| node.url.clone()).collect(), options);
    let leads = leader(&site, &nodes[1].url).await;
    let ids = [node_id(&site, &nodes[0]).await, node_id(&site, &nodes[1]).await, node_id(&site, &nodes[2]).await];
    let position = ids.iter().position(|id| *id == leads).unwrap();
    let mut longest = Duration::ZERO;
    for n in 0..60 {
        if n == 20 {
            nodes[position].kill();
        }
        let begun = Instant::now();
        let command = Command::Set { key: format!("once-{n}").into_bytes(), value: b"v".to_vec() };
        let reply = client.execute(command).await.unwrap();
        assert_eq!(reply.result, WriteResult::Written { version: 1 }, "once-{n} was written twice");
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_secs(10), "a write took {longest:?}");
    let scan = ScanRequest { prefix: Some("once-".into()), ..ScanRequest::default() };
    assert_eq!(client.scan(&scan).await.unwrap().rows.len(), 60);
}

/// A follower that hears nobody serves what it has, but not to a client that wants it fresh. A node that was paused
/// goes on as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_peers_knows_that_it_is_stale() {
    let site = Site::new();
    let nodes = three(&site).await;
    site.set(&nodes[0].url, "a", "1").await;
    assert_eq!(site.value(&nodes[2].url, "a").await.as_deref(), Some("1"));
    let read = |more: &str| format!("{}/read?key=a&stale=true&timeout_ms=100{more}", nodes[2].url);
    assert_eq!(site.get(&read("&max_age_ms=2000")).await.0, 200);
    nodes[0].pause();
    nodes[1].pause();
    site.until(&read("&max_age_ms=300"), "the state is too old", |status, reply| {
        (status == 503 && reply["code"] == "too-stale").then_some(())
    })
    .await;
    let (status, reply) = site.get(&read("")).await;
    assert_eq!((status, &reply["row"]["value"]), (200, &json!("1")), "whatever its age");
    site.until(&format!("{}/readyz", nodes[2].url), "it is not ready", |status, _| (status == 503).then_some(())).await;
    nodes[0].resume();
    nodes[1].resume();
    site.set(&nodes[2].url, "a", "2").await;
    for node in &nodes {
        assert_eq!(site.value(&node.url, "a").await.as_deref(), Some("2"));
    }
}
