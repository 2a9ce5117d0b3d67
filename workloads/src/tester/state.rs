//! The cluster at one moment, as its nodes see themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aspen::types::NodeId;

use sim_runtime::disk::Disk;
use sim_runtime::world::HostId;

use crate::config::DATA_DIR;
use crate::event::{NodeMetrics, Role};
use crate::{cluster, machines};

/// What the nodes that run said last, by the number of their machine.
#[derive(Clone, Debug)]
pub struct State {
    pub nodes: BTreeMap<usize, NodeMetrics>,
    /// The Raft node on each machine; `None` for a machine that waits for an identity.
    pub ids: Vec<Option<NodeId>>,
    /// Paths of the files in each machine's data directory.
    pub files: Vec<Vec<String>>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (machine, node) in &self.nodes {
            write!(
                f,
                "node {machine} (id {}) is a {:?} of term {} under {:?}, log {}..={}, applied {}, voters {:?}; ",
                node.node,
                node.role,
                node.term,
                node.leader.and_then(|leader| self.machine(leader)),
                self.purged(*machine) + 1,
                self.last(*machine),
                self.applied(*machine),
                self.voters(*machine)
            )?;
        }
        write!(f, "{} of {} nodes run", self.nodes.len(), self.ids.len())
    }
}

impl State {
    pub(super) fn now(hosts: &[HostId]) -> State {
        let nodes = cluster::running().into_iter();
        let nodes = nodes.map(|(server, node)| (usize::try_from(server).expect("a u32 is a usize"), node)).collect();
        let files = hosts.iter().map(|host| Disk::of(*host).current_list(DATA_DIR)).collect();
        State { nodes, ids: machines::all(hosts.len()), files }
    }

    /// The machine whose node leads in the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leaders = self.nodes.iter().filter(|(_, node)| node.role == Role::Leader);
        leaders.max_by_key(|(_, node)| node.term).map(|(machine, _)| *machine)
    }

    /// Index of the last entry in a node's log; 0 for none, and for a node that is down.
    pub fn last(&self, node: usize) -> u64 {
        self.nodes.get(&node).and_then(|node| node.last_log_index).unwrap_or(0)
    }

    /// Up to where a node has applied its log; 0 for nothing.
    pub fn applied(&self, node: usize) -> u64 {
        self.nodes.get(&node).and_then(|node| node.applied).map_or(0, |id| id.index)
    }

    /// Index of the last entry that a node's latest snapshot covers; 0 for none.
    pub fn snapshot(&self, node: usize) -> u64 {
        self.nodes.get(&node).and_then(|node| node.snapshot).map_or(0, |id| id.index)
    }

    /// Index of the last entry that is gone from a node's log; 0 for none.
    pub fn purged(&self, node: usize) -> u64 {
        self.nodes.get(&node).and_then(|node| node.purged).map_or(0, |id| id.index)
    }

    /// The latest voters that a node knows, one set or two in a joint configuration, by machine. Nodes that no machine has
    /// any more are left out.
    pub fn voters(&self, node: usize) -> Vec<BTreeSet<usize>> {
        let sets = self.nodes.get(&node).map(|node| node.membership.voters.clone()).unwrap_or_default();
        sets.iter().map(|set| set.iter().filter_map(|id| self.machine(*id)).collect()).collect()
    }

    /// The machine that a Raft node is on.
    pub fn machine(&self, id: NodeId) -> Option<usize> {
        self.ids.iter().position(|on| *on == Some(id))
    }

    /// Whether a file in a node's data directory has a name that begins so.
    pub fn has_file(&self, node: usize, prefix: &str) -> bool {
        let names = self.files[node].iter().filter_map(|path| path.rsplit('/').next());
        names.into_iter().any(|name| name.starts_with(prefix))
    }

    /// Every node that runs has applied its whole log, and all logs end at the same index.
    pub fn in_sync(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let end = self.last(leader);
        self.nodes.keys().all(|node| self.last(*node) == end && self.applied(*node) == end)
    }
}
