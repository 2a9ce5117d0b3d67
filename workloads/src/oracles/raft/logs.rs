//! The log of a node as its observations tell it.

use std::collections::BTreeMap;

use aspen::observe::{EntryMeta, Observation};
use aspen::types::LogId;

pub(crate) fn term_of(id: LogId) -> u64 {
    *id.leader_id
}

/// What one node can read from its log now. Void when the node is down.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeLog {
    pub entries: BTreeMap<u64, EntryMeta>,
    /// Up to here, inclusive, entries are gone because the state has them.
    pub purged: Option<LogId>,
    /// The state machine has everything up to here.
    pub applied: Option<LogId>,
}

impl NodeLog {
    pub(crate) fn observe(&mut self, observation: &Observation) {
        match observation {
            Observation::LogOpened { purged, entries, .. } => {
                self.entries = entries.iter().map(|entry| (entry.log_id.index, *entry)).collect();
                self.purged = *purged;
            }
            Observation::Appended { entries } => {
                self.entries.extend(entries.iter().map(|entry| (entry.log_id.index, *entry)));
            }
            Observation::Truncated { after } => {
                let from = after.map_or(0, |after| after.index + 1);
                self.entries.split_off(&from);
            }
            Observation::Purged { upto } => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(*upto);
            }
            Observation::StateOpened { applied, .. } => self.applied = *applied,
            Observation::Applied { log_id, .. } => self.applied = Some(*log_id),
            Observation::SnapshotInstalled { last, .. } => self.applied = (*last).max_by_index(self.applied),
            Observation::VoteSaved { .. } | Observation::Flushed { .. } | Observation::SnapshotBuilt { .. } => {}
        }
    }

    /// The term of the entry at `index`, if the log knows it.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        let purged = self.purged.filter(|purged| purged.index == index);
        self.entries.get(&index).map(|entry| entry.log_id).or(purged).map(term_of)
    }

    /// Up to here everything is in the state or was purged because it is.
    pub(crate) fn covered(&self) -> Option<u64> {
        self.purged.max_by_index(self.applied).map(|id| id.index)
    }
}

trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<LogId> {
    fn max_by_index(self, other: Self) -> Self {
        if self.map(|id| id.index) >= other.map(|id| id.index) { self } else { other }
    }
}
