//! How the node stands to a cluster: in none yet, a member, or one no more; and whether it hears its leader.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use crate::production::http::App;
use crate::types::NodeId;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It knows of no membership.
    Outside,
    Member,
    /// The membership in its log lacks it, or a member says so, and no leader talks to it.
    Removed,
}

impl App {
    pub(crate) fn standing(&self) -> Standing {
        let (is_empty, is_in) = {
            let metrics = self.node.raft().metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            (membership.nodes().next().is_none(), membership.get_node(&self.node.id()).is_some())
        };
        if is_empty {
            return Standing::Outside;
        }
        // A node that is catching up has old memberships in its log, but it hears a leader.
        let is_missing = !is_in || self.is_disowned.load(Ordering::Relaxed);
        if is_missing && self.is_quiet() { Standing::Removed } else { Standing::Member }
    }

    /// No leader talks to this node, nor did one for longer than it may take to find a new one.
    pub(crate) fn is_quiet(&self) -> bool {
        let patience = self.patience();
        self.started.elapsed() > patience && self.node.silence().is_none_or(|silence| silence > patience)
    }

    /// Why this node can do nothing that needs a cluster.
    pub(crate) fn outside(&self) -> &'static str {
        match self.has_joined {
            true => "the node was let in, and has not heard of its cluster yet",
            false => "the node is in no cluster yet: POST /init, or start it with a ticket of one",
        }
    }

    /// The leader, if this node heard of it lately: with pre-vote a node does not forget a leader that is gone before there
    /// is another one.
    pub(crate) fn heard_leader(&self) -> Result<NodeId, String> {
        let leader = self.leader().ok_or("no leader is known")?;
        match self.node.silence() {
            Some(silence) if silence <= self.patience() => Ok(leader.id),
            Some(silence) if leader.id == self.node.id() => Err(format!("no quorum was heard for {silence:.1?}")),
            Some(silence) => Err(format!("the leader, node {}, was not heard for {silence:.1?}", leader.id)),
            None => Err("the leader was not heard yet".to_owned()),
        }
    }

    /// A leader that is silent for longer is not counted on.
    fn patience(&self) -> Duration {
        Duration::from_millis(2 * self.config.raft.election_max_ms)
    }
}
