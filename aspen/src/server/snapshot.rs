//! The receiving side of a snapshot transfer.
//!
//! One transfer at a time, named by its checksum. Announcing it again resumes it at the first byte that is missing;
//! announcing another one replaces it. Nothing is installed before every byte arrived and the checksum over all of them
//! was verified.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::Snapshot;
use openraft::async_runtime::Mutex as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::MutexOf;

use crate::codec;
use crate::env::{Env, Lane};
use crate::error::ErrorCode;
use crate::message::{
    Refusal, SnapshotBegin, SnapshotChunk, SnapshotFinish, SnapshotProgress, SnapshotReply, WireVote,
};
use crate::planted::planted;
use crate::server::{Refused, Server};
use crate::snapshot::directory::remove_incoming;
use crate::snapshot::{Checksum, Incoming};
use crate::types::{LogId, SnapshotMeta, TypeConfig, Vote};
use buggify::{assert_reachable, assert_sometimes, buggify};

/// The transfer under way.
pub(super) struct Receiver<E: Env> {
    env: E,
    dir: PathBuf,
    slot: Arc<MutexOf<TypeConfig<E>, Slot<E>>>,
    /// Whose snapshot is being installed. Beside the slot, which is locked while chunks are written: every append asks.
    installing: Mutex<Option<Vote>>,
}

enum Slot<E: Env> {
    Empty,
    Receiving(Box<Receiving<E>>),
    /// Being verified and installed.
    Installing(Checksum),
    /// Under this leader's vote.
    Installed(Checksum, Vote),
}

/// What became of a snapshot that was received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handed {
    Installed,
    /// The log has all that it holds, and more.
    Overtaken,
    Refused,
}

struct Receiving<E: Env> {
    meta: SnapshotMeta,
    checksum: Checksum,
    len: u64,
    incoming: Incoming<E>,
}

impl<E: Env> Receiver<E> {
    pub(super) fn new(env: E, dir: PathBuf) -> Self {
        Receiver { env, dir, slot: Arc::new(TypeConfig::<E>::mutex(Slot::Empty)), installing: Mutex::default() }
    }

    /// Whether a snapshot of the leader with this vote is being installed: entries of the same leader wait for the end of it.
    pub(super) fn is_installing_of(&self, vote: Vote) -> bool {
        *self.installing.lock().unwrap_or_else(PoisonError::into_inner) == Some(vote)
    }

    fn set_installing(&self, of: Option<Vote>) {
        *self.installing.lock().unwrap_or_else(PoisonError::into_inner) = of;
    }
}

impl<E: Env> Slot<E> {
    /// How far the transfer of this name is.
    fn progress(&self, checksum: &Checksum) -> SnapshotProgress {
        match self {
            Slot::Receiving(receiving) if receiving.checksum == *checksum => {
                SnapshotProgress::Receiving { next: receiving.incoming.written() }
            }
            Slot::Installing(installing) if installing == checksum => SnapshotProgress::Installing,
            Slot::Installed(installed, _) if installed == checksum => SnapshotProgress::Installed,
            _ => SnapshotProgress::Unknown,
        }
    }
}

