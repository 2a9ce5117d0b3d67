//! One run, for somebody who has never seen one.

use std::time::Duration;

use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::{
    Latency, Metrics, Ops, PowerLossMoments, PowerLossReport, PowerLossShapes, RunReport, Verdict,
};

use super::figures::{bytes, count, counted, duration, latency, percent};
use super::page::{Page, Tone};
use super::{failure, table};
use crate::coverage::Coverage;

/// What is shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    pub request: &'a RunRequest,
    pub record: &'a RunRecord,
    pub stderr: &'a str,
    /// What the spec is, in one line.
    pub about: Option<&'a str>,
}

pub fn render(shown: &Shown<'_>) -> String {
    let report = &shown.record.report;
    let mut page = Page::default();
    title(&mut page, shown.request, report);
    page.gap();
    page.entry("spec", &format!("{}: {}", report.spec, shown.about.unwrap_or("unknown to this build")));
    for line in &shown.record.summary {
        let (label, text) = labelled(line);
        page.entry(label, text);
    }
    for doubt in &report.doubts {
        page.entry("doubt", doubt);
    }
    time(&mut page, report);
    if let Some(ops) = &report.ops {
        page.entry("operations", &operations(ops));
    }
    if let Some(metrics) = &report.metrics {
        cluster(&mut page, metrics);
    }
    faults(&mut page, report);
    if let Some(power_loss) = &report.power_loss {
        page.lines("power loss", &power_loss_lines(power_loss));
    }
    oracles(&mut page, report);
    coverage(&mut page, report);
    page.entry("digest", report.digest.as_deref().unwrap_or("none: the run left no record"));
    page.entry("artifact", report.artifact.as_deref().unwrap_or_default());
    page.entry("verdict", verdict_sentence(report));
    if report.verdict == Verdict::Fail {
        failure::render(&mut page, shown);
    } else if report.digest.is_none() || report.verdict == Verdict::Inconclusive {
        failure::stderr(&mut page, shown.stderr);
    }
    page.finish()
}

pub fn tone(verdict: Verdict) -> (Tone, &'static str) {
    match verdict {
        Verdict::Pass => (Tone::Good, "PASS"),
        Verdict::Fail => (Tone::Bad, "FAIL"),
        Verdict::Inconclusive => (Tone::Doubtful, "INCONCLUSIVE"),
    }
}

fn title(page: &mut Page, request: &RunRequest, report: &RunReport) {
    let (tone, word) = tone(report.verdict);
    let bug = request.bug.as_ref().map(|bug| format!(", planted bug {bug}")).unwrap_or_default();
    page.title(tone, word, &format!("seed {}, spec {}{bug}", report.seed, report.spec));
}

/// A line of the record may bring its own label: `cluster: 3 nodes`.
fn labelled(line: &str) -> (&str, &str) {
    match line.split_once(": ") {
        Some((label, text)) if label.len() <= 11 && label.chars().all(|c| c.is_ascii_lowercase() || c == ' ') => {
            (label, text)
        }
        _ => ("", line),
    }
}

fn time(page: &mut Page, report: &RunReport) {
    let wall = Duration::from_millis(report.wall_time_ms);
    let cpu = Duration::from_millis(report.cpu_time_ms);
    let text = match report.sim_time_ns.map(Duration::from_nanos) {
        Some(simulated) => format!(
            "{} simulated in {} of wall time ({} CPU), {}, {} MiB at most",
            duration(simulated),
            duration(wall),
            duration(cpu),
            counted(report.events.unwrap_or_default(), "event", "events"),
            report.memory_peak_kib.div_ceil(1024)
        ),
        None => format!("{} of wall time ({} CPU)", duration(wall), duration(cpu)),
    };
    page.entry("time", &text);
}

pub fn operations(ops: &Ops) -> String {
    let share = percent(ops.unknown, ops.attempted);
    let share = if share.is_empty() { share } else { format!(" ({share})") };
    format!(
        "{} attempted: {} ok, {} definitely failed, {} of unknown outcome{share}",
        count(ops.attempted),
        count(ops.ok),
        count(ops.failed),
        count(ops.unknown),
    )
}

