//! `replay`: what an artifact recorded, again.

use serde::Serialize;
use sim_runtime::engine::report::{RunReport, Verdict};
use sim_runtime::isolate::Runner;

use crate::arguments::ReplayArguments;
use crate::artifact::{self, Artifact};
use crate::summary::replay::{Comparison, Recurrence};
use crate::{Exit, Subject, UsageError, summary};

use super::attempt::Attempt;

#[derive(Serialize)]
struct ReplayReport<'a> {
    #[serde(flatten)]
    report: &'a RunReport,
    replay: &'a Comparison,
}

pub(super) fn execute(subject: &Subject, arguments: &ReplayArguments) -> Result<Exit, UsageError> {
    let artifact = Artifact::read(&arguments.file)?;
    subject.spec(&artifact.request.spec)?;
    if let Some(bug) = &artifact.request.bug {
        subject.bug(bug)?;
    }
    if let Some(plan) = &artifact.request.plan {
        (subject.check_plan)(plan).map_err(|wrong| {
            let file = arguments.file.display();
            UsageError::new(format!(
                "the plan in {file} cannot be run: {wrong}; record the seed again with `run --save`"
            ))
        })?;
    }
    let outcome = Runner::new(subject.limits).run(&artifact.request);
    let mut attempt = Attempt::new(artifact.request.clone(), outcome);
    attempt.record.report.artifact = Some(arguments.file.display().to_string());
    let comparison = compare(&artifact, &attempt)?;
    if arguments.json {
        super::print_json(&ReplayReport { report: &attempt.record.report, replay: &comparison })?;
    } else {
        attempt.show(subject, false)?;
        summary::print(&summary::replay::render(&comparison));
    }
    Ok(exit(&comparison, attempt.record.report.verdict))
}

fn exit(comparison: &Comparison, verdict: Verdict) -> Exit {
    // A run that left no record has no digest to compare; its death is compared as a violation.
    let parted = comparison.same_build && comparison.same_plan && comparison.same_digest == Some(false);
    if parted { Exit::NotDeterministic } else { verdict.into() }
}

fn compare(artifact: &Artifact, attempt: &Attempt) -> Result<Comparison, UsageError> {
    let (then, now) = (&artifact.record.report, &attempt.record.report);
    let recurrence = match (then.violations.first(), now.verdict) {
        (_, Verdict::Pass) => Recurrence::Passes,
        (_, Verdict::Inconclusive) => Recurrence::Inconclusive,
        (Some(then), Verdict::Fail) if now.violations.iter().any(|now| now.property == then.property) => {
            Recurrence::Recurs
        }
        (_, Verdict::Fail) => Recurrence::Another,
    };
    let died = then.digest.is_none() && now.digest.is_none();
    Ok(Comparison {
        recurrence,
        same_build: artifact.build == artifact::build()?,
        same_plan: artifact.plan_is_untouched(),
        same_digest: (!died).then(|| then.digest == now.digest),
        recorded_verdict: then.verdict,
        recorded_digest: then.digest.clone(),
    })
}
