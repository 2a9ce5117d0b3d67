//! Election safety (Raft, figure 3 and section 5.2): at most one node acts as leader in a term.
//!
//! Every node that names a leader of a term is a witness: the leader itself, a follower that follows it, and a vote
//! that says that a quorum granted it.

use std::collections::{BTreeMap, BTreeSet};

use aspen::observe::Observation;
use aspen::types::{NodeId, Vote};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Boots, named};
use crate::event::{Event, Role};

#[derive(Debug, Default)]
pub struct ElectionSafety {
    boots: Boots,
    /// Per term its leader, and who said so first.
    leaders: BTreeMap<u64, (NodeId, NodeId)>,
    heard: BTreeSet<(NodeId, u64, NodeId)>,
}

impl ElectionSafety {
    fn claim(&mut self, witness: NodeId, term: u64, leader: NodeId, at_ns: Nanos, judge: &mut Judge<'_>) {
        if !self.heard.insert((witness, term, leader)) {
            return;
        }
        let known = self.leaders.get(&term).copied();
        judge.evaluated(known.is_some());
        match known {
            None => {
                self.leaders.insert(term, (leader, witness));
            }
            Some((other, first)) if other != leader => {
                let message = format!(
                    "term {term} has two leaders: node {other} (says node {first}) and node {leader} (says node {witness})"
                );
                judge.violated(at_ns, named(leader), message);
            }
            Some(_) => {}
        }
    }

    fn vote(&mut self, witness: NodeId, vote: &Vote, at_ns: Nanos, judge: &mut Judge<'_>) {
        if vote.committed {
            self.claim(witness, vote.leader_id.term, vote.leader_id.voted_for, at_ns, judge);
        }
    }
}

impl Oracle<Event> for ElectionSafety {
    fn property(&self) -> &'static str {
        "election-safety"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Metrics(metrics) => {
                if metrics.role == Role::Leader {
                    self.claim(metrics.node, metrics.term, metrics.node, event.at_ns, judge);
                }
                if let Some(leader) = metrics.leader {
                    self.claim(metrics.node, metrics.term, leader, event.at_ns, judge);
                }
                self.vote(metrics.node, &metrics.vote, event.at_ns, judge);
            }
            Event::Store { node, observation: Observation::VoteSaved { vote } } => {
                self.vote(*node, vote, event.at_ns, judge);
            }
            Event::Store { node, observation: Observation::LogOpened { vote: Some(vote), .. } } => {
                self.vote(*node, vote, event.at_ns, judge);
            }
            _ => {}
        }
    }

    fn finish(&mut self, _at_ns: Nanos, _judge: &mut Judge<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    #[test]
    fn one_leader_per_term_is_fine() {
        let mut run = Run::new();
        run.boot(1).boot(2).boot(3);
        run.leads(1, 1).follows(2, 1, 1).follows(3, 1, 1).leads(2, 2).follows(3, 2, 2).follows(1, 2, 2);
        run.accepts(ElectionSafety::default());
    }

    #[test]
    fn two_leaders_in_a_term_are_found() {
        let mut run = Run::new();
        run.boot(1).boot(2).leads(1, 4).leads(2, 4);
        run.rejects(ElectionSafety::default(), "term 4 has two leaders");
    }

    #[test]
    fn followers_of_different_leaders_in_a_term_are_found() {
        let mut run = Run::new();
        run.boot(1).boot(2).follows(1, 4, 3).follows(2, 4, 5);
        run.rejects(ElectionSafety::default(), "node 3 (says node 1) and node 5 (says node 2)");
    }

    #[test]
    fn a_dead_boot_says_nothing() {
        let mut run = Run::new();
        run.boot(1).boot(2).leads(1, 4).down(2).leads(2, 4).follows(1, 4, 1).follows(1, 5, 1);
        run.accepts(ElectionSafety::default());
    }

    #[test]
    fn a_quorum_vote_in_the_store_is_a_witness() {
        let mut run = Run::new();
        run.boot(1).boot(2).leads(1, 4).store(2, Observation::VoteSaved { vote: vote(4, 2, true) });
        run.rejects(ElectionSafety::default(), "term 4 has two leaders");
    }
}
