//! Blocking sections: synchronous engines in virtual time.
//!
//! redb and SQLite are synchronous, so a section runs inline and its result is delivered after the I/O time it used
//! ([`spend`]). Inside it, time is its start plus what it spent. Effects that somebody may act on or count (assertion and
//! coverage hits, observations, messages) are [`buffer`]ed with the time they happened at and committed when the
//! section's virtual end is reached; when the host dies before, those later than its death never happened.
//!
//! Sections of one [`Lane`] are serial in virtual time, first come first served: the next starts no earlier than the
//! previous one's virtual end, so nobody acts on a commit that a power loss still rolls back. The I/O of a section that
//! has started goes on when its caller stops waiting, as it does on a thread.
//!
//! What leaves a section other than by its result (a wake, a value put into a channel) is not rolled back: send answers
//! after the section, not inside it. A task woken from inside runs no earlier than the time the section had reached.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use super::agenda::Kind;
use super::slab::Key;
use super::state::{Action, Context, Inner, try_with, with};
use super::task::note_wait_on;
use super::trace::Class;
use super::{Incarnation, Nanos, panics};
use crate::sync::waiters::{Ticket, Waiters};

/// The section that is running.
pub(crate) struct Section {
    start: Nanos,
    spent: Nanos,
    effects: Vec<Effect>,
    /// The section is over and its effects are being committed, each at its own time.
    committing: bool,
}

impl Section {
    fn new(start: Nanos, committing: bool) -> Section {
        Section { start, spent: 0, effects: Vec::new(), committing }
    }

    pub fn now(&self) -> Nanos {
        self.start.saturating_add(self.spent)
    }
}

struct Effect {
    at: Nanos,
    run: Action,
}

/// A section whose virtual end is still to come.
pub(crate) struct Pending {
    incarnation: Incarnation,
    effects: Vec<Effect>,
    lane: Option<Lane>,
    waker: Option<Waker>,
    started_by: u64,
}

/// Advances the I/O time of the running section, in ns. Outside any section nothing happens: destructors and setup take
/// no time.
#[inline]
pub fn spend(ns: Nanos) {
    try_with(|world| {
        if let Some(section) = world.section.borrow_mut().as_mut() {
            section.spent = section.spent.saturating_add(ns);
        }
    });
}

/// Whether a section is running.
pub fn active() -> bool {
    try_with(|world| world.in_section()).unwrap_or(false)
}

/// Virtual time up to which nothing can be undone any more, in ns: the world's clock, which a running section is ahead of.
pub fn horizon_ns() -> Nanos {
    with(|world| world.now.get())
}

/// Runs `effect` when the running section's virtual end is reached, with [`now_ns`](super::now_ns) showing the present
/// time; drops it if the host dies before the present time. Outside a section it runs at once; for a dead incarnation
/// never.
pub fn buffer(effect: impl FnOnce() + 'static) {
    let mut effect = Some(effect);
    let mute = try_with(|world| {
        if world.has_section()
            && let Some(section) = world.section.borrow_mut().as_mut().filter(|section| !section.committing)
        {
            let at = section.now();
            section.effects.extend(effect.take().map(|run| Effect { at, run: Box::new(run) }));
        }
        world.is_mute()
    });
    if let Some(effect) = effect.filter(|_| mute != Some(true)) {
        effect();
    }
}

/// A queue of sections that exclude each other in virtual time: one per database. Clones share it.
#[derive(Clone)]
pub struct Lane {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    state: Mutex<State>,
}

struct State {
    busy: bool,
    waiters: Waiters,
}

impl Lane {
    pub fn new(name: &'static str) -> Lane {
        Lane { shared: Arc::new(Shared { name, state: Mutex::new(State { busy: false, waiters: Waiters::new() }) }) }
    }

    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Waits until the lane is free, runs `f` as a section that starts then, waits until its virtual end, and returns its
    /// result. A panic of `f` surfaces at the virtual end.
    ///
    /// Dropped before its turn, `f` never runs; afterwards the lane stays taken until the virtual end.
    pub async fn run<T>(&self, f: impl FnOnce() -> T + Send) -> T
    where
        T: Send,
    {
        let turn = Acquire { lane: self, ticket: None }.await;
        let (result, done) = start(f, Some(turn.into_lane()), self.name());
        finish(result, done).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self) {
        let next = {
            let mut state = self.state();
            let next = state.waiters.grant_next();
            state.busy = next.is_some();
            next
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// Runs `f` as a section that excludes no other; see [`Lane::run`].
pub async fn run<T: Send>(name: &'static str, f: impl FnOnce() -> T + Send) -> T {
    let (result, done) = start(f, None, name);
    finish(result, done).await
}

type Caught<T> = Result<T, Box<dyn Any + Send>>;

async fn finish<T: Send>(result: Caught<T>, done: Option<Done>) -> T {
    if let Some(done) = done {
        done.await;
    }
    match result {
        Ok(value) => value,
        Err(payload) => resume_unwind(payload),
    }
}

/// Runs the section and registers its virtual end. `None` when that is now.
fn start<T>(f: impl FnOnce() -> T, lane: Option<Lane>, name: &'static str) -> (Caught<T>, Option<Done>) {
    with(|world| {
        let start = world.now.get();
        let nested = world.replace_section(Some(Section::new(start, false)));
        assert!(nested.is_none(), "a blocking section `{name}` was started inside another");
    });
    let result = catch_unwind(AssertUnwindSafe(f));
    let done = with(|world| world.close_section(lane, name));
    (result, done)
}

/// The right to run on a lane.
struct Turn<'a> {
    lane: Option<&'a Lane>,
}

impl Turn<'_> {
    fn into_lane(mut self) -> Lane {
        self.lane.take().expect("a turn is used once").clone()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane {
            lane.release();
        }
    }
}

struct Acquire<'a> {
    lane: &'a Lane,
    ticket: Option<Ticket>,
}

