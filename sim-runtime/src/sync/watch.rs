//! The latest value of something, and who has not seen it. Watchers wake in the order in which they began to wait.
//!
//! A borrow must end before the next send on the same channel: with one thread the send could never go on, so it panics.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::task::{Context, Poll};

use super::lock::Lock;
use super::waiters::{Ticket, Waiters};
use crate::world::{is_mute, note_wait};

struct Shared<T> {
    value: RwLock<T>,
    state: Lock<State>,
}

struct State {
    version: u64,
    senders: usize,
    receivers: usize,
    waiters: Waiters,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        Ref { guard: self.value.read().unwrap_or_else(PoisonError::into_inner) }
    }

    fn write(&self) -> RwLockWriteGuard<'_, T> {
        match self.value.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("a watched value is sent while somebody borrows the old one"),
        }
    }

    fn changed(&self) {
        let waiters = {
            let mut state = self.state.lock();
            state.version += 1;
            state.waiters.take_all()
        };
        for waker in waiters {
            waker.wake();
        }
    }
}

/// A channel whose receiver has seen `initial`.
pub fn channel<T>(initial: T) -> (Sender<T>, Receiver<T>) {
    let state = State { version: 0, senders: 1, receivers: 1, waiters: Waiters::new() };
    let shared = Arc::new(Shared { value: RwLock::new(initial), state: Lock::new(state) });
    (Sender { shared: shared.clone() }, Receiver { shared, seen: 0 })
}

/// All receivers are gone, or the sender's incarnation is dead. Carries the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("watch channel closed")]
pub struct SendError<T>(pub T);

/// All senders are gone and the last value was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("watch channel closed")]
pub struct Closed;

/// The current value, borrowed.
pub struct Ref<'a, T> {
    guard: RwLockReadGuard<'a, T>,
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Replaces the value.
    ///
    /// # Errors
    /// Gives the value back when nobody watches.
    ///
    /// # Panics
    /// If the value is borrowed.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if is_mute() || self.shared.state.lock().receivers == 0 {
            return Err(SendError(value));
        }
        let old = std::mem::replace(&mut *self.shared.write(), value);
        self.shared.changed();
        drop(old);
        Ok(())
    }

    /// Lets `modify` change the value in place; watchers are told when it returns true.
    ///
    /// # Panics
    /// If the value is borrowed.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        if is_mute() {
            return false;
        }
        let modified = modify(&mut self.shared.write());
        if modified {
            self.shared.changed();
        }
        modified
    }

    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// A receiver that has seen the current value.
    pub fn subscribe(&self) -> Receiver<T> {
        let mut state = self.shared.state.lock();
        state.receivers += 1;
        Receiver { shared: self.shared.clone(), seen: state.version }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.shared.state.lock().senders += 1;
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waiters = {
            let mut state = self.shared.state.lock();
            state.senders -= 1;
            if state.senders > 0 {
                return;
            }
            state.waiters.take_all()
        };
        for waker in waiters {
            waker.wake();
        }
    }
}

pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// Waits for a value that this receiver has not seen, and marks it seen. Cancel-safe.
    ///
    /// # Errors
    /// When all senders are gone and the last value was seen.
    pub fn changed(&mut self) -> Changed<'_, T> {
        Changed { receiver: self, ticket: None }
    }

    /// The current value, without marking it seen.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// The current value, marked seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.state.lock().version;
        self.shared.read()
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        self.shared.state.lock().receivers += 1;
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.state.lock().receivers -= 1;
    }
}

/// See [`Receiver::changed`].
#[must_use = "a change is not waited for unless awaited"]
pub struct Changed<'a, T> {
    receiver: &'a mut Receiver<T>,
    ticket: Option<Ticket>,
}

impl<T> Future for Changed<'_, T> {
    type Output = Result<(), Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.receiver.shared.state.lock();
        if state.version != this.receiver.seen {
            this.receiver.seen = state.version;
            return Poll::Ready(Ok(()));
        }
        if state.senders == 0 {
            return Poll::Ready(Err(Closed));
        }
        match this.ticket {
            None => this.ticket = Some(state.waiters.enqueue(cx.waker())),
            Some(ticket) => state.waiters.update(ticket, cx.waker()),
        }
        drop(state);
        note_wait("a change of a watched value");
        Poll::Pending
    }
}

impl<T> Drop for Changed<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.receiver.shared.state.lock().waiters.cancel(ticket);
        }
    }
}
