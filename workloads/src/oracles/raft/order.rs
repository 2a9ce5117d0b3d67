//! Order of the log pointers: purged <= snapshot <= applied <= committed <= last log.
//!
//! Raft, section 5.3 (applied follows committed) and section 7 (a snapshot holds what was applied, and only what it
//! covers is discarded); openraft states the same in its `log_pointers` document.

use std::collections::BTreeMap;

use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Boots, named};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct Order {
    boots: Boots,
    /// What was judged last, per node: openraft reports more often than this changes.
    judged: BTreeMap<NodeId, Pointers>,
}

/// Name and index, from the smallest to the largest.
type Pointers = [(&'static str, Option<u64>); 5];

impl Oracle<Event> for Order {
    fn property(&self) -> &'static str {
        "order"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        let Event::Metrics(metrics) = &event.event else { return };
        let index = |id: Option<LogId>| id.map(|id| id.index);
        let pointers = [
            ("purged", index(metrics.purged)),
            ("snapshot", index(metrics.snapshot)),
            ("applied", index(metrics.applied)),
            ("committed", index(metrics.committed)),
            ("last log", metrics.last_log_index),
        ];
        if self.judged.insert(metrics.node, pointers) == Some(pointers) {
            return;
        }
        judge.evaluated(pointers[2].1.is_some());
        for pair in pointers.windows(2) {
            let [(low, low_index), (high, high_index)] = pair else { continue };
            if low_index > high_index {
                let message = format!("{low} {low_index:?} is past {high} {high_index:?}");
                judge.violated(event.at_ns, named(metrics.node), message);
            }
        }
    }

    fn finish(&mut self, _at_ns: Nanos, _judge: &mut Judge<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

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
    fn each_pair_out_of_order_is_found() {
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.purged = Some(id(2, 1)));
        run.rejects(Order::default(), "purged Some(2) is past snapshot None");
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.snapshot = Some(id(2, 1)));
        run.rejects(Order::default(), "snapshot Some(2) is past applied None");
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.applied = Some(id(2, 1)));
        run.rejects(Order::default(), "applied Some(2) is past committed None");
        let mut run = Run::new();
        run.boot(1).metrics(1, |metrics| metrics.committed = Some(id(2, 1)));
        run.rejects(Order::default(), "committed Some(2) is past last log None");
    }
}
