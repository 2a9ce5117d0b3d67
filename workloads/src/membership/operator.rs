//! The operator at work: looks, does one thing, looks again.
//!
//! An outcome that is unknown is no matter: the next look tells. Each change names the membership it was decided on, so
//! that a delayed one, or that of another operator, cannot undo a later one.

use std::collections::BTreeSet;
use std::time::Duration;

use aspen::client::Client as Aspen;
use aspen::error::{ClientError, ErrorCode, ErrorOutcome};
use aspen::membership::Change;
use aspen::message::{ClusterStatus, LogPoint};
use aspen::types::{Address, NodeId};
use buggify::{assert_always, assert_reachable, assert_sometimes};
use sim_runtime::engine::{Client, PlannedOp, run};
use sim_runtime::world;

use super::OperatorOp;
use super::duties::{self, Duty};
use super::notebook::{self, Effect};
use crate::cluster;
use crate::config;
use crate::env::SimEnv;
use crate::event::Event;
use crate::machines;
use crate::transport;

/// Keeps the cluster whole, does what is planned when its time has come, and ends when all is well after that.
pub async fn work(client: Client<Event>, ops: Vec<PlannedOp>) {
    machines::operator_begins();
    let mut operator = Operator::new(client);
    let mut ops = ops.into_iter().peekable();
    loop {
        let planned = ops.next_if(|planned| planned.not_before_ns <= world::now_ns());
        if let Some(planned) = planned.filter(|_| world::now_ns() < operator.client.until_ns) {
            let op: OperatorOp = serde_json::from_value(planned.op).expect("the plan was written by this workload");
            operator.wish(op).await;
        }
        let is_over = world::now_ns() >= operator.client.until_ns;
        if is_over {
            operator.wants_nothing_more();
        }
        if operator.tend().await == Tended::Whole && is_over {
            break;
        }
        world::sleep(LOOK).await;
    }
    machines::operator_ends();
}

pub(super) struct Operator {
    pub client: Client<Event>,
    pub aspen: Aspen<SimEnv>,
    /// How many servers there are.
    pub servers: u32,
    /// New nodes are to vote as soon as they were added.
    pub in_haste: bool,
    /// The next voter that is silent goes.
    pub watchful: bool,
    /// The next lost voter is an occasion to ask for what cannot be.
    pub reckless: bool,
    /// The last look at the cluster, for people.
    looked: String,
}

#[derive(PartialEq, Eq)]
enum Tended {
    /// Nothing is left to do.
    Whole,
    NotYet,
}

impl Operator {
    fn new(client: Client<Event>) -> Operator {
        let addresses = client.servers.iter().map(|host| transport::address(*host)).collect();
        let config = config::client_config(|name| client.knob(name), client.index, false, false);
        let aspen = Aspen::new(SimEnv::new(None), addresses, config);
        let servers = u32::try_from(client.servers.len()).expect("servers are numbered by u32");
        let looked = String::new();
        Operator { client, aspen, servers, in_haste: false, watchful: false, reckless: false, looked }
    }

    /// Faults are over: what is left shall be a cluster whose nodes can be compared.
    fn wants_nothing_more(&mut self) {
        notebook::with(|notebook| notebook.place_at_least(self.servers, VOTERS_AT_THE_END));
        (self.in_haste, self.watchful, self.reckless) = (false, false, false);
    }

    /// The cluster as its leader sees it. Members came in, and left, by nothing but what operators asked for.
    pub async fn look(&self) -> Result<ClusterStatus, ClientError> {
        let status = self.aspen.cluster_status().await?;
        let founders = (0..self.servers).filter(|at| machines::is_founder(*at)).map(machines::founder).collect();
        let wrong = notebook::with(|notebook| notebook.look(&status, &founders));
        assert_always!(wrong.is_none(), "what was refused for certain is not done, what was made is", wrong);
        Ok(status)
    }

