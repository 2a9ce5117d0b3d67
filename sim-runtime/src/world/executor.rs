//! The executor: which ready task is polled next, when time advances, and when a run is given up.
//!
//! Polls take no virtual time. While a task is ready it is polled; otherwise time jumps to the next entry of the agenda,
//! and everything due at that instant happens before any task is polled, so that the order of polls is the scheduler's
//! and not that of the timers. A drawn hold makes a ready task wait while time goes on.

use std::any::Any;
use std::cmp::Ordering;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use super::agenda::{Due, Kind};
use super::config::{Order, WorldConfig};
use super::draws::{self, Dice, Purpose};
use super::network::stream::Streams;
use super::slab::Key;
use super::state::{Context, Entered, Inner, task_waker};
use super::task::{Body, Completion, Origin, TaskEntry};
use super::trace::{Class, NO_EVENT};
use super::{Cause, Halt, Incarnation, Nanos, hash, panics};

const SCHEDULE: Purpose = Purpose("schedule");

/// After so many polls of one task at one instant, a PCT order lowers its priority: it may be waiting for a lower one.
const PCT_POLLS_PER_INSTANT: u64 = 64;

/// A ready task. The smallest key runs first; `sequence` makes the order total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    key: u64,
    sequence: u64,
    task: Key,
}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Ready) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ready {
    /// Reversed, since the standard heap yields the largest.
    fn cmp(&self, other: &Ready) -> Ordering {
        (other.key, other.sequence).cmp(&(self.key, self.sequence))
    }
}

/// Polls at which the running task of a PCT order loses its priority, latest first.
pub(crate) fn change_points(config: &WorldConfig, key: draws::Key) -> Vec<u64> {
    let Order::Pct { depth } = config.order else { return Vec::new() };
    let mut draws = key.stream(SCHEDULE, 0);
    let mut points: Vec<u64> = (0..depth).map(|_| draws.below(config.pct_polls.max(1))).collect();
    points.sort_unstable_by(|a, b| b.cmp(a));
    points
}

impl Inner {
    /// Priority of a task in a PCT order; the smallest runs first.
    pub fn priority(&self, id: u64) -> u64 {
        match self.config.order {
            Order::Pct { .. } => hash::mix(self.salt ^ hash::K2, id) >> 1,
            Order::Uniform | Order::Fifo => 0,
        }
    }

    /// A task was woken. While it is being polled it is made ready when the poll is over.
    pub fn schedule(&self, key: Key) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(entry) = tasks.get_mut(key).filter(|entry| !entry.scheduled && !entry.cancelled) else { return };
        if entry.is_polled() {
            entry.woken = true;
            return;
        }
        entry.scheduled = true;
        entry.wakes += 1;
        entry.cause = self.cause.get();
        let (id, wakes, host, priority) = (entry.id, entry.wakes, entry.incarnation.host, entry.priority);
        drop(tasks);

