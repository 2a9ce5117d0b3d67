//! Lanes as threads: each runs blocking closures in the order in which they were sent, and ends with its last handle.
//!
//! Short work does not go to the thread when nothing is before it: waking a thread and being woken by it takes several
//! times as long as a small transaction of SQLite, and more when there are few cores.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use futures_util::future::{Either, ready};

use crate::env::{Lane, LaneStopped};

type Work = Box<dyn FnOnce() + Send>;

/// One thread.
#[derive(Clone)]
pub struct ThreadLane {
    queue: mpsc::Sender<Work>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Closures that were sent and have not ended. Whoever raises it from zero may run at once.
    unfinished: AtomicUsize,
    /// Held while a closure runs, wherever that is. Poisoned by one that panicked: the lane is gone then.
    turn: Mutex<()>,
}

impl Shared {
    fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, LaneStopped> {
        // Ends before the next one may run here.
        let _finished = Finished(self);
        let turn = self.turn.lock().map_err(|_| LaneStopped)?;
        let result = work();
        drop(turn);
        Ok(result)
    }
}

/// Counts a closure as ended, also when it panics.
struct Finished<'a>(&'a Shared);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.unfinished.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ThreadLane {
    pub(super) fn new(name: &'static str) -> Self {
        let (queue, works) = mpsc::channel::<Work>();
        let run = move || works.into_iter().for_each(|work| work());
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run);
        thread.expect("a process that cannot start a thread cannot start a node");
        ThreadLane { queue, shared: Arc::default() }
    }
}

/// SQLite and redb need little; the default of 2 MiB is address space only, but there is no use for it.
const STACK_BYTES: usize = 1 << 20;

impl Lane for ThreadLane {
    fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T, LaneStopped>> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = tokio::sync::oneshot::channel();
        self.shared.unfinished.fetch_add(1, Ordering::SeqCst);
        let shared = self.shared.clone();
        // Nobody may be waiting any more.
        let sent = self.queue.send(Box::new(move || {
            if let Ok(result) = shared.run(work) {
                drop(done.send(result));
            }
        }));
        async move {
            sent.map_err(|_| LaneStopped)?;
            result.await.map_err(|_| LaneStopped)
        }
    }

    fn run_short<T, F>(&self, work: F) -> impl Future<Output = Result<T, LaneStopped>> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self.shared.unfinished.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                let ran = catch_unwind(AssertUnwindSafe(|| self.shared.run(work)));
                Either::Left(ready(ran.unwrap_or(Err(LaneStopped))))
            }
            Err(_) => Either::Right(self.run(work)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_order_also_when_nobody_waits() {
        let lane = ThreadLane::new("test");
        let (said, heard) = mpsc::channel();
        for n in 0..10 {
            let said = said.clone();
            drop(lane.run(move || said.send(n)));
        }
        lane.run(|| ()).await.unwrap();
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    /// Short work goes behind what is before it, and nothing overtakes it.
    #[tokio::test]
    async fn short_work_keeps_the_order_and_runs_here_when_the_lane_is_free() {
        let lane = ThreadLane::new("test");
        let (said, heard) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let say = |n: u32| {
            let said = said.clone();
            move || said.send((n, std::thread::current().id())).unwrap()
        };
        drop(lane.run(move || wait.recv().unwrap()));
        drop(lane.run_short(say(1)));
        drop(lane.run(say(2)));
        let third = lane.run_short(say(3));
        assert!(heard.try_recv().is_err(), "what is before them has not ended");
        go.send(()).unwrap();
        third.await.unwrap();
        while lane.shared.unfinished.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        lane.run_short(say(4)).await.unwrap();
        let here = std::thread::current().id();
        let order: Vec<_> = heard.try_iter().map(|(n, thread)| (n, thread == here)).collect();
        assert_eq!(order, [(1, false), (2, false), (3, false), (4, true)]);
    }

    /// A lane whose closure panicked is gone: its database must be reopened.
    #[tokio::test]
    async fn a_panic_ends_the_lane() {
        let lane = ThreadLane::new("test");
        assert_eq!(lane.run(|| panic!("the closure fails")).await, Err::<(), _>(LaneStopped));
        assert_eq!(lane.run(|| 1).await, Err(LaneStopped));
        assert_eq!(lane.run_short(|| 1).await, Err(LaneStopped));
        let lane = ThreadLane::new("test");
        assert_eq!(lane.run_short(|| panic!("the closure fails")).await, Err::<(), _>(LaneStopped));
        assert_eq!(lane.run_short(|| 1).await, Err(LaneStopped));
        assert_eq!(lane.run(|| 1).await, Err(LaneStopped));
    }
}
