//! What clients were told.
//!
//! The workload writes every value once: a value names the operation that wrote it. Reads tell which operations took
//! effect, also those whose outcome the client never learned.
//!
//! - [`outcomes`]: what failed for good has no effect, and every reply fits its command
//! - [`exactly_once`]: no operation has two effects
//! - [`durability`]: what was acknowledged or seen is there at the end
//! - [`order_by_revision`]: the order that the replies claim is one in which the specification gives these replies
//! - [`stale_reads`]: reads that may be old are not older than they promise
//! - [`linearizability`]: there is such an order, found without looking at revisions
pub mod durability;
pub mod exactly_once;
#[cfg(test)]
mod generated;
pub mod linearizability;
mod operations;
pub mod order_by_revision;
pub mod outcomes;
pub mod stale_reads;

pub(crate) use operations::{
    Fate, Operations, Write, Writers, branch_effects, comparisons_that_held, effects, fate, happened, observed_rows,
    revision, shown, transacted, would_write,
};
