//! First-come-first-served waiting, with grants that survive until taken: the core of lanes, mutexes and full channels.

use std::collections::VecDeque;
use std::task::Waker;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    waker: Option<Waker>,
    granted: bool,
}

/// Waiters in order of arrival; a grant belongs to its ticket until taken or given back by cancelling.
#[derive(Debug)]
pub(crate) struct Waiters {
    next: u64,
    queue: VecDeque<Waiter>,
}

impl Waiters {
    pub const fn new() -> Waiters {
        Waiters { next: 0, queue: VecDeque::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many were granted and have not yet taken it.
    pub fn granted(&self) -> usize {
        self.queue.iter().filter(|waiter| waiter.granted).count()
    }

    pub fn enqueue(&mut self, waker: &Waker) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.queue.push_back(Waiter { ticket, waker: Some(waker.clone()), granted: false });
        ticket
    }

    fn position(&self, ticket: Ticket) -> Option<usize> {
        self.queue.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()
    }

    /// The waiter is polled again, perhaps by another task.
    pub fn update(&mut self, ticket: Ticket, waker: &Waker) {
        if let Some(position) = self.position(ticket) {
            let waiter = &mut self.queue[position];
            if !waiter.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
                waiter.waker = Some(waker.clone());
            }
        }
    }

    /// Grants to the first waiter that has none yet. The caller wakes it, outside its locks.
    pub fn grant_next(&mut self) -> Option<Waker> {
        let waiter = self.queue.iter_mut().find(|waiter| !waiter.granted)?;
        waiter.granted = true;
        waiter.waker.take()
    }

    /// Takes a grant, if there is one for this ticket.
    pub fn take_granted(&mut self, ticket: Ticket) -> bool {
        match self.position(ticket) {
            Some(position) if self.queue[position].granted => {
                self.queue.remove(position);
                true
            }
            _ => false,
        }
    }

    /// Stops waiting. Returns whether a grant was given back, which the caller passes on.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        self.position(ticket).and_then(|position| self.queue.remove(position)).is_some_and(|waiter| waiter.granted)
    }

    /// Everybody stops waiting. The caller wakes them, outside its locks.
    pub fn take_all(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.queue).into_iter().filter_map(|waiter| waiter.waker)
    }
}
