//! What a node promised an operator holds, whatever happens to it then: a snapshot that was taken, a state that was
//! checkpointed and a purge of its log are on its disk from that moment on (the contract of `Upkept`).
//!
//! Judged on durable images, which a reader of our own decodes. A disk that was lost or damaged on purpose promises
//! nothing.

use std::collections::BTreeMap;

use aspen::message::Upkept;
use aspen::types::NodeId;
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::named;
use crate::event::Event;

#[derive(Debug, Default)]
pub struct Upkeep {
    /// Log indices up to which a node's durable [`PARTS`] reach at least.
    promised: BTreeMap<NodeId, [u64; 3]>,
    told: u64,
}

const PARTS: [&str; 3] = ["snapshot", "state", "purge of the log"];

impl Oracle<Event> for Upkeep {
    fn property(&self) -> &'static str {
        "upkeep"
    }

    fn workload(&self) -> Option<&'static str> {
        Some("admin")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        match &event.event {
            Event::Upkept { node, upkept } => {
                self.told += 1;
                let promised = self.promised.entry(*node).or_default();
                match upkept {
                    Upkept::Snapshot(point) => promised[0] = promised[0].max(point.index),
                    Upkept::Checkpointed { applied: Some(point), whole: true } => {
                        promised[1] = promised[1].max(point.index)
                    }
                    Upkept::Purged(point) => promised[2] = promised[2].max(point.index),
                    _ => {}
                }
            }
            Event::Spent { node } | Event::Damaged { node } => {
                self.promised.remove(node);
            }
            Event::Image { node, image, .. } => {
                let Some(promised) = self.promised.get(node) else { return };
                judge.evaluated(*promised != [0; 3]);
                let found = [image.snapshot, image.applied, image.purged];
                for ((what, promised), found) in PARTS.iter().zip(promised).zip(found) {
                    let found = found.map_or(0, |id| id.index);
                    if found < *promised {
                        let message = format!(
                            "an operator was told that the {what} up to {promised} is durable, but on the disk it reaches \
                             {found}"
                        );
                        judge.violated(event.at_ns, named(*node), message);
                    }
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        // Where every answer was lost or promised nothing durable there was nothing to break.
        if self.promised.values().all(|promised| *promised == [0; 3]) {
            judge.evaluated(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use crate::event::{DurableImage, ImageReason};
    use aspen::message::LogPoint;

    fn told(run: &mut Run, upkept: Upkept) {
        run.emit(1, Event::Upkept { node: 1, upkept });
    }

    #[test]
    fn promises_that_hold_are_fine() {
        let mut run = Run::new();
        told(&mut run, Upkept::Snapshot(LogPoint { term: 1, index: 7 }));
        told(&mut run, Upkept::Checkpointed { applied: Some(LogPoint { term: 1, index: 9 }), whole: true });
        told(&mut run, Upkept::Checkpointed { applied: Some(LogPoint { term: 1, index: 20 }), whole: false });
        told(&mut run, Upkept::Purged(LogPoint { term: 1, index: 5 }));
        let purged = Some(id(5, 1));
        let image = DurableImage { snapshot: Some(id(7, 1)), applied: Some(id(9, 1)), purged, ..image(&[]) };
        run.image(1, image, ImageReason::PowerLoss);
        run.accepts(Upkeep::default());
    }

    #[test]
    fn promises_that_a_power_loss_breaks_are_found() {
        let mut run = Run::new();
        told(&mut run, Upkept::Snapshot(LogPoint { term: 1, index: 7 }));
        run.image(1, image(&[]), ImageReason::PowerLoss);
        run.rejects(Upkeep::default(), "the snapshot up to 7 is durable, but on the disk it reaches 0");
        let mut run = Run::new();
        told(&mut run, Upkept::Checkpointed { applied: Some(LogPoint { term: 1, index: 9 }), whole: true });
        run.image(1, DurableImage { applied: Some(id(8, 1)), ..image(&[]) }, ImageReason::End);
        run.rejects(Upkeep::default(), "the state up to 9 is durable");
        let mut run = Run::new();
        told(&mut run, Upkept::Purged(LogPoint { term: 1, index: 5 }));
        run.image(1, DurableImage { purged: Some(id(4, 1)), ..image(&[]) }, ImageReason::PowerLoss);
        run.rejects(Upkeep::default(), "the purge of the log up to 5 is durable, but on the disk it reaches 4");
    }
}
