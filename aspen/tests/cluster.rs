//! Real nodes on real files, connected in memory: what a cluster promises its clients, one promise per test.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aspen::client::ClientTuning;
use aspen::command::{Command, Expect, Outcome, Pair, Query};
use aspen::config::RaftTuning;
use aspen::error::{ErrorCode, ErrorOutcome};
use aspen::message::{ClusterId, Envelope, Request, Response, decode_response, encode_request};
use aspen::node::{InitializeFailed, Phase, StopReason};
use aspen::room::LOOK_PAUSE;
use aspen::store::StoreConfig;
use aspen::transport::Transport;
use aspen::types::{Address, NodeId};
use openraft::async_runtime::watch::WatchReceiver;
use support::cluster::{CLUSTER, Cluster, PATIENCE, address, get, name, set, tuning, value};
use support::net::Fate;

/// Every command has its reply, revisions grow, and a read sees every write before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_queries_are_served() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(true);

    let written = client.execute(set("a", "1")).await.unwrap();
    assert_eq!(written.outcome, Outcome::Written { version: 1 });
    let again = client.execute(set("a", "2")).await.unwrap();
    assert_eq!(again.outcome, Outcome::Written { version: 2 });
    assert!(again.revision > written.revision);
    let cas = |expect| Command::CompareAndSwap { key: b"a".to_vec(), expect, value: b"3".to_vec() };
    let missed = client.execute(cas(Expect::Value(b"1".to_vec()))).await.unwrap();
    assert!(matches!(missed.outcome, Outcome::NotMatched { found: Some(_) }));
    let swapped = client.execute(cas(Expect::ModRevision(again.revision))).await.unwrap();
    assert_eq!(swapped.outcome, Outcome::Written { version: 3 });
    let pair = |key: &str| Pair { key: key.into(), value: b"x".to_vec() };
    client.execute(Command::SetMulti { pairs: vec![pair("b"), pair("c")] }).await.unwrap();
    let deleted = client.execute(Command::Delete { key: b"b".to_vec() }).await.unwrap();
    assert_eq!(deleted.outcome, Outcome::Deleted { existed: true });

    let answer = client.query(get("a")).await.unwrap();
    assert_eq!(value(&answer).as_deref(), Some("3"));
    assert!(answer.revision >= deleted.revision);
    let scan = Query::Scan { start: vec![], end: None, limit: 10 };
    let keys: Vec<_> = client.query(scan).await.unwrap().rows.into_iter().map(|row| row.key).collect();
    assert_eq!(keys, [b"a", b"c"]);
    assert_eq!(client.leader().await.unwrap().unwrap().id, cluster.leader().await);
    cluster.converge().await;
    cluster.stop().await;
}

/// A new leader has everything that the old one acknowledged, and the old one comes back as a follower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(true);
    for i in 0..20 {
        client.execute(set(&format!("key-{i}"), "before")).await.unwrap();
    }
    let old = cluster.leader().await;
    cluster.kill(old).await;
    for i in 20..40 {
        client.execute(set(&format!("key-{i}"), "after")).await.unwrap();
    }
    let new = cluster.leader().await;
    assert_ne!(new, old);
    cluster.start_node(old).await;
    assert!(cluster.nodes[&old].serving(PATIENCE).await);
    cluster.converge().await;
    for i in 0..40 {
        let answer = client.query(get(&format!("key-{i}"))).await.unwrap();
        assert_eq!(value(&answer).as_deref(), Some(if i < 20 { "before" } else { "after" }));
    }
    cluster.stop().await;
}

/// After all nodes were stopped, one alone serves nobody; a quorum serves everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_restarts_and_serves_only_once_it_has_recovered() {
    let mut cluster = Cluster::start(3).await;
    cluster.client(true).execute(set("kept", "yes")).await.unwrap();
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    cluster.start_node(1).await;
    assert!(cluster.nodes[&1].recovery().log.last().is_some());
    let impatient = ClientTuning { deadline_ms: 500, ..ClientTuning::default() };
    let error = cluster.client_of(1, impatient).query(get("kept")).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Recovering, ErrorOutcome::Definite));
    assert_eq!(cluster.nodes[&1].phase(), Phase::Recovering);

    cluster.start_node(2).await;
    cluster.leader().await;
    let answer = cluster.client(false).query(get("kept")).await.unwrap();
    assert_eq!(value(&answer).as_deref(), Some("yes"));
    cluster.stop().await;
}

