//! Fault points and assertions for product code, free when nobody simulates.
//!
//! - [`buggify!`]: a place where the product may be made to behave badly on purpose
//! - [`assert_always!`], [`assert_unreachable!`]: what must hold whenever it is evaluated
//! - [`assert_sometimes!`], [`assert_reachable!`]: what must have been seen at least once over many runs, or testing
//!   is shallower than it looks
//! - [`Site`]: one such place in the source. All of them are registered at link time, so "never reached" is exact,
//!   also for code that never ran
//! - [`Simulator`]: who is told of a visit. The simulation installs one per thread
//!
//! Outside a simulation a visit costs one relaxed load and a predictable branch; a violated *always* goes to one
//! installable handler (default: a `tracing` error, once per site) and never panics.
//!
//! The scheme is FoundationDB's (`BUGGIFY`, `CODE_PROBE`: Zhou et al., SIGMOD 2021, section 4.2) with the
//! always/sometimes vocabulary of the Antithesis SDK.

mod catalogue;
mod macros;
mod outside;
mod simulator;
mod site;

pub use catalogue::{catalogue, site_index};
pub use outside::set_violation_handler;
pub use simulator::{Installed, Simulator, install, is_simulating};
pub use site::{Kind, Site};

/// What the macros expand to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::catalogue::SITES;
    pub use crate::simulator::{always, fire, sometimes};
    pub use linkme;
}
