//! openraft's network over the [`Transport`]: one [`Peer`] per remote node and purpose.
//!
//! Calls are independent of each other, so a snapshot or a large batch never delays a heartbeat. Appends to one peer go
//! out one after the other: the next is sent when the last was answered, which keeps them in order whatever the link
//! does. Batches are bounded in bytes here; openraft bounds them in entries.
//!
//! Every request names the node it is meant for. If another one answers at the address, the peer counts as unreachable.

mod snapshot;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::RPCTypes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::SnapshotOf;
use openraft::{RaftNetworkFactory, RaftNetworkV2};

use crate::codec;
use crate::config::RaftTuning;
use crate::env::Env;
use crate::error::ErrorCode;
use crate::limits::Limits;
use crate::message::{
    AppendReply, AppendRequest, BallotReply, BallotRequest, ClusterId, Entries, Envelope, Refusal, Request, Response,
    TransferReply, TransferRequest, decode_response, encode_request,
};
use crate::planted::planted;
use crate::snapshot::SnapshotFile;
use crate::transport::{Transport, TransportError};
use crate::types::{Address, Entry, LogId, Member, NodeId, TypeConfig, Vote};
use buggify::{assert_always, assert_reachable, buggify};

/// Makes the connections of one node.
pub struct Network<E: Env> {
    shared: Arc<Shared<E>>,
}

struct Shared<E: Env> {
    env: E,
    me: NodeId,
    cluster: ClusterId,
    tuning: RaftTuning,
    limits: Limits,
}

impl<E: Env> Network<E> {
    /// `me` is the node that calls.
    pub fn new(env: E, me: NodeId, cluster: ClusterId, tuning: RaftTuning, limits: Limits) -> Self {
        Network { shared: Arc::new(Shared { env, me, cluster, tuning, limits }) }
    }
}

impl<E: Env> RaftNetworkFactory<TypeConfig<E>> for Network<E> {
    type Network = Peer<E>;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer<E> {
        assert_always!(target != self.shared.me, "a node never calls itself", target);
        Peer { shared: self.shared.clone(), target, address: node.address.clone() }
    }
}

/// A remote node.
pub struct Peer<E: Env> {
    shared: Arc<Shared<E>>,
    target: NodeId,
    address: Address,
}

type Rpc<E, T> = Result<T, RPCError<TypeConfig<E>>>;