/// A cluster is formed once, by a member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_formed_once() {
    let cluster = Cluster::start(1).await;
    let members = |id| [(id, aspen::types::Member { address: address(id) })].into_iter().collect();
    assert_eq!(cluster.nodes[&1].initialize(members(1)).await, Err(InitializeFailed::Already));
    cluster.stop().await;
    let mut pristine = Cluster::start(1).await;
    pristine.start_node(9).await;
    assert_eq!(pristine.nodes[&9].initialize(members(1)).await, Err(InitializeFailed::NotAMember(9)));
    pristine.stop().await;
}

/// A follower that lags behind the purged log is brought up by a snapshot. Chunks are lost on the way, once so many that
/// the transfer breaks off; it goes on where it stopped, and never starts over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_node_gets_a_snapshot_over_a_lossy_link() {
    let tuning = RaftTuning {
        snapshot_entries: 20,
        log_keep_entries: 0,
        snapshot_call_timeout_ms: 300,
        snapshot_retries: 2,
        ..tuning()
    };
    let mut store = StoreConfig::default();
    store.limits.snapshot_chunk_bytes = 4 << 10;
    let cluster = Cluster::start_with(3, tuning, store).await;
    let leader = cluster.leader().await;
    let lagging = if leader == 3 { 2 } else { 3 };
    let client = cluster.client(true);
    cluster.net.isolate(&name(lagging));
    let big = "x".repeat(2 << 10);
    for i in 0..60 {
        client.execute(set(&format!("key-{i}"), &big)).await.unwrap();
    }
    let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|id| *id != lagging).collect();
    let source = cluster.leader_among(&others).await;
    let behind = cluster.nodes[&lagging].reader().applied().unwrap().index;
    cluster
        .until("the leader purged what the follower lacks", || {
            let purged = cluster.nodes[&source].raft().metrics().borrow_watched().purged;
            purged.filter(|purged| purged.index > behind)
        })
        .await;

    let offsets = Arc::new(Mutex::new(Vec::new()));
    let (seen, calls, to) = (offsets.clone(), AtomicU64::new(0), address(lagging));
    cluster.net.rule(move |_, target, envelope| {
        let Request::SnapshotChunk(chunk) = &envelope.request else { return Fate::Deliver };
        if *target != to {
            return Fate::Deliver;
        }
        let call = calls.fetch_add(1, Ordering::SeqCst);
        // Calls 6 to 11 in a row are lost: more than the retries of one transfer.
        let fate = match call {
            6..12 => Fate::LoseRequest,
            call if call % 5 == 2 => Fate::LoseRequest,
            call if call % 5 == 4 => Fate::LoseReply,
            _ => Fate::Deliver,
        };
        seen.lock().unwrap().push((chunk.checksum, chunk.offset, fate));
        fate
    });
    cluster
        .until("the follower has a snapshot", || {
            cluster.nodes[&lagging].reader().snapshot().filter(|id| id.index > behind)
        })
        .await;
    cluster.net.heal();
    cluster.converge().await;
    let offsets = offsets.lock().unwrap().clone();
    let lost = offsets.iter().filter(|(.., fate)| *fate != Fate::Deliver).count();
    assert!(lost >= 6, "chunks were lost: {offsets:?}");
    // What was acknowledged is not sent again, within and across the transfers of one snapshot.
    let mut acknowledged: BTreeSet<([u8; 32], u64)> = BTreeSet::new();
    for (checksum, offset, fate) in offsets.iter() {
        let again = acknowledged.contains(&(*checksum, *offset));
        assert!(!again, "chunk {offset} was sent again after it was acknowledged: {offsets:?}");
        if *fate != Fate::LoseRequest {
            acknowledged.insert((*checksum, *offset));
        }
    }
    cluster.stop().await;
}

