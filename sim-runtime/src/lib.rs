//! Deterministic simulation: one thread, one seed, one order of events.
//!
//! Product code never names this crate; only workloads and tests build a world.
//!
//! - [`world`]: hosts, tasks, time, chance, messages; every choice is drawn from the run's seed
//! - [`disk`]: what survives a crash and a power loss, under real storage engines
//! - [`sync`]: channels and locks whose waiters are served in order
//! - [`adapters`]: the same world behind the interfaces that dependencies define
//! - [`engine`]: plans, faults, workloads, oracles, and the builder that runs them
//!
//! Invariant: nothing below `world` reads the system clock, spawns a thread or iterates a hash map.
pub mod adapters;
pub mod disk;
pub mod engine;
pub mod sync;
pub mod world;
