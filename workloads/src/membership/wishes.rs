//! What an operator does besides keeping the cluster whole: some of it sensible, some of it what must be refused.

use std::collections::BTreeSet;

use aspen::error::ErrorOutcome;
use aspen::membership::Change;
use aspen::message::{ClusterStatus, LogPoint};
use aspen::types::{Address, NodeId};
use buggify::{assert_always, assert_reachable, assert_sometimes};
use sim_runtime::world;

use super::OperatorOp;
use super::duties::{self, Machine};
use super::notebook;
use super::operator::{Operator, SILENT_MS, is_cut_off};
use crate::machines;

impl Operator {
    pub(super) async fn wish(&mut self, op: OperatorOp) {
        match op {
            OperatorOp::Transfer { server } => {
                let Some(to) = machines::node_on(server) else { return };
                let transferred = self.aspen.transfer_leadership(to).await;
                assert_sometimes!(transferred.is_ok(), "an operator moved leadership", owed_by = "membership");
            }
            OperatorOp::Demote { server } => self.demote(server).await,
            OperatorOp::Nonsense => self.nonsense().await,
            OperatorOp::Place { first, voters, in_haste } => {
                self.in_haste = in_haste;
                notebook::with(|notebook| notebook.place(self.servers, first, voters));
            }
            OperatorOp::RemoveLeader => {
                let Ok(status) = self.look().await else { return };
                self.part_with(status.leader, true);
            }
            OperatorOp::RemoveSilent => self.watchful = true,
            OperatorOp::WrongAddress => self.add_under_a_wrong_address().await,
            OperatorOp::Reckless => self.reckless = true,
        }
    }

    async fn demote(&self, server: u32) {
        let (Ok(status), Some(id)) = (self.look().await, machines::node_on(server)) else { return };
        let now_ns = world::now_ns();
        // Not while a machine is missing: the guards know only whom the leader heard of lately.
        let is_whole = notebook::with(|notebook| {
            let (machines, demoted) = (notebook.machines(self.servers), notebook.demoted(now_ns));
            duties::next(&status, &machines, &demoted).is_none() && demoted.is_empty()
        });
        if !is_whole || machines::are_demotions_forbidden() {
            return;
        }
        let change = Change::Voters { add: BTreeSet::new(), remove: [id].into(), retain: true };
        // Tried, or half done: it gets its vote back either way.
        notebook::with(|notebook| notebook.demote(id, now_ns + DEMOTED_NS));
        let demoted = self.take_vote(change, &status, true).await;
        assert_sometimes!(demoted.is_ok(), "an operator took a node its vote", owed_by = "membership");
        if demoted.is_ok() {
            // As if it had been decided before and had been under way for long: it would undo what was done since.
            let late = self.change(vote_for(id), &status).await;
            assert_sometimes!(
                late.is_err_and(|error| error.outcome == ErrorOutcome::Definite),
                "a change of a membership no longer in force was refused",
                owed_by = "membership"
            );
        }
    }

    /// What would be unsafe is refused, for a definite reason.
    async fn nonsense(&self) {
        let Ok(status) = self.look().await else { return };
        let stranger = status.last_index + 1_000_000;
        let gone = notebook::with(|notebook| notebook.gone(&status));
        if gone.is_some() {
            assert_reachable!("an operator asked for an id that was used before", owed_by = "membership");
        }
        let again = gone.map(|id| Change::AddLearner { id, address: nowhere() });
        let changes = [
            Change::AddLearner { id: stranger, address: nowhere() },
            Change::Voters { add: [stranger].into(), remove: BTreeSet::new(), retain: false },
            Change::Voters {
                add: BTreeSet::new(),
                remove: status.voters.iter().flatten().copied().collect(),
                retain: false,
            },
        ];
        for change in changes.into_iter().chain(again) {
            let made = self.aspen.change_membership(change.clone(), status.membership).await;
            assert_always!(made.is_err(), "a change that is not safe is refused", change);
        }
    }