/// A follower has more entries from its leader than a snapshot of that leader, and does not know that they are committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_the_log_has_overtaken_is_not_installed() {
    let tuning = RaftTuning { snapshot_entries: 100_000, log_keep_entries: 1000, ..tuning() };
    let cluster = Cluster::start_with(3, tuning, StoreConfig::default()).await;
    let leader = cluster.leader().await;
    let (raft, behind) = (cluster.nodes[&leader].raft(), if leader == 3 { 2 } else { 3 });
    let client = cluster.client(true);
    cluster.converge().await;
    // The follower hears nothing; what is said to it is kept.
    let appends: Arc<Mutex<Vec<(u64, Envelope)>>> = Arc::default();
    let (may_install, finished) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (kept, may, finishes, to) = (appends.clone(), may_install.clone(), finished.clone(), address(behind));
    cluster.net.rule(move |from, target, envelope| match &envelope.request {
        _ if *target != to || from.0 == "late" => Fate::Deliver,
        Request::Append(append) => {
            let end = append.prev.map_or(0, |id| id.index) + append.entries.len() as u64;
            kept.lock().unwrap().push((end, envelope.clone()));
            Fate::LoseRequest
        }
        Request::SnapshotBegin(_) if !may.load(Ordering::SeqCst) => Fate::LoseRequest,
        Request::SnapshotFinish(_) => {
            finishes.fetch_add(1, Ordering::SeqCst);
            Fate::Deliver
        }
        _ => Fate::Deliver,
    });
    for i in 0..10 {
        client.execute(set(&format!("key-{i}"), "in the snapshot")).await.unwrap();
    }
    raft.trigger().snapshot().await.unwrap();
    let snapshot = cluster.until("a snapshot", || cluster.nodes[&leader].reader().snapshot()).await;
    for i in 0..10 {
        client.execute(set(&format!("more-{i}"), "past it")).await.unwrap();
    }
    let longest = || appends.lock().unwrap().iter().max_by_key(|(end, _)| *end).cloned();
    let (_, mut envelope) =
        cluster.until("an append past the snapshot", || longest().filter(|(end, _)| *end > snapshot.index)).await;
    raft.trigger().purge_log(snapshot.index).await.unwrap();
    cluster
        .until("the leader purged what the follower lacks", || {
            raft.metrics().borrow_watched().purged.filter(|purged| purged.index == snapshot.index)
        })
        .await;
    // The entries arrive after all, as a leader sends them that does not know yet what is committed; their answer is lost.
    let Request::Append(append) = &mut envelope.request else { unreachable!("only appends were kept") };
    append.commit = None;
    let late = cluster.net.endpoint("late").call(&address(behind), encode_request(&envelope), PATIENCE).await;
    assert!(late.is_ok(), "{late:?}");
    may_install.store(true, Ordering::SeqCst);
    cluster.until("the transfer is over", || (finished.load(Ordering::SeqCst) > 1).then_some(())).await;
    cluster.net.heal();
    cluster.converge().await;
    let follower = cluster.nodes[&behind].raft().metrics();
    assert!(follower.borrow_watched().running_state.is_ok());
    assert_eq!(cluster.nodes[&behind].reader().snapshot(), None, "nothing was to be gained by it");
    cluster.stop().await;
}

/// Replies are lost again and again; with a session every operation still has exactly one effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_makes_retries_harmless() {
    let cluster = Cluster::start(3).await;
    let (sent, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (sends, loses, leader) = (sent.clone(), lost.clone(), address(cluster.leader().await));
    cluster.net.rule(move |_, to, envelope| {
        if *to != leader || !matches!(envelope.request, Request::Write { .. }) {
            return Fate::Deliver;
        }
        match sends.fetch_add(1, Ordering::SeqCst) % 3 {
            1 => {
                loses.fetch_add(1, Ordering::SeqCst);
                Fate::LoseReply
            }
            2 => Fate::LoseRequest,
            _ => Fate::Deliver,
        }
    });
    let tuning = ClientTuning { deadline_ms: 20_000, attempt_ms: 200, ..ClientTuning::default() };
    let client = cluster.client_with(true, tuning);
    // Each step succeeds only if the step before was applied, and once only.
    let mut expect = Expect::Absent;
    let mut revision = 0;
    for step in 0..8u32 {
        let value = step.to_string().into_bytes();
        let command = Command::CompareAndSwap { key: b"counter".to_vec(), expect, value: value.clone() };
        let reply = client.execute(command).await.unwrap();
        assert_eq!(reply.outcome, Outcome::Written { version: u64::from(step) + 1 });
        assert!(reply.revision > revision);
        (expect, revision) = (Expect::Value(value), reply.revision);
    }
    assert!(lost.load(Ordering::SeqCst) >= 3, "replies were lost");
    cluster.net.heal();
    let answer = client.query(get("counter")).await.unwrap();
    assert_eq!(answer.rows[0].meta.version, 8, "exactly one effect per operation");
    cluster.stop().await;
}