impl<E: Env> Server<E> {
    pub(super) async fn snapshot_begin(&self, begin: SnapshotBegin) -> Refused<SnapshotReply> {
        let max = self.shared.config.store.limits.snapshot_bytes_max;
        if begin.len > max {
            let message = format!("the snapshot has {} bytes, {max} are allowed", begin.len);
            return Err(Refusal::new(ErrorCode::LimitExceeded, message));
        }
        let meta = codec::decode_snapshot_meta(&begin.meta)
            .map_err(|error| Refusal::new(ErrorCode::Malformed, error.to_string()))?;
        if let Some(rejected) = self.reject_old_leader(begin.vote) {
            return Ok(rejected);
        }
        let mut slot = self.shared.snapshots.slot.lock().await;
        let known = slot.progress(&begin.checksum);
        // A new leader's install has to reach openraft, or it would not take this one for its follower.
        let by_another = matches!(&*slot, Slot::Installed(_, vote) if *vote != Vote::from(begin.vote));
        if known != SnapshotProgress::Unknown && !by_another {
            assert_sometimes!(
                matches!(known, SnapshotProgress::Receiving { next } if next > 0 && next < begin.len),
                "a snapshot transfer went on where it had broken off"
            );
            return Ok(self.snapshot_reply(known));
        }
        if matches!(&*slot, Slot::Installing(_)) {
            return Err(Refusal::new(ErrorCode::Overloaded, "another snapshot is being installed"));
        }
        if let Slot::Receiving(older) = std::mem::replace(&mut *slot, Slot::Empty) {
            assert_reachable!("a snapshot transfer was replaced by another");
            older.incoming.abandon().await.map_err(disk_failed)?;
        }
        let SnapshotBegin { len, checksum, .. } = begin;
        let Receiver { env, dir, .. } = &self.shared.snapshots;
        // There is no transfer now, so these are what cancelled ones left behind.
        let lane = env.lane("snapshot");
        let sweep = {
            let (env, dir) = (env.clone(), dir.clone());
            move || remove_incoming(&env, &dir)
        };
        lane.run(sweep).await.unwrap_or_else(|stopped| Err(stopped.into())).map_err(disk_failed)?;
        let incoming = Incoming::new(env, dir, len, checksum).await.map_err(disk_failed)?;
        *slot = Slot::Receiving(Box::new(Receiving { meta, checksum, len, incoming }));
        Ok(self.snapshot_reply(SnapshotProgress::Receiving { next: 0 }))
    }

    pub(super) async fn snapshot_chunk(&self, chunk: SnapshotChunk) -> Refused<SnapshotReply> {
        if let Some(rejected) = self.reject_old_leader(chunk.vote) {
            return Ok(rejected);
        }
        let mut slot = self.shared.snapshots.slot.lock().await;
        if let Slot::Receiving(receiving) = &mut *slot
            && receiving.checksum == chunk.checksum
        {
            let next = receiving.incoming.written();
            let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
            if end > receiving.len {
                return Err(Refusal::new(ErrorCode::Malformed, "the chunk ends past the snapshot"));
            }
            assert_sometimes!(chunk.offset > next, "a chunk of a snapshot came too early");
            assert_sometimes!(chunk.offset < next, "a chunk of a snapshot came twice");
            if chunk.offset <= next {
                let written = receiving.incoming.write_chunk(chunk.offset, &chunk.bytes).await;
                if let Err(error) = written {
                    *slot = Slot::Empty;
                    return Err(disk_failed(error));
                }
            }
        }
        Ok(self.snapshot_reply(slot.progress(&chunk.checksum)))
    }

    pub(super) async fn snapshot_finish(&self, finish: SnapshotFinish) -> Refused<SnapshotReply> {
        if let Some(rejected) = self.reject_old_leader(finish.vote) {
            return Ok(rejected);
        }
        let mut slot = self.shared.snapshots.slot.lock().await;
        let complete = matches!(&*slot, Slot::Receiving(receiving)
            if receiving.checksum == finish.checksum && receiving.incoming.written() == receiving.len);
        if complete && let Slot::Receiving(receiving) = std::mem::replace(&mut *slot, Slot::Installing(finish.checksum))
        {
            // In a task of its own: it may take longer than the sender waits, who asks again.
            let (server, vote) = (self.clone(), Vote::from(finish.vote));
            self.shared.snapshots.set_installing(Some(vote));
            drop(TypeConfig::<E>::spawn(async move { server.install(*receiving, vote).await }));
        }
        Ok(self.snapshot_reply(slot.progress(&finish.checksum)))
    }

