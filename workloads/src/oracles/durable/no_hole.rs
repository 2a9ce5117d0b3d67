//! The log on a disk past purged is contiguous, its terms never go back, and what was purged is in a durable state or
//! snapshot (Raft, section 7: a node discards log entries only once a snapshot on stable storage covers them).
//!
//! Terms that go back are a hole that was filled: a truncation left its tail behind, and newer entries grew up to it.

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::{Boots, named, term_of};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct NoHole {
    boots: Boots,
}

impl NoHole {
    fn contiguous(
        node: NodeId,
        purged: Option<LogId>,
        entries_found: impl Iterator<Item = (u64, LogId)>,
        at_ns: Nanos,
        judge: &mut Judge<'_>,
    ) {
        let mut expected = purged.map_or(0, |purged| purged.index + 1);
        let mut entries = 0u64;
        let mut hole = None;
        let mut term = None;
        // A purge may leave entries behind that it has already declared gone.
        for (index, id) in entries_found.filter(|(index, _)| purged.is_none_or(|purged| purged.index < *index)) {
            if index != expected && hole.is_none() {
                hole = Some((expected, index));
            }
            if term.is_some_and(|term| term > term_of(id)) {
                let message = format!("entry {index} is of term {}, the one before it of {term:?}", term_of(id));
                judge.violated(at_ns, named(node), message);
            }
            term = Some(term_of(id));
            entries += 1;
            expected = index + 1;
        }
        judge.evaluated(entries > 1);
        if let Some((expected, index)) = hole {
            let message = format!(
                "the log purged up to {:?} has entry {index} where {expected} should be",
                purged.map(|purged| purged.index)
            );
            judge.violated(at_ns, named(node), message);
        }
    }
}

impl Oracle<Event> for NoHole {
    fn property(&self) -> &'static str {
        "no-hole"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Image { node, image, .. } => {
                Self::contiguous(
                    *node,
                    image.purged,
                    image.log.iter().map(|(at, entry)| (*at, entry.log_id)),
                    event.at_ns,
                    judge,
                );
                let index = |id: Option<LogId>| id.map(|id| id.index);
                let kept = index(image.applied).max(index(image.snapshot));
                judge.evaluated(image.purged.is_some());
                if index(image.purged) > kept {
                    let message = format!(
                        "the log is purged up to {:?}, but the state is durable up to {:?} and the snapshot up to {:?}",
                        index(image.purged),
                        index(image.applied),
                        index(image.snapshot)
                    );
                    judge.violated(event.at_ns, named(*node), message);
                }
            }
            Event::Store { node, observation: Observation::LogOpened { purged, entries, .. } } => {
                let entries = entries.iter().map(|entry| (entry.log_id.index, entry.log_id));
                Self::contiguous(*node, *purged, entries, event.at_ns, judge);
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
    use crate::event::ImageReason;

    #[test]
    fn a_contiguous_log_is_fine_purged_or_not() {
        let mut run = Run::new();
        run.image(1, image(&[(0, 0, 1), (1, 1, 2), (2, 1, 3)]), ImageReason::PowerLoss);
        let mut purged = image(&[(4, 1, 5), (5, 1, 6), (6, 1, 7)]);
        (purged.purged, purged.snapshot, purged.applied) = (Some(id(4, 1)), Some(id(4, 1)), Some(id(2, 1)));
        run.image(1, purged, ImageReason::End);
        run.accepts(NoHole::default());
    }

    #[test]
    fn a_hole_is_found() {
        let mut run = Run::new();
        run.image(1, image(&[(0, 0, 1), (1, 1, 2), (3, 1, 4)]), ImageReason::PowerLoss);
        run.rejects(NoHole::default(), "has entry 3 where 2 should be");
        let mut run = Run::new();
        run.boot(1).opens(1, &[(0, 0, 1), (2, 1, 3)]);
        run.rejects(NoHole::default(), "has entry 2 where 1 should be");
    }

    #[test]
    fn an_old_tail_behind_a_filled_hole_is_found() {
        let mut run = Run::new();
        run.image(1, image(&[(0, 0, 1), (1, 1, 2), (2, 3, 3), (3, 1, 4)]), ImageReason::End);
        run.rejects(NoHole::default(), "entry 3 is of term 1, the one before it of Some(3)");
    }

    #[test]
    fn a_gap_behind_purged_is_found() {
        let mut run = Run::new();
        let mut gap = image(&[(7, 1, 8)]);
        (gap.purged, gap.snapshot) = (Some(id(5, 1)), Some(id(5, 1)));
        run.image(1, gap, ImageReason::End);
        run.rejects(NoHole::default(), "has entry 7 where 6 should be");
    }

    #[test]
    fn purging_past_the_durable_state_is_found() {
        let mut run = Run::new();
        let mut ahead = image(&[(6, 1, 7)]);
        (ahead.purged, ahead.snapshot, ahead.applied) = (Some(id(5, 1)), Some(id(3, 1)), Some(id(4, 1)));
        run.image(1, ahead, ImageReason::PowerLoss);
        run.rejects(NoHole::default(), "the log is purged up to Some(5), but the state is durable up to Some(4)");
    }
}
