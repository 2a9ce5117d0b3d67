//! What turns a world into a test: plans, faults, workloads, oracles, reports.
//!
//! - [`system`]: what a stranger writes, a [`System`] and [`Workload`]s
//! - [`spec`]: from which plans a seed draws; [`planner`] draws; [`plan`] is the result, plain data
//! - [`simulation`]: one run of a plan; [`iterate`]: many, in one process; [`again`]: one again, replayed, verified,
//!   made small; [`by_hand`]: one, told step by step what to do; [`difference`]: where two that should be one part
//! - [`fleet`]: servers, booted and killed; [`nemesis`]: faults, carried out; [`ledger`]: faults, counted
//! - [`faults`]: the families that need more than a line
//! - [`disk_faults`]: what happens to disks
//! - [`coverage`]: which assertion and fault sites were visited
//! - [`oracle`]: judges of a run; [`run`]: where servers and clients leave what they did
//! - [`mod@shrink`]: from a failing plan to a small one; `strategy` (feature `proptest`): plans for property tests
//! - [`log`]: what the system says through `tracing`, kept
//! - [`record`], [`report`]: what a run hands back; [`listing`]: what can be run, by name
pub mod again;
pub mod bench;
pub mod by_hand;
pub mod coverage;
pub mod difference;
pub mod disk_faults;
pub mod faults;
pub mod fleet;
pub mod iterate;
pub mod ledger;
pub mod listing;
pub mod log;
pub mod nemesis;
pub mod oracle;
mod parts;
pub mod plan;
pub mod planner;
pub mod record;
pub mod report;
pub mod run;
pub mod shrink;
pub mod simulation;
pub mod spec;
#[cfg(feature = "proptest")]
pub mod strategy;
mod surroundings;
pub mod system;
mod tickets;

pub use iterate::{Sweep, Until};
pub use oracle::{Judge, Oracle, Stamped};
pub use plan::{Plan, PlannedOp};
pub use run::OpOutcome;
pub use simulation::Simulation;
pub use spec::Spec;
pub use system::{
    Client, ClientProcess, Cluster, DownCause, Exit, Knob, OpKind, Outside, Phase, Process, Server, Shape, System,
    Workload,
};
