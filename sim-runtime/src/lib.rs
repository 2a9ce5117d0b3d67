//! Deterministic simulation: one thread, one seed, one order of events.
//!
//! Product code never names this crate; only workloads and tests build a world.
//!
//! - [`checker`]: is what clients saw linearizable? Independent of the system under test
//! - [`engine`]: plans, faults, workloads, oracles, and the builder that runs them
//!
//! Invariant: nothing below `world` reads the system clock, spawns a thread or iterates a hash map.
pub mod checker;
pub mod engine;
pub mod world;
