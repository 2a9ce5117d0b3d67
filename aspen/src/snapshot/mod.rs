//! Snapshots: the whole state in one file, from which a node far behind is brought up and past which the log is purged.
//!
//! - [`mod@format`]: the bytes of a snapshot
//! - [`file`]: a complete one, and one being received
//! - [`directory`]: which one is current, and cleaning up after others
//! - [`build`]: from a pinned read transaction, in steps
//! - [`install`]: into a new database beside the old one, then one atomic switch
//!
//! Invariant: a file under a snapshot's name is complete and was synced before it got the name; nothing of the state is
//! replaced before a snapshot's checksum was verified.

pub(crate) mod build;
pub(crate) mod directory;
mod file;
pub mod format;
pub(crate) mod install;
mod read;

pub use build::SnapshotBuilder;
pub use file::{Checksum, Incoming, SnapshotFile};