        let now = self.now.get();
        let section_now = self.seen_now();
        if section_now > now {
            // What a section does takes effect at the time it has reached.
            self.hold(key, section_now, hash::mix(self.salt ^ id, wakes));
            return;
        }
        if self.config.hold_probability_ppm > 0 {
            let mut dice = Dice::new(hash::mix(self.salt ^ hash::K1 ^ id, wakes));
            if dice.chance(self.config.hold_probability_ppm) {
                let until = now + 1 + dice.below(self.config.hold_ns_max.max(1));
                self.record_for(host, Class::Hold, "", &[id, until], (0, 0));
                self.hold(key, until, dice.next_u64());
                return;
            }
        }
        if self.slow.get() > 0 {
            let slowness = self.with_host(host, |host| host.slowness);
            let mut dice = Dice::new(hash::mix(self.salt ^ hash::K2 ^ id, wakes));
            if slowness.ppm > 0 && dice.chance(slowness.ppm) {
                self.slow_waits.set(self.slow_waits.get() + 1);
                self.hold(key, now + 1 + dice.below(slowness.ns_max.max(1)), dice.next_u64());
                return;
            }
        }
        if !self.park(host, key) {
            self.push_ready(key, id, wakes, priority);
        }
    }

    fn hold(&self, key: Key, until: Nanos, tie: u64) {
        self.agenda.borrow_mut().push(until, tie, Kind::Release, key);
    }

    /// Puts a scheduled task among the ready ones, or parks it while its host is paused.
    pub fn enqueue(&self, key: Key) {
        let ready = self.tasks.borrow().get(key).filter(|entry| entry.scheduled).map(|entry| {
            let TaskEntry { id, wakes, priority, incarnation, .. } = entry;
            (*id, *wakes, *priority, incarnation.host)
        });
        if let Some((id, wakes, priority, host)) = ready
            && !self.park(host, key)
        {
            self.push_ready(key, id, wakes, priority);
        }
    }

    #[inline]
    fn push_ready(&self, key: Key, id: u64, wakes: u64, priority: u64) {
        let sequence = self.ready_sequence.get() + 1;
        self.ready_sequence.set(sequence);
        let rank = match self.config.order {
            Order::Uniform => hash::mix(self.salt ^ id, wakes),
            Order::Fifo => sequence,
            Order::Pct { .. } => priority,
        };
        self.ready.borrow_mut().push(Ready { key: rank, sequence, task: key });
    }

    /// Cancels a task: its future is dropped when the bin is drained, or after the poll that it is in.
    pub fn cancel(&self, key: Key) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(entry) = tasks.get_mut(key).filter(|entry| !entry.is_main && !entry.cancelled) else { return };
        entry.cancelled = true;
        if !entry.is_polled() {
            self.bin.borrow_mut().push_back(key);
        }
    }

    /// Drops the futures of cancelled tasks, each on behalf of its own incarnation.
    pub fn drain(&self) {
        if self.draining.replace(true) {
            return;
        }
        while let Some(key) = self.next_in_bin() {
            let cancelled = self.tasks.borrow_mut().get_mut(key).map(|entry| (entry.incarnation, entry.body.take()));
            let Some((incarnation, body)) = cancelled else { continue };
            let context = Context { incarnation, task: key, mute: !self.is_alive(incarnation) };
            self.in_context(context, self.cause.get(), || drop(body));
            self.tasks.borrow_mut().remove(key);
        }
        self.draining.set(false);
    }

    fn next_in_bin(&self) -> Option<Key> {
        self.bin.borrow_mut().pop_front()
    }

    /// Runs `main` as the first task of host 0, until it completes or the run is given up; then, if it was the `last`,
    /// ends everything else.
    pub fn run_main<T>(self: &Rc<Inner>, origin: Origin, main: impl Future<Output = T>, last: Last) -> Result<T, Halt> {
        assert!(!self.running.get(), "this simulation is already running");
        let entered = Entered::new(self);
        panics::install_hook();
        self.running.set(true);
        self.halt.take();
        let key = self.insert_main(origin);
        let waker = task_waker(key);
        self.schedule(key);

        let mut output = None;
        let result = {
            let mut main = pin!(main);
            let mut poll_main = || {
                let poll = || main.as_mut().poll(&mut TaskContext::from_waker(&waker));
                match catch_unwind(AssertUnwindSafe(poll)) {
                    Ok(Poll::Pending) => MainPoll::Pending,
                    Ok(Poll::Ready(value)) => {
                        output = Some(value);
                        MainPoll::Done
                    }
                    Err(payload) => MainPoll::Panicked(payload),
                }
            };
            let result = self.run_until_done(key, &mut poll_main);
            match last {
                Last::Yes => {
                    self.context.set(Context::OUTSIDE);
                    let look = self.last_look.take();
                    look.into_iter().for_each(|look| look());
                    self.shut_down(key);
                }
                Last::No => drop(self.tasks.borrow_mut().remove(key)),
            }
            // The main future is dropped here, unless it completed: as part of a world that is over.
            self.context.set(Context { mute: true, ..Context::OUTSIDE });
            result
        };
        self.context.set(Context::OUTSIDE);
        self.cause.set(NO_EVENT);
        self.running.set(false);
        drop(entered);
        result.map(|()| output.expect("a run without a halt has completed its main future"))
    }

    fn insert_main(&self, origin: Origin) -> Key {
        self.revive_driver();
        let mut entry = self.new_entry(origin, self.driver(), Key::NONE);
        entry.is_main = true;
        self.tasks.borrow_mut().insert(entry)
    }

    fn run_until_done(&self, main: Key, poll_main: &mut dyn FnMut() -> MainPoll) -> Result<(), Halt> {
        let mut done = false;
        loop {
            if self.halt.borrow().is_some() {
                return Err(self.halt.take().unwrap_or(Halt::Stopped));
            }
            if done {
                return Ok(());
            }
            if self.trace.borrow().events() >= self.config.event_budget {
                return Err(self.budget_exhausted("events"));
            }
            match self.next_ready() {
                Some(key) if key == main => done = self.poll_main(key, poll_main)?,
                Some(key) => self.poll_task(key)?,
                None => self.advance()?,
            }
        }
    }

    fn next_ready(&self) -> Option<Key> {
        loop {
            let ready = self.ready.borrow_mut().pop()?;
            let host = match self.tasks.borrow().get(ready.task) {
                Some(entry) if entry.scheduled && !entry.cancelled => entry.incarnation.host,
                _ => continue,
            };
            if !self.park(host, ready.task) {
                return Some(ready.task);
            }
        }
    }

    /// Accounts for a poll and says on whose behalf it happens.
    fn begin_poll(&self, key: Key) -> Result<Option<Body>, Halt> {
        let now = self.now.get();
        let polls = self.polls.get();
        self.polls.set(polls + 1);
        self.instant_sleeps.set(0);
        self.count_at_instant()?;
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.get_mut(key).expect("a ready task exists");
        entry.scheduled = false;
        entry.waits_for = "";
        if entry.polled_at != now {
            entry.polled_at = now;
            entry.polls_at_instant = 0;
        }
        entry.polls_at_instant += 1;
        if matches!(self.config.order, Order::Pct { .. }) {
            let changes = self.change_points.borrow_mut().pop_if(|point| *point <= polls).is_some();
            if changes || entry.polls_at_instant.is_multiple_of(PCT_POLLS_PER_INSTANT) {
                // Demoted tasks rank behind all drawn priorities, the latest demoted last.
                let demoted = self.demoted.get() + 1;
                self.demoted.set(demoted);
                entry.priority = (1 << 63) | demoted;
            }
        }
        let body = entry.body.take();
        let (incarnation, cause, name, fields) = (entry.incarnation, entry.cause, entry.name, [entry.id, entry.wakes]);
        drop(tasks);
        let event = self.record_caused(incarnation.host, Class::Poll, name, cause, &fields, (0, 0));
        self.context.set(Context { incarnation, task: key, mute: false });
        self.cause.set(event);
        Ok(body)
    }

    /// A poll or a due entry that does not advance time.
    fn count_at_instant(&self) -> Result<(), Halt> {
        let at_instant = self.polls_at_instant.get() + 1;
        self.polls_at_instant.set(at_instant);
        if at_instant > self.config.polls_per_instant_max { Err(self.livelock()) } else { Ok(()) }
    }

    fn end_poll(&self) {
        self.context.set(Context::OUTSIDE);
        if !self.bin.borrow().is_empty() {
            self.drain();
        }
        while let Some((incarnation, cause)) = self.next_pending_kill() {
            if self.is_alive(incarnation) {
                self.kill(incarnation.host, cause);
            }
        }
    }

    fn next_pending_kill(&self) -> Option<(Incarnation, Cause)> {
        self.pending_kills.borrow_mut().pop()
    }

    fn poll_main(&self, key: Key, poll_main: &mut dyn FnMut() -> MainPoll) -> Result<bool, Halt> {
        self.begin_poll(key)?;
        let polled = poll_main();
        let done = match polled {
            MainPoll::Pending => false,
            MainPoll::Done => true,
            MainPoll::Panicked(payload) => {
                panics::record(payload.as_ref());
                std::mem::forget(payload);
                let last = self.panics.borrow().last().cloned();
                return Err(last.map_or(Halt::Stopped, Halt::Panic));
            }
        };
        self.end_poll();
        Ok(done)
    }

    fn poll_task(&self, key: Key) -> Result<(), Halt> {
        let Some(mut body) = self.begin_poll(key)? else { return Ok(()) };
        match body.as_mut().poll(&mut TaskContext::from_waker(&task_waker(key))) {
            Poll::Pending => self.go_on(key, body),
            Poll::Ready(completion) => self.finish(key, body, completion),
        }
        self.end_poll();
        Ok(())
    }

    /// A task waits, unless it was woken or has cancelled itself meanwhile.
    fn go_on(&self, key: Key, body: Body) {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.get_mut(key).expect("a task that is being polled exists");
        if entry.cancelled {
            drop(tasks);
            return self.finish(key, body, Completion::Returned);
        }
        entry.body = Some(body);
        let woken = std::mem::take(&mut entry.woken);
        drop(tasks);
        if woken {
            self.schedule(key);
        }
    }

    /// A task is over.
    fn finish(&self, key: Key, body: Body, completion: Completion) {
        drop(body);
        self.context.set(Context::OUTSIDE);
        let mut tasks = self.tasks.borrow_mut();
        let root = tasks.get(key).filter(|entry| entry.is_root).map(|entry| entry.incarnation);
        tasks.remove(key);
        drop(tasks);
        if let Some(incarnation) = root {
            self.root_ended(incarnation, completion);
        }
    }

    /// Nothing is ready: jumps to the next entry of the agenda and lets everything due then happen.
    fn advance(&self) -> Result<(), Halt> {
        let next = self.agenda.borrow_mut().pop(|due| self.is_live(due));
        let Some(first) = next else { return Err(self.deadlock()) };
        let now = self.now.get();
        if first.at > now {
            if first.at > self.config.time_budget {
                return Err(self.budget_exhausted("virtual time"));
            }
            self.now.set(first.at);
            self.polls_at_instant.set(0);
        }
        self.happen(first);
        loop {
            let next = self.agenda.borrow_mut().pop_due(self.now.get(), |due| self.is_live(due));
            match next {
                Some(due) => {
                    self.count_at_instant()?;
                    self.happen(due);
                }
                None => return Ok(()),
            }
        }
    }

    fn happen(&self, due: Due) {
        self.cause.set(NO_EVENT);
        match due.kind {
            Kind::Timer => self.fire_timer(due.key),
            Kind::Release => self.enqueue(due.key),
            Kind::Packet => self.deliver(due.key),
            Kind::Action => self.act(due.key),
            Kind::Section => self.end_section(due.key),
        }
        self.cause.set(NO_EVENT);
    }

    fn act(&self, key: Key) {
        let Some((action, cause)) = self.actions.borrow_mut().remove(key) else { return };
        let event = self.record_caused(super::HostId::DRIVER, Class::Action, "", cause, &[], (0, 0));
        self.in_context(Context::OUTSIDE, event, || {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(action)) {
                panics::caught(payload);
            }
        });
        self.end_poll();
    }

    /// Whether an entry of the agenda is still wanted.
    #[inline]
    pub fn is_live(&self, due: &Due) -> bool {
        match due.kind {
            Kind::Timer => self.timers.borrow().get(due.key).is_some(),
            Kind::Release => self.tasks.borrow().get(due.key).is_some(),
            Kind::Packet | Kind::Action | Kind::Section => true,
        }
    }

    /// Ends every host and forgets everything that was still to happen.
    fn shut_down(&self, main: Key) {
        self.context.set(Context::OUTSIDE);
        self.kill_everything();
        let entry = self.tasks.borrow_mut().remove(main);
        drop(entry);
        self.ready.borrow_mut().clear();
        self.agenda.borrow_mut().clear();
        let actions = std::mem::replace(&mut *self.actions.borrow_mut(), super::slab::Slab::new());
        let timers = std::mem::replace(&mut *self.timers.borrow_mut(), super::slab::Slab::new());
        self.context.set(Context { mute: true, ..Context::OUTSIDE });
        drop((actions, timers));
        let streams = self.streams.replace(Streams::new());
        drop(streams);
        let mailboxes = self.network.borrow_mut().clear();
        drop(mailboxes);
    }
}

/// Whether the world is over when a main future is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Yes,
    No,
}

enum MainPoll {
    Pending,
    Done,
    Panicked(Box<dyn Any + Send>),
}
