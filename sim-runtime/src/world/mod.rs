//! The world of one simulation: hosts, tasks, time, chance, messages, and the record of what happened.
//!
//! One [`World`] runs on one thread and is reached through a thread-local, so product code names neither it nor a
//! context. Everything in it is a function of its [`WorldConfig`]: the same seed gives the same run, event for event.
//!
//! - [`World`], [`WorldConfig`]: a run and what it is told beforehand; [`Halt`]: why it was given up
//! - tasks: [`spawn`], [`JoinHandle`], [`yield_now`]; [`host`]: [`add_host`], [`boot`], [`kill`], [`pause`]
//! - [`clock`]: [`sleep`], [`timeout`], and what each host's clocks show
//! - [`draws`]: [`draw`], [`stream`]; nothing else is random
//! - [`network`]: messages; [`section`]: synchronous engines in virtual time
//! - [`trace`]: [`record`], [`note`], the digest
//!
//! Invariants: nothing here reads the system clock, starts a thread, or iterates a hash map. No user code (waker,
//! destructor, action) runs while a part of the state is borrowed. A dead incarnation has no effect.

mod agenda;
pub mod clock;
mod config;
pub(crate) mod diagnose;
pub mod draws;
mod executor;
pub(crate) mod hash;
pub mod host;
mod ids;
mod installed;
pub mod network;
mod panics;
pub mod section;
mod short_heap;
mod slab;
mod state;
mod task;
pub mod trace;

use std::fmt;
use std::future::Future;
use std::rc::Rc;

pub use clock::{
    Elapsed, Sleep, Timeout, sleep, sleep_until_local_ns, sleep_until_ns, timeout, timeout_at_local_ns, timeout_at_ns,
};
pub use config::{Order, WorldConfig};
pub use diagnose::{Halt, TaskState};
pub use draws::{Purpose, entity};
pub use host::{
    Cause, HostStatus, add_host, boot, boots, current, host_name, host_status, hosts, is_alive, is_mute, kill, on_kill,
    pause, resume, running, set_slowness, slow_waits,
};
pub use ids::{HostId, Incarnation, Nanos};
pub use panics::PanicRecord;
pub use task::{JoinError, JoinHandle, note_wait, note_wait_on, spawn, spawn_local, spawn_on, yield_now};
pub use trace::{Class, mark_violation, note, record};

use crate::engine::record::{Checkpoint, TraceEvent};
use agenda::Kind;
use executor::Last;
use state::{Entered, Inner, try_with, with};
use task::Origin;

/// One simulation. Clones are handles to the same one.
#[derive(Clone)]
pub struct World {
    inner: Rc<Inner>,
}

impl World {
    pub fn new(config: WorldConfig) -> World {
        World { inner: Rc::new(Inner::new(config)) }
    }

    /// Runs `main` as a task of host 0 until it completes; then stops every host and drops all tasks.
    ///
    /// # Errors
    /// When the run was given up: deadlock, livelock, budget, an unhandled panic. The world can still be read.
    ///
    /// # Panics
    /// If a simulation is already running on this thread.
    #[track_caller]
    pub fn run<T>(&self, main: impl Future<Output = T>) -> Result<T, Halt> {
        self.inner.run_main(Origin::caller("main"), main, Last::Yes)
    }

    /// As [`run`](World::run), but everything else stays where it is when `main` completes: time stands still until the
    /// next call. For runs that are made by hand, one step after the other; the last step is a `run`.
    ///
    /// # Errors
    /// As [`run`](World::run). After an error only a `run` makes sense, which ends the world.
    ///
    /// # Panics
    /// If a simulation is already running on this thread.
    #[track_caller]
    pub fn drive<T>(&self, main: impl Future<Output = T>) -> Result<T, Halt> {
        self.inner.run_main(Origin::caller("main"), main, Last::No)
    }

