//! The operator at work: looks, does one thing, looks again.
//!
//! An outcome that is unknown is no matter: the next look tells. Each change names the membership it was decided on, so
//! that a delayed one cannot undo a later one.

use std::collections::BTreeSet;
use std::time::Duration;

use aspen::client::Client as Aspen;
use aspen::error::{ClientError, ErrorCode, ErrorOutcome};
use aspen::membership::Change;
use aspen::message::ClusterStatus;
use aspen::types::{Address, NodeId};
use buggify::{assert_always, assert_reachable, assert_sometimes};
use sim_runtime::engine::{Client, PlannedOp, run};
use sim_runtime::world;

use super::OperatorOp;
use super::duties::{self, Duty};
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
            operator.demoted.clear();
        }
        if operator.tend().await == Tended::Whole && is_over {
            break;
        }
        world::sleep(LOOK).await;
    }
    machines::operator_ends();
}

struct Operator {
    client: Client<Event>,
    aspen: Aspen<SimEnv>,
    /// Nodes that shall have no vote, and until when.
    demoted: BTreeSet<NodeId>,
    promote_at_ns: u64,
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
        Operator { client, aspen, demoted: BTreeSet::new(), promote_at_ns: 0, looked: String::new() }
    }

    /// Looks at the cluster and does the first thing that is to be done.
    async fn tend(&mut self) -> Tended {
        if world::now_ns() >= self.promote_at_ns {
            self.demoted.clear();
        }
        let status = match self.aspen.cluster_status().await {
            Ok(status) => status,
            Err(error) => {
                machines::operator_notes(format!("no status: {error}"));
                return Tended::NotYet;
            }
        };
        let machines = machines::all(self.client.servers.len());
        let Some(duty) = duties::next(&status, &machines, &self.demoted) else {
            return if self.demoted.is_empty() { Tended::Whole } else { Tended::NotYet };
        };
        self.looked = format!("{duty:?} is next of {status:?}");
        machines::operator_notes(self.looked.clone());
        match duty {
            Duty::Wait => {}
            Duty::Identify { server } => {
                let allocated = self.aspen.allocate_node_id().await;
                if let Err(error) = &allocated {
                    machines::operator_notes(format!("no node id: {error}"));
                }
                if let Ok(id) = allocated {
                    assert_reachable!("an operator gave a machine a new identity", owed_by = "membership");
                    machines::identify(server, id);
                }
            }
            Duty::AddLearner { server, id } => {
                let address = self.address(server);
                self.tell(self.aspen.add_learner(id, address, &status).await);
            }
            Duty::Promote { id, gone } => {
                let is_replacement = !gone.is_empty();
                let replaced = self.aspen.replace(gone, id, &status).await;
                if self.tell(replaced) && is_replacement {
                    assert_reachable!("a node that had lost its disk was replaced", owed_by = "membership");
                    run::notice::<Event>("wipe");
                }
            }
            Duty::RemoveVoter { id } | Duty::RemoveLearner { id } => {
                self.tell(self.aspen.remove(id, &status).await);
            }
            Duty::Finish => {
                assert_reachable!("an operator found a change that was interrupted", owed_by = "membership");
                self.tell(self.aspen.change_membership(Change::Finish, status.membership).await);
            }
        }
        Tended::NotYet
    }

    async fn wish(&mut self, op: OperatorOp) {
        // From before the look until well after the change.
        machines::operator_risks(world::now_ns() + RISK_NS);
        self.wish_at_risk(op).await;
        if !matches!(op, OperatorOp::Demote { .. }) {
            machines::operator_risks(0);
        }
    }

    async fn wish_at_risk(&mut self, op: OperatorOp) {
        let Ok(status) = self.aspen.cluster_status().await else { return machines::operator_risks(0) };
        let machines = machines::all(self.client.servers.len());
        let node = |server: u32| machines.get(usize::try_from(server).ok()?).copied().flatten();
        match op {
            OperatorOp::Transfer { server } => {
                let Some(to) = node(server) else { return };
                let transferred = self.aspen.transfer_leadership(to).await;
                assert_sometimes!(transferred.is_ok(), "an operator moved leadership", owed_by = "membership");
            }
            OperatorOp::Demote { server } => {
                let Some(id) = node(server) else { return machines::operator_risks(0) };
                // Not while a machine is missing: the guards know only whom the leader heard of lately.
                let is_whole = duties::next(&status, &machines, &self.demoted).is_none() && self.demoted.is_empty();
                if !is_whole || machines::are_demotions_forbidden() {
                    return machines::operator_risks(0);
                }
                let change = Change::Voters { add: BTreeSet::new(), remove: [id].into(), retain: true };
                // Tried, or half done: it gets its vote back either way.
                self.demoted.insert(id);
                self.promote_at_ns = world::now_ns() + DEMOTED_NS;
                let demoted = self.aspen.change_membership(change, status.membership).await;
                let is_known = demoted.as_ref().map_or_else(|error| error.outcome == ErrorOutcome::Definite, |_| true);
                let risk_ns = if is_known { SETTLE_NS } else { UNKNOWN_NS };
                machines::operator_risks(world::now_ns() + risk_ns);
                let demoted = self.tell(demoted);
                assert_sometimes!(demoted, "an operator took a node its vote", owed_by = "membership");
            }
            OperatorOp::Nonsense => self.nonsense(&status).await,
        }
    }

    /// What would be unsafe is refused, for a definite reason.
    async fn nonsense(&self, status: &ClusterStatus) {
        let stranger = status.last_index + 1_000_000;
        let changes = [
            Change::AddLearner { id: stranger, address: Address("nowhere".to_owned()) },
            Change::Voters { add: [stranger].into(), remove: BTreeSet::new(), retain: false },
            Change::Voters {
                add: BTreeSet::new(),
                remove: status.voters.iter().flatten().copied().collect(),
                retain: false,
            },
        ];
        for change in changes {
            let made = self.aspen.change_membership(change.clone(), status.membership).await;
            assert_always!(made.is_err(), "a change that is not safe is refused", change);
        }
    }

    /// Whether the change was made, as far as the operator was told.
    fn tell(&self, result: Result<aspen::message::LogPoint, ClientError>) -> bool {
        if let Err(error) = &result {
            machines::operator_notes(format!("{}: {error}", self.looked));
            world::note(|| format!("operator: {}: {error}", self.looked));
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
        result.is_ok()
    }

    fn address(&self, server: u32) -> Address {
        let index = usize::try_from(server).expect("a u32 is a usize");
        transport::address(self.client.servers[index])
    }
}

/// How often the operator looks.
const LOOK: Duration = Duration::from_millis(150);
/// So long a change that was asked for may still be made: longer than any client waits.
const RISK_NS: u64 = 60_000_000_000;
/// After an unknown outcome: no leader works on it any more, and what is in its log shows in its metrics.
const UNKNOWN_NS: u64 = 8_000_000_000;
/// So long it shows in the nodes' metrics after it was answered.
const SETTLE_NS: u64 = 500_000_000;
/// How long a demoted node has no vote.
const DEMOTED_NS: u64 = 1_500_000_000;
