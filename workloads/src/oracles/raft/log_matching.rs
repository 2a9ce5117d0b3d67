//! Log matching (Raft, figure 3 and section 5.3): if two logs contain an entry with the same index and term, then the
//! entries have the same payload, and the logs are identical in all entries before it.
//!
//! Each entry is compared with the copies in all other logs, and so is the term of the entry before it; by induction
//! that is the whole prefix. A log is what a node can read, or, while it is down, what it had made durable: an entry
//! that only a dead boot ever had may be forgotten, and written again with another payload.

use std::collections::{BTreeMap, BTreeSet};

use aspen::observe::{EntryMeta, Observation};
use aspen::types::NodeId;
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::logs::{NodeLog, term_of};
use super::{Boots, named, shown};
use crate::event::Event;

#[derive(Debug, Default)]
pub struct LogMatching {
    boots: Boots,
    logs: BTreeMap<NodeId, NodeLog>,
    /// Per node the last entry that is durable.
    flushed: BTreeMap<NodeId, u64>,
    /// By index and term.
    copies: BTreeMap<(u64, u64), Copies>,
}

#[derive(Debug)]
struct Copies {
    payload_hash: u64,
    /// The term of the entry before, as far as some holder knew.
    before: Option<u64>,
    holders: BTreeSet<NodeId>,
}

impl LogMatching {
    fn hold(&mut self, node: NodeId, entry: &EntryMeta, at_ns: Nanos, judge: &mut Judge<'_>) {
        let index = entry.log_id.index;
        let before = index.checked_sub(1).and_then(|before| self.logs.entry(node).or_default().term_at(before));
        let copies = self.copies.entry((index, term_of(entry.log_id))).or_insert_with(|| Copies {
            payload_hash: entry.payload_hash,
            before,
            holders: BTreeSet::new(),
        });
        judge.evaluated(copies.holders.iter().any(|holder| *holder != node));
        if copies.payload_hash != entry.payload_hash {
            let message = format!(
                "{} has payload {:016x} on node {node} and {:016x} on {:?}",
                shown(entry.log_id),
                entry.payload_hash,
                copies.payload_hash,
                copies.holders
            );
            judge.violated(at_ns, named(node), message);
        }
        if let (Some(here), Some(there)) = (before, copies.before)
            && here != there
        {
            let message = format!(
                "before {} stands an entry of term {here} on node {node} and of term {there} on {:?}",
                shown(entry.log_id),
                copies.holders
            );
            judge.violated(at_ns, named(node), message);
        }
        copies.before = copies.before.or(before);
        copies.holders.insert(node);
    }

    /// `node` no longer has the entries from `from` on.
    fn release_from(&mut self, node: NodeId, from: u64) {
        let log = self.logs.entry(node).or_default();
        let gone = log.entries.split_off(&from);
        self.release(node, gone.into_values());
    }

    fn release(&mut self, node: NodeId, gone: impl Iterator<Item = EntryMeta>) {
        for entry in gone {
            let key = (entry.log_id.index, term_of(entry.log_id));
            if let Some(copies) = self.copies.get_mut(&key) {
                copies.holders.remove(&node);
                if copies.holders.is_empty() {
                    self.copies.remove(&key);
                }
            }
        }
    }

    fn store(&mut self, node: NodeId, observation: &Observation, at_ns: Nanos, judge: &mut Judge<'_>) {
        match observation {
            Observation::LogOpened { entries, .. } => {
                self.release_from(node, 0);
                let last = entries.last().map_or(0, |entry| entry.log_id.index);
                self.flushed.insert(node, last);
                self.logs.entry(node).or_default().observe(observation);
                entries.iter().for_each(|entry| self.hold(node, entry, at_ns, judge));
            }
            Observation::Appended { entries } => {
                if let Some(first) = entries.first() {
                    // Written over without a truncation: what was there is gone.
                    self.release_from(node, first.log_id.index);
                }
                self.logs.entry(node).or_default().observe(observation);
                entries.iter().for_each(|entry| self.hold(node, entry, at_ns, judge));
            }
            Observation::Flushed { upto } => {
                let flushed = self.flushed.entry(node).or_default();
                *flushed = upto.index.max(*flushed);
            }
            Observation::Truncated { after } => {
                let from = after.map_or(0, |after| after.index + 1);
                self.release_from(node, from);
                let flushed = self.flushed.entry(node).or_default();
                *flushed = (*flushed).min(from.saturating_sub(1));
            }
            Observation::Purged { upto } => {
                let log = self.logs.entry(node).or_default();
                let kept = log.entries.split_off(&(upto.index + 1));
                let gone = std::mem::replace(&mut log.entries, kept);
                log.observe(observation);
                self.release(node, gone.into_values());
            }
            _ => {}
        }
    }
}

impl Oracle<Event> for LogMatching {
    fn property(&self) -> &'static str {
        "log-matching"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        if self.boots.is_void(event) {
            return;
        }
        match &event.event {
            Event::Store { node, observation } => self.store(*node, observation, event.at_ns, judge),
            Event::Down { node, .. } => {
                let durable = self.flushed.get(node).map_or(0, |flushed| flushed + 1);
                self.release_from(*node, durable);
            }
            Event::Spent { node } => self.release_from(*node, 0),
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
    fn equal_logs_are_fine_and_so_is_a_tail_that_gives_way() {
        let mut run = Run::new();
        run.boot(1).boot(2);
        run.appends(1, &[(1, 1, 11), (2, 1, 12), (3, 1, 13)]).appends(2, &[(1, 1, 11), (2, 2, 22)]);
        run.truncates(1, Some((1, 1))).appends(1, &[(2, 2, 22), (3, 2, 23)]).appends(2, &[(3, 2, 23)]);
        run.accepts(LogMatching::default());
    }

    #[test]
    fn another_payload_is_found() {
        let mut run = Run::new();
        run.boot(1).boot(2).appends(1, &[(1, 1, 11)]).appends(2, &[(1, 1, 99)]);
        run.rejects(LogMatching::default(), "entry 1 of term 1 has payload");
    }

    #[test]
    fn another_prefix_is_found() {
        let mut run = Run::new();
        run.boot(1).boot(2);
        run.appends(1, &[(1, 1, 11), (2, 1, 12), (3, 3, 33)]).appends(2, &[(1, 1, 11), (2, 2, 22), (3, 3, 33)]);
        run.rejects(LogMatching::default(), "before entry 3 of term 3 stands an entry of term 2");
    }

    #[test]
    fn what_only_a_dead_boot_had_may_be_written_again() {
        let mut run = Run::new();
        run.boot(1).appends(1, &[(1, 1, 11), (2, 1, 12)]).flushes(1, (1, 1)).down(1);
        run.boot(1).opens(1, &[(1, 1, 11)]).appends(1, &[(2, 1, 99)]).boot(2).appends(2, &[(1, 1, 11), (2, 1, 99)]);
        run.accepts(LogMatching::default());
    }

    #[test]
    fn what_a_dead_boot_had_flushed_may_not() {
        let mut run = Run::new();
        run.boot(1).appends(1, &[(1, 1, 11), (2, 1, 12)]).flushes(1, (2, 1)).down(1);
        run.boot(2).appends(2, &[(1, 1, 11), (2, 1, 99)]);
        run.rejects(LogMatching::default(), "entry 2 of term 1 has payload");
    }
}
