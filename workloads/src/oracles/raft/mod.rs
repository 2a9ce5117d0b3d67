//! The safety properties of Raft, on what nodes say about themselves in memory.
//!
//! Sources: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (extended version, 2014), figure
//! 3 and section 5; Ongaro's dissertation, chapter 3.
pub mod committed_immutable;
pub mod election_safety;
pub mod leader_completeness;
pub mod log_matching;
mod logs;
pub mod membership;
pub mod monotonic;
pub mod order;
pub mod state_machine_safety;

use std::collections::{BTreeMap, BTreeSet};

use aspen::types::{LogId, NodeId};
use sim_runtime::engine::Stamped;

use crate::event::Event;

pub(crate) use logs::{NodeLog, term_of};

/// Which boot of each node is running.
#[derive(Debug, Default)]
pub(crate) struct Boots {
    running: BTreeMap<NodeId, u32>,
    /// Nodes whose disk proves nothing any more.
    damaged: BTreeSet<NodeId>,
}

impl Boots {
    /// Takes note of boots that begin and end. Returns whether what the event says about a node is void, because it
    /// comes from a boot that is over, or is about a disk that was damaged on purpose.
    pub(crate) fn is_void(&mut self, event: &Stamped<Event>) -> bool {
        let node = match &event.event {
            Event::Booted { node } => {
                self.running.insert(*node, event.boot);
                return false;
            }
            Event::Down { node, .. } => {
                self.running.remove(node);
                return false;
            }
            Event::Damaged { node } => {
                self.damaged.insert(*node);
                return false;
            }
            Event::Image { node, .. } => return self.damaged.contains(node),
            Event::Told { node, .. } if self.damaged.contains(node) => return true,
            Event::Store { node, .. } | Event::Told { node, .. } | Event::Serving { node } => *node,
            Event::Metrics(metrics) => metrics.node,
            _ => return false,
        };
        self.running.get(&node) != Some(&event.boot)
    }
}

/// `node 3`, for reports.
pub(crate) fn named(node: NodeId) -> Option<String> {
    Some(format!("node {node}"))
}

/// `4 of term 2`, for reports.
pub(crate) fn shown(id: LogId) -> String {
    format!("entry {} of term {}", id.index, term_of(id))
}
