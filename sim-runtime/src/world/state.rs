//! The state of one world, and how code on its thread reaches it.
//!
//! A thread-local ([`super::installed`]) leads to the world that is running; every free function of [`super`] goes through it. The parts sit
//! in cells of their own and **no user code runs while one is borrowed**: wakers, destructors and actions are moved out
//! first, since each of them may call back into the world.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use super::agenda::Agenda;
use super::clock::TimerEntry;
use super::config::WorldConfig;
use super::draws;
use super::executor::Ready;
use super::host::{Host, KillHook};
pub(crate) use super::installed::{Entered, task_waker, try_with};
use super::network::Network;
use super::network::stream::Streams;
use super::panics::PanicRecord;
use super::section::{Pending, Section};
use super::short_heap::ShortHeap;
use super::slab::{Key, Slab};
use super::task::TaskEntry;
use super::trace::{Class, Event, NO_EVENT, Trace};
use super::{Cause, Halt, HostId, Incarnation, Nanos, hash};

/// Runs `f` on the world of this thread.
///
/// # Panics
/// Outside a world: the caller is simulation code that runs where nothing is simulated.
#[track_caller]
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&Inner) -> R) -> R {
    match try_with(f) {
        Some(result) => result,
        None => outside(),
    }
}

#[cold]
#[track_caller]
fn outside() -> ! {
    panic!("this needs a running simulation: call it inside World::run or World::enter")
}

/// On whose behalf code is running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub incarnation: Incarnation,
    /// [`Key::NONE`] outside any task.
    pub task: Key,
    /// The incarnation is dead: what it does has no effect.
    pub mute: bool,
}

impl Context {
    pub const OUTSIDE: Context = Context { incarnation: Incarnation::DRIVER, task: Key::NONE, mute: false };
}

/// Tasks of different worlds do not share keys, as long as no slot serves so many tasks: a waker that outlived its world wakes
/// nothing in the next. Never part of a decision.
const GENERATIONS: u32 = 1 << 16;
static FIRST_GENERATION: AtomicU32 = AtomicU32::new(0);

pub(crate) type Action = Box<dyn FnOnce()>;

pub(crate) struct Inner {
    pub config: WorldConfig,
    pub key: draws::Key,
    /// Hash of the seed, for orders and ties.
    pub salt: u64,
    pub now: Cell<Nanos>,
    pub context: Cell<Context>,
    /// Number of the event being processed.
    pub cause: Cell<u64>,
    pub trace: RefCell<Trace>,

    pub tasks: RefCell<Slab<TaskEntry>>,
    pub ready: RefCell<ShortHeap<Ready>>,
    pub ready_sequence: Cell<u64>,
    pub spawned: Cell<u64>,
    /// Cancelled tasks, whose futures are still to be dropped.
    pub bin: RefCell<VecDeque<Key>>,
    pub draining: Cell<bool>,
    pub polls: Cell<u64>,
    /// Polls and due entries since time last advanced.
    pub polls_at_instant: Cell<u64>,
    /// Sleeps without waiting in the running poll.
    pub instant_sleeps: Cell<u32>,
    /// Polls at which the running task of a PCT order loses its priority, latest first.
    pub change_points: RefCell<Vec<u64>>,
    pub demoted: Cell<u64>,

    pub agenda: RefCell<Agenda>,
    pub timers: RefCell<Slab<TimerEntry>>,
    pub actions: RefCell<Slab<(Action, u64)>>,
    /// Ties of what no task asked for.
    pub untasked: Cell<u64>,

    pub hosts: RefCell<Vec<Host>>,
    pub kill_hooks: RefCell<Vec<KillHook>>,
    pub pending_kills: RefCell<Vec<(Incarnation, Cause)>>,
    pub network: RefCell<Network>,
    pub streams: RefCell<Streams>,

    /// Changed through [`replace_section`](Inner::replace_section) only.
    pub section: RefCell<Option<Section>>,
    /// Whether there is a section: asked for every event.
    has_section: Cell<bool>,
    pub pending_sections: RefCell<Slab<Pending>>,

    pub panics: RefCell<Vec<PanicRecord>>,
    pub halt: RefCell<Option<Halt>>,
    /// Called when the run is over, before its hosts end.
    pub last_look: RefCell<Option<Action>>,
    /// Hosts that are paused now.
    pub paused: Cell<u32>,
    /// Hosts that are slow now, and how often a task waited for that reason.
    pub slow: Cell<u32>,
    pub slow_waits: Cell<u64>,
    pub running: Cell<bool>,
}

