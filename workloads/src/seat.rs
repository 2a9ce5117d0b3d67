//! Where a client sits: what it says what it does to, and the store that it asks.
//!
//! The same client works in a simulation and against real processes, so that what is learned in one place holds in the
//! other. What differs is behind these two traits: the clock and the record, and the way a request travels.

use std::future::Future;
use std::time::Duration;

use aspen::client::Client as Aspen;
use aspen::command::{Answer, Command, Query, Reply, SessionSeq};
use aspen::env::Env;
use aspen::error::ClientError;
use aspen::message::StaleBound;
use sim_runtime::engine::{Client, OpKind, OpOutcome, PlannedOp};
use sim_runtime::world;

use crate::event::Event;

/// Turns, and the record of what was done. A simulation's is [`Client`].
pub trait Desk {
    /// Unique among the clients of a run.
    fn index(&self) -> u32;
    /// Waits until an operation may begin; `false` when the time for operations is over.
    fn wait_for_turn(&self, op: &PlannedOp) -> impl Future<Output = bool>;
    /// Begins an operation and returns its id, unique and ascending over the run.
    fn begin(&self) -> u64;
    /// Tells the oracles.
    fn emit(&self, event: Event);
    /// Ends an operation. One that never ends counts as unknown.
    fn end(&self, op: u64, kind: OpKind, outcome: OpOutcome);
    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
    /// What came of it, unless that takes longer than `patience`: then it is dropped.
    fn within<T>(&self, patience: Duration, asked: impl Future<Output = T>) -> impl Future<Output = Option<T>>;
}

impl Desk for Client<Event> {
    fn index(&self) -> u32 {
        self.index
    }

    fn wait_for_turn(&self, op: &PlannedOp) -> impl Future<Output = bool> {
        Client::wait_for_turn(self, op)
    }

    fn begin(&self) -> u64 {
        Client::begin(self)
    }

    fn emit(&self, event: Event) {
        Client::emit(self, event);
    }

    fn end(&self, op: u64, kind: OpKind, outcome: OpOutcome) {
        Client::end(self, op, kind, outcome);
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        world::sleep(duration)
    }

    async fn within<T>(&self, patience: Duration, asked: impl Future<Output = T>) -> Option<T> {
        world::timeout(patience, Box::pin(asked)).await.ok()
    }
}

/// Whether this client works through a session: half of them never see a write applied twice, the others are told
/// *unknown* more often.
pub fn in_session(index: u32) -> bool {
    index.is_multiple_of(2)
}

/// The store as a client reaches it. Whether writes go through a session is the store's own affair.
pub trait Store {
    fn execute(&self, command: Command) -> impl Future<Output = Result<Reply, ClientError>>;
    /// Under a name of the caller's; see [`Aspen::execute_as`].
    fn execute_as(&self, name: SessionSeq, command: Command) -> impl Future<Output = Result<Reply, ClientError>>;
    fn query(&self, query: Query) -> impl Future<Output = Result<Answer, ClientError>>;
    fn query_stale(&self, query: Query, bound: StaleBound) -> impl Future<Output = Result<Answer, ClientError>>;
    fn close_session(&self) -> impl Future<Output = Result<(), ClientError>>;
}

impl<E: Env> Store for Aspen<E> {
    fn execute(&self, command: Command) -> impl Future<Output = Result<Reply, ClientError>> {
        Aspen::execute(self, command)
    }

    fn execute_as(&self, name: SessionSeq, command: Command) -> impl Future<Output = Result<Reply, ClientError>> {
        Aspen::execute_as(self, name, command)
    }

    fn query(&self, query: Query) -> impl Future<Output = Result<Answer, ClientError>> {
        Aspen::query(self, query)
    }

    fn query_stale(&self, query: Query, bound: StaleBound) -> impl Future<Output = Result<Answer, ClientError>> {
        Aspen::query_stale(self, query, bound)
    }

    fn close_session(&self) -> impl Future<Output = Result<(), ClientError>> {
        Aspen::close_session(self)
    }
}
