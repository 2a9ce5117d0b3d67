//! Simulations inside `cargo test`: one at a time, on a fresh thread.

use std::panic::resume_unwind;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use crate::escape;

use super::allocator;
use super::limits::STACK_BYTES;

/// Held while a simulation runs in this process, and by every test that touches what simulations share (SQLite's
/// default VFS and random generator).
pub static ALONE: Mutex<()> = Mutex::new(());

/// As [`in_process`], but the caller goes on: for simulations that are told step by step what to do. [`ALONE`] is held
/// until `simulation` returns.
///
/// Nothing may wait for another simulation meanwhile: it would wait for ever.
pub fn on_own_thread<T: Send + 'static>(simulation: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new()
        .name("simulation".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(|| {
            let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            TUNED.call_once(allocator::tune);
            allocator::reserve();
            escape::seed_hash_keys(0);
            simulation()
        })
        .expect("a thread can be started: nothing simulates on this one")
}

static TUNED: Once = Once::new();

/// Runs `simulation` under [`ALONE`] on a fresh thread, whose `HashMap` keys are the same each time. Panics of
/// `simulation` reach the caller.
///
/// Not reentrant: a simulation inside a simulation would wait for itself.
pub fn in_process<T: Send>(simulation: impl FnOnce() -> T + Send) -> T {
    // A test that failed in here poisons the lock; what it guards is rebuilt by every simulation.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    TUNED.call_once(allocator::tune);
    #[cfg(feature = "sqlite")]
    let held = crate::adapters::sqlite::is_held();
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("simulation".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || {
                #[cfg(feature = "sqlite")]
                crate::adapters::sqlite::inherit(held);
                allocator::reserve();
                escape::seed_hash_keys(0);
                simulation()
            })
            .expect("a thread can be started: nothing simulates on this one");
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
