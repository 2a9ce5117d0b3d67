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

/// The actions of one run; those that nobody fetched are forgotten with it.
#[derive(Debug, Default)]
pub struct Tickets {
    issued: RefCell<Vec<u64>>,
}

impl Tickets {
    /// Leaves an action; [`redeem`] runs it once.
    pub fn deposit(&self, action: impl FnOnce() + 'static) -> u64 {
        let mut issued = self.issued.borrow_mut();
        let ticket = u64::try_from(issued.len()).expect("a length is a u64");
        issued.push(ticket);
        COUNTER.with_borrow_mut(|counter| counter.insert(ticket, Box::new(action)));
        ticket
    }
}

impl Drop for Tickets {
    fn drop(&mut self) {
        let forgotten = COUNTER.take();
        drop(forgotten);
    }
}

/// Runs the action of a ticket; does nothing the second time.
pub fn redeem(ticket: u64) {
    let action = COUNTER.with_borrow_mut(|counter| counter.remove(&ticket));
    if let Some(action) = action {
        action();
    }
}
