//! Many runs, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use sim_runtime::engine::record::RunRequest;

use super::figures::{count, duration, percent};
use super::page::{Page, Tone};
use super::{replay_command, run, table};
use crate::Exit;
use crate::tally::{Failure, Tally};

/// Failing seeds listed per property.
const SEEDS_MAX: usize = 5;
/// Inconclusive seeds listed with their reasons.
const DOUBTS_MAX: usize = 20;
/// Unreached sites listed.
const SITES_MAX: usize = 60;

pub fn render(tally: &Tally, wall_time: Duration, request: &RunRequest, wants_coverage: bool) -> String {
    let mut page = Page::default();
    let (tone, word) = title(tally.exit(wants_coverage));
    let bug = request.bug.as_ref().map(|bug| format!(", planted bug {bug}")).unwrap_or_default();
    let extent = format!("{} seeds from {}, spec {}{bug}", count(tally.seeds_run), request.seed, request.spec);
    page.title(tone, word, &extent);
    page.gap();
    page.entry("runs", &runs(tally));
    page.entry("operations", &run::operations(&tally.ops));
    faults(&mut page, tally);
    page.lines("power loss", &power_loss(tally));
    page.entry("throughput", &throughput(tally, wall_time));
    calibration(&mut page, tally);
    coverage(&mut page, tally);
    doubts(&mut page, tally);
    failures(&mut page, tally, request);
    page.finish()
}

fn title(exit: Exit) -> (Tone, &'static str) {
    match exit {
        Exit::Pass => (Tone::Good, "PASS"),
        Exit::Violated | Exit::Usage => (Tone::Bad, "FAIL"),
        Exit::NotDeterministic => (Tone::Bad, "NOT DETERMINISTIC"),
        Exit::NotReached => (Tone::Doubtful, "NOT COVERED"),
        Exit::Inconclusive => (Tone::Doubtful, "INCONCLUSIVE"),
        Exit::Interrupted => (Tone::Doubtful, "INTERRUPTED"),
    }
}

fn runs(tally: &Tally) -> String {
    let share = percent(tally.inconclusive, tally.seeds_run);
    let share = if tally.inconclusive == 0 { String::new() } else { format!(" ({share}, 2 % are allowed)") };
    let verified = match tally.verified {
        0 => String::new(),
        number => format!("; {} run again in a fresh process with the same result", count(number)),
    };
    format!(
        "{} passed, {} failed, {} inconclusive{share}{verified}",
        count(tally.passed),
        count(tally.failed),
        count(tally.inconclusive)
    )
}

fn faults(page: &mut Page, tally: &Tally) {
    let done: Vec<_> = tally.faults.iter().filter(|(_, faults)| faults.injected > 0 || faults.noticed > 0).collect();
    if done.is_empty() {
        page.entry("faults", "none injected");
        return;
    }
    let mut rows = vec![["", "injected", "noticed"].map(str::to_owned).to_vec()];
    rows.extend(done.iter().map(|(kind, faults)| vec![(*kind).clone(), count(faults.injected), count(faults.noticed)]));
    page.lines("faults", &table::figures(&rows));
}

fn power_loss(tally: &Tally) -> Vec<String> {
    let mut lines = run::power_loss_lines(&tally.power_loss);
    if !lines.is_empty() {
        let share = percent(tally.runs_lost_then_served, tally.seeds_run);
        lines.push(format!(
            "{} runs ({share}) lost un-synced sectors of a node that later served",
            count(tally.runs_lost_then_served)
        ));
    }
    lines
}

fn throughput(tally: &Tally, wall_time: Duration) -> String {
    format!(
        "{:.0} seeds/min ({} in all), {:.1} simulated s and {:.0} acknowledged operations per CPU s",
        tally.seeds_per_minute(wall_time),
        duration(wall_time),
        tally.sim_s_per_cpu_s(),
        tally.acked_ops_per_cpu_s(),
    )
}

/// A calibration spec wants its oracles to fire.
fn calibration(page: &mut Page, tally: &Tally) {
    if !tally.is_calibration() {
        return;
    }
    let (silent, unexpected) = (tally.expected_but_silent(), tally.unexpected());
    if silent.is_empty() {
        page.entry("calibration", "every expected property fired");
    } else {
        page.entry("calibration", &format!("expected but never fired: {}", silent.join(", ")));
    }
    if !unexpected.is_empty() {
        page.entry("", &format!("fired without being expected: {}", unexpected.join(", ")));
    }
}

fn coverage(page: &mut Page, tally: &Tally) {
    let report = tally.coverage.report();
    page.entry("coverage", &format!("{} of {} sites that this spec must reach", report.reached, report.total));
    if tally.coverage.is_complete() {
        return;
    }
    page.heading("Never reached");
    for site in tally.coverage.unreached().take(SITES_MAX) {
        page.verbatim(&format!("{}  ({}, {}:{})", site.id(), site.kind.name(), site.file, site.line));
    }
    if report.unreached.len() > SITES_MAX {
        page.verbatim(&format!("… {} more", report.unreached.len() - SITES_MAX));
    }
}

fn doubts(page: &mut Page, tally: &Tally) {
    if tally.doubts.is_empty() {
        return;
    }
    page.heading("Inconclusive");
    for doubt in tally.doubts.iter().take(DOUBTS_MAX) {
        page.paragraph(&format!("seed {}: {}", doubt.seed, doubt.reasons.join("; ")));
    }
    if tally.doubts.len() > DOUBTS_MAX {
        let rest: Vec<String> = tally.doubts[DOUBTS_MAX..].iter().map(|doubt| doubt.seed.to_string()).collect();
        page.paragraph(&format!("and seeds {}", rest.join(" ")));
    }
}

fn failures(page: &mut Page, tally: &Tally, request: &RunRequest) {
    let mut by_property: BTreeMap<&str, Vec<&Failure>> = BTreeMap::new();
    for failure in &tally.failures {
        by_property.entry(&failure.property).or_default().push(failure);
    }
    for (property, failures) in by_property {
        page.heading(&format!("Violated {property}: {} seeds", count(failures.len().try_into().unwrap_or(u64::MAX))));
        for failure in failures.iter().take(SEEDS_MAX) {
            page.paragraph(&format!("seed {}: {}", failure.seed, failure.message));
            let request = RunRequest { seed: failure.seed, ..request.clone() };
            page.verbatim(&format!("  {}", replay_command(&request, failure)));
        }
        if failures.len() > SEEDS_MAX {
            let rest: Vec<String> = failures[SEEDS_MAX..].iter().map(|failure| failure.seed.to_string()).collect();
            page.paragraph(&format!("and seeds {}", rest.join(" ")));
        }
    }
}
