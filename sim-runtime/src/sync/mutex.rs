//! An async mutex that is handed from one waiter to the next, in order of arrival.
//!
//! The guard carries the value out of the lock and puts it back when dropped, which needs no unsafe code; a guard that is
//! leaked leaves the mutex locked for ever.

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::lock::Lock;
use super::waiters::{Ticket, Waiters};
use crate::world::note_wait;

struct State<T> {
    /// `None` while a guard or a grant is out.
    value: Option<T>,
    /// The value on its way to the waiter that was granted the lock.
    handed: Option<T>,
    waiters: Waiters,
}

pub struct Mutex<T> {
    state: Lock<State<T>>,
}

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { state: Lock::new(State { value: Some(value), handed: None, waiters: Waiters::new() }) }
    }

    /// Waits for the lock. Cancelling passes it to the next in line.
    pub fn lock(&self) -> Acquire<'_, T> {
        Acquire { mutex: self, ticket: None }
    }

    /// The lock, if nobody holds it or waits for it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let value = self.state.lock().value.take()?;
        Some(MutexGuard { mutex: self, value: Some(value) })
    }

    fn release(&self, value: T) {
        let mut state = self.state.lock();
        let next = state.waiters.grant_next();
        if next.is_some() {
            state.handed = Some(value);
        } else {
            state.value = Some(value);
        }
        drop(state);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

/// See [`Mutex::lock`].
#[must_use = "a lock is not taken unless awaited"]
pub struct Acquire<'a, T> {
    mutex: &'a Mutex<T>,
    ticket: Option<Ticket>,
}

impl<'a, T> Future for Acquire<'a, T> {
    type Output = MutexGuard<'a, T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<MutexGuard<'a, T>> {
        let mutex = self.mutex;
        let mut state = mutex.state.lock();
        let taken = match self.ticket {
            None => state.value.take(),
            Some(ticket) if state.waiters.take_granted(ticket) => {
                self.ticket = None;
                state.handed.take()
            }
            Some(_) => None,
        };
        if let Some(value) = taken {
            return Poll::Ready(MutexGuard { mutex, value: Some(value) });
        }
        match self.ticket {
            None => self.ticket = Some(state.waiters.enqueue(cx.waker())),
            Some(ticket) => state.waiters.update(ticket, cx.waker()),
        }
        drop(state);
        note_wait("a mutex");
        Poll::Pending
    }
}

impl<T> Drop for Acquire<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let mut state = self.mutex.state.lock();
            let returned = if state.waiters.cancel(ticket) { state.handed.take() } else { None };
            drop(state);
            if let Some(value) = returned {
                self.mutex.release(value);
            }
        }
    }
}

/// Holds the lock until dropped.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    value: Option<T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("a guard has the value until dropped")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("a guard has the value until dropped")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take() {
            self.mutex.release(value);
        }
    }
}