fn cluster(page: &mut Page, metrics: &Metrics) {
    let percentiles = |name: &str, latency_us: &Latency| {
        let cells = [latency_us.p50, latency_us.p95, latency_us.p99, latency_us.max].map(latency);
        let mut row = vec![name.to_owned()];
        row.extend(cells);
        row
    };
    if metrics.write_latency_us.max > 0 || metrics.read_latency_us.max > 0 {
        let header = ["", "p50", "p95", "p99", "max"].map(str::to_owned).to_vec();
        let rows = [
            header,
            percentiles("virtual write", &metrics.write_latency_us),
            percentiles("virtual read", &metrics.read_latency_us),
        ];
        page.lines("latency", &table::figures(&rows));
    }
    let happened = [
        (metrics.elections, "election", "elections"),
        (metrics.leader_changes, "leader change", "leader changes"),
        (metrics.crashes, "crash", "crashes"),
        (metrics.power_losses, "power loss", "power losses"),
        (metrics.restarts, "restart", "restarts"),
        (metrics.partitions, "partition", "partitions"),
    ];
    let happened: Vec<String> = happened.iter().map(|(number, one, many)| counted(*number, one, many)).collect();
    page.entry("cluster", &happened.join(", "));
    page.entry("traffic", &format!("{}, {}", counted(metrics.rpcs, "request", "requests"), bytes(metrics.bytes_sent)));
    let syncs: Vec<String> =
        metrics.syncs_per_commit.iter().map(|(file, number)| format!("{file} {number:.2}")).collect();
    if !syncs.is_empty() {
        page.entry("disk syncs", &format!("per commit: {}", syncs.join(", ")));
    }
}

fn faults(page: &mut Page, report: &RunReport) {
    let Some(faults) = &report.faults else { return };
    let done: Vec<_> = faults.iter().filter(|(_, count)| count.injected > 0 || count.noticed > 0).collect();
    if done.is_empty() {
        page.entry("faults", "none injected");
        return;
    }
    let mut rows = vec![["", "injected", "noticed"].map(str::to_owned).to_vec()];
    rows.extend(done.iter().map(|(kind, faults)| vec![(*kind).clone(), count(faults.injected), count(faults.noticed)]));
    page.lines("faults", &table::figures(&rows));
}

/// What survived, when, and whether it mattered; empty when the power never went.
pub fn power_loss_lines(report: &PowerLossReport) -> Vec<String> {
    let PowerLossShapes { none, all, prefix, suffix, holes, torn } = report.shapes;
    let PowerLossMoments { before_write, between_write_and_sync, in_sync, in_recovery } = report.moments;
    let shapes =
        [("none", none), ("all", all), ("prefix", prefix), ("suffix", suffix), ("holes", holes), ("torn", torn)];
    let moments = [
        ("before a write", before_write),
        ("between write and sync", between_write_and_sync),
        ("in a sync", in_sync),
        ("in recovery", in_recovery),
    ];
    let shaped: u64 = shapes.iter().map(|(_, number)| number).sum();
    if shaped + report.nothing_pending == 0 {
        return Vec::new();
    }
    let listed = |parts: &[(&str, u64)]| {
        let parts: Vec<String> = parts.iter().map(|(name, number)| format!("{name} {}", count(*number))).collect();
        parts.join(", ")
    };
    vec![
        format!("survived  {}", listed(&shapes)),
        format!("moment    {}", listed(&moments)),
        format!(
            "nothing was un-synced {}, lost something on a node that later served {}",
            counted(report.nothing_pending, "time", "times"),
            counted(report.lost_then_served, "time", "times")
        ),
    ]
}

fn oracles(page: &mut Page, report: &RunReport) {
    let Some(oracles) = report.oracles.as_ref().filter(|oracles| !oracles.is_empty()) else { return };
    let mut rows = vec![["", "evaluated", "not trivial"].map(str::to_owned).to_vec()];
    rows.extend(
        oracles.iter().map(|oracle| vec![oracle.property.clone(), count(oracle.evaluated), count(oracle.nontrivial)]),
    );
    page.lines("oracles", &table::figures(&rows));
}

fn coverage(page: &mut Page, report: &RunReport) {
    if let Some(assertions) = &report.assertions {
        let mut coverage = Coverage::owed_by(&report.spec);
        coverage.add(assertions);
        let coverage = coverage.report();
        let sites = counted(coverage.total.try_into().unwrap_or(u64::MAX), "site", "sites");
        page.entry(
            "coverage",
            &format!("{} of the {sites} that this spec must reach over many seeds", coverage.reached),
        );
    }
    if let Some(sites) = &report.buggify {
        let live = sites.iter().filter(|site| site.live).count();
        let fired = sites.iter().filter(|site| site.fired > 0).count();
        let times = counted(sites.iter().map(|site| site.fired).sum(), "time", "times");
        page.entry("buggify", &format!("{live} of {} fault points live, {fired} fired ({times})", sites.len()));
    }
}

fn verdict_sentence(report: &RunReport) -> &'static str {
    match report.verdict {
        Verdict::Pass => "pass: every property held, and every oracle had something to judge",
        Verdict::Fail => "fail: a property was violated, see below",
        Verdict::Inconclusive => "inconclusive: too little happened to say that the properties hold",
    }
}
