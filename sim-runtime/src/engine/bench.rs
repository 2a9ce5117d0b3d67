//! Fixed amounts of work, to be timed by whoever runs them.

use crate::world::World;

/// What one run of a bench did. The same in every run of a seed; only the time differs.
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
    pub fn of(world: &World, commits: u64) -> Figures {
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
