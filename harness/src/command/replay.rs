//! `replay`: what an artifact recorded, again.

use serde::Serialize;
use sim_runtime::engine::Plan;
use sim_runtime::engine::record::{NodeState, RunRecord, RunRequest, StopAt};
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
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<Stopped>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<&'a [NodeState]>,
}

/// Where `--until` and `--until-event` looked.
#[derive(Serialize)]
struct Stopped {
    at_ns: u64,
    events: u64,
    /// The run would have gone on.
    early: bool,
}

pub(super) fn execute(subject: &Subject, arguments: &ReplayArguments) -> Result<Exit, UsageError> {
    let artifact = super::load(subject, &arguments.file)?;
    let mut runner = Runner::new(subject.limits);
    let stop_at = match (arguments.until, arguments.until_event) {
        (Some(at), _) => Some(StopAt::Ns(at)),
        // Events are numbered from 0.
        (None, Some(number)) => Some(StopAt::Events(number.saturating_add(1))),
        (None, None) => None,
    };
    let asked = RunRequest { stop_at, log: arguments.log.clone(), ..artifact.request.clone() };
    let mut attempt = attempt(&mut runner, &asked);
    let mut comparison = compare(&artifact, &attempt)?;
    // Where nothing was violated there is nothing to recur.
    let tries = if artifact.record.report.violations.is_empty() { 1 } else { arguments.tries.get() };
    for offset in 1..tries {
        if comparison.recurrence == Recurrence::Recurs || exit(&comparison, Verdict::Pass) == Exit::NotDeterministic {
            break;
        }
        let Some(request) = under_another_key(&attempt.record, &asked, offset) else { break };
        attempt = self::attempt(&mut runner, &request);
        comparison = Comparison { same_plan: false, ..compare(&artifact, &attempt)? };
    }
    attempt.record.report.artifact = Some(arguments.file.display().to_string());
    summary::say(&attempt.record.log);
    let look = attempt.record.look.as_ref();
    if arguments.json {
        super::print_json(&ReplayReport {
            report: &attempt.record.report,
            replay: &comparison,
            stopped: look.map(|look| Stopped { at_ns: look.at_ns, events: look.events, early: look.early }),
            nodes: look.map(|look| look.nodes.as_slice()),
        })?;
    } else {
        attempt.show(subject, false)?;
        if let Some(look) = look {
            summary::print(&summary::nodes::render(look))?;
        }
        summary::print(&summary::replay::render(&comparison))?;
    }
    Ok(exit(&comparison, attempt.record.report.verdict))
}

fn attempt(runner: &mut Runner, request: &RunRequest) -> Attempt {
    Attempt::new(request.clone(), runner.run(request))
}

/// The same plan with everything drawn during the run drawn anew.
fn under_another_key(record: &RunRecord, asked: &RunRequest, offset: usize) -> Option<RunRequest> {
    let plan = asked.plan.as_ref().unwrap_or(&record.plan);
    let mut plan: Plan = serde_json::from_value(plan.clone()).ok()?;
    plan.key = plan.seed.wrapping_add(u64::try_from(offset).ok()?).wrapping_mul(KEY_STRIDE);
    Some(RunRequest { plan: serde_json::to_value(plan).ok(), ..asked.clone() })
}

/// Spreads the keys of tries away from those of neighbouring seeds. Odd, so that no two tries share one.
const KEY_STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

fn exit(comparison: &Comparison, verdict: Verdict) -> Exit {
    if comparison.recurrence == Recurrence::Stopped {
        return Exit::Pass;
    }
    // A run that left no record has no digest to compare; its death is compared as a violation.
    let parted = comparison.same_build && comparison.same_plan && comparison.same_digest == Some(false);
    if parted { Exit::NotDeterministic } else { verdict.into() }
}

fn compare(artifact: &Artifact, attempt: &Attempt) -> Result<Comparison, UsageError> {
    let (then, now) = (&artifact.record.report, &attempt.record.report);
    let early = attempt.record.look.as_ref().is_some_and(|look| look.early);
    let recurrence = match (then.violations.first(), now.verdict) {
        (_, Verdict::Pass | Verdict::Inconclusive) if early => Recurrence::Stopped,
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
        same_digest: (!died && !early).then(|| then.digest == now.digest),
        recorded_verdict: then.verdict,
        recorded_digest: then.digest.clone(),
    })
}
