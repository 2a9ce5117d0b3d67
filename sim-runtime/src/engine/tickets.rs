//! Actions of the engine, left at a counter.
//!
//! A disk may be used by anything that is `Send`, so what it is asked to call must be `Send` too; the engine's actions
//! are not. The disk gets a number, and the number fetches the action on the one thread there is.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// An action of the engine.
type Action = Box<dyn FnOnce()>;

thread_local! {
    static COUNTER: RefCell<BTreeMap<u64, Action>> = const { RefCell::new(BTreeMap::new()) };
}

/// Leaves an action under a number; [`redeem`] runs it once.
pub fn deposit(ticket: u64, action: impl FnOnce() + 'static) {
    COUNTER.with_borrow_mut(|counter| counter.insert(ticket, Box::new(action)));
}

/// Runs the action of a ticket; does nothing the second time.
pub fn redeem(ticket: u64) {
    let action = COUNTER.with_borrow_mut(|counter| counter.remove(&ticket));
    if let Some(action) = action {
        action();
    }
}

/// Forgets the actions that nobody fetched: the run is over.
pub fn forget_all() {
    let forgotten = COUNTER.take();
    drop(forgotten);
}