    /// Runs `f` with this world installed but without running any task: to prepare a run, or to ask afterwards.
    ///
    /// # Panics
    /// If another simulation is running on this thread.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let _entered = Entered::new(&self.inner);
        f()
    }

    pub fn config(&self) -> &WorldConfig {
        &self.inner.config
    }

    /// The rolling digest of all events so far, high and low half.
    pub fn digest(&self) -> (u64, u64) {
        self.inner.trace.borrow().digest()
    }

    /// Number of events so far.
    pub fn events(&self) -> u64 {
        self.inner.trace.borrow().events()
    }

    /// Virtual time in ns.
    pub fn now(&self) -> Nanos {
        self.inner.now.get()
    }

    /// Number of polls so far.
    pub fn polls(&self) -> u64 {
        self.inner.polls.get()
    }

    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        self.inner.trace.borrow().checkpoints().to_vec()
    }

    /// The events that were kept: the last ones, the window asked for, and those around a marked violation.
    pub fn trace(&self) -> Vec<TraceEvent> {
        self.inner.trace.borrow().render(|host| self.inner.host_name(host))
    }

    /// Every panic of a live incarnation so far, handled or not.
    pub fn panics(&self) -> Vec<PanicRecord> {
        self.inner.panics.borrow().clone()
    }

    /// Every task, by order of spawning, and what it waits for.
    pub fn tasks(&self) -> Vec<TaskState> {
        self.inner.task_states()
    }

    /// What the network did so far.
    pub fn network_counts(&self) -> network::NetworkCounts {
        self.enter(network::counts)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, now, events) = (self.inner.config.seed, self.now(), self.events());
        f.debug_struct("World").field("seed", &seed).field("now", &now).field("events", &events).finish()
    }
}

/// The world installed on this thread.
///
/// # Panics
/// Outside a world, as all functions here unless they say otherwise.
pub fn now_ns() -> Nanos {
    with(Inner::seen_now)
}

/// Number of events so far.
pub fn events() -> u64 {
    with(|world| world.trace.borrow().events())
}

/// Whether this thread is inside a world. Never panics.
pub fn in_world() -> bool {
    try_with(|_| ()).is_some()
}

/// Tells this world from others of the same thread while it lives. Never part of a decision.
pub(crate) fn identity() -> usize {
    with(Inner::address)
}

/// The seed of the run.
pub fn seed() -> u64 {
    with(|world| world.config.seed)
}

/// Gives the run up with [`Halt::Stopped`] after the current poll.
pub fn stop() {
    with(|world| {
        if !world.is_mute() {
            world.halt.borrow_mut().get_or_insert(Halt::Stopped);
        }
    });
}

/// Runs `look` when the run is over, however it ended, while every host is still as it was. Leaves no event: with it the
/// run is the same.
pub fn at_the_end(look: impl FnOnce() + 'static) {
    with(|world| {
        world.last_look.replace(Some(Box::new(look)));
    });
}

/// Runs `action` outside any task at virtual time `t`, or as soon as possible when `t` has passed. Not tied to an
/// incarnation. A dead incarnation schedules nothing.
pub fn at(t: Nanos, action: impl FnOnce() + 'static) {
    with(|world| {
        if world.is_mute() {
            return;
        }
        let tie = world.next_tie();
        let key = world.actions.borrow_mut().insert((Box::new(action), world.cause.get()));
        world.agenda.borrow_mut().push(t.max(world.now.get()), tie, Kind::Action, key);
    });
}

/// The draw of (seed, purpose, entity, ordinal).
pub fn draw(purpose: Purpose, entity: u64, ordinal: u64) -> u64 {
    with(|world| world.key.draw(purpose, entity, ordinal))
}

/// Reads the draws of (purpose, entity) in order, from ordinal 0.
pub fn stream(purpose: Purpose, entity: u64) -> draws::Stream {
    with(|world| world.key.stream(purpose, entity))
}

/// The next draw of the running task: a function of its identity and of how many it has drawn.
pub fn task_draw() -> u64 {
    const TASK: Purpose = Purpose("task");
    with(|world| {
        let context = world.context.get();
        let drawn = world.tasks.borrow_mut().get_mut(context.task).map(|entry| {
            entry.draws += 1;
            (entry.id, entry.draws)
        });
        let (id, ordinal) = drawn.unwrap_or_else(|| {
            let ordinal = world.untasked.get() + 1;
            world.untasked.set(ordinal);
            (0, ordinal)
        });
        let word = world.key.draw(TASK, id, ordinal);
        if !context.mute {
            world.record(Class::Draw, "", &[id, ordinal, word], (0, 0));
        }
        word
    })
}

/// Identity of the running task: hash of host, boot, parent and n-th child. `None` outside any task.
pub fn task_id() -> Option<u64> {
    try_with(|world| world.tasks.borrow().get(world.context.get().task).map(|entry| entry.id)).flatten()
}