    /// Looks at the cluster and does the first thing that is to be done.
    async fn tend(&mut self) -> Tended {
        let status = match self.look().await {
            Ok(status) => status,
            Err(error) => {
                machines::operator_notes(format!("no status: {error}"));
                return Tended::NotYet;
            }
        };
        if machines::are_demotions_forbidden() {
            notebook::with(|notebook| notebook.keep_all(self.servers));
        }
        self.part_with_the_silent(&status);
        let mut machines = notebook::with(|notebook| notebook.machines(self.servers));
        // Two operators begin at different ends: of what both decide on one membership, only one thing can be done.
        if !self.client.index.is_multiple_of(2) {
            machines.reverse();
        }
        if self.is_reckless(&status, &machines).await {
            return Tended::NotYet;
        }
        let demoted = notebook::with(|notebook| notebook.demoted(world::now_ns()));
        let Some(duty) = duties::next(&status, &machines, &demoted) else {
            return if demoted.is_empty() { Tended::Whole } else { Tended::NotYet };
        };
        self.looked = format!("{duty:?} is next of {status:?}");
        machines::operator_notes(self.looked.clone());
        self.attend(duty, &status, &duties::lost(&status, &machines)).await;
        Tended::NotYet
    }

    async fn attend(&mut self, duty: Duty, status: &ClusterStatus, lost: &BTreeSet<NodeId>) {
        match duty {
            Duty::Wait => {}
            Duty::Identify { server } => match self.allocate().await {
                // Another operator may have been faster.
                Ok(id) if machines::node_on(server).is_none() => {
                    assert_reachable!("an operator gave a machine a new identity", owed_by = "membership");
                    machines::identify(server, id);
                }
                Ok(_) => {}
                Err(error) => machines::operator_notes(format!("no node id: {error}")),
            },
            Duty::AddLearner { server, id } => {
                let address = self.address(server);
                if let Ok(at) = self.change(Change::AddLearner { id, address }, status).await {
                    if status.members.keys().any(|member| is_cut_off(status, *member)) {
                        assert_reachable!("a node was added while another was cut off", owed_by = "membership");
                    }
                    self.in_haste(id, at, status).await;
                }
            }
            Duty::Promote { id, leaving } => {
                let change = Change::Voters { add: [id].into(), remove: leaving.clone(), retain: false };
                if self.change(change, status).await.is_ok() {
                    voters_changed(status, &[id].into(), &leaving);
                    if leaving.is_subset(lost) && !leaving.is_empty() {
                        assert_reachable!("a node that had lost its disk was replaced", owed_by = "membership");
                        run::notice::<Event>("wipe");
                    }
                    let server = (0..self.servers).find(|at| machines::node_on(*at) == Some(id));
                    if server.is_some_and(|server| notebook::with(|notebook| notebook.is_back(server))) {
                        assert_reachable!("a machine that had left came back as another node", owed_by = "membership");
                    }
                }
            }
            Duty::RemoveVoter { id } => {
                // Who is lost already is no loss.
                let is_risky = !lost.contains(&id);
                let remove: BTreeSet<NodeId> = [id].into();
                let change = Change::Voters { add: BTreeSet::new(), remove: remove.clone(), retain: false };
                if self.take_vote(change, status, is_risky).await.is_ok() {
                    voters_changed(status, &BTreeSet::new(), &remove);
                }
            }
            Duty::RemoveLearner { id } => {
                let _ = self.change(Change::RemoveLearner { id }, status).await;
            }
            Duty::Retire { server, id } => notebook::with(|notebook| {
                if notebook.is_gone(status, id) {
                    machines::retire(server);
                    notebook.leaves(server);
                }
            }),
            Duty::Finish => {
                assert_reachable!("an operator found a change that was interrupted", owed_by = "membership");
                let _ = self.change(Change::Finish, status).await;
            }
        }
    }

    /// A change that leaves the cluster with a voter less, all of whose machines are there now: none may be lost before
    /// it is known what came of it.
    pub async fn take_vote(
        &self,
        change: Change,
        status: &ClusterStatus,
        is_risky: bool,
    ) -> Result<LogPoint, ClientError> {
        if is_risky {
            machines::operator_risks(self.client.index, world::now_ns() + RISK_NS);
        }
        let made = self.change(change, status).await;
        if is_risky {
            let is_known = made.as_ref().map_or_else(|error| error.outcome == ErrorOutcome::Definite, |_| true);
            let risk_ns = if is_known { SETTLE_NS } else { UNKNOWN_NS };
            machines::operator_risks(self.client.index, world::now_ns() + risk_ns);
        }
        made
    }

    /// Asks for an identity for a new node.
    pub async fn allocate(&self) -> Result<NodeId, ClientError> {
        let id = self.aspen.allocate_node_id().await?;
        let is_new = notebook::with(|notebook| notebook.is_new(id));
        assert_always!(is_new, "an identity is given out once", id);
        Ok(id)
    }

