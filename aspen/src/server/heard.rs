//! How long a node has not been part of a cluster that works.

use std::sync::PoisonError;
use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;

use crate::env::Env;
use crate::planted::planted;
use crate::server::Server;
use crate::types::TypeConfig;

impl<E: Env> Server<E> {
    /// An append of a leader was taken.
    pub(super) fn heard_leader(&self) {
        let now = TypeConfig::<E>::now();
        *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        if planted!("stale-age-from-appends") {
            self.shared.freshness.proved(now);
        }
    }

    /// How long the leader was not heard; of the leader itself, how long ago it sent what a quorum has acknowledged. `None` if
    /// it neither leads nor heard a leader. Says nothing of the state: see [`StaleBound`](crate::message::StaleBound).
    pub(crate) fn silence(&self) -> Option<Duration> {
        let me = self.shared.config.id;
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.current_leader == Some(me);
        // openraft keeps no time for a leader that is a quorum by itself.
        if leads && metrics.membership_config.membership().voter_ids().eq([me]) {
            return Some(Duration::ZERO);
        }
        let acknowledged = if leads { metrics.last_quorum_acked.map(|at| *at) } else { None };
        let heard = || *self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.or_else(heard).map(|at| TypeConfig::<E>::now().saturating_duration_since(at))
    }
}
