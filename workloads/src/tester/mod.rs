//! Scenarios by hand: a cluster that does what a test says, one line after the other.
//!
//! Every method lets virtual time pass until its effect, and no longer; between two calls time stands still, so a test
//! needs no sleeps and no runtime. What the oracles check in any other run they check here too, all the time, and once
//! more in [`AspenRaftTester::end`].
//!
//! - [`state`]: the cluster at one moment, for conditions
//! - `faults`: what can be done to nodes, links and clocks; `members`: who is a member
//! - `stage`: the simulating side; `client`, `operator`: who works there; `thread`: how it is told
mod client;
mod faults;
mod members;
mod operator;
mod stage;
pub mod state;
mod thread;

use std::collections::BTreeMap;

use aspen::error::ClientError;
use sim_runtime::engine::record::RunRecord;
use sim_runtime::engine::report::Verdict;
use xxhash_rust::xxh3::xxh3_64;

use crate::event::Role;
use crate::transport;
use client::Hand;
use stage::Stage;
pub use state::State;
use thread::Thread;

/// A simulated cluster of nodes 0..n, in the hands of a test.
///
/// One at a time per process: a second waits until the first has ended, for ever if that is up to the same thread.
///
/// # Panics
/// Every method does when an oracle has found a violation, when the run cannot go on (a panic in a node, a deadlock), when
/// what it waits for does not come about within 30 virtual seconds, and for a node that does not exist.
pub struct AspenRaftTester {
    name: String,
    seed: u64,
    thread: Thread<Stage>,
}

impl AspenRaftTester {
    /// `n` nodes that have formed a cluster. The seed is that of `ASPEN_TEST_SEED` or `MADSIM_TEST_SEED`, or else a hash
    /// of the name.
    pub fn new(n: u32, name: &str) -> AspenRaftTester {
        AspenRaftTester::with_knobs(n, name, &[])
    }

    /// As [`new`](AspenRaftTester::new), with other values for some tunables of nodes and clients; see
    /// [`config::knobs`](crate::config::knobs) for their names.
    pub fn with_knobs(n: u32, name: &str, knobs: &[(&str, i64)]) -> AspenRaftTester {
        let seed = seed_of(name);
        eprintln!("{name}: to reproduce, run the same test with ASPEN_TEST_SEED={seed}");
        let knobs: BTreeMap<String, i64> = knobs.iter().map(|(knob, value)| ((*knob).to_owned(), *value)).collect();
        let of = name.to_owned();
        let thread = Thread::new(move || Stage::new(n, &of, seed, &knobs), |stage| stage.by_hand.abandon());
        let mut tester = AspenRaftTester { name: name.to_owned(), seed, thread };
        // The cluster forms before this returns.
        tester.thread.ask(|_| ());
        tester
    }

    /// Writes and waits for the answer. Returns the revision.
    ///
    /// # Errors
    /// After 5 s without success. The client tells whether the write may have happened.
    pub fn write(&mut self, key: &str, value: &str) -> Result<u64, ClientError> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.thread.ask(move |stage| stage.with_client(move |hand| async move { hand.write(&key, &value).await }))
    }

    /// Reads, linearizably. `None` if there is no such key.
    ///
    /// # Errors
    /// After 5 s without success.
    pub fn read(&mut self, key: &str) -> Result<Option<String>, ClientError> {
        let key = key.to_owned();
        self.thread.ask(move |stage| stage.with_client(move |hand| async move { hand.read(&key).await }))
    }

    /// Writes `count` keys (`prefix-0`, `prefix-1`, ..), each acknowledged, so that the log grows.
    ///
    /// # Errors
    /// The first that occurs.
    pub fn write_many(&mut self, prefix: &str, count: usize) -> Result<(), ClientError> {
        (0..count).try_for_each(|nth| self.write(&format!("{prefix}-{nth}"), "x").map(drop))
    }

    /// Begins a write at this node, whoever leads, and does not wait for what becomes of it.
    pub fn submit(&mut self, node: usize, key: &str, value: &str) {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.thread.ask(move |stage| {
            let address = transport::address(stage.host(node));
            stage.by_hand.client(move |client| {
                Box::pin(async move {
                    // The oracles are told what became of it.
                    let _ = Hand::new(client, vec![address], false).write(&key, &value).await;
                })
            });
        });
    }

    /// Waits until one node leads and a quorum that it can reach follows it. Returns that node.
    pub fn check_one_leader(&mut self) -> usize {
        self.thread.ask(|stage| {
            stage.wait_until("one leader that a quorum follows", |state, stage| stage.established_leader(state))
        })
    }

    /// No two nodes that run lead in the same term. (That no two ever do is what an oracle watches all the time.)
    pub fn check_no_split_brain(&mut self) {
        let state = self.metrics();
        let mut terms = BTreeMap::new();
        for (node, of) in state.nodes.iter().filter(|(_, of)| of.role == Role::Leader) {
            let other = terms.insert(of.term, node);
            assert!(other.is_none(), "nodes {other:?} and {node} both lead in term {}", of.term);
        }
    }

    /// Waits until all nodes that run have applied the same log to its end.
    pub fn wait_for_log_sync(&mut self) {
        self.wait_until("all logs are the same", State::in_sync);
    }

    /// Waits until the condition holds. It is looked at every 5 ms. `what` is for the message when it does not come about.
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&State) -> bool + Send + 'static) {
        let what = what.to_owned();
        self.thread.ask(move |stage| stage.wait_until(&what, |state, _| condition(state).then_some(())));
    }

    /// What the nodes that run say of themselves now.
    pub fn metrics(&mut self) -> State {
        self.thread.ask(|stage| stage.by_hand.enter(|| stage.state()))
    }

    /// Ends all faults, starts every node that is down, waits until all have converged, reads everything, and asks every
    /// oracle. Returns the record of the run.
    ///
    /// # Panics
    /// If anything was violated.
    pub fn end(self) -> RunRecord {
        let AspenRaftTester { name, seed, thread } = self;
        let record = thread.finish(Stage::finish);
        if record.report.verdict != Verdict::Pass {
            let found = record.report.violations.iter().map(|found| format!("{}: {}", found.property, found.message));
            let all: Vec<String> = found.chain(record.report.doubts.iter().cloned()).collect();
            panic!("{name} under ASPEN_TEST_SEED={seed}: {}", all.join("\n"));
        }
        eprintln!("{name}: digest {}", record.report.digest.as_deref().unwrap_or("unknown"));
        record
    }
}

fn seed_of(name: &str) -> u64 {
    let given = ["ASPEN_TEST_SEED", "MADSIM_TEST_SEED"].into_iter().find_map(|variable| {
        let text = std::env::var(variable).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number below 2^64")))
    });
    given.unwrap_or_else(|| xxh3_64(name.as_bytes()))
}
