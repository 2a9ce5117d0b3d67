//! Order of the log pointers: purged <= snapshot <= applied <= committed <= last log.
//!
//! Raft, section 5.3 (applied follows committed) and section 7 (a snapshot holds what was applied, and only what it
//! covers is discarded); openraft states the same in its `log_pointers` document.
//!
//! Snapshot against applied is judged twice: by what the stores say when it becomes true there, and by openraft's metrics. openraft
//! hears of a snapshot and of the entries in it from two tasks; a snapshot that waits for the end of an apply is heard of last.
//!
//! Committed against last log is judged on disks as well: a node that starts applies up to the mark that it finds.

use std::collections::BTreeMap;

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Boots, named};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct Order {
    boots: Boots,
    /// What was judged last, per node: openraft reports more often than this changes.
    judged: BTreeMap<NodeId, [Pair; 4]>,
    /// What the state machine of each node has applied, in its own words.
    applied: BTreeMap<NodeId, Option<u64>>,
}

/// Two pointers by name and index; the first may not pass the second.
type Pair = [(&'static str, Option<u64>); 2];

impl Order {
    fn judge_pair(&self, [(low, low_index), (high, high_index)]: Pair, at: (Nanos, NodeId), judge: &mut Judge<'_>) {
        if low_index > high_index {
            judge.violated(at.0, named(at.1), format!("{low} {low_index:?} is past {high} {high_index:?}"));
        }
    }

    fn store_said(&mut self, node: NodeId, observation: &Observation, at_ns: Nanos, judge: &mut Judge<'_>) {
        match observation {
            Observation::StateOpened { applied, .. } | Observation::SnapshotInstalled { last: applied, .. } => {
                self.applied.insert(node, index(*applied));
            }
            Observation::Applied { log_id, .. } => {
                self.applied.insert(node, Some(log_id.index));
            }
            Observation::SnapshotBuilt { last, .. } => {
                judge.evaluated(true);
                let applied = self.applied.get(&node).copied().flatten();
                self.judge_pair([("snapshot", index(*last)), ("applied", applied)], (at_ns, node), judge);
            }
            _ => {}
        }
    }
}

fn index(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}

impl Oracle<Event> for Order {
    fn property(&self) -> &'static str {
        "order"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        let metrics = match &event.event {
            Event::Image { node, image, .. } | Event::Told { node, image, .. } => {
                // A node that starts applies up to the mark: what it names must be there, or be in the state or a snapshot.
                let last = image.log_end().max(index(image.covered()));
                judge.evaluated(image.committed.is_some());
                let pair = [("the durable committed", index(image.committed)), ("the durable last log", last)];
                return self.judge_pair(pair, (event.at_ns, *node), judge);
            }
            Event::Store { node, observation } => return self.store_said(*node, observation, event.at_ns, judge),
            Event::Metrics(metrics) => metrics,
            _ => return,
        };
        let purged = ("purged", index(metrics.purged));
        let snapshot = ("snapshot", index(metrics.snapshot));
        let applied = ("applied", index(metrics.applied));
        let committed = ("committed", index(metrics.committed));
        let pairs = [
            [purged, snapshot],
            [snapshot, applied],
            [applied, committed],
            [committed, ("last log", metrics.last_log_index)],
        ];
        if self.judged.insert(metrics.node, pairs) == Some(pairs) {
            return;
        }
        judge.evaluated(metrics.applied.is_some());
        for pair in pairs {
            self.judge_pair(pair, (event.at_ns, metrics.node), judge);
        }
    }

    fn finish(&mut self, _at_ns: Nanos, _judge: &mut Judge<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use crate::event::{DurableImage, ImageReason};

    #[test]
    fn pointers_in_order_are_fine() {
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| {
            metrics.purged = Some(id(2, 1));
            metrics.snapshot = Some(id(4, 1));
            metrics.applied = Some(id(4, 1));
            metrics.committed = Some(id(9, 1));
            metrics.last_log_index = Some(12);
        });
        run.accepts(Order::default());
    }

    #[test]
    fn a_mark_on_disk_that_names_what_is_not_there_is_found() {
        let on_disk = |committed: u64| {
            let mut run = Run::new();
            let image = DurableImage { committed: Some(id(committed, 1)), ..image(&[(4, 1, 0), (5, 1, 0)]) };
            run.image(1, image, ImageReason::PowerLoss);
            run
        };
        on_disk(5).accepts(Order::default());
        on_disk(6).rejects(Order::default(), "the durable committed Some(6) is past the durable last log Some(5)");
        // A snapshot was installed, and what it replaces is not purged yet.
        let mut run = Run::new();
        let image =
            DurableImage { committed: Some(id(6, 1)), snapshot: Some(id(6, 1)), ..image(&[(4, 1, 0), (5, 1, 0)]) };
        run.image(1, image, ImageReason::PowerLoss).accepts(Order::default());
    }

    #[test]
    fn each_pair_out_of_order_is_found() {
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.purged = Some(id(2, 1)));
        run.rejects(Order::default(), "purged Some(2) is past snapshot None");
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.snapshot = Some(id(2, 1)));
        run.rejects(Order::default(), "snapshot Some(2) is past applied None");
        let mut run = Run::new();
        run.boot(1).store(1, Observation::SnapshotBuilt { last: Some(id(2, 1)), state_hash: 0 });
        run.rejects(Order::default(), "snapshot Some(2) is past applied None");
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.applied = Some(id(2, 1)));
        run.rejects(Order::default(), "applied Some(2) is past committed None");
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.committed = Some(id(2, 1)));
        run.rejects(Order::default(), "committed Some(2) is past last log None");
    }
}
