//! One run, concluded: its record, and its artifact when it deserves one.

use std::path::Path;

use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::report::{Verdict, Violation};
use sim_runtime::isolate::Outcome;

use crate::artifact::{self, Artifact};
use crate::tally::{DETERMINISM, Failure};
use crate::{Subject, UsageError, summary};

/// A request and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub request: RunRequest,
    pub record: RunRecord,
    pub stderr: String,
    pub cpu_us: u64,
}

impl Attempt {
    pub fn new(request: RunRequest, outcome: Outcome) -> Attempt {
        let (stderr, cpu_us) = (outcome.stderr_tail.clone(), outcome.cpu_us);
        let record = outcome.into_record(&request);
        Attempt { request, record, stderr, cpu_us }
    }

    pub fn failed(&self) -> bool {
        self.record.report.verdict == Verdict::Fail
    }

    /// Turns the run into a failure because it came out differently the second time.
    pub fn blame_determinism(&mut self, message: &str) {
        let report = &mut self.record.report;
        report.verdict = Verdict::Fail;
        let property = DETERMINISM.to_owned();
        report.violations.insert(0, Violation { property, message: message.to_owned(), at_ns: None, node: None });
    }

    /// Writes the artifact and remembers where it is.
    pub fn save(&mut self, path: &Path) -> Result<(), UsageError> {
        self.record.report.artifact = Some(path.display().to_string());
        Artifact::new(&self.request, &self.record, &self.stderr)?.write(path)
    }

    /// A failing run leaves its artifact in `directory`.
    pub fn save_if_failed(&mut self, directory: &Path) -> Result<(), UsageError> {
        if !self.failed() {
            return Ok(());
        }
        self.save(&artifact::path_for(directory, &self.request))
    }

    pub fn failure(&self) -> Option<Failure> {
        let violation = self.record.report.violations.first().filter(|_| self.failed());
        self.failed().then(|| Failure {
            seed: self.request.seed,
            property: violation.map_or_else(|| "unnamed".to_owned(), |violation| violation.property.clone()),
            message: violation.map(|violation| violation.message.clone()).unwrap_or_default(),
            artifact: self.record.report.artifact.clone(),
        })
    }

    /// Prints the run as asked.
    pub fn show(&self, subject: &Subject, json: bool) -> Result<(), UsageError> {
        if json {
            return super::print_json(&self.record.report);
        }
        let spec = subject.spec(&self.request.spec).ok();
        summary::print(&summary::run::render(&summary::run::Shown {
            request: &self.request,
            record: &self.record,
            stderr: &self.stderr,
            about: spec.as_ref().map(|spec| spec.about.as_str()),
        }))?;
        Ok(())
    }
}
