//! Leader completeness (Raft, figure 3 and section 5.4): if an entry is committed in a given term, then it is present in
//! the logs of the leaders of all higher-numbered terms.
//!
//! The term in which an entry was committed is not told, but it is at most the term of a node that knows of the commit.
//! So what a node of term t says is committed must be with every leader of a term above t: when it takes office, and
//! when the commit becomes known only later.

use std::collections::BTreeMap;

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::logs::{NodeLog, term_of};
use super::{Boots, named, shown};
use crate::event::{Event, Role};

#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    boots: Boots,
    logs: BTreeMap<NodeId, NodeLog>,
    /// Per term: the last entry that a node of that term knew to be committed.
    committed: BTreeMap<u64, LogId>,
    /// Terms of committed entries, by index.
    terms: BTreeMap<u64, u64>,
    /// Leaders whose boot still runs, by term.
    leaders: BTreeMap<u64, NodeId>,
}

impl LeaderCompleteness {
    fn takes_office(&mut self, leader: NodeId, term: u64, at_ns: Nanos, judge: &mut Judge<'_>) {
        if self.leaders.insert(term, leader) == Some(leader) {
            return;
        }
        let Some(last) = self.committed.range(..term).map(|(_, id)| *id).max_by_key(|id| id.index) else {
            judge.evaluated(false);
            return;
        };
        judge.evaluated(true);
        let log = self.logs.entry(leader).or_default();
        let from = log.covered().map_or(0, |covered| covered + 1);
        if from > last.index {
            return;
        }
        let missing = self
            .terms
            .range(from..=last.index)
            .find(|(index, committed_term)| log.term_at(**index) != Some(**committed_term));
        if let Some((index, committed_term)) = missing {
            let message = format!(
                "node {leader} became leader of term {term} without entry {index} of term {committed_term}, which was \
                 committed earlier; it has {:?} there",
                log.term_at(*index)
            );
            judge.violated(at_ns, named(leader), message);
        }
    }

    fn commits(&mut self, witness_term: u64, last: LogId, at_ns: Nanos, judge: &mut Judge<'_>) {
        self.terms.insert(last.index, term_of(last));
        let known = self.committed.entry(witness_term).or_insert(last);
        if known.index >= last.index && *known != last {
            return;
        }
        *known = last;
        for (term, leader) in self.leaders.range(witness_term + 1..) {
            let log = self.logs.entry(*leader).or_default();
            judge.evaluated(true);
            if log.covered() < Some(last.index) && log.term_at(last.index) != Some(term_of(last)) {
                let message = format!(
                    "{} was committed in term {witness_term} or before, but node {leader}, leader of term {term}, does \
                     not have it",
                    shown(last)
                );
                judge.violated(at_ns, named(*leader), message);
            }
        }
    }
}

impl Oracle<Event> for LeaderCompleteness {
    fn property(&self) -> &'static str {
        "leader-completeness"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Store { node, observation } => {
                if let Observation::Applied { log_id, .. } = observation {
                    self.terms.insert(log_id.index, term_of(*log_id));
                }
                self.logs.entry(*node).or_default().observe(observation);
            }
            Event::Metrics(metrics) => {
                if metrics.role == Role::Leader {
                    self.takes_office(metrics.node, metrics.term, event.at_ns, judge);
                }
                if let Some(committed) = metrics.committed {
                    self.commits(metrics.term, committed, event.at_ns, judge);
                }
            }
            Event::Down { node, .. } => {
                self.logs.remove(node);
                self.leaders.retain(|_, leader| leader != node);
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

    /// Node 1 leads term 1 and commits two entries; node 2 has both, node 3 one.
    fn committed_in_term_1() -> Run {
        let mut run = Run::new();
        run.boot(1).boot(2).boot(3).leads(1, 1);
        run.appends(1, &[(1, 1, 11), (2, 1, 12)]).appends(2, &[(1, 1, 11), (2, 1, 12)]).appends(3, &[(1, 1, 11)]);
        run.applies(1, (1, 1), 0).applies(1, (2, 1), 0).commits(1, 1, (2, 1));
        run
    }

    #[test]
    fn a_leader_with_everything_is_fine() {
        let mut run = committed_in_term_1();
        run.leads(2, 2).appends(2, &[(3, 2, 23)]).commits(2, 2, (3, 2));
        run.accepts(LeaderCompleteness::default());
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let mut run = committed_in_term_1();
        run.leads(3, 2);
        run.rejects(LeaderCompleteness::default(), "node 3 became leader of term 2 without entry 2 of term 1");
    }

    #[test]
    fn a_hole_below_is_found() {
        let mut run = committed_in_term_1();
        run.boot(4).appends(4, &[(2, 1, 12)]).leads(4, 2);
        run.rejects(LeaderCompleteness::default(), "without entry 1 of term 1");
    }

    #[test]
    fn a_leader_that_has_it_in_its_state_is_fine() {
        let mut run = committed_in_term_1();
        run.boot(4).store(4, Observation::SnapshotInstalled { last: Some(id(2, 1)), state_hash: 0 }).leads(4, 2);
        run.accepts(LeaderCompleteness::default());
    }

    #[test]
    fn a_commit_that_becomes_known_late_is_held_against_a_leader() {
        let mut run = Run::new();
        run.boot(1).boot(3).leads(1, 1).appends(1, &[(1, 1, 11)]).leads(3, 2).commits(1, 1, (1, 1));
        run.rejects(LeaderCompleteness::default(), "node 3, leader of term 2, does not have it");
    }

    /// Raft, figure 8: an old entry on a majority is not committed until an entry of the leader's own term is.
    #[test]
    fn what_is_committed_later_is_not_held_against_an_earlier_leader() {
        let mut run = Run::new();
        run.boot(1).boot(3).leads(1, 1).appends(1, &[(1, 1, 11)]).leads(3, 2).leads(1, 3).commits(1, 3, (1, 1));
        run.accepts(LeaderCompleteness::default());
    }
}
