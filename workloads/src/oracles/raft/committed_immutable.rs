//! Committed is immutable (Raft, section 5.4.3 and figure 3, "state machine safety"): an index once committed by anyone
//! never changes its term or its payload, and no node removes an entry that it knows to be committed.
//!
//! The payload is taken from the log of a node at the moment it applies the entry: what openraft says is committed may
//! be ahead of what the store has already replaced.

use std::collections::BTreeMap;

use aspen::observe::Observation;
use aspen::types::{LogId, NodeId};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::logs::{NodeLog, term_of};
use super::{Boots, named, shown};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct CommittedImmutable {
    boots: Boots,
    logs: BTreeMap<NodeId, NodeLog>,
    committed: BTreeMap<u64, Committed>,
    /// Per node the last index that it knows to be committed in this boot.
    known: BTreeMap<NodeId, u64>,
}

#[derive(Debug)]
struct Committed {
    term: u64,
    payload_hash: Option<u64>,
    /// Who said so last; a second witness makes an evaluation one that could have failed.
    witness: NodeId,
}

impl CommittedImmutable {
    fn commits(&mut self, node: NodeId, id: LogId, payload_hash: Option<u64>, at_ns: Nanos, judge: &mut Judge<'_>) {
        let known = self.known.entry(node).or_default();
        *known = id.index.max(*known);
        let term = term_of(id);
        let Some(before) = self.committed.get_mut(&id.index) else {
            judge.evaluated(false);
            self.committed.insert(id.index, Committed { term, payload_hash, witness: node });
            return;
        };
        judge.evaluated(before.witness != node);
        if before.term != term {
            let message = format!(
                "index {} was committed in term {} (says node {}), and now in term {term}",
                id.index, before.term, before.witness
            );
            judge.violated(at_ns, named(node), message);
        } else if let (Some(was), Some(is)) = (before.payload_hash, payload_hash)
            && was != is
        {
            let message = format!(
                "{} was committed with payload {was:016x} (says node {}), and now with {is:016x}",
                shown(id),
                before.witness
            );
            judge.violated(at_ns, named(node), message);
        }
        before.payload_hash = before.payload_hash.or(payload_hash);
        before.witness = node;
    }

    fn store(&mut self, node: NodeId, observation: &Observation, at_ns: Nanos, judge: &mut Judge<'_>) {
        match observation {
            Observation::Applied { log_id, .. } => {
                let log = self.logs.entry(node).or_default();
                let entry = log.entries.get(&log_id.index).filter(|entry| entry.log_id == *log_id);
                let payload_hash = entry.map(|entry| entry.payload_hash);
                self.commits(node, *log_id, payload_hash, at_ns, judge);
            }
            Observation::LogOpened { committed: Some(committed), .. } => {
                self.commits(node, *committed, None, at_ns, judge);
            }
            Observation::StateOpened { applied: Some(last), .. }
            | Observation::SnapshotInstalled { last: Some(last), .. } => {
                self.commits(node, *last, None, at_ns, judge);
            }
            Observation::Truncated { after } => {
                judge.evaluated(true);
                let kept = after.map(|after| after.index);
                let known = self.known.get(&node).copied();
                if known > kept {
                    let message =
                        format!("the log was truncated after {kept:?}, but {known:?} was known to be committed");
                    judge.violated(at_ns, named(node), message);
                }
            }
            _ => {}
        }
        self.logs.entry(node).or_default().observe(observation);
    }
}

impl Oracle<Event> for CommittedImmutable {
    fn property(&self) -> &'static str {
        "committed-is-immutable"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Store { node, observation } => self.store(*node, observation, event.at_ns, judge),
            Event::Metrics(metrics) => {
                if let Some(committed) = metrics.committed
                    && self.known.get(&metrics.node) < Some(&committed.index)
                {
                    self.commits(metrics.node, committed, None, event.at_ns, judge);
                }
            }
            Event::Down { node, .. } => {
                self.logs.remove(node);
                self.known.remove(node);
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
    fn nodes_that_commit_the_same_are_fine() {
        let mut run = Run::new();
        run.boot(1).boot(2).appends(1, &[(1, 1, 11), (2, 1, 12)]).appends(2, &[(1, 1, 11), (2, 1, 99)]);
        run.applies(1, (1, 1), 0).applies(2, (1, 1), 0).applies(1, (2, 1), 0);
        run.truncates(2, Some((1, 1))).appends(2, &[(2, 1, 12)]).applies(2, (2, 1), 0).commits(2, 1, (2, 1));
        run.accepts(CommittedImmutable::default());
    }

    #[test]
    fn a_changed_term_is_found() {
        let mut run = Run::new();
        run.boot(1).boot(2).commits(1, 1, (5, 1)).commits(2, 2, (5, 2));
        run.rejects(CommittedImmutable::default(), "index 5 was committed in term 1 (says node 1), and now in term 2");
    }

    #[test]
    fn a_changed_payload_is_found_across_boots() {
        let mut run = Run::new();
        run.boot(1).appends(1, &[(1, 1, 11)]).applies(1, (1, 1), 0).down(1);
        run.boot(1).opens(1, &[(1, 1, 99)]).applies(1, (1, 1), 0);
        run.rejects(CommittedImmutable::default(), "entry 1 of term 1 was committed with payload");
    }

    #[test]
    fn truncating_what_is_committed_is_found() {
        let mut run = Run::new();
        run.boot(1).appends(1, &[(1, 1, 11), (2, 1, 12)]).commits(1, 1, (2, 1)).truncates(1, Some((1, 1)));
        run.rejects(CommittedImmutable::default(), "truncated after Some(1)");
    }
}
