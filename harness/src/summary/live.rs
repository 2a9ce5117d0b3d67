//! A run of real processes.

use std::collections::BTreeMap;
use std::time::Duration;

use sim_runtime::engine::Plan;
use sim_runtime::engine::report::{Latency, Ops, RunReport, Verdict};

use super::figures::{count, duration, latency};
use super::page::{Page, Tone};
use super::run::{self, tone};
use super::table;

/// Violations shown.
const VIOLATIONS_MAX: usize = 6;

pub fn render(
    plan: &Plan,
    report: &RunReport,
    by_workload: &BTreeMap<String, Ops>,
    namespaces: bool,
    bug: Option<&str>,
) -> String {
    let mut page = Page::default();
    let (mood, word) = tone(report.verdict);
    let bug = bug.map(|bug| format!(", bug {bug}")).unwrap_or_default();
    page.title(mood, word, &format!("live, plan of seed {}{bug}", report.seed));
    page.gap();
    let ops: usize = plan.clients.iter().map(|client| client.ops.len()).sum();
    page.entry(
        "topology",
        &format!(
            "{} processes, {} clients over HTTP and iroh, {} operations and {} faults planned",
            plan.servers,
            plan.clients.len(),
            count(ops.try_into().unwrap_or(u64::MAX)),
            plan.faults.len()
        ),
    );
    page.entry(
        "network",
        match namespaces {
            true => "a namespace per node; links are cut between them",
            false => "loopback: network namespaces are not permitted here, so cuts are skipped",
        },
    );
    page.entry("time", &duration(Duration::from_millis(report.wall_time_ms)));
    for doubt in &report.doubts {
        page.entry("doubt", doubt);
    }
    if let Some(ops) = &report.ops {
        page.entry("operations", &run::operations(ops));
    }
    let mut rows = vec![["", "clients", "attempted", "ok", "failed", "unknown"].map(str::to_owned).to_vec()];
    for (workload, ops) in by_workload {
        let clients = plan.clients.iter().filter(|client| client.workload == *workload).count();
        let mut row = vec![workload.clone(), clients.to_string()];
        match ops.attempted {
            // Upkeep is not counted when it is asked for.
            0 => row.extend(["", &count(ops.ok), "", ""].map(str::to_owned)),
            _ => row.extend([ops.attempted, ops.ok, ops.failed, ops.unknown].map(count)),
        }
        rows.push(row);
    }
    if !by_workload.is_empty() {
        page.lines("workloads", &table::figures(&rows));
    }
    if let Some(metrics) = &report.metrics {
        let row = |name: &str, of: &Latency| {
            let mut row = vec![name.to_owned()];
            row.extend([of.p50, of.p95, of.p99, of.max].map(latency));
            row
        };
        let header = ["", "p50", "p95", "p99", "max"].map(str::to_owned).to_vec();
        let rows = [header, row("write", &metrics.write_latency_us), row("read", &metrics.read_latency_us)];
        page.lines("latency", &table::figures(&rows));
    }
    if let Some(faults) = report.faults.as_ref().filter(|faults| !faults.is_empty()) {
        let mut rows = vec![["", "injected", "noticed"].map(str::to_owned).to_vec()];
        rows.extend(faults.iter().map(|(kind, of)| vec![kind.clone(), count(of.injected), count(of.noticed)]));
        page.lines("faults", &table::figures(&rows));
    }
    if let Some(oracles) = &report.oracles {
        let mut rows = vec![["", "evaluated", "not trivial"].map(str::to_owned).to_vec()];
        rows.extend(oracles.iter().map(|of| vec![of.property.clone(), count(of.evaluated), count(of.nontrivial)]));
        page.lines("oracles", &table::figures(&rows));
    }
    page.entry("left behind", report.artifact.as_deref().unwrap_or_default());
    if report.verdict == Verdict::Fail {
        page.gap();
        page.title(Tone::Bad, "VIOLATED", "");
        for violation in report.violations.iter().take(VIOLATIONS_MAX) {
            page.paragraph(&format!("{}: {}", violation.property, violation.message));
        }
    }
    page.finish()
}
