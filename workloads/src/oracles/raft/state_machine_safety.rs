//! State machine safety (Raft, figure 3 and section 5.4.3): if a node has applied an entry at an index, no other node
//! will ever apply a different one there. Here stronger: nodes that applied up to the same index have the same state.
//!
//! The hash is one of the state, not of the entries, so it also sees an entry that was applied twice or in part, a
//! snapshot that lacks something, and a recovery that brought back another state.

use std::collections::BTreeMap;

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Boots, named, shown};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct StateMachineSafety {
    boots: Boots,
    /// By index; `None` is the state before the first entry.
    states: BTreeMap<Option<u64>, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    last: Option<LogId>,
    state_hash: u64,
    node: NodeId,
    how: &'static str,
}

impl StateMachineSafety {
    fn has(&mut self, node: NodeId, last: Option<LogId>, state_hash: u64, how: &'static str) -> Option<Known> {
        let seen = Known { last, state_hash, node, how };
        let index = last.map(|id| id.index);
        match self.states.get(&index) {
            Some(known) => Some(known.clone()),
            None => {
                self.states.insert(index, seen);
                None
            }
        }
    }

    fn check(
        &mut self,
        (node, at_ns): (NodeId, Nanos),
        last: Option<LogId>,
        state_hash: u64,
        how: &'static str,
        judge: &mut Judge<'_>,
    ) {
        let before = self.has(node, last, state_hash, how);
        judge.evaluated(before.is_some());
        let Some(before) = before else { return };
        if before.last != last || before.state_hash != state_hash {
            let at = last.map_or("the empty state".to_owned(), shown);
            let message = format!(
                "the state after {at} is {state_hash:016x} ({how}), but node {} has {:016x} after {} ({})",
                before.node,
                before.state_hash,
                before.last.map_or("nothing".to_owned(), shown),
                before.how
            );
            judge.violated(at_ns, named(node), message);
        }
    }
}

impl Oracle<Event> for StateMachineSafety {
    fn property(&self) -> &'static str {
        "state-machine-safety"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        let Event::Store { node, observation } = &event.event else { return };
        let at = (*node, event.at_ns);
        match observation {
            Observation::Applied { log_id, state_hash } => {
                self.check(at, Some(*log_id), *state_hash, "applied", judge);
            }
            Observation::StateOpened { applied, state_hash } => {
                self.check(at, *applied, *state_hash, "found at start", judge);
            }
            Observation::SnapshotInstalled { last, state_hash } => {
                self.check(at, *last, *state_hash, "installed", judge);
            }
            Observation::SnapshotBuilt { last, state_hash } => {
                self.check(at, *last, *state_hash, "in a snapshot", judge);
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
    fn equal_states_are_fine_also_after_going_back() {
        let mut run = Run::new();
        run.boot(1).boot(2).applies(1, (1, 1), 0xa).applies(1, (2, 1), 0xb).applies(2, (1, 1), 0xa).down(1).boot(1);
        run.store(1, Observation::StateOpened { applied: Some(id(1, 1)), state_hash: 0xa }).applies(1, (2, 1), 0xb);
        run.store(2, Observation::SnapshotInstalled { last: Some(id(2, 1)), state_hash: 0xb });
        run.accepts(StateMachineSafety::default());
    }

    #[test]
    fn another_state_after_the_same_entry_is_found() {
        let mut run = Run::new();
        run.boot(1).boot(2).applies(1, (7, 1), 0xa).applies(2, (7, 1), 0xb);
        run.rejects(StateMachineSafety::default(), "the state after entry 7 of term 1 is 000000000000000b (applied)");
    }

    #[test]
    fn a_snapshot_that_lacks_something_is_found() {
        let mut run = Run::new();
        run.boot(1).applies(1, (7, 1), 0xa);
        run.store(1, Observation::SnapshotBuilt { last: Some(id(7, 1)), state_hash: 0xb });
        run.rejects(StateMachineSafety::default(), "(in a snapshot)");
    }

    #[test]
    fn a_recovery_to_another_state_is_found() {
        let mut run = Run::new();
        run.boot(1).applies(1, (7, 1), 0xa).down(1).boot(1);
        run.store(1, Observation::StateOpened { applied: Some(id(7, 1)), state_hash: 0xc });
        run.rejects(StateMachineSafety::default(), "(found at start)");
    }

    #[test]
    fn another_entry_at_the_same_index_is_found() {
        let mut run = Run::new();
        run.boot(1).boot(2).applies(1, (7, 1), 0xa).applies(2, (7, 2), 0xa);
        run.rejects(StateMachineSafety::default(), "the state after entry 7 of term 2");
    }
}
