//! The one task that writes the log: takes changes first-in first-out, and makes as many as wait durable in one
//! transaction with one sync. That is group commit, and it is also what orders votes and entries.
//!
//! After the first error nothing is written any more: every later change fails with that error.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use buggify::{assert_always, assert_sometimes, buggify};
use openraft::AsyncRuntime;
use openraft::alias::{MpscReceiverOf, OneshotSenderOf};
use openraft::async_runtime::{MpscReceiver, OneshotSender, TryRecvError};
use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;

use super::Shared;
use super::disk::{Change, EncodedBatch};
use crate::env::{Env, Lane};
use crate::observe::Observation;
use crate::planted::planted;
use crate::types::{LogId, TypeConfig, Vote};

type Done<E> = OneshotSenderOf<TypeConfig<E>, io::Result<()>>;

/// What the writer is asked to do.
pub(super) enum Op<E: Env> {
    Append {
        batch: EncodedBatch,
        last: LogId,
        callback: IOFlushed<TypeConfig<E>>,
    },
    Vote {
        vote: Vote,
        done: Done<E>,
    },
    Truncate {
        from: u64,
        done: Done<E>,
    },
    Purge {
        upto: LogId,
    },
    /// Changes nothing: is done when everything before it is durable.
    Barrier {
        done: Done<E>,
    },
    Close {
        done: Done<E>,
    },
}

/// Whom to tell once a transaction is durable, in the order of its changes.
enum Waiter<E: Env> {
    Append { last: LogId, callback: IOFlushed<TypeConfig<E>> },
    Vote { vote: Vote, done: Done<E> },
    Truncate { done: Done<E> },
    Barrier { done: Done<E> },
    Purge,
}

/// Runs until the log is closed or every handle is gone.
pub(super) async fn run<E: Env>(shared: Arc<Shared<E>>, mut queue: MpscReceiverOf<TypeConfig<E>, Op<E>>) {
    let mut closer = None;
    let mut wrote = false;
    while closer.is_none() {
        let first = match next(&shared, &mut queue, wrote).await {
            Next::Op(op) => Some(op),
            Next::Idle => None,
            Next::Gone => break,
        };
        wrote = first.is_some();
        let (changes, waiters) = gather(&shared, first, &mut queue, &mut closer);
        match shared.health.check() {
            Err(failed) => answer_all(waiters, &failed),
            // Barriers, and nothing before them that is not durable yet.
            Ok(()) if changes.is_empty() => report(&shared, waiters),
            Ok(()) => write(&shared, changes, waiters).await,
        }
    }
    let closed = close(&shared).await;
    if let Some(done) = closer {
        let _ = done.send(closed);
    }
}

enum Next<E: Env> {
    Op(Op<E>),
    /// Nothing came for a while: time to save a committed mark that no transaction carried.
    Idle,
    Gone,
}

/// Waits for an operation; the wait after a transaction is bounded, because entries are committed after they are written.
async fn next<E: Env>(shared: &Shared<E>, queue: &mut MpscReceiverOf<TypeConfig<E>, Op<E>>, wrote: bool) -> Next<E> {
    if !wrote {
        return queue.recv().await.map_or(Next::Gone, Next::Op);
    }
    let deadline = TypeConfig::<E>::now() + shared.config.committed_idle;
    match E::Runtime::mpsc_recv_deadline(queue, deadline).await {
        Ok(op) => Next::Op(op),
        Err(TryRecvError::Empty) => Next::Idle,
        Err(TryRecvError::Disconnected) => Next::Gone,
    }
}

/// Takes what waits, up to the limits of one transaction.
fn gather<E: Env>(
    shared: &Shared<E>,
    first: Option<Op<E>>,
    queue: &mut MpscReceiverOf<TypeConfig<E>, Op<E>>,
    closer: &mut Option<Done<E>>,
) -> (Vec<Change>, Vec<Waiter<E>>) {
    let mut changes = Vec::new();
    let mut waiters = Vec::new();
    let (mut entries, mut bytes, mut appends) = (0, 0, 0);
    let alone = buggify!(at "log writer commits one operation at a time");
    let mut op = first;
    while let Some(taken) = op {
        match taken {
            Op::Append { batch, last, callback } => {
                entries += batch.entries.len();
                bytes += batch.bytes.len();
                appends += 1;
                changes.push(Change::Append(batch));
                waiters.push(Waiter::Append { last, callback });
            }
            Op::Vote { vote, done } => {
                assert_sometimes!(appends > 0, "a vote shared its sync with an append");
                changes.push(Change::Vote(vote));
                waiters.push(Waiter::Vote { vote, done });
            }
            Op::Truncate { from, done } => {
                changes.push(Change::Truncate { from });
                waiters.push(Waiter::Truncate { done });
            }
            Op::Purge { upto } => {
                changes.push(Change::Purge { upto });
                waiters.push(Waiter::Purge);
            }
            Op::Barrier { done } => waiters.push(Waiter::Barrier { done }),
            Op::Close { done } => {
                *closer = Some(done);
                break;
            }
        }
        let full = entries >= shared.config.flush_batch_entries_max || bytes >= shared.config.flush_batch_bytes_max;
        op = if alone || full { None } else { queue.try_recv().ok() };
    }
    assert_sometimes!(appends > 1, "group commit made several appends durable with one sync");
    if let Some(committed) = shared.committed_to_save(&changes) {
        changes.push(Change::Committed(committed));
    }
    (changes, waiters)
}

