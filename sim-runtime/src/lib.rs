//! Deterministic simulation: one thread, one seed, one order of events.
//!
//! Product code never names this crate; only workloads and tests build a world.
//!
//! - [`world`]: the simulated things; every choice is drawn from the run's seed
//! - [`sync`]: channels and locks that wake their waiters in a known order
//! - [`disk`]: simulated disks, and what a power loss leaves of them
//! - [`adapters`]: the same world behind openraft's, redb's and SQLite's own interfaces
//! - [`checker`]: is what clients saw linearizable? Independent of the system under test
//! - [`conformance`]: what implementations of a seam must do, as checks for simulated and real ones
//! - [`engine`]: plans, faults, workloads, oracles, and the builder that runs them
//! - [`escape`]: libc's clocks and entropy answered from the world, threads, sockets and real files refused
//! - [`isolate`]: one process image per seed, so that a death is that seed's verdict and nothing leaks to the next
//!
//! Invariant: nothing below `world` reads the system clock, spawns a thread or iterates a hash map.
pub mod adapters;
pub mod checker;
pub mod conformance;
pub mod disk;
pub mod engine;
pub mod escape;
pub mod isolate;
pub mod sync;
pub mod world;