impl<E: Env> RaftNetworkV2<TypeConfig<E>> for Peer<E> {
    type SnapshotData = SnapshotFile<E>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<E>>,
        option: RPCOption,
    ) -> Rpc<E, AppendEntriesResponse<TypeConfig<E>>> {
        let bytes_max = match buggify!(at "replication batch is cut short", 0.1) {
            true => 1,
            false => self.shared.limits.replication_batch_bytes_max,
        };
        let (entries, sent) = pack(&rpc.entries, bytes_max);
        let timeout = if entries.is_empty() {
            if buggify!(at "heartbeat is late", 0.05) {
                TypeConfig::<E>::sleep(option.soft_ttl() / 2).await;
            }
            option.soft_ttl()
        } else {
            option.soft_ttl().max(self.shared.tuning.append_timeout(entries.bytes()))
        };
        let request = Request::Append(AppendRequest {
            vote: (&rpc.vote).into(),
            prev: rpc.prev_log_id.as_ref().map(Into::into),
            commit: rpc.leader_commit.as_ref().map(Into::into),
            entries,
        });
        match self.call(RPCTypes::AppendEntries, request, timeout).await? {
            Response::Append(AppendReply::Success) => Ok(match sent {
                None => AppendEntriesResponse::Success,
                Some(_) if planted!("cut-batch-reported-whole") => AppendEntriesResponse::Success,
                Some(last) => {
                    assert_reachable!("a replication batch was cut at its bound");
                    AppendEntriesResponse::PartialSuccess(Some(last))
                }
            }),
            // Nothing can conflict with the beginning of the log; openraft would panic on such a reply.
            Response::Append(AppendReply::Conflict) if rpc.prev_log_id.is_none() => {
                Err(self.strange("it has a conflict before the first entry"))
            }
            Response::Append(AppendReply::Conflict) => Ok(AppendEntriesResponse::Conflict),
            Response::Append(AppendReply::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            other => Err(self.refused(other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<E>>,
        option: RPCOption,
    ) -> Rpc<E, VoteResponse<TypeConfig<E>>> {
        self.ballot(Request::Vote, ballot_request(&rpc), option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<E>>,
        option: RPCOption,
    ) -> Rpc<E, VoteResponse<TypeConfig<E>>> {
        let response = self.ballot(Request::PreVote, ballot_request(&rpc), option).await?;
        if !response.vote_granted {
            assert_reachable!("a pre-vote was refused");
        }
        Ok(response)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig<E>, SnapshotFile<E>>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<E>>, StreamingError<TypeConfig<E>>> {
        let cancel = std::pin::pin!(cancel);
        let transfer = std::pin::pin!(self.send_snapshot(vote, snapshot, option.soft_ttl()));
        // Polls the cancellation first, always.
        match futures_util::future::select(cancel, transfer).await {
            futures_util::future::Either::Left((closed, _)) => {
                assert_reachable!("a snapshot transfer was cancelled");
                Err(StreamingError::Closed(closed))
            }
            futures_util::future::Either::Right((result, _)) => result,
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig<E>>,
        option: RPCOption,
    ) -> Rpc<E, TransferLeaderResponse<TypeConfig<E>>> {
        let request = Request::TransferLeader(TransferRequest {
            from: rpc.from_leader().into(),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().map(Into::into),
        });
        match self.call(RPCTypes::TransferLeader, request, option.soft_ttl()).await? {
            Response::TransferLeader(TransferReply::Accepted) => Ok(Ok(())),
            Response::TransferLeader(TransferReply::VoteChanged { actual }) => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: *rpc.from_leader(), actual: actual.into() }))
            }
            Response::TransferLeader(TransferReply::LogNotFlushed { actual }) => {
                Ok(Err(TransferLeaderError::LogNotFlushed {
                    expected: rpc.last_log_id().copied(),
                    actual: actual.map(Into::into),
                }))
            }
            other => Err(self.refused(other)),
        }
    }
}

impl<E: Env> Peer<E> {
    async fn ballot(
        &self,
        kind: fn(BallotRequest) -> Request,
        request: BallotRequest,
        option: RPCOption,
    ) -> Rpc<E, VoteResponse<TypeConfig<E>>> {
        let asked = request.vote;
        match self.call(RPCTypes::Vote, kind(request), option.soft_ttl()).await? {
            Response::Ballot(BallotReply { vote, last, .. })
                if planted!("vote-counted-by-term") && vote.term == asked.term =>
            {
                Ok(VoteResponse::new(Vote::from(asked), last.map(Into::into), true))
            }
            Response::Ballot(BallotReply { vote, granted, last }) => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(Into::into), granted))
            }
            other => Err(self.refused(other)),
        }
    }

    /// Sends one request to the peer.
    async fn call(&self, action: RPCTypes, request: Request, timeout: Duration) -> Rpc<E, Response> {
        let envelope = Envelope { cluster: self.shared.cluster, to: Some(self.target), request };
        let bytes = encode_request(&envelope);
        let received = self.shared.env.transport().call(&self.address, bytes, timeout).await;
        match received {
            Ok(bytes) => decode_response(&bytes, self.shared.limits.message_bytes_max)
                .map_err(|error| RPCError::Network(NetworkError::new(&error))),
            Err(TransportError::Timeout(..)) => {
                Err(RPCError::Timeout(Timeout { action, id: self.shared.me, target: self.target, timeout }))
            }
            Err(error @ (TransportError::Reset(_) | TransportError::TooLarge { .. })) => {
                Err(RPCError::Network(NetworkError::new(&error)))
            }
            Err(error @ (TransportError::Unreachable(_) | TransportError::Refused(_) | TransportError::Closed)) => {
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    /// The error behind a response that is not the one asked for.
    fn refused(&self, response: Response) -> RPCError<TypeConfig<E>> {
        let Response::Refused(Refusal { code, message, .. }) = response else {
            return self.strange("its response answers another request");
        };
        let text = format!("node {}: {code}: {message}", self.target);
        match code {
            ErrorCode::WrongNode | ErrorCode::WrongCluster | ErrorCode::Stopping | ErrorCode::NodeFailed => {
                assert_reachable!("a peer answered that it does not serve this node", owed_by = "disk");
                RPCError::Unreachable(Unreachable::from_string(text))
            }
            _ => RPCError::Network(NetworkError::from_string(text)),
        }
    }

    fn strange(&self, what: &str) -> RPCError<TypeConfig<E>> {
        RPCError::Network(NetworkError::from_string(format!("node {}: {what}", self.target)))
    }
}

fn ballot_request<E: Env>(rpc: &VoteRequest<TypeConfig<E>>) -> BallotRequest {
    BallotRequest {
        vote: (&rpc.vote).into(),
        last: rpc.last_log_id.as_ref().map(Into::into),
        transfer: rpc.leadership_transfer,
    }
}

/// The entries that fit into one message, at least one. The second is the last of them if some were left out.
fn pack(all: &[Entry], bytes_max: usize) -> (Entries, Option<LogId>) {
    let mut entries = Entries::default();
    let mut encoded = Vec::new();
    let mut last = None;
    for entry in all {
        encoded.clear();
        codec::encode_entry_into(entry, &mut encoded);
        if !entries.push(&encoded, bytes_max) {
            return (entries, last);
        }
        last = Some(entry.log_id);
    }
    (entries, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Payload;

    #[test]
    fn a_batch_holds_what_fits_and_says_where_it_was_cut() {
        let entry = |index| Entry { log_id: LogId::new(1.into(), index), payload: Payload::Blank };
        let all: Vec<Entry> = (5..15).map(entry).collect();
        let (whole, cut) = pack(&all, usize::MAX);
        assert_eq!((whole.len(), cut), (10, None));
        let (one, cut) = pack(&all, 1);
        assert_eq!((one.len(), cut), (1, Some(all[0].log_id)));
        let (some, cut) = pack(&all, whole.bytes() / 2);
        assert_eq!((some.len(), cut), (5, Some(all[4].log_id)));
        assert_eq!(codec::decode_entry(some.unpack().unwrap()[4]).unwrap(), all[4]);
        assert_eq!(pack(&[], 1), (Entries::default(), None));
    }
}
