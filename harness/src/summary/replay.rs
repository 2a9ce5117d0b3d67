//! How a replay compares with what was recorded.

use serde::Serialize;
use sim_runtime::engine::report::Verdict;

use super::page::Page;
use super::run::tone;

/// What became of the recorded violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    /// The recorded property was violated again.
    Recurs,
    /// Another property was violated.
    Another,
    Passes,
    Inconclusive,
    /// It was stopped before its end, as asked, and nothing was violated until then.
    Stopped,
}

/// The `replay` object in the JSON of `replay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    pub recurrence: Recurrence,
    /// The executable is the one that made the artifact.
    pub same_build: bool,
    /// The plan was not edited since.
    pub same_plan: bool,
    /// Null when both runs left no record, or when one was stopped.
    pub same_digest: Option<bool>,
    pub recorded_verdict: Verdict,
    pub recorded_digest: Option<String>,
}

pub fn render(comparison: &Comparison) -> String {
    let mut page = Page::default();
    page.heading("Compared with the recording");
    page.entry("then", tone(comparison.recorded_verdict).1.to_lowercase().as_str());
    let now = match comparison.recurrence {
        Recurrence::Recurs => "the same property was violated",
        Recurrence::Another => "another property was violated",
        Recurrence::Passes => "the run passes",
        Recurrence::Inconclusive => "the run is inconclusive",
        Recurrence::Stopped => "nothing was violated until the run was stopped",
    };
    page.entry("now", now);
    let sameness = match (comparison.same_build, comparison.same_plan, comparison.same_digest) {
        (_, false, _) => "the plan was edited, so another run is no surprise",
        (_, true, Some(true)) => "the same run, event for event",
        (_, true, None) if comparison.recurrence == Recurrence::Stopped => {
            "stopped, so there is no whole run to compare"
        }
        (true, true, None) => "both left no record to compare",
        (true, true, Some(false)) => "NOT DETERMINISTIC: the same build and plan gave another run; see `verify`",
        (false, true, _) => "another build made the recording, so another run is no surprise",
    };
    page.entry("run", sameness);
    page.finish()
}
