//! The verdict: what the oracles say of the record, and what the nodes themselves show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use aspen::production::http::schema::ScanReply;
use serde_json::json;
use sim_runtime::engine::oracle::Verdicts;
use sim_runtime::engine::report::{FaultCount, Metrics, OracleCount, RunReport, SCHEMA, Verdict, Violation};
use sim_runtime::engine::{OpKind, Plan};
use workloads::event::{Event, OpResult};
use workloads::oracles::{self, OracleConfig};

use super::clients::Record;
use super::cluster::Cluster;

/// One question to a node that is at rest.
const ASK: Duration = Duration::from_secs(5);
/// What an alarmed node writes to its log.
const ALARMS: [&str; 2] = ["assertion violated", "panicked at"];

/// Every node holds the same rows, up to the last revision that a client was told.
pub async fn compare_states(cluster: &Cluster, record: &Record) {
    let revision = record.events().iter().filter_map(|stamped| revision_of(&stamped.event)).max().unwrap_or(0);
    let body = json!({"limit": 10_000, "stale": {"min_revision": revision}, "timeout_ms": 5000}).to_string();
    let mut states: Vec<(u32, ScanReply)> = Vec::new();
    for node in &cluster.nodes {
        let answer = cluster.post(node, "/scan", body.clone().into_bytes(), ASK).await;
        match answer.and_then(|(_, said)| {
            serde_json::from_slice(&said).map_err(|_| String::from_utf8_lossy(&said).into_owned())
        }) {
            Ok(state) => states.push((node.index + 1, state)),
            Err(error) => {
                cluster.blame("agreement", format!("node {} shows no state: {error}", node.index + 1), record)
            }
        }
    }
    for pair in states.windows(2) {
        let [(a, first), (b, second)] = pair else { continue };
        if first.rows != second.rows {
            let differing = first.rows.iter().zip(&second.rows).find(|(one, other)| one != other);
            let shown =
                differing.map_or("one has more rows".to_owned(), |(one, other)| format!("{one:?} and {other:?}"));
            cluster.blame("agreement", format!("nodes {a} and {b} hold other rows at rest: {shown}"), record);
        }
    }
}

fn revision_of(event: &Event) -> Option<u64> {
    match event {
        Event::Returned { result, .. } => match &**result {
            OpResult::Written(reply) => Some(reply.revision),
            _ => None,
        },
        _ => None,
    }
}

/// A violated assertion or a panic is in the log of its node.
pub fn read_logs(cluster: &Cluster, record: &Record) {
    for node in &cluster.nodes {
        let Ok(log) = fs::read_to_string(&node.log) else { continue };
        if let Some(line) = log.lines().find(|line| ALARMS.iter().any(|alarm| line.contains(alarm))) {
            cluster.blame("process", format!("node {} says: {line}", node.index + 1), record);
        }
    }
}

pub fn report(cluster: &Cluster, record: &Record, plan: &Plan, faults: BTreeMap<String, FaultCount>) -> RunReport {
    let mut verdicts = Verdicts::default();
    // An oracle of a workload that is not in the plan owes nothing.
    let mut owed = BTreeSet::new();
    for mut oracle in oracles::of_clients(&OracleConfig::default()) {
        let property = oracle.property();
        let is_planned = |name| plan.clients.iter().any(|client| client.workload == name);
        if oracle.workload().is_none_or(is_planned) && plan.conclusive.owes(property) {
            owed.insert(property);
        }
        for event in &record.events() {
            oracle.on_event(event, &mut verdicts.judge(property));
        }
        oracle.finish(record.now_ns(), &mut verdicts.judge(property));
    }
    let mut violations: Vec<Violation> = verdicts.violations().to_vec();
    violations.extend(cluster.violations());
    violations.sort_by_key(|violation| violation.at_ns);
    let ops = record.ops();
    let mut doubts = verdicts.undecided().to_vec();
    if ops.ok < plan.conclusive.acked_min {
        doubts.push(format!("only {} operations were acknowledged, {} are needed", ops.ok, plan.conclusive.acked_min));
    }
    let judged: Vec<OracleCount> = verdicts.counts();
    for count in judged.iter().filter(|count| count.nontrivial == 0 && owed.contains(count.property.as_str())) {
        doubts.push(format!("the oracle {} judged nothing", count.property));
    }
    let verdict = match (violations.is_empty(), doubts.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, false) => Verdict::Inconclusive,
        (true, true) => Verdict::Pass,
    };
    let killed = |kind: &str| faults.get(kind).map_or(0, |count| count.injected);
    let acknowledged = record.ops_by_workload(plan).into_iter().map(|(of, ops)| (format!("acknowledged-{of}"), ops.ok));
    let metrics = Metrics {
        gauges: acknowledged.collect(),
        crashes: killed("crash"),
        partitions: killed("partition"),
        write_latency_us: record.latency(OpKind::Write),
        read_latency_us: record.latency(OpKind::Read),
        ..Metrics::default()
    };
    RunReport {
        verdict,
        violations,
        wall_time_ms: record.now_ns() / 1_000_000,
        ops: Some(ops),
        faults: Some(faults),
        oracles: Some(judged),
        metrics: Some(metrics),
        ..inconclusive(plan, doubts)
    }
}

/// Of a run in which nothing was judged: the nodes formed no cluster.
pub fn not_formed(plan: &Plan, reason: &str) -> RunReport {
    inconclusive(plan, vec![format!("no cluster was formed: {reason}")])
}

/// What only a simulation knows is null.
fn inconclusive(plan: &Plan, doubts: Vec<String>) -> RunReport {
    RunReport {
        schema: SCHEMA,
        seed: plan.seed,
        spec: plan.spec.clone(),
        verdict: Verdict::Inconclusive,
        violations: Vec::new(),
        doubts,
        digest: None,
        events: None,
        sim_time_ns: None,
        wall_time_ms: 0,
        cpu_time_ms: 0,
        memory_peak_kib: 0,
        ops: None,
        faults: None,
        assertions: None,
        buggify: None,
        oracles: None,
        power_loss: None,
        metrics: None,
        artifact: None,
    }
}
