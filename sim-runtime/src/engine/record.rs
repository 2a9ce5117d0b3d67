//! What is asked of a simulation process, and what it hands back.
//!
//! Both cross a pipe between processes, so both are plain data. Wall and CPU time are measured by the process; nothing
//! else in a [`RunRecord`] depends on the machine.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::report::RunReport;
use crate::disk::FileState;

/// One run, asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    pub seed: u64,
    pub spec: String,
    /// A planted bug to switch on.
    pub bug: Option<String>,
    /// Runs this plan (JSON of `engine::Plan`) instead of the one that the seed generates.
    pub plan: Option<serde_json::Value>,
    /// Events (first, past the last) to keep in [`RunRecord::events`], besides those around a violation.
    pub window: Option<(u64, u64)>,
    /// Stops the run there and looks at the servers: [`RunRecord::look`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<StopAt>,
    /// Which of the system's own `tracing` events to keep in [`RunRecord::log`], in the syntax of
    /// [`tracing_subscriber::filter::Targets`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// Properties whose oracles do not look: to learn what the others find.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Fault families of the spec that do not happen, or [`BUGGIFY`]: to learn what they contribute. Of no effect on a plan
    /// that is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ablate: Vec<String>,
}

/// The fault points inside the system, as a family of [`RunRequest::ablate`].
pub const BUGGIFY: &str = "buggify";

/// A place in a run, before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopAt {
    /// When everything up to this virtual time, in ns, has happened.
    Ns(u64),
    /// After the first poll that ends with at least so many events.
    Events(u64),
}

/// One run, done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub report: RunReport,
    /// The plan that was run, as JSON of `engine::Plan`.
    pub plan: serde_json::Value,
    /// One line each: topology and faults, for people.
    pub summary: Vec<String>,
    pub checkpoints: Vec<Checkpoint>,
    /// Events kept: the requested window, or those that led to the first violation and around it.
    pub events: Vec<TraceEvent>,
    /// The client history as JSON lines of the workload, for artifacts. Empty when the run passed.
    pub history: Vec<serde_json::Value>,
    /// What was seen at [`RunRequest::stop_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look: Option<Look>,
    /// What the system itself logged, a line each, with virtual time and host. Empty unless asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl RunRecord {
    /// The plan that was run: [`Simulation::replay`](super::Simulation::replay) runs it again.
    ///
    /// # Panics
    /// For a record that no simulation made.
    pub fn planned(&self) -> Plan {
        serde_json::from_value(self.plan.clone()).expect("a simulation records the plan that it ran")
    }

    /// Why it failed, or may not pass, in lines for people: what was violated, which events led there, each caused by the
    /// one above it, and what happened last before.
    pub fn explain(&self) -> String {
        let RunReport { seed, spec, violations, doubts, .. } = &self.report;
        let mut text = format!("seed {seed} of {spec}: {}\n", self.summary.join("; "));
        for violation in violations {
            let node = violation.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
            let at = violation.at_ns.map(|at_ns| format!(" at {at_ns} ns")).unwrap_or_default();
            let _ = writeln!(text, "violates {}{node}{at}: {}", violation.property, violation.message);
        }
        for doubt in doubts {
            let _ = writeln!(text, "is in doubt: {doubt}");
        }
        let Some(first) = violations.first() else { return text };
        let before = self.events.iter().rposition(|event| event.at_ns <= first.at_ns.unwrap_or(u64::MAX));
        let Some(last) = before else { return text };
        let of_node = |event: &TraceEvent| first.node.as_ref().is_none_or(|node| *node == event.node);
        let blamed = self.events[..=last].iter().rposition(of_node).unwrap_or(last);
        let _ = writeln!(text, "what led there:");
        for event in self.causes(blamed) {
            let _ = writeln!(text, "  {event}");
        }
        let _ = writeln!(text, "what happened last:");
        for event in &self.events[(last + 1).saturating_sub(EVENTS_SHOWN)..=last] {
            let _ = writeln!(text, "  {event}");
        }
        text
    }

    /// The event at `index` and what led to it as far as events were kept, earliest first; of a long chain the end.
    fn causes(&self, index: usize) -> Vec<&TraceEvent> {
        let mut chain = vec![&self.events[index]];
        while chain.len() < EVENTS_SHOWN
            // Events are in order of their numbers, and a cause comes before its effect.
            && let Some(cause) = chain.last().and_then(|event| event.cause)
            && let Ok(found) = self.events[..=index].binary_search_by_key(&cause, |event| event.number)
            && self.events[found].number < chain[chain.len() - 1].number
        {
            chain.push(&self.events[found]);
        }
        chain.reverse();
        chain
    }
}

/// Events that [`RunRecord::explain`] shows of each kind.
const EVENTS_SHOWN: usize = 16;

/// All servers where a run was stopped, or where it ended if that was earlier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Virtual time in ns.
    pub at_ns: u64,
    /// Events until then.
    pub events: u64,
    /// The run would have gone on.
    pub early: bool,
    pub nodes: Vec<NodeState>,
}

/// One server at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Host name.
    pub server: String,
    pub up: bool,
    /// What the system under test knows about it, by name; empty when it knows nothing, for instance of a server that is
    /// down.
    pub state: BTreeMap<String, serde_json::Value>,
    /// By path.
    pub files: Vec<FileState>,
}

/// The digest after so many events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub events: u64,
    /// The rolling digest, high and low half.
    pub digest: (u64, u64),
}

/// One event of the trace, rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// Position in the run, from 0.
    pub number: u64,
    /// Virtual time in ns.
    pub at_ns: u64,
    /// Host name, empty for the world itself.
    pub node: String,
    /// Event class, for instance `poll`, `send`, `disk-write`.
    pub class: String,
    pub text: String,
    /// The event that caused this one, where known.
    pub cause: Option<u64>,
}

/// One line: number, virtual time, host, class, what happened.
impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceEvent { number, at_ns, node, class, text, .. } = self;
        let node = if node.is_empty() { "-" } else { node };
        write!(f, "#{number} {:>3}.{:09} s  {node} {class} {text}", at_ns / 1_000_000_000, at_ns % 1_000_000_000)
    }
}
