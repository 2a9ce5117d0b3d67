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

use pin_project_lite::pin_project;

use super::slab::Key;
use super::state::{Inner, try_with, with};
use super::trace::{Class, NO_EVENT};
use super::{Incarnation, hash, panics};

/// A task to be polled: the user's future, whatever its type.
pub(crate) type Body = Pin<Box<dyn Future<Output = Completion>>>;

/// One task, as the executor knows it.
pub(crate) struct TaskEntry {
    pub id: u64,
    pub name: &'static str,
    pub incarnation: Incarnation,
    pub spawned_at: &'static Location<'static>,
    /// `None` for the main future of the run, which the executor polls itself, and while it is being polled or dropped: that
    /// may do anything to the table of tasks.
    pub body: Option<Body>,
    /// It is ready, held or parked.
    pub scheduled: bool,
    /// It was woken while it was being polled.
    pub woken: bool,
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

impl TaskEntry {
    /// Whether it is being polled by the executor's loop; the main future of the run is not polled there.
    pub fn is_polled(&self) -> bool {
        self.body.is_none() && !self.is_main
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
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
}

/// Shared by a task and its handle.
struct Join<T> {
    state: Mutex<JoinState<T>>,
}

impl<T> Join<T> {
    fn new(result: Option<Result<T, JoinError>>) -> Arc<Join<T>> {
        Arc::new(Join { state: Mutex::new(JoinState { result, waker: None }) })
    }

    fn lock(&self) -> MutexGuard<'_, JoinState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the result of the task that asks. Returns whether nobody will take it.
    fn complete(self: &Arc<Self>, result: Result<T, JoinError>) -> bool {
        if Arc::strong_count(self) == 1 {
            return true;
        }
        let mut state = self.lock();
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

impl<T> Drop for Join<T> {
    /// The result was not taken.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(JoinError::Panic { message })) = &state.result {
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
    type Output = Completion;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Completion> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(Completion::Returned) };
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => {
                drop_caught(this.future.as_mut());
                this.join.complete(Ok(output));
                Poll::Ready(Completion::Returned)
            }
            Err(payload) => {
                let message = panicked(payload);
                drop_caught(this.future.as_mut());
                if this.join.complete(Err(JoinError::Panic { message: message.clone() })) {
                    panics::unhandled(&message);
                }
                Poll::Ready(Completion::Panicked)
            }
        }
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
            body: None,
            scheduled: false,
            woken: false,
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

    /// Puts a task into the table and makes it ready.
    fn spawn_as<F>(&self, origin: Origin, incarnation: Incarnation, is_root: bool, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
    {
        let mut entry = self.new_entry(origin, incarnation, self.context.get().task);
        let id = entry.id;
        let join = Join::new(None);
        entry.is_root = is_root;
        entry.body = Some(Box::pin(Guarded { future: Some(future), join: join.clone() }));
        let key = self.tasks.borrow_mut().insert(entry);
        self.record_for(incarnation.host, Class::Spawn, origin.name, &[id], (0, 0));
        self.schedule(key);
        JoinHandle { join, world: self.address(), key }
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
        self.spawn_as(origin, incarnation, is_root, future)
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
    JoinHandle { join: Join::new(Some(Err(JoinError::Cancelled))), world: 0, key: Key::NONE }
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
    spawn_local(name, future)
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
