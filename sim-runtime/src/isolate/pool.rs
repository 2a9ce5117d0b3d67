//! Many runs at once, handed back in the order in which they were asked for.
//!
//! Order makes results independent of the number of jobs: who stops at the first failure stops at the same one. The
//! price is that a slow run holds back the ones behind it, of which at most [`RUN_AHEAD`] per job are kept.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use super::{Limits, Runner};

/// Finished results that may wait for an earlier one, per job.
const RUN_AHEAD: usize = 16;

/// So many runs at a time.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    jobs: NonZeroUsize,
    limits: Limits,
}

impl Pool {
    pub fn new(jobs: NonZeroUsize, limits: Limits) -> Pool {
        Pool { jobs, limits }
    }

    /// Feeds `requests` to the jobs, each of which does `work` with a runner of its own, and hands every result to
    /// `each` on this thread, in the order of the requests, until `each` breaks. Runs already begun are then finished
    /// and forgotten.
    pub fn each<R: Send, T: Send>(
        &self,
        requests: impl Iterator<Item = R> + Send,
        work: impl Fn(&mut Runner, R) -> T + Sync,
        mut each: impl FnMut(T) -> ControlFlow<()>,
    ) {
        let feed = Feed::new(requests, RUN_AHEAD * self.jobs.get());
        let (done, results) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..self.jobs.get() {
                let (done, feed, work, limits) = (done.clone(), &feed, &work, self.limits);
                scope.spawn(move || {
                    let _stop = StopOnPanic(feed);
                    let mut runner = Runner::new(limits);
                    while let Some((number, request)) = feed.next() {
                        if done.send((number, work(&mut runner, request))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(done);
            let mut waiting = BTreeMap::new();
            let mut expected = 0;
            'results: for (number, result) in results {
                waiting.insert(number, result);
                while let Some(result) = waiting.remove(&expected) {
                    expected += 1;
                    if each(result).is_break() {
                        break 'results;
                    }
                    feed.delivered(expected);
                }
            }
            feed.stop();
        });
    }
}

/// Requests, numbered, given out no further ahead than allowed.
struct Feed<I> {
    state: Mutex<State<I>>,
    moved: Condvar,
    ahead_max: usize,
}

struct State<I> {
    requests: I,
    given: usize,
    delivered: usize,
    stopped: bool,
}

impl<I: Iterator> Feed<I> {
    fn new(requests: I, ahead_max: usize) -> Feed<I> {
        let state = State { requests, given: 0, delivered: 0, stopped: false };
        Feed { state: Mutex::new(state), moved: Condvar::new(), ahead_max }
    }

    fn next(&self) -> Option<(usize, I::Item)> {
        let mut state = self.state();
        while !state.stopped && state.given >= state.delivered + self.ahead_max {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return None;
        }
        let request = state.requests.next();
        let number = state.given;
        state.given += 1;
        state.stopped |= request.is_none();
        Some((number, request?))
    }

    fn delivered(&self, count: usize) {
        self.state().delivered = count;
        self.moved.notify_all();
    }
}

impl<I> Feed<I> {
    fn stop(&self) {
        self.state().stopped = true;
        self.moved.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that panics must not leave the others waiting for its result.
struct StopOnPanic<'a, I>(&'a Feed<I>);

impl<I> Drop for StopOnPanic<'_, I> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}
