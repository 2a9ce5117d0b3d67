//! One file per command.

mod attempt;
pub mod bench;
pub mod list;
pub mod live;
pub mod mutants;
pub mod replay;
pub mod run;
pub mod scoreboard;
pub mod seeds;
pub mod shrink;
pub mod sweep;
pub mod verify;

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use serde::Serialize;
use sim_runtime::engine::listing::SpecInfo;
use sim_runtime::engine::record::RunRequest;

use crate::arguments::{Command, What};
use crate::artifact::Artifact;
use crate::{Exit, Subject, UsageError, summary};

/// # Errors
/// When the command was called wrongly; nothing was run then, or its results could not be written.
pub fn execute(subject: &Subject, command: Command) -> Result<Exit, UsageError> {
    match command {
        Command::Run(arguments) => run::execute(subject, &arguments),
        Command::Sweep(arguments) => sweep::execute(subject, &arguments),
        Command::Verify(arguments) => verify::execute(subject, &arguments),
        Command::Replay(arguments) => replay::execute(subject, &arguments),
        Command::List(arguments) => list::execute(subject, &arguments),
        Command::Mutants(arguments) => mutants::execute(subject, &arguments),
        Command::Scoreboard(arguments) => scoreboard::execute(subject, &arguments),
        Command::Shrink(arguments) => shrink::execute(subject, &arguments),
        Command::Seeds(arguments) => seeds::execute(subject, &arguments),
        Command::Bench(arguments) => bench::execute(subject, &arguments),
        Command::Live(arguments) => live::execute(&arguments),
    }
}

/// Checks the names on the command line: the spec, and the request for `seed`.
fn resolve(subject: &Subject, what: &What, seed: u64) -> Result<(SpecInfo, RunRequest), UsageError> {
    let spec = subject.spec(&what.spec)?;
    if let Some(bug) = &what.bug {
        subject.bug(bug)?;
    }
    let request = RunRequest { seed, spec: what.spec.clone(), bug: what.bug.clone(), ..RunRequest::default() };
    Ok((spec, request))
}

/// Reads an artifact whose spec, bug and plan this build can run.
fn load(subject: &Subject, file: &Path) -> Result<Artifact, UsageError> {
    let artifact = Artifact::read(file)?;
    subject.spec(&artifact.request.spec)?;
    if let Some(bug) = &artifact.request.bug {
        subject.bug(bug)?;
    }
    if let Some(plan) = &artifact.request.plan {
        (subject.check_plan)(plan).map_err(|wrong| {
            let file = file.display();
            let advice = "record the seed again with `run --save`";
            UsageError::new(format!("the plan in {file} cannot be run: {wrong}; {advice}"))
        })?;
        let (asked, planned) = (artifact.request.seed, plan.get("seed").and_then(serde_json::Value::as_u64));
        if planned.is_some_and(|planned| planned != asked) {
            let file = file.display();
            let advice =
                "a plan is of one seed: record another with `run --save`, or give `key` in the plan another value";
            return Err(UsageError::new(format!("{file} asks for seed {asked} with the plan of another; {advice}")));
        }
    }
    Ok(artifact)
}

/// As many as asked for, or one per core.
fn jobs(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), UsageError> {
    let text = serde_json::to_string(value)
        .map_err(|error| UsageError::new(format!("the result cannot be rendered: {error}")))?;
    summary::print(&(text + "\n"))
}
