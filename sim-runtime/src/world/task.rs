//! Tasks: who they are, what their handle promises, and how a panic in one is kept from the others.
//!
//! A task belongs to an incarnation of a host. Its identity is a hash of (host, boot, parent, n-th child), so it is the
//! same in every run that spawns it, whatever else runs. The executor owns the task; a [`JoinHandle`] is only a slot for
//! the result: dropping it detaches, and killing the host fills it with [`JoinError::Cancelled`].

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use async_task::{Builder, Runnable, Task};
use pin_project_lite::pin_project;

use super::slab::Key;
use super::state::{Context, Inner, try_with, with};
use super::trace::{Class, NO_EVENT};
use super::{Incarnation, hash, panics};

/// What a runnable knows of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub world: usize,
    pub key: Key,
}

/// One task, as the executor knows it.
pub(crate) struct TaskEntry {
    pub id: u64,
    pub name: &'static str,
    pub incarnation: Incarnation,
    pub spawned_at: &'static Location<'static>,
    /// `None` only for the main future of the run, which the executor polls itself, and while cancelling.
    pub task: Option<Task<(), Meta>>,
    /// The runnable while the task is ready, held or parked.
    pub runnable: Option<Runnable<Meta>>,
    pub scheduled: bool,
    pub is_main: bool,
    /// The first task of an incarnation: when it ends, so does the incarnation.
    pub is_root: bool,
    pub cancelled: bool,
    /// Order of spawning in this run.
    pub sequence: u64,
    pub priority: u64,
    pub wakes: u64,
    pub children: u64,
    pub ties: u64,
    /// Ordinal of the task's next random number.
    pub draws: u64,
    /// The event that woke it last.
    pub cause: u64,
    /// What it said it waits for, at its last poll.
    pub waits_for: &'static str,
    pub waits_on: &'static str,
    pub polled_at: u64,
    pub polls_at_instant: u64,
}

/// What a task is called and where it was spawned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub name: &'static str,
    pub place: &'static Location<'static>,
}

impl Origin {
    #[track_caller]
    pub fn caller(name: &'static str) -> Origin {
        Origin { name, place: Location::caller() }
    }
}

/// How the poll of a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    Pending,
    Returned,
    Panicked,
}

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The task panicked with this message. The world has recorded it too.
    #[error("task panicked: {message}")]
    Panic { message: String },
    /// The task was aborted, or its incarnation died.
    #[error("task cancelled")]
    Cancelled,
}

impl JoinError {
    pub fn is_panic(&self) -> bool {
        matches!(self, JoinError::Panic { .. })
    }
}

struct JoinState<T> {
    result: Option<Result<T, JoinError>>,
    waker: Option<Waker>,
    detached: bool,
}

struct Join<T> {
    state: Mutex<JoinState<T>>,
}

impl<T> Join<T> {
    fn new() -> Arc<Join<T>> {
        Arc::new(Join { state: Mutex::new(JoinState { result: None, waker: None, detached: false }) })
    }

    fn lock(&self) -> MutexGuard<'_, JoinState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the result. Returns whether nobody will take it.
    fn complete(&self, result: Result<T, JoinError>) -> bool {
        let mut state = self.lock();
        if state.detached {
            drop(state);
            // The output's destructor is user code: not under the lock.
            drop(result);
            return true;
        }
        state.result = Some(result);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        false
    }
}

/// Resolves to the result of a task. Dropping it lets the task run on.
pub struct JoinHandle<T> {
    join: Arc<Join<T>>,
    world: usize,
    key: Key,
}

impl<T> JoinHandle<T> {
    /// Lets the task run on by itself.
    pub fn detach(self) {}

    /// Drops the task's future: after the current poll, never inside it. The handle then resolves to
    /// [`JoinError::Cancelled`], unless the task completed before.
    pub fn abort(&self) {
        try_with(|world| {
            if world.address() == self.world && !world.is_mute() {
                world.cancel(self.key);
            }
        });
    }

    /// Whether the result is there, or was there and has been taken.
    pub fn is_finished(&self) -> bool {
        self.join.lock().result.is_some() || Arc::strong_count(&self.join) == 1
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut state = self.join.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        let stale = match &state.waker {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => state.waker.replace(cx.waker().clone()),
        };
        drop(state);
        drop(stale);
        note_wait("a task");
        Poll::Pending
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let mut state = self.join.lock();
        state.detached = true;
        let leftover = (state.result.take(), state.waker.take());
        drop(state);
        if let Some(Err(JoinError::Panic { message })) = &leftover.0 {
            panics::unhandled(message);
        }
    }
}

pin_project! {
    /// The user's future, with panics caught (in its destructor too) and its result put into the join slot.
    struct Guarded<F: Future> {
        #[pin]
        future: Option<F>,
        join: Arc<Join<F::Output>>,
    }

    impl<F: Future> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                drop_caught(this.future.as_mut());
                this.join.complete(Err(JoinError::Cancelled));
            }
        }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        let completion = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => {
                drop_caught(this.future.as_mut());
                this.join.complete(Ok(output));
                Completion::Returned
            }
            Err(payload) => {
                let message = panicked(payload);
                drop_caught(this.future.as_mut());
                if this.join.complete(Err(JoinError::Panic { message: message.clone() })) {
                    panics::unhandled(&message);
                }
                Completion::Panicked
            }
        };
        try_with(|world| world.completed.set(completion));
        Poll::Ready(())
    }
}

fn drop_caught<F>(mut future: Pin<&mut Option<F>>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| future.set(None))) {
        panics::caught(payload);
    }
}

