//! What is on the disks: judged on images of what a disk would hold if its power failed at that moment, as decoded by
//! [`crate::image`], at every power loss, at a sample of commits and of what nodes tell each other, and at
//! the end.
//!
//! Sources: Raft, figure 2 ("persistent state on all servers, updated on stable storage before responding to RPCs") and
//! sections 5.3 and 7.
pub mod committed_on_a_quorum;
pub mod durable_before_told;
pub mod durable_monotonic;
pub mod no_hole;
pub mod readable;
