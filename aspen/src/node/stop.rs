//! How a node ends: asked to, or because it cannot go on.

use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use openraft::async_runtime::Select2;
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft::{Instant, RaftMetrics};

use super::{Inner, Node, Status};
use crate::detach;
use crate::env::Env;
use crate::log_store::LogStore;
use crate::state_machine::StateReader;
use crate::transport::Transport;
use crate::types::{NodeId, TypeConfig};
use buggify::{assert_reachable, assert_sometimes};

/// Why a node stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// [`Node::shutdown`] was called.
    Requested,
    /// It could not go on; the text says why.
    Failed(String),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Requested => f.write_str("it was asked to stop"),
            StopReason::Failed(reason) => f.write_str(reason),
        }
    }
}

/// Pause between two looks at something that has no notification.
const POLL: Duration = Duration::from_millis(5);

impl<E: Env> Node<E> {
    /// Stops the node within the time that its configuration allows: no new requests, leadership handed over, proposals
    /// in flight answered, stores closed. Returns when it has stopped, also when it had failed before.
    ///
    /// What takes longer is cut off as by a crash, which loses nothing that was acknowledged.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        if !inner.begin_stop(StopReason::Requested) {
            self.stopped().await;
            return;
        }
        let tuning = &inner.tuning;
        let deadline = TypeConfig::<E>::now() + Duration::from_millis(tuning.stop_timeout_ms) / 2;
        inner.server.stop();
        let _ = TypeConfig::<E>::timeout_at(deadline, inner.hand_over()).await;
        let drained = inner.drain(deadline).await;
        // The last replies are still on their way out.
        TypeConfig::<E>::sleep(POLL).await;
        assert_sometimes!(!drained, "a node stopped with proposals in flight");
        inner.close().await;
    }

    /// Resolves when the node has stopped, with the reason. May be dropped at any time.
    pub async fn stopped(&self) -> StopReason {
        let mut status = self.inner.status.clone();
        match status.wait_until(|status| status.stopped).await {
            Ok(status) => status.stopping.unwrap_or(StopReason::Requested),
            // The sender lives as long as `self`.
            Err(_) => StopReason::Requested,
        }
    }

    /// Resolves when the node has stopped because it could not go on, with the reason; never when it was asked to stop.
    /// May be dropped at any time.
    pub async fn failed(&self) -> String {
        match self.stopped().await {
            StopReason::Failed(reason) => reason,
            StopReason::Requested => std::future::pending().await,
        }
    }

    /// Stops the node when a store fails or Raft dies.
    pub(super) async fn supervise(self) {
        let inner = &self.inner;
        let store = std::pin::pin!(inner.health.failed());
        let raft = std::pin::pin!(inner.raft_failed());
        let reason = match TypeConfig::<E>::select2(store, raft).await {
            Select2::First(reason) => reason.to_string(),
            // Raft often dies of an error of the store, which knows better what happened.
            Select2::Second(reason) => inner.health.reason().map_or(reason, |reason| reason.to_string()),
        };
        if !inner.begin_stop(StopReason::Failed(reason.clone())) {
            return;
        }
        assert_reachable!("a node stopped because it could not go on");
        tracing::error!("node {} stops: {reason}", inner.id);
        inner.server.stop();
        inner.close().await;
    }
}

impl<E: Env> Inner<E> {
    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        let sender = self.status_sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send_if_modified(|status| {
            change(status);
            true
        });
    }

    /// Whether the caller is the one who stops the node.
    fn begin_stop(&self, reason: StopReason) -> bool {
        let mut first = false;
        self.update(|status| {
            first = status.stopping.is_none();
            status.stopping.get_or_insert(reason);
        });
        first
    }

    /// Resolves with the reason when Raft has stopped.
    async fn raft_failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        match metrics.wait_until(|metrics| metrics.running_state.is_err()).await {
            Ok(RaftMetrics { running_state: Err(fatal), .. }) => fatal.to_string(),
            Ok(_) | Err(_) => "Raft has stopped".to_owned(),
        }
    }

    /// Makes the voter that is furthest the leader, if this node leads, so that nobody has to wait for an election.
    async fn hand_over(&self) {
        let mut metrics = self.raft.metrics();
        let Some(heir) = heir(self.id, &metrics.borrow_watched()) else { return };
        if self.raft.trigger().transfer_leader(heir).await.is_err() {
            return;
        }
        let wait = Duration::from_millis(self.tuning.election_max_ms);
        let me = self.id;
        let handed_over = metrics.wait_until(move |metrics| metrics.current_leader != Some(me));
        if let Ok(Ok(_)) = TypeConfig::<E>::timeout(wait, handed_over).await {
            assert_reachable!("a leader that stops handed over");
        }
    }

    /// Waits until every proposal was answered. `false` if some were not by the deadline.
    async fn drain(&self, deadline: InstantOf<TypeConfig<E>>) -> bool {
        while self.server.proposals_in_flight() > 0 {
            if deadline.saturating_duration_since(TypeConfig::<E>::now()).is_zero() {
                return false;
            }
            TypeConfig::<E>::sleep(POLL).await;
        }
        true
    }

    /// Ends everything; what does not end in time is left behind.
    async fn close(&self) {
        let timeout = Duration::from_millis(self.tuning.stop_timeout_ms) / 6;
        self.env.transport().close();
        let raft = self.raft.clone();
        if detach::timeout::<E, _>(timeout, async move { raft.shutdown().await }).await.is_err() {
            tracing::warn!("node {}: Raft did not stop within {timeout:?}", self.id);
        }
        close_stores(&self.log, &self.reader, timeout).await;
        self.update(|status| status.stopped = true);
    }
}

/// Closes both stores; `timeout` for each.
pub(super) async fn close_stores<E: Env>(log: &LogStore<E>, reader: &StateReader<E>, timeout: Duration) {
    if TypeConfig::<E>::timeout(timeout, log.close()).await.is_err() {
        tracing::warn!("the log did not close within {timeout:?}");
    }
    if TypeConfig::<E>::timeout(timeout, reader.close()).await.is_err() {
        tracing::warn!("the state did not close within {timeout:?}");
    }
}

/// The voter with the most of this leader's log; `None` if the node does not lead or is alone.
fn heir<E: Env>(me: NodeId, metrics: &RaftMetrics<TypeConfig<E>>) -> Option<NodeId> {
    let replication = metrics.replication.as_ref().filter(|_| metrics.current_leader == Some(me))?;
    let voters = metrics.membership_config.membership().voter_ids().filter(|voter| *voter != me);
    voters.max_by_key(|voter| (replication.get(voter).copied().flatten(), std::cmp::Reverse(*voter)))
}
