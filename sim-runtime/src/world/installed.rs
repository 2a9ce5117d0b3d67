//! The world of this thread.
//!
//! Every function of the world goes through here, several times per event, so this is a plain pointer in a const
//! thread-local and not a counted reference in a cell. Wakers go through here too: one is the key of its task, and nothing
//! is counted for it.
#![allow(unsafe_code)] // One pointer, valid between the construction and the drop of its guard; and wakers without one.

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::slab::Key;
use super::state::Inner;

thread_local! {
    /// Null, or the world of the outermost [`Entered`], which keeps it alive.
    static CURRENT: Cell<*const Inner> = const { Cell::new(ptr::null()) };
}

/// Runs `f` on the world of this thread, if there is one.
#[inline]
pub(crate) fn try_with<R>(f: impl FnOnce(&Inner) -> R) -> Option<R> {
    let current = CURRENT.with(Cell::get);
    // SAFETY: the guard that set the pointer owns a reference to the world and clears the pointer before it gives it
    // up. Guards live in stack frames below every caller of this function, so none is dropped while `f` runs.
    unsafe { current.as_ref() }.map(f)
}

/// Makes a world that of this thread until dropped. Never leaves the stack frame that made it.
pub(crate) struct Entered {
    /// `None` when it was entered already: then nothing changes.
    world: Option<Rc<Inner>>,
}

impl Entered {
    /// # Panics
    /// If another world is running on this thread.
    pub fn new(world: &Rc<Inner>) -> Entered {
        let current = CURRENT.with(Cell::get);
        let again = ptr::eq(current, Rc::as_ptr(world));
        assert!(again || current.is_null(), "another simulation is already running on this thread");
        if again {
            return Entered { world: None };
        }
        CURRENT.with(|current| current.set(Rc::as_ptr(world)));
        Entered { world: Some(world.clone()) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.world.is_some() {
            CURRENT.with(|current| current.set(ptr::null()));
        }
        // The world itself may be dropped after this: destructors that look for it find none.
    }
}

/// The functions of wakers whose data is the key of a task as a number.
static WAKER: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, |_| ());

fn clone(key: *const ()) -> RawWaker {
    RawWaker::new(key, &WAKER)
}

/// On a foreign thread or after the world nothing happens: a simulation has one thread, so the deadlock report is as loud as
/// a waker may be.
fn wake(key: *const ()) {
    try_with(|world| world.schedule(Key::from_number(key.addr())));
}

/// Wakes the task with this key in the world of the thread that asks.
#[inline]
pub(crate) fn task_waker(key: Key) -> Waker {
    let data = ptr::without_provenance(key.to_number());
    // SAFETY: the data is a number, which nothing follows or frees, so the functions may be called with it on any thread, any
    // number of times and at any time.
    unsafe { Waker::new(data, &WAKER) }
}