    /// Gives a vote to a node that was added a moment ago, if that is wanted: refused, unless it has caught up.
    pub(super) async fn in_haste(&self, id: NodeId, added_at: LogPoint, before: &ClusterStatus) {
        if !self.in_haste {
            return;
        }
        let since = ClusterStatus { membership: Some(added_at), ..before.clone() };
        match self.change(vote_for(id), &since).await {
            Ok(_) => assert_reachable!("a node had a vote right after it was added", owed_by = "membership"),
            Err(error) if ["was not heard", "lacks"].iter().any(|why| error.to_string().contains(why)) => {
                assert_reachable!("a node was refused a vote before it had caught up", owed_by = "membership");
            }
            Err(_) => {}
        }
    }

    /// Nobody will ever hear of this node: as a voter it could only be missed. As a learner it is removed again soon, for
    /// it is on no machine.
    async fn add_under_a_wrong_address(&self) {
        let (Ok(id), Ok(status)) = (self.allocate().await, self.look().await) else { return };
        let Ok(added_at) = self.change(Change::AddLearner { id, address: nowhere() }, &status).await else { return };
        let since = ClusterStatus { membership: Some(added_at), ..status };
        let made = self.change(vote_for(id), &since).await;
        assert_always!(made.is_err(), "a node that nobody hears of has no vote", id);
        if made.is_err_and(|error| error.outcome == ErrorOutcome::Definite) {
            assert_reachable!("a node under a wrong address was refused a vote", owed_by = "membership");
        }
    }

    /// If that is wanted: while lost machines are not replaced, asks to remove so many of the others that no quorum would
    /// be left. Returns whether the operator waits for that.
    pub(super) async fn is_reckless(&mut self, status: &ClusterStatus, machines: &[Machine]) -> bool {
        let lost = duties::lost(status, machines);
        let ([voters], Some(lost_at_ns)) =
            (status.voters.as_slice(), lost.iter().filter_map(|id| machines::lost_at_ns(*id)).max())
        else {
            return false;
        };
        if !self.reckless || !status.is_committed {
            return false;
        }
        if world::now_ns() < lost_at_ns + self.known_to_be_lost_ns() {
            return true;
        }
        self.reckless = false;
        // As many stay as are lost.
        let remove: BTreeSet<NodeId> = voters.difference(&lost).skip(lost.len()).copied().collect();
        let change = Change::Voters { add: BTreeSet::new(), remove: remove.clone(), retain: false };
        let made = self.change(change, status).await;
        assert_always!(made.is_err(), "votes that cannot be spared stay", remove);
        if made.is_err_and(|error| error.to_string().contains("no quorum")) {
            assert_reachable!("votes that could not be spared stayed", owed_by = "membership");
        }
        true
    }

    /// After so long every leader knows that a lost node is silent: twice the longest election timeout, by a clock that is
    /// off, and what was under way has arrived.
    fn known_to_be_lost_ns(&self) -> u64 {
        let election_max_ms = u64::try_from(self.client.knob("raft.election_max_ms")).unwrap_or(0).max(1000);
        election_max_ms * 2 * 1_100_000 + 1_000_000_000
    }

    /// If that is wanted: a voter that the leader has not heard of for a while leaves.
    pub(super) fn part_with_the_silent(&mut self, status: &ClusterStatus) {
        let is_silent = |id: &NodeId| {
            status.members.get(id).and_then(|member| member.silent_for_ms) >= Some(SILENT_MS) && *id != status.leader
        };
        let mut silent = status.voters.iter().flatten().filter(|id| is_silent(id));
        if !self.watchful || machines::are_demotions_forbidden() {
            return;
        }
        let cut_off = silent.clone().find(|id| is_cut_off(status, **id));
        if let Some(id) = cut_off.or_else(|| silent.next()) {
            self.watchful = false;
            self.part_with(*id, false);
        }
    }

    fn part_with(&self, id: NodeId, replace: bool) {
        if let Some(server) = (0..self.servers).find(|at| machines::node_on(*at) == Some(id)) {
            notebook::with(|notebook| notebook.dispense_with(self.servers, server, replace));
        }
    }
}

fn vote_for(id: NodeId) -> Change {
    Change::Voters { add: [id].into(), remove: BTreeSet::new(), retain: true }
}

/// An address that nobody has.
fn nowhere() -> Address {
    Address("nowhere".to_owned())
}

/// How long a demoted node has no vote.
const DEMOTED_NS: u64 = 1_500_000_000;
