//! What is asked of a simulation process, and what it hands back.
//!
//! Both cross a pipe between processes, so both are plain data. Wall and CPU time are measured by the process; nothing
//! else in a [`RunRecord`] depends on the machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
