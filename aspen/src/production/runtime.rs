//! Tokio for openraft, but for one thing: a sleep much shorter than the timer can measure yields until it is over.
//!
//! openraft gathers completed writes for 1 us before it tells its core (`BATCH_INTERVAL` in its `raft/mod.rs`), when they
//! come in quick succession, and yields by sleeping 1 ns. Tokio's timer counts whole milliseconds and rounds up, so there
//! each of them takes 1 to 2 ms: a busy node would hear of its own writes once in so long.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use openraft::impls::TokioRuntime;
use openraft::{AsyncRuntime, Instant as _, OptionalSend};

/// Shorter sleeps keep their task runnable; others run in between. A tenth of what tokio's timer resolves.
const YIELDED_MAX: Duration = Duration::from_micros(100);

/// Openraft's runtime in production.
#[derive(Debug)]
pub struct RealRuntime(TokioRuntime);

/// See the module.
#[derive(Debug)]
pub enum RealSleep {
    /// Lets others run, once at least, until the deadline has passed.
    Yield {
        deadline: Instant,
        yielded: bool,
    },
    Timer(Pin<Box<tokio::time::Sleep>>),
}

impl Future for RealSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            RealSleep::Timer(sleep) => sleep.as_mut().poll(context),
            RealSleep::Yield { deadline, yielded: true } if *deadline <= Instant::now() => Poll::Ready(()),
            RealSleep::Yield { yielded, .. } => {
                *yielded = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl AsyncRuntime for RealRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = RealSleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> RealSleep {
        match duration < YIELDED_MAX {
            true => RealSleep::Yield { deadline: Instant::now() + duration, yielded: false },
            false => RealSleep::Timer(Box::pin(TokioRuntime::sleep(duration))),
        }
    }

    fn sleep_until(deadline: Self::Instant) -> RealSleep {
        let left = deadline.saturating_duration_since(Self::Instant::now());
        match left < YIELDED_MAX {
            true => Self::sleep(left),
            false => RealSleep::Timer(Box::pin(TokioRuntime::sleep_until(deadline))),
        }
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        RealRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    /// On a thread that tokio keeps for such work, rather than a new one.
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let handle = tokio::task::spawn_blocking(f);
        async move { handle.await.map_err(io::Error::other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_promises_of_every_runtime() {
        openraft::testing::runtime::Suite::<RealRuntime>::test_all();
    }

    #[test]
    fn a_short_sleep_does_not_wait_for_the_timer() {
        let took = RealRuntime::new(1).block_on(async {
            let begun = Instant::now();
            for _ in 0..100 {
                RealRuntime::sleep(Duration::from_micros(1)).await;
                let deadline = <RealRuntime as AsyncRuntime>::Instant::now() + Duration::from_micros(1);
                RealRuntime::sleep_until(deadline).await;
            }
            begun.elapsed()
        });
        assert!(took >= Duration::from_micros(200), "a sleep is never shorter than asked for");
        assert!(took < Duration::from_millis(100), "200 sleeps of 1 us took {took:?}");
    }
}
