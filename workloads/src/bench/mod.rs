//! What a simulation costs: fixed amounts of work that other simulators can be given too.
//!
//! - [`pingpong`]: the world alone: tasks, timers, messages
//! - [`raft`]: openraft on the world, with its stores in memory or with aspen's real ones on the simulated disk
//! - [`engines`]: redb and SQLite alone, on the simulated disk or on memory of their own
//!
//! The figures are counts and virtual times, so they are the same in every run of a seed; the command that runs a bench
//! measures the time that it takes.
pub mod engines;
mod memory;
pub mod pingpong;
pub mod raft;

pub use sim_runtime::engine::bench::{Bench, Figures};

/// Every bench. The default spec is measured by its runs, not here.
pub fn all() -> Vec<Bench> {
    vec![
        Bench { name: "pingpong", run: pingpong::run },
        Bench { name: "raft-memory", run: raft::run::<memory::Memory> },
        Bench { name: "raft-real", run: raft::run::<raft::Real> },
        Bench { name: "engines-disk", run: engines::run::<engines::Simulated> },
        Bench { name: "engines-memory", run: engines::run::<engines::Bare> },
    ]
}
