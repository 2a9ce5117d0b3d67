//! What is on a disk can be read: every entry, row and snapshot matches its checksum, and the state matches its hash.
//! Until a node has served for the first time its files may be incomplete (Raft, figure 2, asks for stable storage only
//! before a node answers).

use std::collections::BTreeSet;

use aspen::types::NodeId;
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::{Boots, named};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct Readable {
    boots: Boots,
    served: BTreeSet<NodeId>,
}

impl Oracle<Event> for Readable {
    fn property(&self) -> &'static str {
        "readable"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Serving { node } => {
                self.served.insert(*node);
            }
            Event::Spent { node } => {
                self.served.remove(node);
            }
            Event::Image { node, image, .. } => {
                let served = self.served.contains(node);
                judge.evaluated(served);
                if served && let Some(defect) = image.defects.first() {
                    let message = format!("the disk cannot be read ({} defects): {defect}", image.defects.len());
                    judge.violated(event.at_ns, named(*node), message);
                }
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

    fn damaged() -> DurableImage {
        DurableImage { defects: vec!["entry 4: wrong checksum".to_owned()], ..DurableImage::default() }
    }

    #[test]
    fn defects_are_fine_until_the_node_serves() {
        let mut run = Run::new();
        run.boot(1).image(1, damaged(), ImageReason::PowerLoss).boot(1).emit(1, Event::Serving { node: 1 });
        run.image(1, DurableImage::default(), ImageReason::End);
        run.accepts(Readable::default());
    }

    #[test]
    fn defects_that_were_put_there_are_fine() {
        let mut run = Run::new();
        run.boot(1).emit(1, Event::Serving { node: 1 }).image(1, DurableImage::default(), ImageReason::Commit);
        run.emit(1, Event::Damaged { node: 1 }).image(1, damaged(), ImageReason::End);
        run.accepts(Readable::default());
    }

    #[test]
    fn defects_of_a_node_that_has_served_are_found() {
        let mut run = Run::new();
        run.boot(1).emit(1, Event::Serving { node: 1 }).image(1, damaged(), ImageReason::PowerLoss);
        run.rejects(Readable::default(), "entry 4: wrong checksum");
    }
}
