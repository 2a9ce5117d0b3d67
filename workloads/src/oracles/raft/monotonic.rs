//! Within one boot of a node nothing goes back: term, vote, committed and applied (Raft, figure 2: "increases
//! monotonically", and section 5.2: a node votes for at most one candidate in a term).
//!
//! Entries are applied one after the other without a gap (section 5.3), except that a snapshot jumps ahead.

use std::collections::BTreeMap;

use aspen::observe::Observation;
use aspen::types::{NodeId, Vote};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Boots, named};
use crate::event::{Event, NodeMetrics};

#[derive(Debug, Default)]
pub struct Monotonic {
    boots: Boots,
    nodes: BTreeMap<NodeId, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    term: u64,
    committed: Option<u64>,
    applied: Option<u64>,
    vote: Option<Vote>,
    /// The vote in openraft's metrics, which may trail the one that the store has.
    vote_in_metrics: Option<Vote>,
    /// Applied as the state machine says. Before it was opened: unknown.
    state: Option<Option<u64>>,
}

/// Whether a node may go from one vote to the other: to a higher term, or, within a term, from a candidate it voted for
/// to the leader that a quorum elected.
pub(crate) fn vote_may_follow(before: &Vote, after: &Vote) -> bool {
    let (was, is) = (before.leader_id, after.leader_id);
    if was.term != is.term {
        return was.term < is.term;
    }
    if was.voted_for == is.voted_for {
        return after.committed || !before.committed;
    }
    after.committed && !before.committed
}

impl Monotonic {
    fn metrics(&mut self, metrics: &NodeMetrics, at_ns: Nanos, judge: &mut Judge<'_>) {
        let seen = self.nodes.entry(metrics.node).or_default();
        let committed = metrics.committed.map(|id| id.index);
        let applied = metrics.applied.map(|id| id.index);
        let before = (seen.term, seen.committed, seen.applied, seen.vote_in_metrics);
        let now = (metrics.term, committed, applied, Some(metrics.vote));
        if before == now {
            return;
        }
        judge.evaluated(seen.vote_in_metrics.is_some());
        let node = named(metrics.node);
        if metrics.term < seen.term {
            judge.violated(at_ns, node.clone(), format!("the term went back from {} to {}", seen.term, metrics.term));
        }
        if committed < seen.committed {
            let message = format!("committed went back from {:?} to {committed:?}", seen.committed);
            judge.violated(at_ns, node.clone(), message);
        }
        if applied < seen.applied {
            let message = format!("applied went back from {:?} to {applied:?}", seen.applied);
            judge.violated(at_ns, node.clone(), message);
        }
        if let Some(before) = &seen.vote_in_metrics
            && !vote_may_follow(before, &metrics.vote)
        {
            judge.violated(at_ns, node, format!("the vote went from {before} to {}", metrics.vote));
        }
        (seen.term, seen.committed, seen.applied, seen.vote_in_metrics) = now;
    }

    fn store(&mut self, node: NodeId, observation: &Observation, at_ns: Nanos, judge: &mut Judge<'_>) {
        let seen = self.nodes.entry(node).or_default();
        match observation {
            Observation::LogOpened { vote, .. } => seen.vote = *vote,
            Observation::VoteSaved { vote } => {
                judge.evaluated(seen.vote.is_some());
                if let Some(before) = &seen.vote
                    && !vote_may_follow(before, vote)
                {
                    judge.violated(at_ns, named(node), format!("the stored vote went from {before} to {vote}"));
                }
                seen.vote = Some(*vote);
            }
            Observation::StateOpened { applied, .. } => seen.state = Some(applied.map(|id| id.index)),
            Observation::Applied { log_id, .. } => {
                judge.evaluated(seen.state.is_some());
                if let Some(state) = seen.state {
                    let expected = state.map_or(0, |applied| applied + 1);
                    if log_id.index != expected {
                        let message = format!("entry {} was applied, the next one is {expected}", log_id.index);
                        judge.violated(at_ns, named(node), message);
                    }
                }
                seen.state = Some(Some(log_id.index));
            }
            Observation::SnapshotInstalled { last, .. } => {
                judge.evaluated(seen.state.is_some());
                let last = last.map(|id| id.index);
                if let Some(state) = seen.state
                    && last < state
                {
                    let message = format!("a snapshot of {last:?} replaced the state of {state:?}");
                    judge.violated(at_ns, named(node), message);
                }
                seen.state = Some(last);
            }
            _ => {}
        }
    }
}

impl Oracle<Event> for Monotonic {
    fn property(&self) -> &'static str {
        "monotonic"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Store { node, observation } => self.store(*node, observation, event.at_ns, judge),
            Event::Metrics(metrics) => self.metrics(metrics, event.at_ns, judge),
            Event::Down { node, .. } => {
                self.nodes.remove(node);
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
    fn going_forward_is_fine_and_a_new_boot_begins_anew() {
        let mut run = Run::new();
        run.boot(1).leads(1, 1).commits(1, 1, (3, 1)).leads(1, 2).commits(1, 2, (4, 1));
        run.store(1, Observation::StateOpened { applied: None, state_hash: 0 });
        run.applies(1, (0, 0), 0).applies(1, (1, 1), 0).down(1).boot(1).commits(1, 2, (2, 1));
        run.store(1, Observation::StateOpened { applied: Some(id(0, 0)), state_hash: 0 }).applies(1, (1, 1), 0);
        run.accepts(Monotonic::default());
    }

    #[test]
    fn going_back_is_found() {
        let mut run = Run::new();
        run.boot(1).follows(1, 3, 2).follows(1, 2, 2);
        run.rejects(Monotonic::default(), "the term went back from 3 to 2");
        let mut run = Run::new();
        run.boot(1).commits(1, 1, (5, 1)).commits(1, 1, (4, 1));
        run.rejects(Monotonic::default(), "committed went back from Some(5) to Some(4)");
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.applied = Some(id(5, 1))).metrics(1, |metrics| metrics.applied = None);
        run.rejects(Monotonic::default(), "applied went back from Some(5) to None");
    }

    #[test]
    fn two_votes_in_a_term_are_found() {
        let mut run = Run::new();
        run.boot(1);
        run.store(1, Observation::VoteSaved { vote: vote(3, 1, false) });
        run.store(1, Observation::VoteSaved { vote: vote(3, 2, false) });
        run.rejects(Monotonic::default(), "the stored vote went from");
    }

    #[test]
    fn following_the_elected_leader_of_the_term_is_fine() {
        let mut run = Run::new();
        run.boot(1);
        run.store(1, Observation::VoteSaved { vote: vote(3, 1, false) });
        run.store(1, Observation::VoteSaved { vote: vote(3, 2, true) });
        run.accepts(Monotonic::default());
    }

    #[test]
    fn an_entry_applied_twice_or_skipped_is_found() {
        for second in [5, 7] {
            let mut run = Run::new();
            run.boot(1).store(1, Observation::StateOpened { applied: Some(id(4, 1)), state_hash: 0 });
            run.applies(1, (5, 1), 0).applies(1, (second, 1), 0);
            run.rejects(Monotonic::default(), "the next one is 6");
        }
    }
}
