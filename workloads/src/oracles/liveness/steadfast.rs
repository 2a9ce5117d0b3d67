//! Steadfastness: a node stops by itself only when its disk has failed it. Whatever peers and clients send, whatever the
//! network does and however often its power goes, it goes on or comes back (the fail-stop model: a process fails of its own
//! accord for a fault of the machine, not for one of its program; Schlichting and Schneider, 1983).
//!
//! A node that stops without need and is started again costs no more than a pause, so nothing else would notice.

use std::collections::BTreeSet;

use aspen::types::NodeId;
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::raft::named;
use crate::event::Event;

#[derive(Debug, Default)]
pub struct Steadfast {
    /// Nodes whose disk was damaged, lost or replaced on purpose.
    excused: BTreeSet<NodeId>,
    serves: bool,
}

impl Oracle<Event> for Steadfast {
    fn property(&self) -> &'static str {
        "steadfast"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        match &event.event {
            Event::Serving { .. } => self.serves = true,
            Event::Spent { node } | Event::Damaged { node } => {
                self.excused.insert(*node);
            }
            Event::Failed { node, disk_faults, reason } => {
                let is_owed = *disk_faults == 0 && !self.excused.contains(node);
                judge.evaluated(is_owed);
                if is_owed {
                    let message = format!("it stopped by itself, and its disk had not failed in that boot: {reason}");
                    judge.violated(event.at_ns, named(*node), message);
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        judge.evaluated(self.serves);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    fn stopped(disk_faults: u64) -> Run {
        let mut run = Run::new();
        run.emit(1, Event::Serving { node: 1 });
        run.emit(1, Event::Failed { node: 1, disk_faults, reason: "a hole".to_owned() });
        run
    }

    #[test]
    fn a_node_may_stop_when_its_disk_fails() {
        stopped(1).accepts(Steadfast::default());
        let mut run = Run::new();
        run.emit(1, Event::Damaged { node: 1 });
        run.emit(1, Event::Failed { node: 1, disk_faults: 0, reason: "a hole".to_owned() });
        run.accepts(Steadfast::default());
    }

    #[test]
    fn a_node_that_stops_without_need_is_found() {
        stopped(0).rejects(Steadfast::default(), "it stopped by itself");
    }
}