async fn write<E: Env>(shared: &Arc<Shared<E>>, changes: Vec<Change>, mut waiters: Vec<Waiter<E>>) {
    if planted!("append-acked-early") {
        waiters = acknowledge_appends(waiters);
    }
    if buggify!(at "log writer stands still", 0.01) {
        // As on a disk that hangs: for longer than anybody waits for an append, so that more comes meanwhile.
        TypeConfig::<E>::sleep(Duration::from_millis(1000)).await;
    }
    if buggify!(at "log writer is slow to begin a transaction") {
        TypeConfig::<E>::sleep(Duration::from_millis(20)).await;
    }
    let upto = waiters.iter().rev().find_map(|waiter| match waiter {
        Waiter::Append { last, .. } => Some(*last),
        _ => None,
    });
    let saved = changes.iter().find_map(|change| match change {
        Change::Committed(id) => Some(*id),
        _ => None,
    });
    let votes: Vec<Vote> = waiters.iter().filter_map(Waiter::vote).collect();
    let section = {
        let shared = shared.clone();
        move || -> io::Result<super::disk::Committed> {
            let disk = shared.disk.lock();
            let disk = disk.as_ref().ok_or_else(super::closed_error)?;
            let done = disk.commit(&changes)?;
            if shared.env.is_observed() {
                votes.into_iter().for_each(|vote| shared.env.observe(Observation::VoteSaved { vote }));
                if let Some(upto) = upto {
                    shared.env.observe(Observation::Flushed { upto });
                }
            }
            assert_sometimes!(done.truncated > 0, "a deposed leader's tail was removed from disk");
            assert_sometimes!(done.purged > 0, "purged entries were removed from disk");
            Ok(done)
        }
    };
    let result = match shared.lane.run(section).await {
        Ok(result) => result,
        Err(stopped) => Err(stopped.into()),
    };
    let done = match shared.health.watch("the log cannot be written", result) {
        Ok(done) => done,
        Err(error) => return answer_all(waiters, &error),
    };
    shared.count_commit(done.entries, waiters.len());
    if let Some(committed) = saved {
        shared.committed_saved(committed);
    }
    if buggify!(at "log writer is slow to report a sync") {
        TypeConfig::<E>::sleep(Duration::from_millis(5)).await;
    }
    if buggify!(at "log writer reports syncs in reverse order") {
        // openraft tolerates completions out of order.
        waiters.reverse();
    }
    report(shared, waiters);
    shared.evict();
}

/// Everything is durable that those who wait were waiting for.
fn report<E: Env>(shared: &Shared<E>, waiters: Vec<Waiter<E>>) {
    for waiter in waiters {
        match waiter {
            Waiter::Append { last, callback } => {
                shared.flushed(last);
                callback.io_completed(Ok(()));
            }
            Waiter::Vote { vote, done } => {
                shared.vote_saved(vote);
                let _ = done.send(Ok(()));
            }
            Waiter::Truncate { done } | Waiter::Barrier { done } => {
                let _ = done.send(Ok(()));
            }
            Waiter::Purge => {}
        }
    }
}

impl<E: Env> Waiter<E> {
    fn vote(&self) -> Option<Vote> {
        match self {
            Waiter::Vote { vote, .. } => Some(*vote),
            _ => None,
        }
    }
}

/// Tells the appends that they are durable, and keeps the other waiters.
fn acknowledge_appends<E: Env>(waiters: Vec<Waiter<E>>) -> Vec<Waiter<E>> {
    let acknowledge = |waiter| match waiter {
        Waiter::Append { last, callback } => {
            callback.io_completed(Ok(()));
            Waiter::Append { last, callback: IOFlushed::noop() }
        }
        waiter => waiter,
    };
    waiters.into_iter().map(acknowledge).collect()
}

fn answer_all<E: Env>(waiters: Vec<Waiter<E>>, error: &io::Error) {
    assert_sometimes!(
        !waiters.is_empty(),
        "a change of the log was refused because the store failed",
        owed_by = "disk"
    );
    for waiter in waiters {
        let error = io::Error::new(error.kind(), error.to_string());
        match waiter {
            Waiter::Vote { done, .. } if planted!("failed-vote-acknowledged") => drop(done.send(Ok(()))),
            Waiter::Append { callback, .. } => callback.io_completed(Err(error)),
            Waiter::Vote { done, .. } | Waiter::Truncate { done } | Waiter::Barrier { done } => {
                let _ = done.send(Err(error));
            }
            Waiter::Purge => {}
        }
    }
}

/// Saves the committed mark and closes the file.
async fn close<E: Env>(shared: &Arc<Shared<E>>) -> io::Result<()> {
    let committed = if shared.health.check().is_ok() { shared.committed_to_save(&[]) } else { None };
    let section = {
        let shared = shared.clone();
        move || -> io::Result<()> {
            let Some(disk) = shared.disk.lock().take() else { return Ok(()) };
            match committed {
                Some(committed) => disk.commit(&[Change::Committed(committed)]).map(drop),
                None => Ok(()),
            }
        }
    };
    let closed = shared.lane.run(section).await?;
    assert_always!(shared.disk.lock().is_none(), "a closed log holds no file");
    closed
}
