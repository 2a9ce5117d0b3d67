//! Channels and locks whose waiters are served in order of arrival, and nothing else.
//!
//! What tokio leaves to its own chance (which watcher wakes first, who gets the lock) is fixed here, so that only the
//! scheduler decides. All are `Send`: uncontended `Arc<Mutex<..>>`, for the simulation has one thread. A dead
//! incarnation can close what it holds and release it, but puts no value into any of them.

mod lock;
pub mod mpsc;
mod mutex;
pub mod oneshot;
pub(crate) mod waiters;
pub mod watch;

pub use mutex::{Mutex, MutexGuard};
