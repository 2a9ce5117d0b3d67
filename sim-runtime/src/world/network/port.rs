//! Ports: where an incarnation receives, and how it sends.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use super::{Event, Mailbox};
use crate::world::slab::Key;
use crate::world::state::{try_with, with};
use crate::world::task::note_wait;
use crate::world::{HostId, section};

/// A bound port of the incarnation that bound it. Dropping it unbinds the port.
pub struct Receiver {
    key: Key,
    port: u16,
    world: usize,
}

impl Receiver {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next event. Never ready once the incarnation is dead.
    pub fn recv(&mut self) -> Recv<'_> {
        Recv { receiver: self }
    }

    /// The next event, if it has arrived.
    pub fn try_recv(&mut self) -> Option<Event> {
        with(|world| world.network.borrow_mut().mailboxes.get_mut(self.key)?.queue.pop_front())
    }

    /// Sends from this port, so that a refusal comes back to it.
    pub fn send(&self, to: HostId, port: u16, bytes: Vec<u8>) {
        send_with(Some(self.port), to, port, bytes);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mailbox = try_with(|world| {
            if world.address() != self.world {
                return None;
            }
            let mut network = world.network.borrow_mut();
            let mailbox = network.mailboxes.remove(self.key)?;
            if let Some(ports) = network.bound.get_mut(mailbox.owner.host.0 as usize) {
                ports.retain(|&(_, key)| key != self.key);
            }
            Some(mailbox)
        });
        drop(mailbox);
    }
}

/// See [`Receiver::recv`]. Cancel-safe: an event is taken only when this is ready.
#[must_use = "a Recv does nothing unless awaited"]
pub struct Recv<'a> {
    receiver: &'a mut Receiver,
}

impl Future for Recv<'_> {
    type Output = Event;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Event> {
        let polled = with(|world| {
            let mut network = world.network.borrow_mut();
            let Some(mailbox) = network.mailboxes.get_mut(self.receiver.key) else { return Err(None) };
            match mailbox.queue.pop_front() {
                Some(event) => Ok(event),
                None if mailbox.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) => Err(None),
                None => Err(mailbox.waker.replace(cx.waker().clone())),
            }
        });
        match polled {
            Ok(event) => Poll::Ready(event),
            Err(stale) => {
                drop(stale);
                note_wait("a message");
                Poll::Pending
            }
        }
    }
}

/// Binds a port for the current incarnation. Of a dead one the receiver never yields anything.
///
/// # Panics
/// If the port is bound already.
pub fn bind(port: u16) -> Receiver {
    with(|world| {
        let owner = world.context.get().incarnation;
        let receiver = |key| Receiver { key, port, world: world.address() };
        if world.is_mute() || !world.is_alive(owner) {
            return receiver(Key::NONE);
        }
        let mut network = world.network.borrow_mut();
        let taken = network.find(owner.host, port);
        assert!(taken.is_none(), "port {port} of host {} is bound already", owner.host.0);
        let key = network.mailboxes.insert(Mailbox { owner, queue: VecDeque::new(), waker: None });
        let row = owner.host.0 as usize;
        if network.bound.len() <= row {
            network.bound.resize_with(row + 1, Vec::new);
        }
        network.bound[row].push((port, key));
        receiver(key)
    })
}

/// Sends a message from the current host; a refusal comes back to the port that its incarnation bound first. Inside a
/// section the message leaves when the section's virtual end is reached, unless the host dies before. A dead
/// incarnation sends nothing.
///
/// # Panics
/// If there is no such host.
pub fn send(to: HostId, port: u16, bytes: Vec<u8>) {
    send_with(None, to, port, bytes);
}

fn send_with(from_port: Option<u16>, to: HostId, port: u16, bytes: Vec<u8>) {
    section::buffer(move || {
        with(|world| {
            if !world.is_mute() {
                world.send_message(from_port, to, port, bytes);
            }
        });
    });
}