/// Without a session a write that may have been delivered is sent once, and ends unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_session_a_delivered_write_is_never_repeated() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for (fate, applied) in [(Fate::LoseReply, true), (Fate::LoseRequest, false)] {
        let sent = Arc::new(AtomicU64::new(0));
        let sends = sent.clone();
        let to = address(leader);
        cluster.net.rule(move |_, target, envelope| match &envelope.request {
            Request::Write { .. } if *target == to => {
                sends.fetch_add(1, Ordering::SeqCst);
                fate
            }
            _ => Fate::Deliver,
        });
        let tuning = ClientTuning { attempt_ms: 500, ..ClientTuning::default() };
        let key = format!("{fate:?}");
        let error = cluster.client_with(false, tuning).execute(set(&key, "once")).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (ErrorCode::Timeout, ErrorOutcome::Unknown));
        assert_eq!(sent.load(Ordering::SeqCst), 1);
        cluster.net.heal();
        let answer = cluster.client(false).query(get(&key)).await.unwrap();
        assert_eq!(value(&answer).is_some(), applied);
    }
    cluster.stop().await;
}

/// A leader cut off from its quorum: what it had taken ends unknown, what it refuses is definite and has no effect, and
/// it answers no read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_lies_to_nobody() {
    let cluster = Cluster::start(3).await;
    cluster.client(false).execute(set("key", "old")).await.unwrap();
    let old = cluster.leader().await;
    let side = [address(old), Address(format!("{}-client", name(old)))];
    cluster.net.rule(
        move |from, to, _| {
            if side.contains(from) == side.contains(to) { Fate::Deliver } else { Fate::LoseRequest }
        },
    );
    let impatient = ClientTuning { deadline_ms: 300, ..ClientTuning::default() };
    let beside_it = cluster.client_of(old, impatient);
    let read = beside_it.query(get("key")).await.unwrap_err();
    assert_eq!(read.outcome, ErrorOutcome::Definite, "a failed read changes nothing");
    let refused = loop {
        let error = beside_it.execute(set("key", "refused")).await.unwrap_err();
        if error.outcome == ErrorOutcome::Definite {
            break error;
        }
        assert_eq!(error.code, ErrorCode::Timeout);
    };
    assert!(matches!(refused.code, ErrorCode::NoQuorum | ErrorCode::NotLeader), "{refused}");
    beside_it.query(get("key")).await.unwrap_err();

    let rest: Vec<NodeId> = cluster.nodes.keys().copied().filter(|id| *id != old).collect();
    cluster.leader_among(&rest).await;
    let tuning = ClientTuning { deadline_ms: 20_000, attempt_ms: 500, ..ClientTuning::default() };
    cluster.client_with(true, tuning).execute(set("key", "new")).await.unwrap();
    beside_it.query(get("key")).await.expect_err("a deposed leader serves no read");
    cluster.net.heal();
    cluster.converge().await;
    let answer = cluster.client(false).query(get("key")).await.unwrap();
    assert_eq!(value(&answer).as_deref(), Some("new"));
    cluster.stop().await;
}

