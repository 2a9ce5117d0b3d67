//! Snapshots that are due by bytes or by time. Those by entries are openraft's own.
//!
//! Few large commands fill a log long before many small ones do; and a log that hardly grows may still be worth shortening,
//! so that a restart has little to apply again.

use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use super::Node;
use crate::env::Env;
use crate::types::{LogId, TypeConfig};
use buggify::assert_reachable;

/// The newest snapshot, and where the log was when this task learned of it.
struct Last<E: Env> {
    snapshot: Option<LogId>,
    at: InstantOf<TypeConfig<E>>,
    appended_bytes: u64,
}

impl<E: Env> Node<E> {
    /// Asks for snapshots until the node stops.
    pub(super) async fn keep_compact(self) {
        let tuning = &self.inner.tuning;
        if tuning.snapshot_bytes == 0 && tuning.snapshot_age_ms == 0 {
            return;
        }
        let period = Duration::from_millis(tuning.election_max_ms);
        let mut status = self.inner.status.clone();
        let mut last = self.look(None);
        loop {
            let stopping = status.wait_until(|status| status.stopping.is_some());
            if TypeConfig::<E>::timeout(period, stopping).await.is_ok() {
                return;
            }
            let now = self.look(last.snapshot);
            if now.snapshot != last.snapshot {
                last = now;
                continue;
            }
            let bytes = now.appended_bytes - last.appended_bytes;
            let age = now.at.saturating_duration_since(last.at);
            let large = tuning.snapshot_bytes > 0 && bytes >= tuning.snapshot_bytes;
            let old = tuning.snapshot_age_ms > 0 && age >= Duration::from_millis(tuning.snapshot_age_ms);
            if !(large || old) || !self.has_news(last.snapshot) {
                continue;
            }
            if large {
                assert_reachable!("a snapshot was due by the bytes in the log");
            } else {
                assert_reachable!("a snapshot was due by its age");
            }
            if self.inner.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }

    fn look(&self, known: Option<LogId>) -> Last<E> {
        let snapshot = self.inner.raft.metrics().borrow_watched().snapshot;
        Last {
            snapshot: snapshot.max(known),
            at: TypeConfig::<E>::now(),
            appended_bytes: self.log_stats().appended_bytes,
        }
    }

    fn has_news(&self, snapshot: Option<LogId>) -> bool {
        self.inner.raft.metrics().borrow_watched().last_applied > snapshot
    }
}
