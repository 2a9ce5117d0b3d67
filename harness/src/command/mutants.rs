//! `mutants`: how many seeds it takes to find each planted bug.
//!
//! The only honest measure of a simulator: whether it finds bugs, and how fast.

use std::ops::ControlFlow;

use serde::Serialize;
use sim_runtime::engine::listing::BugInfo;
use sim_runtime::engine::record::RunRequest;
use sim_runtime::engine::report::{RunReport, SCHEMA, Verdict};
use sim_runtime::isolate::Pool;

use crate::arguments::MutantsArguments;
use crate::progress::Progress;
use crate::{Exit, Subject, UsageError, summary};

/// One planted bug, as in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hunt {
    pub bug: String,
    pub family: String,
    pub spec: String,
    pub found: bool,
    /// Seeds run, the finding one included.
    pub seeds_to_detection: Option<u64>,
    /// What noticed it.
    pub property: Option<String>,
    /// CPU time of the seeds up to the finding one, in s.
    pub cpu_s: f64,
}

#[derive(Serialize)]
struct MutantsReport<'a> {
    schema: u32,
    bugs: &'a [Hunt],
}

pub(super) fn execute(subject: &Subject, arguments: &MutantsArguments) -> Result<Exit, UsageError> {
    let bugs = match &arguments.bug {
        Some(name) => vec![subject.bug(name)?],
        None => (subject.bugs)(),
    };
    let pool = Pool::new(super::jobs(arguments.jobs), subject.limits);
    let hunts: Vec<Hunt> = bugs.iter().map(|bug| hunt(&pool, bug, arguments.max_seeds)).collect();
    if arguments.json {
        super::print_json(&MutantsReport { schema: SCHEMA, bugs: &hunts })?;
    } else {
        summary::print(&summary::mutants::render(&hunts, arguments.max_seeds));
    }
    Ok(if hunts.iter().all(|hunt| hunt.found) { Exit::Pass } else { Exit::NotReached })
}

fn hunt(pool: &Pool, bug: &BugInfo, seeds_max: u64) -> Hunt {
    let request =
        |seed| RunRequest { seed, spec: bug.spec.clone(), bug: Some(bug.name.clone()), ..RunRequest::default() };
    let mut progress = Progress::new(Some(seeds_max));
    let (mut seeds, mut cpu_us, mut property) = (0, 0, None);
    pool.each(
        (0..seeds_max).map(request),
        |runner, request| {
            let outcome = runner.run(&request);
            (outcome.cpu_us, outcome.into_record(&request).report)
        },
        |(run_cpu_us, report)| {
            seeds += 1;
            cpu_us += run_cpu_us;
            property = detected(&report);
            progress.step(|| format!("hunting {}", bug.name));
            if property.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    let outcome = property.as_deref().map_or("not found".to_owned(), |property| format!("found by {property}"));
    progress.say(&format!("{}: {outcome}, {seeds} seeds", bug.name));
    progress.finish();
    Hunt {
        bug: bug.name.clone(),
        family: bug.family.clone(),
        spec: bug.spec.clone(),
        found: property.is_some(),
        seeds_to_detection: property.is_some().then_some(seeds),
        property,
        cpu_s: crate::tally::to_f64(cpu_us) / 1e6,
    }
}

/// Assertions inside the product do not count: a bug that its author foresaw proves nothing about the oracles.
const PRODUCT_ASSERTION: &str = "always:aspen::";

fn detected(report: &RunReport) -> Option<String> {
    let violations = report.violations.iter().filter(|_| report.verdict == Verdict::Fail);
    violations.map(|violation| &violation.property).find(|name| !name.starts_with(PRODUCT_ASSERTION)).cloned()
}
