//! `run`: one seed.

use sim_runtime::isolate::Runner;

use crate::arguments::RunArguments;
use crate::{Exit, Subject, UsageError, artifact};

use super::attempt::Attempt;

pub(super) fn execute(subject: &Subject, arguments: &RunArguments) -> Result<Exit, UsageError> {
    let (_spec, request) = super::resolve(subject, &arguments.what, arguments.seed)?;
    match &arguments.save {
        Some(file) => artifact::prepare_file(file)?,
        None => artifact::prepare(&arguments.what.artifacts)?,
    }
    let outcome = Runner::new(subject.limits).run(&request);
    let mut attempt = Attempt::new(request, outcome);
    match &arguments.save {
        Some(file) => attempt.save(file)?,
        None => attempt.save_if_failed(&arguments.what.artifacts)?,
    }
    attempt.show(subject, arguments.what.json)?;
    Ok(attempt.record.report.verdict.into())
}