    async fn install(&self, receiving: Receiving<E>, vote: Vote) {
        let Receiving { meta, checksum, incoming, .. } = receiving;
        let last = meta.last_log_id;
        let ended = match self.hand_over(meta, incoming, vote).await {
            // The leader was deposed meanwhile, and openraft refused its snapshot.
            Ok(Handed::Refused) => Slot::Empty,
            Ok(handed) => {
                // What the snapshot holds may have come as entries meanwhile. Then all of it is here at once, and so it must
                // be for good: the leader would never send it again (docs/trophies.md).
                assert_sometimes!(
                    last.is_some_and(|last| !self.shared.log.is_durable(last.index)),
                    "what a snapshot holds had come as entries that were not durable yet",
                    owed_by = ""
                );
                if planted!("snapshot-acked-before-log") || self.is_durable(handed, last).await {
                    assert_reachable!("a snapshot was received and installed");
                    Slot::Installed(checksum, vote)
                } else {
                    Slot::Empty
                }
            }
            Err(error) => {
                tracing::warn!("the snapshot at {last:?} was not installed, it is asked for again: {error}");
                Slot::Empty
            }
        };
        let mut slot = self.shared.snapshots.slot.lock().await;
        *slot = ended;
        self.shared.snapshots.set_installing(None);
    }

    /// Waits until what a snapshot up to `last` holds is here for good. `false`: it is not, or the log has failed.
    async fn is_durable(&self, handed: Handed, last: Option<LogId>) -> bool {
        let log = &self.shared.log;
        if log.durable().await.is_err() {
            return false;
        }
        // openraft may have accepted entries that it had not given to the log when the wait began.
        handed != Handed::Overtaken || last.is_none_or(|last| log.is_durable(last.index))
    }

    /// Verifies what was received and has openraft install it.
    async fn hand_over(&self, meta: SnapshotMeta, incoming: Incoming<E>, vote: Vote) -> std::io::Result<Handed> {
        if self.is_overtaken(meta.last_log_id, vote).await? {
            assert_reachable!("a snapshot came after the entries it stands for, and more", owed_by = "");
            return incoming.abandon().await.map(|()| Handed::Overtaken);
        }
        if buggify!(at "received snapshot does not verify", 0.1) {
            incoming.abandon().await?;
            return Err(std::io::Error::other("it was said not to verify"));
        }
        let snapshot = Snapshot { meta, snapshot: incoming.finish().await? };
        let answer = self.shared.raft.install_full_snapshot(vote, snapshot).await.map_err(std::io::Error::other)?;
        Ok(if answer.vote <= vote { Handed::Installed } else { Handed::Refused })
    }

    /// Whether the log has more from this leader than the snapshot does: its appends came, and their answers were lost. openraft
    /// must not be told of such a snapshot (docs/trophies.md), and nothing is gained by it.
    async fn is_overtaken(&self, last: Option<LogId>, vote: Vote) -> std::io::Result<bool> {
        let Some(last) = last else { return Ok(false) };
        let raft = &self.shared.raft;
        // From openraft itself, after every append that it was told of; no other comes from this leader before the end.
        let overtaken = raft.with_raft_state(move |state| {
            let log = &state.log_ids;
            *state.vote_ref() == vote && log.get(last.index) == Some(last) && log.last() > Some(&last)
        });
        overtaken.await.map_err(std::io::Error::other)
    }

    /// Saves a deposed leader the transfer. What really decides is openraft, when the snapshot is installed.
    fn reject_old_leader(&self, theirs: WireVote) -> Option<SnapshotReply> {
        let mine = self.shared.raft.metrics().borrow_watched().vote;
        let deposed = mine > Vote::from(theirs);
        deposed.then(|| self.snapshot_reply(SnapshotProgress::Rejected))
    }

    fn snapshot_reply(&self, progress: SnapshotProgress) -> SnapshotReply {
        let vote = self.shared.raft.metrics().borrow_watched().vote;
        SnapshotReply { vote: (&vote).into(), progress }
    }
}

/// A disk that refuses a transfer, a full one for instance, costs the transfer only: nothing of it counted yet. If the
/// disk is really broken, the stores notice and stop the node.
fn disk_failed(error: std::io::Error) -> Refusal {
    Refusal::new(ErrorCode::NodeFailed, error.to_string())
}
