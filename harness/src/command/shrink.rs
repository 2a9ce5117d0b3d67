//! `shrink`: from a failing run to a scenario small enough to read, and a test that replays it.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sim_runtime::engine::Plan;
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::SCHEMA;
use sim_runtime::engine::shrink::{Failing, Size, shrink};
use sim_runtime::isolate::Runner;

use crate::arguments::ShrinkArguments;
use crate::artifact::{self, Artifact};
use crate::interrupt::Interrupt;
use crate::summary::shrink::SizeReport;
use crate::trial::{Processes, violated_at, violates};
use crate::{Exit, Subject, UsageError, corpus, scenario, summary};

/// The JSON of `shrink`.
#[derive(Clone, Debug, Serialize)]
pub struct ShrinkReport {
    pub schema: u32,
    /// What the original and the scenario violate.
    pub property: String,
    pub message: String,
    /// Plans tried.
    pub runs: u64,
    pub from: SizeReport,
    pub to: SizeReport,
    /// Sites that a run of the scenario must reach to be conclusive.
    pub sites: Vec<String>,
    /// Path of the scenario.
    pub scenario: String,
    /// Path of the test.
    pub test: String,
}

pub(super) fn execute(subject: &Subject, arguments: &ShrinkArguments) -> Result<Exit, UsageError> {
    let original = super::load(subject, &arguments.file)?;
    let shown = arguments.file.display();
    let Some(property) = original.record.report.violations.first().map(|violation| violation.property.clone()) else {
        return Err(UsageError::new(format!(
            "{shown} records no violation, so there is nothing to keep; pass a failing run"
        )));
    };
    let out = arguments.out.clone().unwrap_or_else(|| small_path(&arguments.file));
    artifact::prepare_file(&out)?;

    let mut runner = Runner::new(subject.limits);
    let request = &original.request;
    let record = runner.run(request).into_record(request);
    if !violates(&record, &property) {
        let advice = "record it again with this build, or look for another key with `replay --tries`";
        return Err(UsageError::new(format!("{shown} does not violate {property} on this build; {advice}")));
    }
    let effort = Effort { jobs: super::jobs(arguments.jobs), tries: arguments.tries, budget: arguments.budget };
    let Small { from, plan, runs } = small(subject, request, &record, &property, effort, &Interrupt::watch()?)
        .ok_or_else(|| UsageError::new(format!("the plan in {shown} is not one that can be shrunk")))?;

    let failing = run_plan(&mut runner, request, &plan);
    let plan = scenario::conclusive(&plan, request, &failing, subject.limits);
    let request = RunRequest { plan: serde_json::to_value(&plan).ok(), ..request.clone() };
    let record = run_plan(&mut runner, &request, &plan);
    Artifact::new(&request, &record, "")?.write(&out)?;
    let test = out.with_extension("rs");
    fs::write(&test, test_text(&out, &property)).map_err(|error| {
        UsageError::new(format!("cannot write to {}: {error}; choose another place", test.display()))
    })?;

    let violation = record.report.violations.iter().find(|violation| violation.property == property);
    let report = ShrinkReport {
        schema: SCHEMA,
        message: violation.map(|violation| violation.message.clone()).unwrap_or_default(),
        property,
        runs,
        from: from.into(),
        to: Size::of(&plan, (subject.knobs)()).into(),
        sites: plan.conclusive.sites.clone(),
        scenario: out.display().to_string(),
        test: test.display().to_string(),
    };
    if arguments.json {
        super::print_json(&report)?;
    } else {
        summary::print(&summary::shrink::render(&report, &plan))?;
    }
    Ok(Exit::Pass)
}

/// What a shrink may spend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Runs at a time.
    pub jobs: NonZeroUsize,
    /// Keys per candidate.
    pub tries: u64,
    /// No new run begins after this long.
    pub budget: Duration,
}

/// What came of a shrink.
#[derive(Clone, Debug)]
pub(super) struct Small {
    pub from: Size,
    /// It still fails.
    pub plan: Plan,
    /// Plans tried.
    pub runs: u64,
}

/// Makes the run of `request`, which left `record`, as small as it can and still violate `property`. `None` if it has no
/// plan that can be read.
pub(super) fn small(
    subject: &Subject,
    request: &RunRequest,
    record: &RunRecord,
    property: &str,
    effort: Effort,
    interrupt: &Interrupt,
) -> Option<Small> {
    let plan = plan_of(record, request)?;
    let knobs = (subject.knobs)();
    let from = Size::of(&plan, knobs);
    let Effort { jobs, tries, budget } = effort;
    let mut trial = Processes::new(subject, jobs, request, property, tries, budget, interrupt.clone());
    let failing = shrink(Failing { plan, at_ns: violated_at(record, property) }, knobs, &mut trial);
    Some(Small { from, plan: failing.plan, runs: trial.finish() })
}

/// The plan that was run. A run that died left none, but then the request has one.
fn plan_of(record: &RunRecord, request: &RunRequest) -> Option<Plan> {
    let plan = Some(&record.plan).filter(|plan| !plan.is_null()).or(request.plan.as_ref())?;
    serde_json::from_value(plan.clone()).ok()
}

fn run_plan(runner: &mut Runner, request: &RunRequest, plan: &Plan) -> RunRecord {
    let request = RunRequest { plan: serde_json::to_value(plan).ok(), ..request.clone() };
    runner.run(&request).into_record(&request)
}

fn small_path(file: &Path) -> PathBuf {
    file.with_file_name(format!("{}.small.json", corpus::name_of(file)))
}

fn test_text(scenario: &Path, property: &str) -> String {
    let name: String = corpus::name_of(scenario)
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' })
        .collect();
    let file = scenario.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!(
        "/// Once violated {property}. Put this file beside the scenario, for instance into `workloads/tests`.\n\
         #[test]\nfn {name}_passes() {{\n    workloads::scenario::assert_passes(include_str!({file:?}));\n}}\n"
    )
}
