//! The sending side of a snapshot transfer.
//!
//! Announce, then chunk after chunk from the offset that the receiver names, then ask for the install until it is done.
//! The receiver's word alone moves the offset: a lost, repeated or reordered chunk costs one call. A transfer that broke
//! off is announced again and goes on where it stopped, also when openraft begins it anew.

use std::time::Duration;

use openraft::errors::{RPCError, StreamingError};
use openraft::raft::SnapshotResponse;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::SnapshotOf;
use openraft::{RPCTypes, StorageError};

use crate::codec;
use crate::env::Env;
use crate::message::{
    Request, Response, SnapshotBegin, SnapshotChunk, SnapshotFinish, SnapshotProgress, SnapshotReply, WireVote,
};
use crate::network::Peer;
use crate::snapshot::SnapshotFile;
use crate::types::{TypeConfig, Vote};
use buggify::buggify;

/// Pause after a failed call, and before asking again whether the install is done.
const PAUSE: Duration = Duration::from_millis(20);

impl<E: Env> Peer<E> {
    /// Sends the whole snapshot. Each call may take `ttl`. Ends with the receiver's vote once the snapshot is
    /// installed, or when that vote is higher than `vote`.
    pub(super) async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig<E>, SnapshotFile<E>>,
        ttl: Duration,
    ) -> Result<SnapshotResponse<TypeConfig<E>>, StreamingError<TypeConfig<E>>> {
        let file = snapshot.snapshot;
        let sending = Sending { vote: (&vote).into(), checksum: file.checksum(), len: file.len() };
        let meta = codec::encode_snapshot_meta(&snapshot.meta);
        let begin = || sending.begin(&meta);
        let mut request = begin();
        // Calls in a row that failed or brought nothing new, and times that the receiver lost everything.
        let (mut failures, mut losses) = (0, 0);
        let mut reached = None;
        loop {
            let reply = match self.snapshot_call(request, ttl).await {
                Ok(reply) => reply,
                Err(error) => {
                    failures += 1;
                    if matches!(error, RPCError::Unreachable(_)) || failures >= self.shared.tuning.snapshot_retries {
                        return Err(error.into());
                    }
                    TypeConfig::<E>::sleep(PAUSE).await;
                    request = begin();
                    continue;
                }
            };
            if failures.max(losses) >= self.shared.tuning.snapshot_retries {
                return Err(self.strange("it makes no progress with the snapshot").into());
            }
            let their_vote = Vote::from(reply.vote);
            match reply.progress {
                // openraft takes an answer without a higher vote for a success.
                SnapshotProgress::Rejected if their_vote > vote => return Ok(SnapshotResponse::new(their_vote)),
                SnapshotProgress::Rejected => return Err(self.strange("it rejects a leader it has to follow").into()),
                SnapshotProgress::Installed => return Ok(SnapshotResponse::new(their_vote)),
                SnapshotProgress::Installing => {
                    TypeConfig::<E>::sleep(PAUSE).await;
                    request = sending.finish();
                }
                SnapshotProgress::Unknown => {
                    losses += 1;
                    reached = None;
                    request = begin();
                }
                SnapshotProgress::Receiving { next } if next > sending.len => {
                    return Err(self.strange("it has more of the snapshot than there is").into());
                }
                SnapshotProgress::Receiving { next } if next == sending.len => request = sending.finish(),
                SnapshotProgress::Receiving { next } => {
                    failures = if reached < Some(next) { 0 } else { failures + 1 };
                    reached = reached.max(Some(next));
                    request = self.chunk(&sending, &file, next).await.map_err(read_failed::<E>)?;
                    if buggify!(at "snapshot transfer is announced again", 0.05) {
                        request = begin();
                    }
                }
            }
        }
    }

    async fn chunk(&self, sending: &Sending, file: &SnapshotFile<E>, next: u64) -> std::io::Result<Request> {
        let mut max = self.shared.limits.snapshot_chunk_bytes;
        let mut offset = next;
        if buggify!(at "snapshot chunk is short") {
            max = max.min(64);
        }
        if buggify!(at "snapshot chunk comes twice", 0.1) {
            offset = next.saturating_sub(64);
        }
        if buggify!(at "snapshot chunk comes too early", 0.1) {
            offset = sending.len.min(next + 64);
        }
        let bytes = file.read_chunk(offset, max).await?;
        Ok(Request::SnapshotChunk(SnapshotChunk { vote: sending.vote, checksum: sending.checksum, offset, bytes }))
    }

    async fn snapshot_call(&self, request: Request, ttl: Duration) -> Result<SnapshotReply, RPCError<TypeConfig<E>>> {
        if buggify!(at "snapshot message is lost", 0.1) {
            return Err(self.strange("the message was lost"));
        }
        match self.call(RPCTypes::InstallSnapshot, request, ttl).await? {
            Response::Snapshot(reply) => Ok(reply),
            other => Err(self.refused(other)),
        }
    }
}

/// What every message of one transfer says.
struct Sending {
    vote: WireVote,
    checksum: [u8; 32],
    len: u64,
}

impl Sending {
    fn begin(&self, meta: &[u8]) -> Request {
        let Sending { vote, checksum, len } = *self;
        Request::SnapshotBegin(SnapshotBegin { vote, meta: meta.to_vec(), len, checksum })
    }

    fn finish(&self) -> Request {
        Request::SnapshotFinish(SnapshotFinish { vote: self.vote, checksum: self.checksum })
    }
}

/// A node that cannot read its own snapshot has lost its disk.
fn read_failed<E: Env>(error: std::io::Error) -> StreamingError<TypeConfig<E>> {
    StreamingError::StorageError(StorageError::read_snapshot(None, TypeConfig::<E>::err_from_error(&error)))
}
