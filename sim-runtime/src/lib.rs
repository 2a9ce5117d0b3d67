//! Deterministic simulation: one thread, one seed, one order of events.
//!
//! Product code never names this crate; only workloads and tests build a world.
//!
//! - [`engine`]: plans, faults, workloads, oracles, and the builder that runs them
//! - [`escape`]: libc's clocks and entropy answered from the world, threads, sockets and real files refused
//! - [`isolate`]: one process image per seed, so that a death is that seed's verdict and nothing leaks to the next
//!
//! Invariant: nothing below `world` reads the system clock, spawns a thread or iterates a hash map.
pub mod engine;
pub mod escape;
pub mod isolate;
