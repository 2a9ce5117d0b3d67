//! SQLite on the simulated disk: a VFS of ours that becomes the process's default while simulating.
//!
//! It owns everything through which SQLite reaches the outside: files, locks, the shared memory of a write-ahead log,
//! randomness, time, sleep. Calls go to the disk of the host whose task is running; open files stay with the
//! incarnation that opened them and return errors once it is dead.
//!
//! - [`install`] makes it the default and holds a process-wide lock: SQLite's default VFS and its random generator are
//!   process-global, so simulations with SQLite run one at a time.
//! - Set every connection's busy timeout to 0: a busy handler sleeps inside one call, on the only thread there is.
//!
//! Where SQLite's own unix VFS has a choice this one does the same, so that the trace of operations is equal: see
//! `tests/sqlite_vfs.rs`.

mod file;
mod locks;
mod vfs;

pub use vfs::{Installed, VFS_NAME, install, reset_randomness};
pub(crate) use vfs::{inherit, is_held};
