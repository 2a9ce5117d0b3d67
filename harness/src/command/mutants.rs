//! `mutants`: how many seeds it takes to find each planted bug.
//!
//! The only honest measure of a simulator: whether it finds bugs, and how fast. One start is one sample; several give a
//! median and a range. Taking an oracle or a fault family away shows what it contributes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde::Serialize;
use sim_runtime::engine::listing::BugInfo;
use sim_runtime::engine::record::RunRequest;
use sim_runtime::engine::report::{RunReport, SCHEMA, Verdict};
use sim_runtime::isolate::Pool;

use crate::arguments::MutantsArguments;
use crate::progress::Progress;
use crate::tally::to_f64;
use crate::{Exit, Subject, UsageError, summary};

/// One planted bug, as in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hunt {
    pub bug: String,
    pub family: String,
    pub spec: String,
    /// From more than half of the starts, so that there is a median.
    pub found: bool,
    /// Seeds run, the finding one included: the median of the starts, of an even number the worse of the two in the middle.
    pub seeds_to_detection: Option<u64>,
    pub seeds_min: Option<u64>,
    /// Null when one start did not find it.
    pub seeds_max: Option<u64>,
    /// What noticed it, at the first start that found it.
    pub property: Option<String>,
    /// CPU time of the seeds up to the finding one, in s; the mean of the starts.
    pub cpu_s: f64,
    pub starts: Vec<Start>,
}

/// One look for a bug.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Start {
    /// First seed.
    pub seed: u64,
    pub seeds_to_detection: Option<u64>,
    pub property: Option<String>,
    pub cpu_s: f64,
    /// Fault families that happened in the finding run.
    #[serde(skip)]
    pub injected: BTreeSet<String>,
}

/// What every look of a hunt has in common.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// Per look.
    pub max_seeds: u64,
    pub without: Vec<String>,
    pub ablate: Vec<String>,
}

impl Terms {
    pub fn request(&self, bug: &BugInfo, seed: u64) -> RunRequest {
        RunRequest {
            seed,
            spec: bug.spec.clone(),
            bug: Some(bug.name.clone()),
            without: self.without.clone(),
            ablate: self.ablate.clone(),
            ..RunRequest::default()
        }
    }
}

/// The JSON of `mutants`.
#[derive(Clone, Debug, Serialize)]
pub struct MutantsReport {
    pub schema: u32,
    /// Per bug and start.
    pub max_seeds: u64,
    pub without: Vec<String>,
    pub ablate: Vec<String>,
    pub bugs: Vec<Hunt>,
}

pub(super) fn execute(subject: &Subject, arguments: &MutantsArguments) -> Result<Exit, UsageError> {
    let bugs = match &arguments.bug {
        Some(name) => vec![subject.bug(name)?],
        None => (subject.bugs)(),
    };
    for property in &arguments.without {
        subject.property(property)?;
    }
    let terms =
        Terms { max_seeds: arguments.max_seeds, without: arguments.without.clone(), ablate: arguments.ablate.clone() };
    let starts = starts(arguments.starts.get(), arguments.max_seeds)?;
    let pool = Pool::new(super::jobs(arguments.jobs), subject.limits);
    let hunts: Vec<Hunt> = bugs
        .iter()
        .map(|bug| Hunt::of(bug, starts.iter().map(|start| look(&pool, bug, *start, &terms)).collect()))
        .collect();
    let exit = if hunts.iter().all(|hunt| hunt.found) { Exit::Pass } else { Exit::NotReached };
    let report = MutantsReport {
        schema: SCHEMA,
        max_seeds: arguments.max_seeds,
        without: arguments.without.clone(),
        ablate: arguments.ablate.clone(),
        bugs: hunts,
    };
    if arguments.json {
        super::print_json(&report)?;
    } else {
        summary::print(&summary::mutants::render(&report))?;
    }
    Ok(exit)
}

/// First seeds, so far apart that no two looks share a seed.
pub(super) fn starts(count: usize, max_seeds: u64) -> Result<Vec<u64>, UsageError> {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let starts = (0..count).map(|number| number.checked_mul(max_seeds)).collect::<Option<Vec<u64>>>();
    let starts = starts.filter(|starts| starts.last().is_none_or(|last| last.checked_add(max_seeds).is_some()));
    starts.ok_or_else(|| UsageError::new("so many seeds from so many starts exceed a u64; choose fewer"))
}

