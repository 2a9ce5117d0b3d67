//! `scoreboard`: the hunts for all planted bugs, what each fault family and each oracle contributes to them, and how small
//! the findings become.
//!
//! An ablation repeats the hunt from the first start with something taken away. It begins at the seed that had found the
//! bug: without an *oracle* the seeds before it are the same runs, in which it had nothing to say. Without a *fault family*
//! they may differ, and even show the bug earlier; that is not looked at, since the question is what is missed. Only bugs
//! that can be affected are hunted again: those that the oracle found, and those in whose finding run the family happened.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;
use sim_runtime::engine::listing::BugInfo;
use sim_runtime::engine::record::BUGGIFY;
use sim_runtime::engine::report::SCHEMA;
use sim_runtime::engine::shrink::Size;
use sim_runtime::isolate::{Pool, Runner};

use super::mutants::{Hunt, Terms, detected, look, starts};
use super::shrink::{Effort, Small, small};
use crate::arguments::{SHRINK_TRIES, ScoreboardArguments};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::summary::shrink::SizeReport;
use crate::tally::to_f64;
use crate::{Exit, Subject, UsageError, summary};

/// The JSON of `scoreboard`.
#[derive(Clone, Debug, Serialize)]
pub struct Scoreboard {
    pub schema: u32,
    /// Per bug and start.
    pub max_seeds: u64,
    pub starts: usize,
    pub ablation_seeds: u64,
    pub bugs: Vec<Hunt>,
    /// Every family that happened in a finding run, and `buggify`.
    pub families: Vec<Ablation>,
    /// Every oracle that found a bug from the first start.
    pub oracles: Vec<Ablation>,
    /// The finding run of the first start made small, per bug; empty without a budget for it.
    pub shrunk: Vec<Shrunk>,
    /// For each of them, in s.
    pub shrink_budget_s: f64,
    /// Oracles that were first to find no bug from any start.
    pub unproven: Vec<String>,
    pub wall_s: f64,
    pub cpu_s: f64,
    #[serde(skip)]
    pub about: Vec<BugInfo>,
}

/// What a shrink made of the run that found a bug.
#[derive(Clone, Debug, Serialize)]
pub struct Shrunk {
    pub bug: String,
    /// Plans tried.
    pub runs: u64,
    pub from: SizeReport,
    pub to: SizeReport,
}

/// What happens without one fault family or one oracle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ablation {
    pub without: String,
    pub hunts: Vec<Repeat>,
}

/// One bug, hunted again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repeat {
    pub bug: String,
    /// Seeds it took, counted from the start, with everything in place.
    pub seeds_before: u64,
    /// And now; null if it was not found any more.
    pub seeds: Option<u64>,
    pub property_before: String,
    pub property: Option<String>,
}

impl Repeat {
    /// Nothing was missed: the same seed showed the bug.
    pub fn is_unaffected(&self) -> bool {
        self.seeds == Some(self.seeds_before)
    }
}

impl Ablation {
    /// Taking it away cost nothing that was looked at.
    pub fn changes_nothing(&self) -> bool {
        self.hunts.iter().all(Repeat::is_unaffected)
    }
}

pub(super) fn execute(subject: &Subject, arguments: &ScoreboardArguments) -> Result<Exit, UsageError> {
    let began = Instant::now();
    let bugs = (subject.bugs)();
    let first_seeds = starts(arguments.starts.get(), arguments.max_seeds)?;
    if let Some(path) = &arguments.markdown {
        // Not after ten minutes of work.
        let unwritable = |error| UsageError::new(format!("{} cannot be written: {error}", path.display()));
        fs::OpenOptions::new().append(true).create(true).open(path).map_err(unwritable)?;
    }
    let pool = Pool::new(super::jobs(arguments.jobs), subject.limits);
    let terms = Terms { max_seeds: arguments.max_seeds, ..Terms::default() };
    let mut hunts = Vec::new();
    for bug in &bugs {
        hunts.push(Hunt::of(bug, first_seeds.iter().map(|start| look(&pool, bug, *start, &terms)).collect()));
    }
    let mut cpu_s = hunts.iter().flat_map(|hunt| &hunt.starts).map(|start| start.cpu_s).sum::<f64>();
    let found: Vec<Found<'_>> = bugs.iter().zip(&hunts).filter_map(|(bug, hunt)| Found::at_first(bug, hunt)).collect();
    let search = Ablate { pool: &pool, seeds: arguments.ablation_seeds };
    let (families, used) = search.families(&found);
    cpu_s += used;
    let (oracles, used) = search.oracles(&found);
    cpu_s += used;
    let shrunk = shrink_all(subject, &found, arguments)?;
    let proven: BTreeSet<&str> =
        hunts.iter().flat_map(|hunt| &hunt.starts).filter_map(|start| start.property.as_deref()).collect();
    let properties = (subject.properties)();
    let unproven = properties.iter().filter(|property| !proven.contains(property.as_str())).cloned().collect();
    let exit = if hunts.iter().all(|hunt| hunt.found) { Exit::Pass } else { Exit::NotReached };
    let board = Scoreboard {
        schema: SCHEMA,
        max_seeds: arguments.max_seeds,
        starts: arguments.starts.get(),
        ablation_seeds: arguments.ablation_seeds,
        bugs: hunts,
        families,
        oracles,
        shrunk,
        shrink_budget_s: arguments.shrink_budget.as_secs_f64(),
        unproven,
        wall_s: began.elapsed().as_secs_f64(),
        cpu_s,
        about: bugs,
    };
    if let Some(path) = &arguments.markdown {
        let written = fs::write(path, summary::scoreboard::markdown(&board));
        written.map_err(|error| UsageError::new(format!("{} cannot be written: {error}", path.display())))?;
    }
    if arguments.json {
        super::print_json(&board)?;
    } else {
        summary::print(&summary::scoreboard::markdown(&board))?;
    }
    Ok(exit)
}

