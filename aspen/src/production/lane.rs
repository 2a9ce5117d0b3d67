//! Lanes as threads: each runs blocking closures in the order in which they were sent, and ends with its last handle.

use std::future::Future;
use std::sync::mpsc;

use crate::env::{Lane, LaneStopped};

type Work = Box<dyn FnOnce() + Send>;

/// One thread.
#[derive(Clone)]
pub struct ThreadLane {
    queue: mpsc::Sender<Work>,
}

impl ThreadLane {
    pub(super) fn new(name: &'static str) -> Self {
        let (queue, works) = mpsc::channel::<Work>();
        let run = move || works.into_iter().for_each(|work| work());
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run);
        thread.expect("a process that cannot start a thread cannot start a node");
        ThreadLane { queue }
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
        // Nobody may be waiting any more.
        let sent = self.queue.send(Box::new(move || drop(done.send(work()))));
        async move {
            sent.map_err(|_| LaneStopped)?;
            result.await.map_err(|_| LaneStopped)
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

    /// A lane whose closure panicked is gone: its database must be reopened.
    #[tokio::test]
    async fn a_panic_ends_the_lane() {
        let lane = ThreadLane::new("test");
        assert_eq!(lane.run(|| panic!("the closure fails")).await, Err::<(), _>(LaneStopped));
        assert_eq!(lane.run(|| 1).await, Err(LaneStopped));
    }
}
