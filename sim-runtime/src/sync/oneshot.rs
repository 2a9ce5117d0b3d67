//! One value from one task to another.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::lock::Lock;
use crate::world::{is_mute, note_wait};

struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

/// Sends the one value.
pub struct Sender<T> {
    shared: Arc<Lock<State<T>>>,
}

/// Resolves to the value, or to [`Closed`] when the sender was dropped without sending.
pub struct Receiver<T> {
    shared: Arc<Lock<State<T>>>,
}

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("oneshot channel closed")]
pub struct Closed;

pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { value: None, waker: None, sender_gone: false, receiver_gone: false };
    let shared = Arc::new(Lock::new(state));
    (Sender { shared: shared.clone() }, Receiver { shared })
}

impl<T> Sender<T> {
    /// # Errors
    /// Gives the value back when the receiver is gone, or when the sender's incarnation is dead.
    pub fn send(self, value: T) -> Result<(), T> {
        if is_mute() {
            return Err(value);
        }
        let mut state = self.shared.lock();
        if state.receiver_gone {
            return Err(value);
        }
        state.value = Some(value);
        Ok(())
        // Dropping `self` wakes the receiver.
    }

    /// Whether nobody waits for the value any more.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().receiver_gone
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.sender_gone = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// The value, if it has been sent.
    pub fn try_recv(&mut self) -> Option<T> {
        self.shared.lock().value.take()
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Ok(value));
        }
        if state.sender_gone {
            return Poll::Ready(Err(Closed));
        }
        let stale = match &state.waker {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => state.waker.replace(cx.waker().clone()),
        };
        drop(state);
        drop(stale);
        note_wait("a oneshot value");
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_gone = true;
        let leftover = (state.value.take(), state.waker.take());
        drop(state);
        drop(leftover);
    }
}