/// A node that comes back from isolation deposes nobody: its pre-votes were refused, and its term did not grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_node_does_not_disturb_the_cluster_when_it_returns() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let isolated = if leader == 3 { 2 } else { 3 };
    let term = |id| cluster.nodes[&id].raft().metrics().borrow_watched().current_term;
    let before = term(leader);
    let asked = Arc::new(AtomicU64::new(0));
    let (asks, alone) = (asked.clone(), address(isolated));
    cluster.net.rule(move |from, to, envelope| {
        if *from == alone && matches!(envelope.request, Request::PreVote(_)) {
            asks.fetch_add(1, Ordering::SeqCst);
        }
        if (*from == alone) == (*to == alone) { Fate::Deliver } else { Fate::LoseRequest }
    });
    cluster.until("it asked for pre-votes twice", || (asked.load(Ordering::SeqCst) >= 4).then_some(())).await;
    assert_eq!(term(isolated), before);
    cluster.net.heal();
    cluster.client(true).execute(set("key", "value")).await.unwrap();
    cluster.converge().await;
    assert_eq!((cluster.leader().await, term(isolated)), (leader, before));
    cluster.stop().await;
}

/// Requests over a limit, too many at once, for another node or cluster, or that make no sense, are refused at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_is_refused_for_a_definite_reason() {
    let mut store = StoreConfig::default();
    store.limits.proposals_in_flight_max = 1;
    store.limits.key_bytes_max = 8;
    store.limits.value_bytes_max = 16;
    let cluster = Cluster::start_with(3, tuning(), store).await;
    let leader = cluster.leader().await;
    let client = cluster.client(false);
    for command in [set("", "empty"), set("much-too-long", "key"), set("key", "a value that is too long")] {
        let error = client.execute(command).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (ErrorCode::LimitExceeded, ErrorOutcome::Definite));
    }
    let scan = Query::Scan { start: vec![], end: None, limit: 0 };
    assert_eq!(client.query(scan).await.unwrap_err().code, ErrorCode::LimitExceeded);

    // One proposal is stuck without its quorum, so the next one is one too many.
    cluster.net.rule(|_, _, envelope| match envelope.request {
        Request::Append(ref append) if !append.entries.is_empty() => Fate::LoseRequest,
        _ => Fate::Deliver,
    });
    let tuning = ClientTuning { deadline_ms: 300, ..ClientTuning::default() };
    let impatient = cluster.client_of(leader, tuning);
    let (first, second) = futures_util::join!(impatient.execute(set("a", "1")), impatient.execute(set("b", "2")));
    let outcomes = [first, second].map(|result| result.unwrap_err().code);
    assert!(outcomes.contains(&ErrorCode::Overloaded) && outcomes.contains(&ErrorCode::Timeout), "{outcomes:?}");
    let third = impatient.execute(set("c", "3")).await.unwrap_err();
    assert_eq!(third.code, ErrorCode::Overloaded, "the first is still in flight, though its client has left");
    cluster.net.heal();
    cluster.client(true).execute(set("d", "4")).await.unwrap();
    let answer = client.query(Query::Scan { start: vec![], end: None, limit: 10 }).await.unwrap();
    assert!(!answer.rows.iter().any(|row| row.key == b"c"), "what was refused has no effect");

    let outside = cluster.net.endpoint("outside");
    let ask = async |request: Vec<u8>| {
        let reply = outside.call(&address(leader), request, PATIENCE).await.unwrap();
        match decode_response(&reply, 1 << 20).unwrap() {
            Response::Refused(refusal) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    let envelope = |cluster, to, request| encode_request(&Envelope { cluster, to, request });
    let read = || Request::Read { query: get("a"), budget_ms: 1000 };
    assert_eq!(ask(vec![]).await, ErrorCode::Malformed);
    assert_eq!(ask(vec![1, 2, 3]).await, ErrorCode::Malformed);
    assert_eq!(ask(envelope(ClusterId(1), None, read())).await, ErrorCode::WrongCluster);
    assert_eq!(ask(envelope(CLUSTER, Some(99), read())).await, ErrorCode::WrongNode);
    let of_node = Request::TransferLeader(aspen::message::TransferRequest {
        from: aspen::message::WireVote { term: 1, node: 1, committed: true },
        to: leader,
        last: None,
    });
    assert_eq!(ask(envelope(CLUSTER, None, of_node)).await, ErrorCode::Malformed);
    cluster.stop().await;
}

/// A leader with a nearly full disk takes what makes room, and everything once there is some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_disk_takes_deletes_and_recovers_by_itself() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(true);
    client.execute(set("a", "1")).await.unwrap();
    cluster.envs.values().for_each(|env| env.fill_disk(96));
    let tuning = ClientTuning { deadline_ms: 1000, ..ClientTuning::default() };
    let impatient = cluster.client_with(false, tuning);
    let error =
        cluster.until_async("the disk is looked at", async || impatient.execute(set("b", "2")).await.err()).await;
    assert_eq!((error.code, error.outcome), (ErrorCode::DiskFull, ErrorOutcome::Definite), "{error}");
    impatient.execute(Command::Delete { key: b"a".to_vec() }).await.unwrap();
    assert_eq!(value(&impatient.query(get("a")).await.unwrap()), None);

    // Not yet: a disk that was full must have more room than one that was not.
    cluster.envs.values().for_each(|env| env.fill_disk(94));
    tokio::time::sleep(2 * LOOK_PAUSE).await;
    assert_eq!(impatient.execute(set("c", "3")).await.unwrap_err().code, ErrorCode::DiskFull);
    cluster.envs.values().for_each(|env| env.fill_disk(93));
    client.execute(set("d", "4")).await.unwrap();
    cluster.stop().await;
}

