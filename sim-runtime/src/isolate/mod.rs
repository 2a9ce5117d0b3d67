//! One process image per seed.
//!
//! SQLite's random generator, `select!` shuffles and lazy statics are process-global, so what ran before could change
//! what runs now. And a simulated program can abort, overflow its stack, loop for ever or eat all memory; that must be
//! *that seed's* verdict.
//!
//! ```text
//! harness (threads, progress bars)        zygote (exec'ed, one thread)           child (forked, one run)
//!   Runner ---- request on stdin ---->      serve() ---- fork ---------------->    fresh thread, run()
//!          <--- outcome on stdout ---         polls pipes, enforces limits  <---   record, stderr
//! ```
//!
//! - [`enter`]: first thing in `main`; turns the process into a zygote when it was started as one
//! - [`Runner`]: runs requests one after the other through a zygote that is replaced when it dies
//! - [`Pool`]: many runners, results in the order of the requests, so that they do not depend on how many
//! - [`fresh`]: one run in a newly exec'ed process with another environment and address layout, for verification
//! - [`in_process`]: one run at a time on a fresh thread of this process, for `cargo test`
//!
//! Nothing of a run depends on the machine except its wall and CPU time. The wall clock decides nothing either: its far
//! backstop ends a run as inconclusive.
#![allow(unsafe_code)] // fork, limits and polling have no safe interface; each block says why it is sound.

mod allocator;
mod child;
mod death;
mod frame;
mod in_process;
mod limits;
mod outcome;
mod pool;
mod runner;
mod usage;
mod zygote;

pub use death::Death;
pub use in_process::{ALONE, in_process, on_own_thread};
pub use limits::Limits;
pub use outcome::Outcome;
pub use pool::Pool;
pub use runner::{Runner, Surroundings, executable, fresh};
pub use usage::{peak_memory_kib, thread_cpu_time};
pub use zygote::enter;

use crate::engine::record::{RunRecord, RunRequest};

/// A simulation: the record is a function of the request and the executable alone.
pub type Run = fn(&RunRequest) -> RunRecord;