/// Runs seeds from `start` on until one shows the bug.
pub(super) fn look(pool: &Pool, bug: &BugInfo, start: u64, terms: &Terms) -> Start {
    let mut progress = Progress::new(Some(terms.max_seeds));
    let (mut seeds, mut cpu_us, mut property, mut injected) = (0, 0, None, BTreeSet::new());
    pool.each(
        (start..start + terms.max_seeds).map(|seed| terms.request(bug, seed)),
        |runner, request| {
            let outcome = runner.run(&request);
            (outcome.cpu_us, outcome.into_record(&request).report)
        },
        |(run_cpu_us, report)| {
            seeds += 1;
            cpu_us += run_cpu_us;
            property = detected(&report, &terms.without);
            progress.step(|| format!("hunting {}", bug.name));
            if property.is_none() {
                return ControlFlow::Continue(());
            }
            let happened = report.faults.iter().flatten().filter(|(_, count)| count.injected > 0);
            injected = happened.map(|(family, _)| family.clone()).collect();
            ControlFlow::Break(())
        },
    );
    let outcome = property.as_deref().map_or("not found".to_owned(), |property| format!("found by {property}"));
    progress.say(&format!("{}: {outcome}, {seeds} seeds from seed {start}", bug.name));
    progress.finish();
    let cpu_s = to_f64(cpu_us) / 1e6;
    Start { seed: start, seeds_to_detection: property.is_some().then_some(seeds), property, cpu_s, injected }
}

impl Hunt {
    pub(super) fn of(bug: &BugInfo, starts: Vec<Start>) -> Hunt {
        // A start that found nothing took longer than any that did.
        let mut seeds: Vec<Option<u64>> = starts.iter().map(|start| start.seeds_to_detection).collect();
        seeds.sort_by_key(|seeds| seeds.unwrap_or(u64::MAX));
        let median = seeds.get(seeds.len() / 2).copied().flatten();
        let cpu_s: f64 = starts.iter().map(|start| start.cpu_s).sum();
        Hunt {
            bug: bug.name.clone(),
            family: bug.family.clone(),
            spec: bug.spec.clone(),
            found: median.is_some(),
            seeds_to_detection: median,
            seeds_min: seeds.first().copied().flatten(),
            seeds_max: seeds.last().copied().flatten(),
            property: starts.iter().find_map(|start| start.property.clone()),
            cpu_s: cpu_s / to_f64(u64::try_from(starts.len().max(1)).unwrap_or(u64::MAX)),
            starts,
        }
    }
}

/// Assertions inside the product do not count: a bug that its author foresaw proves nothing about the oracles.
const PRODUCT_ASSERTION: &str = "always:aspen::";

pub(super) fn detected(report: &RunReport, without: &[String]) -> Option<String> {
    let violations = report.violations.iter().filter(|_| report.verdict == Verdict::Fail);
    let mut counted = violations.filter(|found| !found.property.starts_with(PRODUCT_ASSERTION));
    counted.find(|found| !without.contains(&found.property)).map(|found| found.property.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hunt(seeds: &[Option<u64>]) -> Hunt {
        let [bug, family, spec, about, like] = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let start = |seeds: &Option<u64>| Start {
            seed: 0,
            seeds_to_detection: *seeds,
            property: None,
            cpu_s: 2.0,
            injected: BTreeSet::new(),
        };
        Hunt::of(&BugInfo { name: bug, family, spec, about, like }, seeds.iter().map(start).collect())
    }

    #[test]
    fn the_median_counts_a_miss_as_the_longest_hunt() {
        let told = |hunt: &Hunt| (hunt.found, hunt.seeds_to_detection, hunt.seeds_min, hunt.seeds_max);
        assert_eq!(told(&hunt(&[Some(5)])), (true, Some(5), Some(5), Some(5)));
        assert_eq!(told(&hunt(&[Some(9), Some(1), Some(4)])), (true, Some(4), Some(1), Some(9)));
        assert_eq!(told(&hunt(&[Some(9), None, Some(4)])), (true, Some(9), Some(4), None));
        assert_eq!(told(&hunt(&[Some(9), None])), (false, None, Some(9), None));
        assert!((hunt(&[Some(9), None]).cpu_s - 2.0).abs() < f64::EPSILON);
    }
}