/// A bug that the first start found.
#[derive(Clone, Copy)]
struct Found<'a> {
    bug: &'a BugInfo,
    start: u64,
    seeds: u64,
    property: &'a str,
    injected: &'a BTreeSet<String>,
}

impl<'a> Found<'a> {
    fn at_first(bug: &'a BugInfo, hunt: &'a Hunt) -> Option<Found<'a>> {
        let first = hunt.starts.first()?;
        let (seeds, property) = (first.seeds_to_detection?, first.property.as_deref()?);
        Some(Found { bug, start: first.seed, seeds, property, injected: &first.injected })
    }

    /// The seed that showed it.
    fn seed(&self) -> u64 {
        self.start + self.seeds - 1
    }
}

fn shrink_all(
    subject: &Subject,
    found: &[Found<'_>],
    arguments: &ScoreboardArguments,
) -> Result<Vec<Shrunk>, UsageError> {
    if arguments.shrink_budget.is_zero() {
        return Ok(Vec::new());
    }
    let effort = Effort { jobs: super::jobs(arguments.jobs), tries: SHRINK_TRIES, budget: arguments.shrink_budget };
    let interrupt = Interrupt::watch()?;
    let (terms, mut runner, mut progress) =
        (Terms::default(), Runner::new(subject.limits), Progress::over("shrinks", u64::try_from(found.len()).ok()));
    let mut shrunk = Vec::new();
    for found in found {
        let request = terms.request(found.bug, found.seed());
        let record = runner.run(&request).into_record(&request);
        if let Some(Small { from, plan, runs }) = small(subject, &request, &record, found.property, effort, &interrupt)
        {
            let to = Size::of(&plan, (subject.knobs)());
            shrunk.push(Shrunk { bug: found.bug.name.clone(), runs, from: from.into(), to: to.into() });
        }
        progress.step(|| found.bug.name.clone());
        if interrupt.is_asked() {
            break;
        }
    }
    progress.finish();
    Ok(shrunk)
}

/// Hunts repeated.
struct Ablate<'a> {
    pool: &'a Pool,
    seeds: u64,
}

impl Ablate<'_> {
    /// Also returns the CPU time, in s.
    fn families(&self, found: &[Found<'_>]) -> (Vec<Ablation>, f64) {
        let mut names: BTreeSet<&str> = found.iter().flat_map(|found| found.injected).map(String::as_str).collect();
        names.insert(BUGGIFY);
        let happened = |name: &str, found: &Found<'_>| name == BUGGIFY || found.injected.contains(name);
        let terms = |name: &str| Terms { ablate: vec![name.to_owned()], ..Terms::default() };
        self.each(&names, found, happened, terms)
    }

    fn oracles(&self, found: &[Found<'_>]) -> (Vec<Ablation>, f64) {
        let names: BTreeSet<&str> = found.iter().map(|found| found.property).collect();
        let terms = |name: &str| Terms { without: vec![name.to_owned()], ..Terms::default() };
        self.each(&names, found, |name, found| found.property == name, terms)
    }

    fn each(
        &self,
        names: &BTreeSet<&str>,
        found: &[Found<'_>],
        is_affected: impl Fn(&str, &Found<'_>) -> bool,
        terms: impl Fn(&str) -> Terms,
    ) -> (Vec<Ablation>, f64) {
        let (mut ablations, mut cpu_s) = (Vec::new(), 0.0);
        for name in names {
            let affected: Vec<Found<'_>> = found.iter().filter(|found| is_affected(name, found)).copied().collect();
            let (hunts, used) = self.repeat(name, &affected, &terms(name));
            ablations.push(Ablation { without: (*name).to_owned(), hunts });
            cpu_s += used;
        }
        (ablations, cpu_s)
    }

    /// The finding seeds first, side by side; what they do not show any more is looked for further on.
    fn repeat(&self, name: &str, affected: &[Found<'_>], terms: &Terms) -> (Vec<Repeat>, f64) {
        let mut progress = Progress::new(Some(u64::try_from(affected.len()).unwrap_or(u64::MAX)));
        let (mut properties, mut cpu_us) = (Vec::new(), 0);
        self.pool.each(
            affected.iter().map(|found| terms.request(found.bug, found.seed())),
            |runner, request| {
                let outcome = runner.run(&request);
                (outcome.cpu_us, outcome.into_record(&request).report)
            },
            |(run_cpu_us, report)| {
                cpu_us += run_cpu_us;
                properties.push(detected(&report, &terms.without));
                progress.step(|| format!("without {name}"));
                ControlFlow::Continue(())
            },
        );
        progress.say(&format!("without {name}: {} finding seeds repeated", affected.len()));
        progress.finish();
        let mut cpu_s = to_f64(cpu_us) / 1e6;
        let mut repeats = Vec::new();
        for (found, property) in affected.iter().zip(properties) {
            let (mut seeds, mut property) = (property.is_some().then_some(found.seeds), property);
            if property.is_none() && self.seeds > 0 {
                let terms = Terms { max_seeds: self.seeds, ..terms.clone() };
                let further = look(self.pool, found.bug, found.seed() + 1, &terms);
                cpu_s += further.cpu_s;
                seeds = further.seeds_to_detection.map(|more| found.seeds + more);
                property = further.property;
            }
            let (bug, property_before) = (found.bug.name.clone(), found.property.to_owned());
            repeats.push(Repeat { bug, seeds_before: found.seeds, seeds, property_before, property });
        }
        (repeats, cpu_s)
    }
}