impl<'a> Future for Acquire<'a> {
    type Output = Turn<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Turn<'a>> {
        let lane = self.lane;
        let mut state = lane.state();
        match self.ticket {
            None if !state.busy => {
                state.busy = true;
                return Poll::Ready(Turn { lane: Some(lane) });
            }
            None => self.ticket = Some(state.waiters.enqueue(cx.waker())),
            Some(ticket) if state.waiters.take_granted(ticket) => {
                self.ticket = None;
                return Poll::Ready(Turn { lane: Some(lane) });
            }
            Some(ticket) => state.waiters.update(ticket, cx.waker()),
        }
        drop(state);
        note_wait_on("its turn on lane", lane.name());
        Poll::Pending
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let granted = self.lane.state().waiters.cancel(ticket);
            if granted {
                self.lane.release();
            }
        }
    }
}

/// Resolves at the virtual end of a section.
struct Done {
    key: Key,
    end: Nanos,
    name: &'static str,
}

impl Future for Done {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let done = with(|world| {
            if world.now.get() >= self.end {
                return true;
            }
            if let Some(pending) = world.pending_sections.borrow_mut().get_mut(self.key) {
                pending.waker = Some(cx.waker().clone());
            }
            false
        });
        if done {
            return Poll::Ready(());
        }
        note_wait_on("the end of a blocking section on", self.name);
        Poll::Pending
    }
}

impl Inner {
    pub fn in_section(&self) -> bool {
        self.has_section() && self.section.borrow().as_ref().is_some_and(|section| !section.committing)
    }

    fn close_section(&self, lane: Option<Lane>, name: &'static str) -> Option<Done> {
        let section = self.replace_section(None).expect("the section was opened by the caller");
        let end = section.now();
        let incarnation = self.context.get().incarnation;
        self.record(Class::Section, name, &[section.spent, section.effects.len() as u64], (0, 0));
        let effects = section.effects;
        if end <= self.now.get() || self.is_mute() {
            self.commit(incarnation, effects, end);
            if let Some(lane) = lane {
                lane.release();
            }
            return None;
        }
        let pending = Pending { incarnation, effects, lane, waker: None, started_by: self.cause.get() };
        let key = self.pending_sections.borrow_mut().insert(pending);
        let tie = self.next_tie();
        self.agenda.borrow_mut().push(end, tie, Kind::Section, key);
        Some(Done { key, end, name })
    }

    /// The virtual end of a section is reached.
    pub fn end_section(&self, key: Key) {
        let Some(pending) = self.pending_sections.borrow_mut().remove(key) else { return };
        self.cause.set(pending.started_by);
        self.commit(pending.incarnation, pending.effects, Nanos::MAX);
        if let Some(lane) = pending.lane {
            lane.release();
        }
        if let Some(waker) = pending.waker {
            waker.wake();
        }
    }

    /// The incarnation dies now: what its sections did up to now happened, the rest did not.
    pub fn end_sections_of(&self, incarnation: Incarnation) {
        let keys: Vec<Key> = {
            let pending = self.pending_sections.borrow();
            let of_incarnation = pending.iter().filter(|(_, pending)| pending.incarnation == incarnation);
            of_incarnation.map(|(key, _)| key).collect()
        };
        for key in keys {
            let Some(pending) = self.pending_sections.borrow_mut().remove(key) else { continue };
            self.commit(incarnation, pending.effects, self.now.get());
            if let Some(lane) = pending.lane {
                lane.release();
            }
        }
    }

    /// Runs the effects up to `until`, each at its own time, and drops the others.
    fn commit(&self, incarnation: Incarnation, effects: Vec<Effect>, until: Nanos) {
        if effects.is_empty() {
            return;
        }
        let mute = self.is_mute();
        let task = self.context.get().task;
        self.in_context(Context { incarnation, task, mute }, self.cause.get(), || {
            for effect in effects {
                if effect.at > until || mute {
                    continue;
                }
                self.replace_section(Some(Section::new(effect.at, true)));
                let result = catch_unwind(AssertUnwindSafe(effect.run));
                self.replace_section(None);
                if let Err(payload) = result {
                    panics::caught(payload);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn outside_a_world_nothing_is_a_section() {
        assert!(!super::active());
        super::spend(5);
        let (sender, receiver) = std::sync::mpsc::channel();
        super::buffer(move || sender.send(1).unwrap());
        assert_eq!(receiver.recv(), Ok(1));
    }
}