impl Inner {
    pub fn new(config: WorldConfig) -> Inner {
        let key = draws::Key::of_seed(config.seed);
        let trace = Trace::new(config.checkpoint_every_log2, config.window, config.ring, config.notes);
        let network = Network::new(config.network.clone(), key);
        let change_points = super::executor::change_points(&config, key);
        Inner {
            key,
            salt: hash::mix(config.seed, hash::text("order")),
            now: Cell::new(0),
            context: Cell::new(Context::OUTSIDE),
            cause: Cell::new(NO_EVENT),
            trace: RefCell::new(trace),
            tasks: RefCell::new(Slab::of_generation(FIRST_GENERATION.fetch_add(GENERATIONS, Ordering::Relaxed))),
            ready: RefCell::new(ShortHeap::new()),
            ready_sequence: Cell::new(0),
            spawned: Cell::new(0),
            bin: RefCell::default(),
            draining: Cell::new(false),
            polls: Cell::new(0),
            polls_at_instant: Cell::new(0),
            instant_sleeps: Cell::new(0),
            change_points: RefCell::new(change_points),
            demoted: Cell::new(0),
            agenda: RefCell::default(),
            timers: RefCell::new(Slab::new()),
            actions: RefCell::new(Slab::new()),
            untasked: Cell::new(0),
            hosts: RefCell::new(vec![Host::driver(config.wall_epoch_ns)]),
            kill_hooks: RefCell::default(),
            pending_kills: RefCell::default(),
            network: RefCell::new(network),
            streams: RefCell::new(Streams::new()),
            section: RefCell::new(None),
            has_section: Cell::new(false),
            pending_sections: RefCell::new(Slab::new()),
            panics: RefCell::default(),
            halt: RefCell::new(None),
            last_look: RefCell::new(None),
            paused: Cell::new(0),
            slow: Cell::new(0),
            slow_waits: Cell::new(0),
            running: Cell::new(false),
            config,
        }
    }

    /// Tells handles of this world from those of another. Compared only, never part of a decision.
    pub fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    #[inline]
    pub fn is_mute(&self) -> bool {
        self.context.get().mute
    }

    /// Virtual time as the running code sees it: inside a section, with the I/O time used so far.
    #[inline]
    pub fn seen_now(&self) -> Nanos {
        if self.has_section.get() { self.section_now() } else { self.now.get() }
    }

    #[cold]
    fn section_now(&self) -> Nanos {
        self.section.borrow().as_ref().map_or(self.now.get(), Section::now)
    }

    #[inline]
    pub fn has_section(&self) -> bool {
        self.has_section.get()
    }

    /// Opens or closes a section; returns the one before.
    pub fn replace_section(&self, section: Option<Section>) -> Option<Section> {
        self.has_section.set(section.is_some());
        std::mem::replace(&mut *self.section.borrow_mut(), section)
    }

    /// Records an event of the current incarnation, caused by the event being processed.
    #[inline]
    pub fn record<const N: usize>(
        &self,
        class: Class,
        label: &'static str,
        fields: &[u64; N],
        bytes: (usize, u64),
    ) -> u64 {
        let host = self.context.get().incarnation.host;
        self.record_for(host, class, label, fields, bytes)
    }

    /// [`record`](Inner::record) with any number of fields.
    pub fn record_slice(&self, class: Class, fields: &[u64], bytes: (usize, u64)) -> u64 {
        let (at, host, cause) = (self.seen_now(), self.context.get().incarnation.host, self.cause.get());
        self.trace.borrow_mut().record(&Event { class, at, host, label: "", cause, fields, bytes })
    }

    #[inline]
    pub fn record_for<const N: usize>(
        &self,
        host: HostId,
        class: Class,
        label: &'static str,
        fields: &[u64; N],
        bytes: (usize, u64),
    ) -> u64 {
        self.record_caused(host, class, label, self.cause.get(), fields, bytes)
    }

    /// One copy per number of fields: what a run does most.
    pub fn record_caused<const N: usize>(
        &self,
        host: HostId,
        class: Class,
        label: &'static str,
        cause: u64,
        fields: &[u64; N],
        bytes: (usize, u64),
    ) -> u64 {
        let at = self.seen_now();
        let event = Event { class, at, host, label, cause, fields, bytes };
        self.trace.borrow_mut().record(&event)
    }

    /// A tie-break for something due at `at`, asked for by the running task: hash of (seed, task, how manieth).
    pub fn next_tie(&self) -> u64 {
        let task = self.context.get().task;
        if let Some(entry) = self.tasks.borrow_mut().get_mut(task) {
            entry.ties += 1;
            return hash::mix(self.salt ^ entry.id, entry.ties);
        }
        let ordinal = self.untasked.get() + 1;
        self.untasked.set(ordinal);
        hash::mix(self.salt, ordinal)
    }

    /// Runs `f` on behalf of another context and comes back.
    pub fn in_context<R>(&self, context: Context, cause: u64, f: impl FnOnce() -> R) -> R {
        let before = (self.context.replace(context), self.cause.replace(cause));
        let result = f();
        self.context.set(before.0);
        self.cause.set(before.1);
        result
    }
}
