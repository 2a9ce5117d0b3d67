//! Term, vote and purged never go back on the disk of a node, across all boots (Raft, figure 2: `currentTerm` and
//! `votedFor` are persistent).
//!
//! A vote that the store called saved counts as on the disk: whatever is found there later must not be older.

use std::collections::BTreeMap;

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId, Vote};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::monotonic::vote_may_follow;
use super::super::raft::{Boots, named};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct DurableMonotonic {
    boots: Boots,
    nodes: BTreeMap<NodeId, Durable>,
}

#[derive(Debug, Default)]
struct Durable {
    vote: Option<Vote>,
    purged: Option<LogId>,
}

impl DurableMonotonic {
    fn found(&mut self, node: NodeId, vote: Option<Vote>, purged: Option<LogId>, at_ns: Nanos, judge: &mut Judge<'_>) {
        let durable = self.nodes.entry(node).or_default();
        judge.evaluated(durable.vote.is_some() || durable.purged.is_some());
        match (&durable.vote, &vote) {
            (Some(before), None) => {
                judge.violated(at_ns, named(node), format!("the vote {before} was durable, and now there is none"));
            }
            (Some(before), Some(now)) if !vote_may_follow(before, now) => {
                judge.violated(at_ns, named(node), format!("the vote {before} was durable, and now it is {now}"));
            }
            _ => {}
        }
        let (before, now) = (durable.purged.map(|id| id.index), purged.map(|id| id.index));
        if now < before {
            judge.violated(at_ns, named(node), format!("purged was durable at {before:?}, and now it is {now:?}"));
        }
        durable.vote = vote.or(durable.vote);
        durable.purged = purged.or(durable.purged);
    }
}

impl Oracle<Event> for DurableMonotonic {
    fn property(&self) -> &'static str {
        "durable-monotonic"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Image { node, image, .. } => self.found(*node, image.vote, image.purged, event.at_ns, judge),
            Event::Store { node, observation: Observation::LogOpened { vote, purged, .. } } => {
                self.found(*node, *vote, *purged, event.at_ns, judge);
            }
            Event::Store { node, observation: Observation::VoteSaved { vote } } => {
                // Whether the new vote may follow the old one is judged on what nodes say in memory.
                self.nodes.entry(*node).or_default().vote = Some(*vote);
            }
            Event::Spent { node } => {
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
    use crate::event::{DurableImage, ImageReason};

    fn holding(vote: Option<Vote>, purged: Option<LogId>) -> DurableImage {
        DurableImage { vote, purged, ..DurableImage::default() }
    }

    #[test]
    fn going_forward_is_fine() {
        let mut run = Run::new();
        run.boot(1).image(1, holding(None, None), ImageReason::PowerLoss);
        run.image(1, holding(Some(vote(1, 2, false)), None), ImageReason::PowerLoss);
        run.image(1, holding(Some(vote(1, 2, true)), Some(id(3, 1))), ImageReason::End);
        run.accepts(DurableMonotonic::default());
    }

    #[test]
    fn a_vote_that_was_saved_and_is_gone_is_found() {
        let mut run = Run::new();
        run.boot(1).store(1, Observation::VoteSaved { vote: vote(4, 1, false) }).down(1);
        run.image(1, holding(Some(vote(3, 2, true)), None), ImageReason::PowerLoss);
        run.rejects(DurableMonotonic::default(), "was durable, and now it is");
        let mut run = Run::new();
        run.boot(1).store(1, Observation::VoteSaved { vote: vote(4, 1, false) }).down(1).boot(1).opens(1, &[]);
        run.rejects(DurableMonotonic::default(), "was durable, and now there is none");
    }

    #[test]
    fn a_second_vote_in_a_term_is_found() {
        let mut run = Run::new();
        run.image(1, holding(Some(vote(4, 1, false)), None), ImageReason::PowerLoss);
        run.image(1, holding(Some(vote(4, 2, false)), None), ImageReason::PowerLoss);
        run.rejects(DurableMonotonic::default(), "was durable, and now it is");
    }

    #[test]
    fn purged_going_back_is_found() {
        let mut run = Run::new();
        run.image(1, holding(None, Some(id(9, 1))), ImageReason::PowerLoss);
        run.image(1, holding(None, Some(id(8, 1))), ImageReason::PowerLoss);
        run.rejects(DurableMonotonic::default(), "purged was durable at Some(9), and now it is Some(8)");
    }
}