/// A leader that is asked to stop hands over, answers what is in flight, and is gone in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_stops_gracefully() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let client = cluster.client(true);
    client.execute(set("key", "value")).await.unwrap();
    let node = cluster.nodes.remove(&leader).unwrap();
    let begun = Instant::now();
    node.shutdown().await;
    assert!(begun.elapsed() < Duration::from_millis(cluster.tuning.stop_timeout_ms) + Duration::from_secs(1));
    assert_eq!(node.stopped().await, StopReason::Requested);
    assert_eq!(node.phase(), Phase::Stopping);
    assert!(!node.serving(Duration::ZERO).await);
    let new = cluster.leader().await;
    assert_ne!(new, leader);
    client.execute(set("key", "again")).await.unwrap();
    let gone = ClientTuning { deadline_ms: 200, ..ClientTuning::default() };
    let error = cluster.client_of(leader, gone).execute(set("key", "lost")).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Unreachable, ErrorOutcome::Definite));
    // Its files are closed: it starts again on them.
    cluster.start_node(leader).await;
    cluster.converge().await;
    cluster.stop().await;
}

/// A disk error is fatal: the node stops by itself and says why; the others go on, and it comes back on a new disk
/// handle with everything it had acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_stops_and_says_why() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(true);
    client.execute(set("key", "before")).await.unwrap();
    let leader = cluster.leader().await;
    cluster.envs[&leader].break_log();
    let node = cluster.nodes.remove(&leader).unwrap();
    client.execute(set("key", "after")).await.unwrap();
    let why = tokio::time::timeout(PATIENCE, node.failed()).await.unwrap();
    assert_eq!(node.stopped().await, StopReason::Failed(why.clone()));
    assert!(why.contains("the disk is broken"), "{why}");
    assert_eq!(node.phase(), Phase::Stopping);
    node.shutdown().await;
    cluster.start_node(leader).await;
    cluster.converge().await;
    let answer = client.query(get("key")).await.unwrap();
    assert_eq!(value(&answer).as_deref(), Some("after"));
    cluster.stop().await;
}

/// A session that expired unused is opened again without the caller's noticing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_session_is_opened_again() {
    let cluster = Cluster::start(1).await;
    let tuning = ClientTuning { session_ttl_ms: 50, deadline_ms: 20_000, ..ClientTuning::default() };
    let client = cluster.client_with(true, tuning);
    let first = client.open_session().await.unwrap();
    assert_eq!(client.open_session().await.unwrap(), first, "it is open already");
    client.execute(set("mine", "1")).await.unwrap();
    // Log time passes as others write.
    let other = cluster.client(false);
    let expires = cluster.nodes[&1].reader().log_time_ms() + 100;
    while cluster.nodes[&1].reader().log_time_ms() < expires {
        other.execute(set("theirs", "1")).await.unwrap();
    }
    let reply = client.execute(set("mine", "2")).await.unwrap();
    assert_eq!(reply.outcome, Outcome::Written { version: 2 });
    assert_ne!(client.open_session().await.unwrap(), first);
    client.refresh_session().await.unwrap();
    client.close_session().await.unwrap();
    client.close_session().await.unwrap();
    cluster.stop().await;
}