    /// Asks for a change of the membership that was looked at, and takes note of what came of it.
    pub async fn change(&self, change: Change, status: &ClusterStatus) -> Result<LogPoint, ClientError> {
        let (effect, on, me) = (effect(&change), status.membership, self.client.index);
        notebook::with(|notebook| notebook.asks(&effect));
        let made = self.aspen.change_membership(change.clone(), on).await;
        match &made {
            Ok(at) => {
                let is_first = notebook::with(|notebook| notebook.was_made(on, me));
                notebook::with(|notebook| notebook.was_done(&effect, *at));
                assert_always!(is_first, "of the changes of one membership one at most is made", change);
            }
            Err(error) => {
                if error.outcome == ErrorOutcome::Definite {
                    notebook::with(|notebook| notebook.was_refused(&effect, on, me));
                }
                machines::operator_notes(format!("{}: {error}", self.looked));
                world::note(|| format!("operator: {change:?} of {on:?}: {error}"));
                assert_sometimes!(
                    error.outcome == ErrorOutcome::Unknown,
                    "a change of the membership ended unknown",
                    owed_by = "membership"
                );
                assert_sometimes!(
                    error.code == ErrorCode::PreconditionFailed,
                    "an operator's change was refused by a guard",
                    owed_by = "membership"
                );
            }
        }
        assert_sometimes!(
            notebook::with(|notebook| notebook.was_contested(on)),
            "of two operators' changes one was made and one refused",
            owed_by = "membership"
        );
        made
    }

    fn address(&self, server: u32) -> Address {
        let index = usize::try_from(server).expect("a u32 is a usize");
        transport::address(self.client.servers[index])
    }
}

fn effect(change: &Change) -> Effect {
    match change {
        Change::AddLearner { id, .. } => Effect { adds: [*id].into(), ..Effect::default() },
        Change::RemoveLearner { id } => Effect { removes: [*id].into(), ..Effect::default() },
        Change::Voters { remove, retain: false, .. } => Effect { removes: remove.clone(), ..Effect::default() },
        Change::Voters { .. } | Change::Finish => Effect::default(),
    }
}

/// Whether the node runs although the leader has not heard of it for a while.
pub(super) fn is_cut_off(status: &ClusterStatus, id: NodeId) -> bool {
    let is_silent = status.members.get(&id).and_then(|member| member.silent_for_ms) >= Some(SILENT_MS);
    is_silent && id != status.leader && cluster::running().values().any(|metrics| metrics.node == id)
}

/// The voters are others now: for the record.
fn voters_changed(status: &ClusterStatus, added: &BTreeSet<NodeId>, removed: &BTreeSet<NodeId>) {
    let [before] = status.voters.as_slice() else { return };
    let after: BTreeSet<NodeId> = before.union(added).filter(|id| !removed.contains(id)).copied().collect();
    match (before.len(), after.len()) {
        (1, 2..) => assert_reachable!("a cluster of one voter grew", owed_by = "membership"),
        (2.., 1) => assert_reachable!("a cluster shrank to one voter", owed_by = "membership"),
        (6, 7..) => assert_reachable!("a cluster grew to seven voters", owed_by = "membership"),
        _ => {}
    }
    if !added.is_empty()
        && removed.iter().any(|id| status.members.contains_key(id) && machines::lost_at_ns(*id).is_none())
    {
        assert_reachable!("a machine took the place of one that was well", owed_by = "membership");
    }
    if removed.contains(&status.leader) {
        assert_reachable!("a leader removed itself", owed_by = "membership");
    }
    if removed.iter().any(|id| is_cut_off(status, *id)) {
        assert_reachable!("a voter was removed while it was cut off", owed_by = "membership");
    }
}

/// So many voters a cluster has at the end, where there are as many machines.
const VOTERS_AT_THE_END: u32 = 3;
/// How often an operator looks.
const LOOK: Duration = Duration::from_millis(150);
/// Who was not heard for so long is taken for cut off: several heartbeats.
pub(super) const SILENT_MS: u64 = 700;
/// So long a change that was asked for may still be made: longer than any client waits.
const RISK_NS: u64 = 60_000_000_000;
/// After an unknown outcome: no leader works on it any more, and what is in its log shows in its metrics.
const UNKNOWN_NS: u64 = 8_000_000_000;
/// So long it shows in the nodes' metrics after it was answered.
const SETTLE_NS: u64 = 500_000_000;
