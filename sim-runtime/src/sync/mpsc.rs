//! Many senders, one receiver, first in first out. Bounded, with senders served in order of arrival, or unbounded.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use super::lock::Lock;
use super::waiters::{Ticket, Waiters};
use crate::world::{is_mute, note_wait};

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiver_gone: bool,
    receiver: Option<Waker>,
    waiting: Waiters,
}

impl<T> State<T> {
    fn has_room(&self) -> bool {
        // Room that was granted to a waiter is taken.
        self.queue.len() + self.waiting.granted() < self.capacity
    }

    /// A value was taken, or a grant given back.
    fn room_appeared(&mut self) -> Option<Waker> {
        if self.has_room() { self.waiting.grant_next() } else { None }
    }
}

type Shared<T> = Arc<Lock<State<T>>>;

/// A channel that holds at most `capacity` values; at least one.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State {
        queue: VecDeque::new(),
        capacity: capacity.max(1),
        senders: 1,
        receiver_gone: false,
        receiver: None,
        waiting: Waiters::new(),
    };
    let shared = Arc::new(Lock::new(state));
    (Sender { shared: shared.clone() }, Receiver { shared })
}

/// A channel whose senders never wait.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    channel(usize::MAX)
}

/// The receiver is gone, or the sender's incarnation is dead. Carries the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("channel closed")]
pub struct SendError<T>(pub T);

/// Why [`Sender::try_send`] did not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    #[error("channel full")]
    Full(T),
    #[error("channel closed")]
    Closed(T),
}

/// Why [`Receiver::try_recv`] has nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    #[error("channel empty")]
    Empty,
    #[error("channel closed")]
    Closed,
}

pub struct Sender<T> {
    shared: Shared<T>,
}

impl<T> Sender<T> {
    /// Waits for room and sends. Cancelled, nothing was sent.
    pub fn send(&self, value: T) -> Send<'_, T> {
        Send { sender: self, value: Some(value), ticket: None }
    }

    /// Sends if there is room and nobody waits for it. An unbounded channel always has room.
    ///
    /// # Errors
    /// Gives the value back.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = self.shared.lock();
        if state.receiver_gone || is_mute() {
            return Err(TrySendError::Closed(value));
        }
        if !state.waiting.is_empty() || !state.has_room() {
            return Err(TrySendError::Full(value));
        }
        state.queue.push_back(value);
        let waker = state.receiver.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().receiver_gone
    }

    /// A sender that does not keep the channel open.
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender { shared: Arc::downgrade(&self.shared) }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.shared.lock().senders += 1;
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        let waker = if state.senders == 0 { state.receiver.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// See [`Sender::downgrade`].
pub struct WeakSender<T> {
    shared: Weak<Lock<State<T>>>,
}

impl<T> WeakSender<T> {
    /// A sender again, while another one is alive.
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let shared = self.shared.upgrade()?;
        let mut state = shared.lock();
        if state.senders == 0 {
            return None;
        }
        state.senders += 1;
        drop(state);
        Some(Sender { shared })
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> WeakSender<T> {
        WeakSender { shared: self.shared.clone() }
    }
}

/// See [`Sender::send`].
#[must_use = "nothing is sent unless awaited"]
pub struct Send<'a, T> {
    sender: &'a Sender<T>,
    value: Option<T>,
    ticket: Option<Ticket>,
}

// Nothing is pinned: the value is moved out as a whole.
impl<T> Unpin for Send<'_, T> {}

impl<T> Future for Send<'_, T> {
    type Output = Result<(), SendError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.sender.shared.lock();
        if state.receiver_gone || is_mute() {
            drop(state);
            let value = this.value.take().expect("a Send is not polled after it is ready");
            return Poll::Ready(Err(SendError(value)));
        }
        let admitted = match this.ticket {
            None => state.waiting.is_empty() && state.has_room(),
            Some(ticket) => state.waiting.take_granted(ticket),
        };
        if admitted {
            this.ticket = None;
            state.queue.push_back(this.value.take().expect("a Send is not polled after it is ready"));
            let waker = state.receiver.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
            return Poll::Ready(Ok(()));
        }
        match this.ticket {
            None => this.ticket = Some(state.waiting.enqueue(cx.waker())),
            Some(ticket) => state.waiting.update(ticket, cx.waker()),
        }
        drop(state);
        note_wait("room in a channel");
        Poll::Pending
    }
}

impl<T> Drop for Send<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let mut state = self.sender.shared.lock();
            let next = if state.waiting.cancel(ticket) { state.room_appeared() } else { None };
            drop(state);
            if let Some(waker) = next {
                waker.wake();
            }
        }
    }
}

pub struct Receiver<T> {
    shared: Shared<T>,
}

impl<T> Receiver<T> {
    /// The next value; `None` once all senders are gone and everything was received. Cancel-safe.
    pub fn recv(&mut self) -> Recv<'_, T> {
        Recv { receiver: self }
    }

    /// The next value, if there is one.
    ///
    /// # Errors
    /// Tells an empty channel from a closed one.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let mut state = self.shared.lock();
        let Some(value) = state.queue.pop_front() else {
            return Err(if state.senders == 0 { TryRecvError::Closed } else { TryRecvError::Empty });
        };
        let next = state.room_appeared();
        drop(state);
        if let Some(waker) = next {
            waker.wake();
        }
        Ok(value)
    }

    /// Values waiting.
    pub fn len(&self) -> usize {
        self.shared.lock().queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_gone = true;
        let leftover = (std::mem::take(&mut state.queue), state.receiver.take());
        let waiting = state.waiting.take_all();
        drop(state);
        drop(leftover);
        for waker in waiting {
            waker.wake();
        }
    }
}

/// See [`Receiver::recv`].
#[must_use = "nothing is received unless awaited"]
pub struct Recv<'a, T> {
    receiver: &'a mut Receiver<T>,
}

impl<T> Future for Recv<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.receiver.try_recv() {
            Ok(value) => return Poll::Ready(Some(value)),
            Err(TryRecvError::Closed) => return Poll::Ready(None),
            Err(TryRecvError::Empty) => {}
        }
        let mut state = self.receiver.shared.lock();
        let stale = match &state.receiver {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => state.receiver.replace(cx.waker().clone()),
        };
        drop(state);
        drop(stale);
        note_wait("a value from a channel");
        Poll::Pending
    }
}
