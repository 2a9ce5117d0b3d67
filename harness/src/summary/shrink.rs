//! How small a failing run became.

use std::time::Duration;

use serde::Serialize;
use sim_runtime::engine::Plan;
use sim_runtime::engine::shrink::Size;

use super::figures::{count, duration};
use super::page::{Page, Tone};
use super::{command, table};
use crate::command::shrink::ShrinkReport;

/// How much there is in a plan, in the JSON of `shrink`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SizeReport {
    pub servers: u64,
    pub clients: u64,
    pub operations: u64,
    pub faults: u64,
    pub fault_points: u64,
    pub knobs: u64,
    pub duration_ns: u64,
}

impl From<Size> for SizeReport {
    fn from(size: Size) -> SizeReport {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        SizeReport {
            servers: u64::from(size.servers),
            clients: count(size.clients),
            operations: count(size.operations),
            faults: count(size.faults),
            fault_points: count(size.fault_points),
            knobs: count(size.knobs),
            duration_ns: size.duration_ns,
        }
    }
}

/// Operations and faults that are listed one by one.
const LISTED_MAX: usize = 40;

pub fn render(report: &ShrinkReport, plan: &Plan) -> String {
    let mut page = Page::default();
    page.title(Tone::Good, "SHRUNK", &format!("{} is still violated", report.property));
    page.gap();
    page.entry("violation", &report.message);
    let (from, to) = (&report.from, &report.to);
    let row = |what: &str, from: u64, to: u64| vec![what.to_owned(), count(from), count(to)];
    let time = |ns| duration(Duration::from_nanos(ns));
    let rows = vec![
        vec![String::new(), "from".to_owned(), "to".to_owned()],
        row("servers", from.servers, to.servers),
        row("clients", from.clients, to.clients),
        row("operations", from.operations, to.operations),
        row("faults", from.faults, to.faults),
        row("fault points", from.fault_points, to.fault_points),
        row("tunables off default", from.knobs, to.knobs),
        vec!["simulated".to_owned(), time(from.duration_ns), time(to.duration_ns)],
    ];
    page.lines("size", &table::figures(&rows));
    page.entry("plans tried", &count(report.runs));
    page.lines("faults", &limited(plan.faults.iter().map(one_fault).collect()));
    page.lines("operations", &limited(operations(plan)));
    page.entry("must reach", &report.sites.join("; "));
    page.entry("scenario", &report.scenario);
    page.entry("test", &report.test);
    page.heading("Next");
    page.verbatim(&command(&["replay", &report.scenario]));
    page.verbatim(&command(&["seeds", "add", &report.scenario, "--why", "what it guards"]));
    page.finish()
}

fn one_fault(planned: &sim_runtime::engine::plan::PlannedFault) -> String {
    let text = |value: serde_json::Result<String>| value.expect("a plan is plain data");
    format!("{} when {}", text(serde_json::to_string(&planned.fault)), text(serde_json::to_string(&planned.when)))
}

/// In the order of their times.
fn operations(plan: &Plan) -> Vec<String> {
    let mut all = Vec::new();
    for (client, planned) in plan.clients.iter().enumerate() {
        all.extend(planned.ops.iter().map(|op| (op.not_before_ns, client, op.op.to_string())));
    }
    all.sort();
    all.into_iter().map(|(at, client, op)| format!("{} client {client}: {op}", super::figures::moment(at))).collect()
}

fn limited(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > LISTED_MAX {
        let more = lines.len() - LISTED_MAX;
        lines.truncate(LISTED_MAX);
        lines.push(format!("… {more} more"));
    }
    lines
}
