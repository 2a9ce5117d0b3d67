//! `seeds`: the corpus of scenarios that once failed.

use std::ops::ControlFlow;

use serde::Serialize;
use sim_runtime::engine::record::RunRequest;
use sim_runtime::engine::report::{SCHEMA, Verdict};
use sim_runtime::isolate::{Pool, Runner};

use crate::arguments::{AddArguments, CorpusArguments, SeedsArguments, SeedsCommand, VerifyCorpusArguments};
use crate::corpus::{self, Entry};
use crate::progress::Progress;
use crate::summary::table;
use crate::{Exit, Subject, UsageError, artifact, scenario, summary};

pub(super) fn execute(subject: &Subject, arguments: &SeedsArguments) -> Result<Exit, UsageError> {
    match &arguments.command {
        SeedsCommand::Add(arguments) => add(subject, arguments),
        SeedsCommand::List(arguments) => list(arguments),
        SeedsCommand::Verify(arguments) => verify(subject, arguments),
    }
}

#[derive(Serialize)]
struct Added {
    schema: u32,
    name: String,
    path: String,
    verdict: Verdict,
}

/// A scenario that reaches nothing on the code as it is would guard nothing, so it is run first.
fn add(subject: &Subject, arguments: &AddArguments) -> Result<Exit, UsageError> {
    let artifact = super::load(subject, &arguments.file)?;
    if arguments.why.trim().is_empty() {
        return Err(UsageError::new("--why is empty; say in a sentence what the scenario guards"));
    }
    artifact::prepare(&arguments.corpus.dir)?;
    let request = RunRequest { bug: None, ..artifact.request.clone() };
    let verified = scenario::verify(&request, TRIES_MAX, &mut Runner::new(subject.limits));
    if verified.verdict == Verdict::Inconclusive {
        let reasons = verified.report.doubts.join("; ");
        let shown = arguments.file.display();
        return Err(UsageError::new(format!(
            "{shown} says nothing about the code as it is ({reasons}); shrink it first, which finds out what it must reach"
        )));
    }
    let name = arguments.name.clone().unwrap_or_else(|| corpus::name_of(&arguments.file));
    let path = corpus::add(&arguments.corpus.dir, &name, artifact, arguments.why.trim())?.display().to_string();
    if arguments.corpus.json {
        super::print_json(&Added { schema: SCHEMA, name, path, verdict: verified.verdict })?;
    } else {
        let now = match verified.verdict {
            Verdict::Fail => "it still fails on the code as it is",
            _ => "it passes on the code as it is",
        };
        summary::print(&format!("added {path}; {now}\n"))?;
    }
    Ok(Exit::Pass)
}

#[derive(Serialize)]
struct Listed<'a> {
    schema: u32,
    seeds: Vec<ListedEntry<'a>>,
}

#[derive(Serialize)]
struct ListedEntry<'a> {
    name: &'a str,
    path: String,
    spec: &'a str,
    /// What it violated when it was added.
    property: Option<&'a str>,
    why: Option<&'a str>,
}

fn list(arguments: &CorpusArguments) -> Result<Exit, UsageError> {
    let entries = corpus::read(&arguments.dir)?;
    let listed: Vec<ListedEntry<'_>> = entries.iter().map(listed).collect();
    if arguments.json {
        super::print_json(&Listed { schema: SCHEMA, seeds: listed })?;
    } else {
        let row = |entry: &ListedEntry<'_>| {
            [entry.name, entry.spec, entry.property.unwrap_or("-"), entry.why.unwrap_or("-")]
                .map(str::to_owned)
                .to_vec()
        };
        summary::print(&table::columns(&listed.iter().map(row).collect::<Vec<_>>()))?;
    }
    Ok(Exit::Pass)
}

fn listed(entry: &Entry) -> ListedEntry<'_> {
    let violation = entry.artifact.record.report.violations.first();
    ListedEntry {
        name: &entry.name,
        path: entry.path.display().to_string(),
        spec: &entry.artifact.request.spec,
        property: violation.map(|violation| violation.property.as_str()),
        why: entry.artifact.why.as_deref(),
    }
}

#[derive(Serialize)]
struct VerifiedCorpus {
    schema: u32,
    passed: u64,
    failed: u64,
    stale: u64,
    seeds: Vec<VerifiedEntry>,
}

#[derive(Serialize)]
struct VerifiedEntry {
    name: String,
    /// `inconclusive` is a stale scenario.
    verdict: Verdict,
    /// Keys that were needed.
    tries: u64,
    /// What was violated, or what was not reached.
    reasons: Vec<String>,
}

fn verify(subject: &Subject, arguments: &VerifyCorpusArguments) -> Result<Exit, UsageError> {
    if let Some(bug) = &arguments.bug {
        subject.bug(bug)?;
    }
    let mut entries = Vec::new();
    for entry in corpus::read(&arguments.corpus.dir)? {
        super::load(subject, &entry.path)?;
        entries.push(entry);
    }
    let mut progress = Progress::over("scenarios", u64::try_from(entries.len()).ok());
    let mut verified = Vec::new();
    Pool::new(super::jobs(arguments.jobs), subject.limits).each(
        entries.into_iter(),
        |runner, entry| {
            let request = RunRequest { bug: arguments.bug.clone(), ..entry.artifact.request.clone() };
            (entry.name, scenario::verify(&request, arguments.tries, runner))
        },
        |(name, outcome)| {
            progress.step(|| name.clone());
            let violated =
                outcome.report.violations.iter().map(|found| format!("{}: {}", found.property, found.message));
            let reasons = violated.chain(outcome.report.doubts.iter().cloned()).collect();
            verified.push(VerifiedEntry { name, verdict: outcome.verdict, tries: outcome.tries, reasons });
            ControlFlow::Continue(())
        },
    );
    progress.finish();
    let count = |verdict| u64::try_from(verified.iter().filter(|entry| entry.verdict == verdict).count()).unwrap_or(0);
    let (passed, failed, stale) = (count(Verdict::Pass), count(Verdict::Fail), count(Verdict::Inconclusive));
    if arguments.corpus.json {
        super::print_json(&VerifiedCorpus { schema: SCHEMA, passed, failed, stale, seeds: verified })?;
    } else {
        summary::print(&verified.iter().map(line).collect::<String>())?;
        summary::print(&format!("{passed} passed, {failed} failed, {stale} stale\n"))?;
    }
    Ok(match (failed, stale) {
        (0, 0) => Exit::Pass,
        (0, _) => Exit::Inconclusive,
        _ => Exit::Violated,
    })
}

fn line(entry: &VerifiedEntry) -> String {
    let (name, tries) = (&entry.name, entry.tries);
    match entry.verdict {
        Verdict::Pass if tries == 1 => format!("pass   {name}\n"),
        Verdict::Pass => format!("pass   {name} (key {tries})\n"),
        Verdict::Fail => format!("FAIL   {name}: {}\n", entry.reasons.join("; ")),
        Verdict::Inconclusive => format!("STALE  {name}, {tries} keys tried: {}\n", entry.reasons.join("; ")),
    }
}

/// Keys that a scenario is given before it is refused.
const TRIES_MAX: u64 = 64;
