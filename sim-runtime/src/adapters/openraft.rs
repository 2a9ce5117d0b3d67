//! openraft on the simulated world: its `AsyncRuntime`, channels and locks.
//!
//! openraft reaches its runtime through static functions, so everything here goes to the world of the current thread.
//! Time is what the current host's monotonic clock shows, random numbers belong to the current task, and a blocking call
//! is a section in virtual time. [`SimRuntime::block_on`] makes a world of its own where none is running, as openraft's
//! conformance suites need it.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend, OptionalSync};
use rand::rand_core::{Infallible, TryRng};

use crate::sync::{self, mpsc, oneshot, watch};
use crate::world::{self, Elapsed, JoinError, JoinHandle, Sleep, Timeout, World, WorldConfig, clock, section};

/// openraft's runtime in a simulation.
pub struct SimRuntime {
    config: WorldConfig,
}

impl SimRuntime {
    /// A runtime whose [`block_on`](AsyncRuntime::block_on) runs a world of this kind.
    pub fn with_config(config: WorldConfig) -> SimRuntime {
        SimRuntime { config }
    }
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimRuntime")
    }
}

impl AsyncRuntime for SimRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = SimInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = TaskRng;
    type Mpsc = SimMpsc;
    type Watch = SimWatch;
    type Oneshot = SimOneshot;
    type Mutex<T: OptionalSend + 'static> = sync::Mutex<T>;

    #[track_caller]
    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        world::spawn("openraft", future)
    }

    fn sleep(duration: Duration) -> Sleep {
        world::sleep(duration)
    }

    fn sleep_until(deadline: SimInstant) -> Sleep {
        world::sleep_until_local_ns(deadline.local_ns())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        world::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: SimInstant, future: F) -> Timeout<F> {
        world::timeout_at_local_ns(deadline.local_ns(), future)
    }

    fn is_panic(join_error: &JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> TaskRng {
        TaskRng
    }

    /// A quiet world with seed 0; one thread, whatever is asked for.
    fn new(_threads: usize) -> SimRuntime {
        SimRuntime::with_config(WorldConfig::default())
    }

    /// Runs the future as the main future of a new world.
    ///
    /// # Panics
    /// If the run is given up (deadlock, livelock, panic), or inside a running simulation.
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        match World::new(self.config.clone()).run(future) {
            Ok(output) => output,
            Err(halt) => panic!("{halt}"),
        }
    }

    /// Runs `f` as a blocking section of its own task, without a lane: it excludes no other section.
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let handle = world::spawn("blocking", section::run("blocking", f));
        async move { handle.await.map_err(io::Error::other) }
    }
}

/// A moment of the current host's monotonic clock, in ns. Signed, since openraft subtracts timeouts from early moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimInstant(i64);

impl SimInstant {
    /// ns on the host's monotonic clock; negative before its start.
    pub fn monotonic_ns(self) -> i64 {
        self.0
    }

    /// What the current host's clock shows at this moment.
    fn local_ns(self) -> u64 {
        u64::try_from(self.0).unwrap_or(0)
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Add<Duration> for SimInstant {
    type Output = SimInstant;

    fn add(self, duration: Duration) -> SimInstant {
        SimInstant(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for SimInstant {
    type Output = SimInstant;

    fn sub(self, duration: Duration) -> SimInstant {
        SimInstant(self.0.saturating_sub(nanos(duration)))
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for SimInstant {
    type Output = Duration;

    /// Zero when `earlier` is later, as std's `Instant`.
    fn sub(self, earlier: SimInstant) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl openraft_rt::Instant for SimInstant {
    fn now() -> SimInstant {
        let ns = clock::monotonic_ns(world::current().host);
        SimInstant(i64::try_from(ns).unwrap_or(i64::MAX))
    }
}

/// The random numbers of the current task: a function of its identity and of how many it has drawn.
#[derive(Clone, Copy, Debug)]
pub struct TaskRng;

impl TryRng for TaskRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((world::task_draw() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(world::task_draw())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let word = world::task_draw().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

/// [`crate::sync::mpsc`] for openraft.
pub struct SimMpsc;

impl openraft_rt::Mpsc for SimMpsc {
    type Sender<T: OptionalSend> = mpsc::Sender<T>;
    type Receiver<T: OptionalSend> = mpsc::Receiver<T>;
    type WeakSender<T: OptionalSend> = mpsc::WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
        mpsc::channel(buffer)
    }
}

impl<T: OptionalSend> openraft_rt::MpscSender<SimMpsc, T> for mpsc::Sender<T> {
    async fn send(&self, msg: T) -> Result<(), openraft_rt::SendError<T>> {
        mpsc::Sender::send(self, msg).await.map_err(|error| openraft_rt::SendError(error.0))
    }

    fn downgrade(&self) -> mpsc::WeakSender<T> {
        mpsc::Sender::downgrade(self)
    }
}

impl<T: OptionalSend> openraft_rt::MpscReceiver<T> for mpsc::Receiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> + OptionalSend {
        mpsc::Receiver::recv(self)
    }

    fn try_recv(&mut self) -> Result<T, openraft_rt::TryRecvError> {
        mpsc::Receiver::try_recv(self).map_err(|error| match error {
            mpsc::TryRecvError::Empty => openraft_rt::TryRecvError::Empty,
            mpsc::TryRecvError::Closed => openraft_rt::TryRecvError::Disconnected,
        })
    }
}

impl<T: OptionalSend> openraft_rt::MpscWeakSender<SimMpsc, T> for mpsc::WeakSender<T> {
    fn upgrade(&self) -> Option<mpsc::Sender<T>> {
        mpsc::WeakSender::upgrade(self)
    }
}

/// [`crate::sync::watch`] for openraft.
pub struct SimWatch;

impl openraft_rt::Watch for SimWatch {
    type Sender<T: OptionalSend + OptionalSync> = watch::Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = watch::Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (watch::Sender<T>, watch::Receiver<T>) {
        watch::channel(init)
    }
}

impl<T: OptionalSend + OptionalSync> openraft_rt::WatchSender<SimWatch, T> for watch::Sender<T> {
    fn send(&self, value: T) -> Result<(), openraft_rt::watch::SendError<T>> {
        watch::Sender::send(self, value).map_err(|error| openraft_rt::watch::SendError(error.0))
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        watch::Sender::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> watch::Receiver<T> {
        watch::Sender::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> openraft_rt::WatchReceiver<SimWatch, T> for watch::Receiver<T> {
    async fn changed(&mut self) -> Result<(), openraft_rt::RecvError> {
        watch::Receiver::changed(self).await.map_err(|_| openraft_rt::RecvError(()))
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        watch::Receiver::borrow_and_update(self)
    }
}

/// [`crate::sync::oneshot`] for openraft.
pub struct SimOneshot;

impl openraft_rt::Oneshot for SimOneshot {
    type Sender<T: OptionalSend> = oneshot::Sender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::Closed;

    fn channel<T: OptionalSend>() -> (oneshot::Sender<T>, oneshot::Receiver<T>) {
        oneshot::channel()
    }
}

impl<T: OptionalSend> openraft_rt::OneshotSender<T> for oneshot::Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        oneshot::Sender::send(self, value)
    }
}

impl<T: OptionalSend + 'static> openraft_rt::Mutex<T> for sync::Mutex<T> {
    type Guard<'a> = sync::MutexGuard<'a, T>;

    fn new(value: T) -> sync::Mutex<T> {
        sync::Mutex::new(value)
    }

    fn lock(&self) -> impl Future<Output = sync::MutexGuard<'_, T>> + OptionalSend {
        sync::Mutex::lock(self)
    }
}