/// Records the panic and returns its message.
fn panicked(payload: Box<dyn Any + Send>) -> String {
    let message = panics::record(payload.as_ref());
    // A payload may itself panic when dropped; there is nothing left to tell it.
    std::mem::forget(payload);
    message
}

/// Where the executor gets runnables back: on every wake.
fn schedule(runnable: Runnable<Meta>) {
    let meta = *runnable.metadata();
    let mut runnable = Some(runnable);
    try_with(|world| {
        if world.address() == meta.world
            && let Some(runnable) = runnable.take()
        {
            world.schedule(meta.key, Some(runnable));
        }
    });
    // Left over when the wake came from a foreign thread or after the world: a simulation has one thread, so dropping
    // the task (and then the deadlock report) is as loud as a waker may be.
    drop(runnable);
}

impl Inner {
    /// Registers a task of `incarnation`, child of `parent`.
    pub fn new_entry(&self, origin: Origin, incarnation: Incarnation, parent: Key) -> TaskEntry {
        let (parent_id, child) = match self.tasks.borrow_mut().get_mut(parent) {
            Some(parent) if parent.incarnation == incarnation => {
                parent.children += 1;
                (parent.id, parent.children)
            }
            _ => (0, self.count_orphan(incarnation)),
        };
        let boot = u64::from(incarnation.host.0) << 32 | u64::from(incarnation.boot);
        let id = hash::mix(hash::mix(boot, parent_id), child);
        let sequence = self.spawned.get();
        self.spawned.set(sequence + 1);
        TaskEntry {
            id,
            name: origin.name,
            incarnation,
            spawned_at: origin.place,
            task: None,
            runnable: None,
            scheduled: false,
            is_main: false,
            is_root: false,
            cancelled: false,
            sequence,
            priority: self.priority(id),
            wakes: 0,
            children: 0,
            ties: 0,
            draws: 0,
            cause: NO_EVENT,
            waits_for: "",
            waits_on: "",
            polled_at: 0,
            polls_at_instant: 0,
        }
    }

    /// Puts a built task into the slab and makes it ready.
    fn start(&self, key: Key, runnable: Runnable<Meta>, task: Task<(), Meta>) {
        let (id, name, host) = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.get_mut(key).expect("the entry was inserted by the caller");
            entry.task = Some(task);
            (entry.id, entry.name, entry.incarnation.host)
        };
        self.record_for(host, Class::Spawn, name, &[id], (0, 0));
        self.schedule(key, Some(runnable));
    }

    fn spawn_with<F, B>(
        &self,
        origin: Origin,
        incarnation: Incarnation,
        is_root: bool,
        future: F,
        build: B,
    ) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        B: FnOnce(Meta, Guarded<F>) -> (Runnable<Meta>, Task<(), Meta>),
    {
        let mut entry = self.new_entry(origin, incarnation, self.context.get().task);
        entry.is_root = is_root;
        let key = self.tasks.borrow_mut().insert(entry);
        let join = Join::new();
        let handle = JoinHandle { join: join.clone(), world: self.address(), key };
        let guarded = Guarded { future: Some(future), join };
        let (runnable, task) = build(Meta { world: self.address(), key }, guarded);
        self.start(key, runnable, task);
        handle
    }

    /// Spawns on behalf of an incarnation; of a dead one, the future is dropped and the handle is cancelled.
    pub fn spawn_local_for<F>(
        &self,
        origin: Origin,
        incarnation: Incarnation,
        is_root: bool,
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        if self.is_mute() || !self.is_alive(incarnation) {
            return stillborn(future);
        }
        self.spawn_with(origin, incarnation, is_root, future, |meta, guarded| {
            Builder::new().metadata(meta).spawn_local(move |_| guarded, schedule)
        })
    }
}

/// Spawns a task of another incarnation, as an operator would start something on that machine. Of a dead one, the future
/// is dropped and the handle is cancelled.
#[track_caller]
pub fn spawn_on<F>(incarnation: Incarnation, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let origin = Origin::caller(name);
    with(|world| world.spawn_local_for(origin, incarnation, false, future))
}

/// A task that never runs.
fn stillborn<F: Future>(future: F) -> JoinHandle<F::Output> {
    drop(future);
    let join = Join::new();
    join.complete(Err(JoinError::Cancelled));
    JoinHandle { join, world: 0, key: Key::NONE }
}

/// Spawns a child of the current task, of the same incarnation.
///
/// # Panics
/// Outside a world.
#[track_caller]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let origin = Origin::caller(name);
    with(|world| {
        let Context { incarnation, mute, .. } = world.context.get();
        if mute || !world.is_alive(incarnation) {
            return stillborn(future);
        }
        world.spawn_with(origin, incarnation, false, future, |meta, guarded| {
            Builder::new().metadata(meta).spawn(move |_| guarded, schedule)
        })
    })
}

/// [`spawn`] for futures that are not `Send`.
#[track_caller]
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let origin = Origin::caller(name);
    with(|world| world.spawn_local_for(origin, world.context.get().incarnation, false, future))
}

/// Lets every other ready task run before this one goes on, as far as the order wants.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Says what the running task is about to wait for, for the diagnosis of hangs. Cheap; ignored outside a world.
#[inline]
pub fn note_wait(what: &'static str) {
    note_wait_on(what, "");
}

/// [`note_wait`] with the name of the thing: a lane, a channel.
#[inline]
pub fn note_wait_on(what: &'static str, which: &'static str) {
    try_with(|world| {
        if let Some(entry) = world.tasks.borrow_mut().get_mut(world.context.get().task) {
            // The first note of a poll counts: a timeout polls what it guards before its own timer.
            if entry.waits_for.is_empty() {
                entry.waits_for = what;
                entry.waits_on = which;
            }
        }
    });
}
