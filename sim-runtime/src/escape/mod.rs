//! Calls that would leave the simulation through libc: answered from the world, or refused.
//!
//! Product code and its dependencies ask the system for time and entropy in ways that no Rust interface can intercept
//! (`Instant::now`, `HashMap` keys, SQLite's C code). This module defines libc's own symbols. An executable that links
//! this crate binds to them everywhere, C code and `dlsym` look-ups included. On a thread that simulates they answer
//! from the [`Answers`] that the world installed; on any other thread they forward to libc.
//!
//! - answered: `clock_gettime`, `gettimeofday`, `time`, `nanosleep`, `clock_nanosleep`, `getrandom`, `getentropy`, and
//!   `syscall()` for the same numbers
//! - refused with a clean error and noted in [`taken`]: threads, processes, sockets, name look-ups, real files
//! - fatal in a process of its own: a futex wait that would block, since nobody could ever wake the only thread
//!
//! What symbols cannot catch (a raw `syscall` instruction, a vDSO pointer, `rdtsc`, libc calling itself) ends the process
//! that exists for one run: see [`filter`].
//!
//! The symbols are there only if this crate is linked, and a test binary that names nothing of it silently keeps
//! libc's clock; so every simulation starts with [`assert_linked`].
#![allow(unsafe_code)] // Defining libc's symbols is what this module is for; each block says why it is sound.

mod canary;
mod clocks;
mod entropy;
#[cfg(target_arch = "x86_64")]
mod filter;
mod next;
mod raw;
mod refusals;
mod state;

pub use canary::assert_linked;
#[cfg(target_arch = "x86_64")]
pub(crate) use filter::confine;
pub(crate) use state::declare_alone;
pub use state::{Answers, Guard, install, seed_hash_keys, simulating, suspend, taken};

/// The filter knows x86-64 only.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn confine() -> std::io::Result<()> {
    Ok(())
}

/// How the last line of the report of a call past the symbols begins.
pub(crate) const ESCAPE: &str = "escape: ";

/// How the report of a futex wait begins that nobody could end.
pub(crate) const BLOCKING_WAIT: &str = "blocking wait while simulating";

#[cfg(test)]
mod tests;
