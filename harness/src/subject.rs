//! The simulations that an executable offers.

use sim_runtime::engine::Knob;
use sim_runtime::engine::bench::Bench;
use sim_runtime::engine::listing::{BugInfo, SpecInfo};
use sim_runtime::isolate::{Limits, Run};

use crate::UsageError;

/// Plain functions, so that a forked process has them without being told anything.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub run: Run,
    pub specs: fn() -> Vec<SpecInfo>,
    pub bugs: fn() -> Vec<BugInfo>,
    /// Says what is wrong with a plan that came from a file, where it may have been edited. `run` may panic on a plan
    /// that was refused here, and on no other.
    pub check_plan: fn(&serde_json::Value) -> Result<(), String>,
    /// Tunables of the system under test, with the defaults to which shrinking sets them.
    pub knobs: fn() -> &'static [Knob],
    /// What `bench` offers besides the default spec.
    pub benches: fn() -> Vec<Bench>,
    /// The properties that oracles of its own judge, to be told from misspelt ones; empty when any name will do.
    pub properties: fn() -> Vec<String>,
    /// What one run may use.
    pub limits: Limits,
}

impl Subject {
    /// With the usual limits, and taking any plan.
    pub fn new(run: Run, specs: fn() -> Vec<SpecInfo>, bugs: fn() -> Vec<BugInfo>) -> Subject {
        Subject {
            run,
            specs,
            bugs,
            check_plan: |_| Ok(()),
            benches: Vec::new,
            knobs: || &[],
            properties: Vec::new,
            limits: Limits::default(),
        }
    }

    /// # Errors
    /// When there is no such spec; the error names those that exist.
    pub fn spec(&self, name: &str) -> Result<SpecInfo, UsageError> {
        let specs = (self.specs)();
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let unknown = || UsageError::new(format!("unknown spec `{name}`; there are: {}", names.join(", ")));
        specs.iter().find(|spec| spec.name == name).cloned().ok_or_else(unknown)
    }

    /// # Errors
    /// When nobody judges this property; the error names those that are judged.
    pub fn property(&self, name: &str) -> Result<(), UsageError> {
        let known = (self.properties)();
        let is_known = known.is_empty() || known.iter().any(|property| property == name);
        if is_known || OTHER_PROPERTIES.contains(&name) || name.starts_with("always:") {
            return Ok(());
        }
        Err(UsageError::new(format!("unknown oracle `{name}`; there are: {}", known.join(", "))))
    }

    /// # Errors
    /// When there is no such planted bug; the error says where to find their names.
    pub fn bug(&self, name: &str) -> Result<BugInfo, UsageError> {
        let unknown = || UsageError::new(format!("unknown bug `{name}`; `list bugs` prints those that are planted"));
        (self.bugs)().into_iter().find(|bug| bug.name == name).ok_or_else(unknown)
    }
}

/// What is violated without an oracle, besides the assertions.
const OTHER_PROPERTIES: [&str; 7] = ["panic", "process", "deadlock", "livelock", "hang", "budget", "determinism"];
