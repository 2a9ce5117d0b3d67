//! The simulating side of a tester: one run by hand, and the client that works through it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use sim_runtime::engine::by_hand::ByHand;
use sim_runtime::engine::record::{RunRecord, RunRequest};
use sim_runtime::engine::{Simulation, Spec, Workload};
use sim_runtime::sync::{mpsc, oneshot};
use sim_runtime::world::{self, HostId, Nanos, network};

use super::client::{Hand, Job};
use super::state::State;
use crate::cluster::AspenCluster;
use crate::event::Event;
use crate::kv::Kv;
use crate::transport;

pub(super) struct Stage {
    pub by_hand: ByHand<Event>,
    jobs: mpsc::Sender<Job>,
}

impl Stage {
    /// `nodes` founders, all started, with a leader. Tunables that are not in `knobs` have their defaults.
    pub fn new(nodes: u32, name: &str, seed: u64, knobs: &BTreeMap<String, i64>) -> Stage {
        let simulation = Simulation::new(Spec::quiet(name, nodes, DURATION_S), AspenCluster::new).workload(Kv);
        let request = RunRequest { seed, spec: name.to_owned(), ..RunRequest::default() };
        let by_hand = ByHand::new(simulation, request, |plan| {
            for (knob, value) in knobs {
                let known = plan.knobs.insert(knob.clone(), *value);
                assert!(known.is_some(), "there is no tunable {knob}; these are known: {:?}", plan.knobs.keys());
            }
            // The test itself says what must have happened.
            plan.conclusive.must_judge = Some(Vec::new());
        });
        by_hand.enter(|| by_hand.fleet().boot_all());
        let (jobs, queue) = mpsc::unbounded();
        by_hand.client(move |client| {
            let addresses = client.servers.iter().map(|host| transport::address(*host)).collect();
            Box::pin(Hand::new(client, addresses, true).work(queue))
        });
        let stage = Stage { by_hand, jobs };
        stage.wait_until("the cluster has formed", |state, _| state.leader());
        stage
    }

    pub fn state(&self) -> State {
        State::now(&self.by_hand.fleet().hosts)
    }

    pub fn nodes(&self) -> usize {
        self.by_hand.fleet().hosts.len()
    }

    /// # Panics
    /// For a node that does not exist.
    pub fn host(&self, node: usize) -> HostId {
        let hosts = &self.by_hand.fleet().hosts;
        *hosts.get(node).unwrap_or_else(|| panic!("there is no node {node}, only {}", hosts.len()))
    }

    /// Lets time pass until `step` is done.
    ///
    /// # Panics
    /// If the run cannot go on, or something was violated.
    pub fn drive<T>(&self, step: impl Future<Output = T>) -> T {
        let done = self.by_hand.drive(step);
        if let Some(violation) = self.by_hand.violations().first() {
            panic!("{} is violated: {}", violation.property, violation.message);
        }
        done.unwrap_or_else(|halt| panic!("the run was given up: {halt}"))
    }

    /// Does something through the client, and waits until it is done.
    pub fn with_client<T: 'static, F: Future<Output = T>>(&self, action: impl FnOnce(Rc<Hand>) -> F + 'static) -> T {
        self.drive(async {
            let (done, outcome) = oneshot::channel();
            let job: Job = Box::new(move |hand| {
                Box::pin(async move {
                    // Nobody waits for it any more when the run is given up.
                    let _ = done.send(action(hand).await);
                })
            });
            assert!(self.jobs.try_send(job).is_ok(), "the client lives as long as the run");
            outcome.await.unwrap_or_else(|_| panic!("the client has died"))
        })
    }

    /// Lets time pass until the condition gives something.
    ///
    /// # Panics
    /// If that takes longer than 30 virtual seconds.
    pub fn wait_until<T>(&self, what: &str, mut condition: impl FnMut(&State, &Stage) -> Option<T>) -> T {
        let found = self.drive(async {
            let deadline = world::now_ns() + WAIT_NS_MAX;
            loop {
                let state = self.state();
                match condition(&state, self) {
                    Some(found) => return Ok(found),
                    None if world::now_ns() > deadline => return Err(state),
                    None => world::sleep(LOOK).await,
                }
            }
        });
        found.unwrap_or_else(|state| panic!("waited in vain: {what}; {state}"))
    }

    /// The one that leads in the highest term, if a quorum that it can reach follows it.
    pub fn established_leader(&self, state: &State) -> Option<usize> {
        let is_paused = |node: usize| self.by_hand.nemesis().is_paused(node);
        let leader = state.leader().filter(|leader| !is_paused(*leader))?;
        let leading = &state.nodes[&leader];
        let follows = |node: &usize| {
            let of = state.nodes.get(node).is_some_and(|of| of.term == leading.term && of.leader == Some(leading.node));
            let (one, other) = (self.host(leader), self.host(*node));
            of && !is_paused(*node) && !network::is_cut(one, other) && !network::is_cut(other, one)
        };
        let is_quorum = |voters: &BTreeSet<u64>| {
            let machines = voters.iter().filter_map(|id| state.machine(*id));
            machines.filter(|node| *node == leader || follows(node)).count() * 2 > voters.len()
        };
        let sets = &leading.membership.voters;
        (!sets.is_empty() && sets.iter().all(is_quorum)).then_some(leader)
    }

    pub fn finish(self) -> RunRecord {
        self.by_hand.finish(&[Kv.name()])
    }
}

/// Far more than any scenario takes.
const DURATION_S: u64 = 3600;
const WAIT_NS_MAX: Nanos = 30_000_000_000;
const LOOK: Duration = Duration::from_millis(5);
