//! What an operator asks of one node for its own sake, whoever leads: a snapshot, a shorter log, an emptied write-ahead
//! log, a candidacy.
//!
//! All of it happens by itself too. An operator asks before a backup, before a disk is full, before a machine is switched
//! off. What the reply promises holds when it is sent, also after a loss of power.

use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;

use crate::env::Env;
use crate::error::ErrorCode;
use crate::message::{LogPoint, Refusal, Upkeep, Upkept};
use crate::planted::planted;
use crate::server::{Refused, Server};
use crate::types::{LogId, TypeConfig};
use buggify::{assert_reachable, assert_sometimes, buggify};

impl<E: Env> Server<E> {
    /// Not bounded by itself: the caller is.
    pub(super) async fn upkeep(&self, upkeep: Upkeep) -> Refused<Upkept> {
        match upkeep {
            Upkeep::Snapshot => self.snapshot_now().await,
            Upkeep::Purge => self.purge_now().await,
            Upkeep::Checkpoint => self.checkpoint_now().await,
            Upkeep::Elect => self.stand().await,
        }
    }

    async fn snapshot_now(&self) -> Refused<Upkept> {
        let raft = &self.shared.raft;
        let Some(applied) = raft.metrics().borrow_watched().last_applied else {
            return Err(nothing("nothing is applied yet"));
        };
        // One that is being built already may hold less; it is asked for again until one holds enough.
        loop {
            raft.trigger().snapshot().await.map_err(|fatal| stopped(&fatal))?;
            let reached = self.watched(|metrics| metrics.snapshot >= Some(applied));
            let look_again = Duration::from_millis(self.shared.config.raft.election_min_ms);
            match TypeConfig::<E>::timeout(look_again, reached).await {
                Ok(reached) => return reached.map(|()| Upkept::Snapshot(point(&applied))),
                Err(_) => assert_reachable!("a snapshot that was asked for took several looks", owed_by = ""),
            }
        }
    }

    async fn purge_now(&self) -> Refused<Upkept> {
        let raft = &self.shared.raft;
        let (snapshot, purged, upto) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let upto = purgeable(&metrics, self.shared.config.raft.log_keep_entries);
            (metrics.snapshot, metrics.purged.map(|id| id.index), upto)
        };
        let Some(snapshot) = snapshot else { return Err(nothing("there is no snapshot: take one first")) };
        assert_sometimes!(purged < Some(upto), "an operator's purge had something to remove", owed_by = "mixed");
        assert_sometimes!(upto < snapshot.index, "an operator's purge left what a follower lacks", owed_by = "mixed");
        raft.trigger().purge_log(upto).await.map_err(|fatal| stopped(&fatal))?;
        self.watched(|metrics| metrics.purged.as_ref().map_or(0, |id| id.index) >= upto).await?;
        let purged = raft.metrics().borrow_watched().purged;
        // openraft does not wait for the log, which makes a purge durable in its own time.
        if !planted!("purge-answered-early") {
            self.shared.log.durable().await.map_err(|error| stopped(&error))?;
        }
        match purged {
            Some(purged) => Ok(Upkept::Purged(point(&purged))),
            None => Err(nothing("followers lack what the newest snapshot covers, and the log is short")),
        }
    }

    async fn checkpoint_now(&self) -> Refused<Upkept> {
        let applied = self.shared.reader.applied().map(|id| point(&id));
        let whole = self.shared.reader.checkpoint().await.map_err(|error| stopped(&error))?;
        if buggify!(at "a checkpoint is long in coming") {
            TypeConfig::<E>::sleep(Duration::from_millis(50)).await;
        }
        let applied = match planted!("checkpoint-promises-later-state") {
            true => self.shared.reader.applied().map(|id| point(&id)),
            false => applied,
        };
        assert_sometimes!(!whole, "a checkpoint met a reader in its way", owed_by = "");
        Ok(Upkept::Checkpointed { applied, whole })
    }

    /// Without asking first whether it could win: an operator who wants another leader gets an election.
    async fn stand(&self) -> Refused<Upkept> {
        let raft = &self.shared.raft;
        let me = self.shared.config.id;
        let may_vote = raft.metrics().borrow_watched().membership_config.membership().voter_ids().any(|id| id == me);
        if !may_vote {
            return Err(nothing("this node has no vote"));
        }
        raft.trigger().elect(false).await.map_err(|fatal| stopped(&fatal))?;
        Ok(Upkept::Standing)
    }

    /// Waits until the metrics are as wanted, or Raft has stopped.
    async fn watched(&self, wanted: impl Fn(&RaftMetrics<TypeConfig<E>>) -> bool + Send + Sync) -> Refused<()> {
        let mut metrics = self.shared.raft.metrics();
        let seen = metrics.wait_until(|metrics| metrics.running_state.is_err() || wanted(metrics)).await;
        match seen {
            Ok(RaftMetrics { running_state: Ok(()), .. }) => Ok(()),
            Ok(_) | Err(_) => Err(Refusal::new(ErrorCode::NodeFailed, "Raft has stopped")),
        }
    }
}

/// Up to where the log may go: the newest snapshot, unless a follower lacks some of what it covers. openraft postpones a purge
/// of what it is sending; a snapshot that is finished meanwhile then schedules a shorter purge, which is an error to it.
fn purgeable<E: Env>(metrics: &RaftMetrics<TypeConfig<E>>, keep: u64) -> u64 {
    let snapshot = metrics.snapshot.as_ref().map_or(0, |id| id.index);
    let is_told = |matched: &Option<LogId>| matched.as_ref().is_some_and(|matched| matched.index >= snapshot);
    match metrics.replication.iter().flatten().all(|(_, matched)| is_told(matched)) {
        true => snapshot,
        false => snapshot.saturating_sub(keep),
    }
}

fn point(id: &LogId) -> LogPoint {
    id.into()
}

fn nothing(reason: &str) -> Refusal {
    Refusal::new(ErrorCode::PreconditionFailed, reason)
}

fn stopped(reason: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(ErrorCode::NodeFailed, reason.to_string())
}
