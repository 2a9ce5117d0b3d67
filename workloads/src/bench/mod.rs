//! What a simulation costs: fixed amounts of work that other simulators can be given too.
//!
//! - [`pingpong`]: the world alone: tasks, timers, messages
//! - [`raft`]: openraft on the world, with its stores in memory or with aspen's real ones on the simulated disk
//!
//! The figures are counts and virtual times, so they are the same in every run of a seed; the command that runs a bench
//! measures the time that it takes.
mod memory;
pub mod pingpong;
pub mod raft;

use sim_runtime::world::World;

/// What one run of a bench did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    pub sim_ns: u64,
    pub events: u64,
    /// Messages that were delivered.
    pub messages: u64,
    /// Writes that a client was told are committed.
    pub commits: u64,
    /// High and low half.
    pub digest: (u64, u64),
}

impl Figures {
    fn of(world: &World, commits: u64) -> Figures {
        Figures {
            sim_ns: world.now(),
            events: world.events(),
            messages: world.network_counts().delivered,
            commits,
            digest: world.digest(),
        }
    }
}

/// A bench by name.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    pub name: &'static str,
    /// Runs it with a seed, on this thread.
    pub run: fn(u64) -> Figures,
}

/// Every bench. The default spec is measured by its runs, not here.
pub fn all() -> Vec<Bench> {
    vec![
        Bench { name: "pingpong", run: pingpong::run },
        Bench { name: "raft-memory", run: raft::run::<memory::Memory> },
        Bench { name: "raft-real", run: raft::run::<raft::Real> },
    ]
}
