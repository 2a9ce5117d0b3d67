//! `verify`: one seed in two processes that share nothing but the executable.
//!
//! The second process has another environment, address layout and contents of fresh memory. When the digests part, both
//! sides run once more and keep the events of the window between the last equal checkpoint and the first differing one.

use serde::Serialize;
use sim_runtime::engine::record::RunRequest;
use sim_runtime::engine::report::{SCHEMA, Verdict};
use sim_runtime::isolate::{Surroundings, fresh};

use crate::arguments::VerifyArguments;
use crate::{Exit, Subject, UsageError, artifact, summary};
use sim_runtime::engine::difference::Difference;

use super::attempt::Attempt;

/// What comes and goes may hide when the window is run again.
const LOCATE_ATTEMPTS: usize = 3;

#[derive(Serialize)]
struct VerifyReport<'a> {
    schema: u32,
    seed: u64,
    spec: &'a str,
    deterministic: bool,
    verdict: Verdict,
    digest: Option<&'a str>,
    events: Option<u64>,
    difference: Option<&'a Difference>,
    artifact: Option<&'a str>,
}

pub(super) fn execute(subject: &Subject, arguments: &VerifyArguments) -> Result<Exit, UsageError> {
    let what = &arguments.what;
    let (_spec, request) = super::resolve(subject, what, arguments.seed)?;
    artifact::prepare(&what.artifacts)?;
    let mut left = Attempt::new(request.clone(), fresh(&request, subject.limits, Surroundings::Usual));
    let right = Attempt::new(request.clone(), fresh(&request, subject.limits, Surroundings::Strange));
    let verdict = left.record.report.verdict;
    let mut difference = Difference::between(&left.record, &right.record);
    if let Some(difference) = &mut difference {
        locate(subject, &request, difference);
        left.blame_determinism(&difference.message);
    }
    left.save_if_failed(&what.artifacts)?;
    let report = &left.record.report;
    if what.json {
        super::print_json(&VerifyReport {
            schema: SCHEMA,
            seed: request.seed,
            spec: &request.spec,
            deterministic: difference.is_none(),
            verdict,
            digest: report.digest.as_deref(),
            events: report.events,
            difference: difference.as_ref(),
            artifact: report.artifact.as_deref(),
        })?;
    } else {
        summary::print(&summary::verify::render(report, verdict, difference.as_ref()))?;
    }
    Ok(match difference {
        Some(_) => Exit::NotDeterministic,
        None => verdict.into(),
    })
}

fn locate(subject: &Subject, request: &RunRequest, difference: &mut Difference) {
    let Some(window) = difference.window else { return };
    let request = RunRequest { window: Some(window), ..request.clone() };
    let events = |surroundings| {
        let record = fresh(&request, subject.limits, surroundings).into_record(&request);
        let inside = |number: u64| (window.0..window.1).contains(&number);
        record.events.into_iter().filter(|event| inside(event.number)).collect::<Vec<_>>()
    };
    for attempt in 1..=LOCATE_ATTEMPTS {
        let (left, right) = (events(Surroundings::Usual), events(Surroundings::Strange));
        if left != right || attempt == LOCATE_ATTEMPTS {
            difference.locate(&left, &right);
            return;
        }
    }
}
