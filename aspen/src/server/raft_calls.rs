//! Requests of other nodes: decoded, handed to openraft, and answered.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use crate::codec;
use crate::detach;
use crate::env::Env;
use crate::error::ErrorCode;
use crate::message::{
    AppendReply, AppendRequest, BallotReply, BallotRequest, LogPoint, Refusal, Request, Response, TransferReply,
    TransferRequest,
};
use crate::planted::planted;
use crate::server::{Refused, Server};
use crate::types::{Entry, TypeConfig, Vote};
use buggify::{assert_always, assert_reachable, buggify};

impl<E: Env> Server<E> {
    /// Answers within the time after which no node waits any more.
    pub(super) async fn raft_call(&self, request: Request) -> Refused<Response> {
        let shared = &self.shared;
        let permit = shared
            .raft_calls
            .enter()
            .ok_or_else(|| Refusal::new(ErrorCode::Overloaded, "too many requests of other nodes are in progress"))?;
        let late = |_| Refusal::new(ErrorCode::Timeout, "the node was too busy");
        let server = self.clone();
        let answer = async move {
            let _permit = permit;
            server.raft_answer(request).await
        };
        let response =
            detach::timeout::<E, _>(shared.config.raft.raft_call_timeout(), answer).await.map_err(late)??;
        if matches!(response, Response::Append(_)) && buggify!(at "reply to an append is lost", 0.02) {
            return Err(Refusal::new(ErrorCode::Timeout, "the reply was lost"));
        }
        if matches!(response, Response::Ballot(_)) && buggify!(at "reply to a vote is lost") {
            return Err(Refusal::new(ErrorCode::Timeout, "the reply was lost"));
        }
        Ok(response)
    }

    async fn raft_answer(&self, request: Request) -> Refused<Response> {
        match request {
            Request::Append(append) => self.append(append).await,
            Request::Vote(ballot) => {
                let rpc = vote_request(&ballot);
                let response = self.shared.raft.vote(rpc).await.map_err(raft_failed)?;
                Ok(ballot_reply(&ballot, response))
            }
            Request::PreVote(ballot) => {
                let rpc = vote_request(&ballot);
                let response = self.shared.raft.pre_vote(rpc).await.map_err(raft_failed)?;
                Ok(ballot_reply(&ballot, response))
            }
            Request::SnapshotBegin(begin) => self.snapshot_begin(begin).await.map(Response::Snapshot),
            Request::SnapshotChunk(chunk) => self.snapshot_chunk(chunk).await.map(Response::Snapshot),
            Request::SnapshotFinish(finish) => self.snapshot_finish(finish).await.map(Response::Snapshot),
            Request::TransferLeader(transfer) => self.transfer_leader(transfer).await,
            Request::Write { .. }
            | Request::Read { .. }
            | Request::StaleRead { .. }
            | Request::ReadIndex { .. }
            | Request::Leader
            | Request::Admin { .. } => Err(Refusal::new(ErrorCode::Malformed, "not a request of a node")),
        }
    }

    async fn append(&self, append: AppendRequest) -> Refused<Response> {
        let malformed = |error: &dyn std::fmt::Display| Refusal::new(ErrorCode::Malformed, error.to_string());
        let encoded = append.entries.unpack().map_err(|error| malformed(&error))?;
        let entries: Result<Vec<Entry>, _> = encoded.into_iter().map(codec::decode_entry).collect();
        let entries = entries.map_err(|error| malformed(&error))?;
        check_consecutive(&append, &entries)?;
        let (mut vote, mine) = (Vote::from(append.vote), self.shared.raft.metrics().borrow_watched().vote);
        if planted!("stale-append-accepted") && mine.committed && mine.leader_id.voted_for != self.shared.config.id {
            vote = mine;
        }
        if !entries.is_empty() && self.shared.snapshots.is_installing_of(vote) {
            assert_reachable!("entries came late, while a snapshot was installed", owed_by = "");
            return Err(Refusal::new(ErrorCode::Overloaded, "a snapshot of this leader is being installed"));
        }
        let rpc = AppendEntriesRequest {
            vote,
            prev_log_id: append.prev.map(Into::into),
            entries,
            leader_commit: append.commit.map(Into::into),
        };
        let reply = match self.shared.raft.append_entries(rpc).await.map_err(raft_failed)? {
            AppendEntriesResponse::Success => {
                self.heard_leader();
                AppendReply::Success
            }
            // A follower takes all entries of a request or none.
            AppendEntriesResponse::PartialSuccess(_) | AppendEntriesResponse::Conflict => {
                assert_reachable!("an append met a conflict");
                AppendReply::Conflict
            }
            AppendEntriesResponse::HigherVote(vote) => {
                assert_reachable!("a deposed leader's append was refused");
                AppendReply::HigherVote((&vote).into())
            }
        };
        Ok(Response::Append(reply))
    }

    async fn transfer_leader(&self, transfer: TransferRequest) -> Refused<Response> {
        let rpc = TransferLeaderRequest::new(Vote::from(transfer.from), transfer.to, transfer.last.map(Into::into));
        let reply = match self.shared.raft.handle_transfer_leader(rpc).await.map_err(failed)? {
            Ok(()) => TransferReply::Accepted,
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                TransferReply::VoteChanged { actual: (&actual).into() }
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                TransferReply::LogNotFlushed { actual: actual.as_ref().map(Into::into) }
            }
        };
        Ok(Response::TransferLeader(reply))
    }
}

/// Entries follow `prev` and each other without a gap, and no term is newer than the leader's.
fn check_consecutive(append: &AppendRequest, entries: &[Entry]) -> Refused<()> {
    let first = append.prev.map_or(0, |prev| prev.index + 1);
    for (expected, entry) in (first..).zip(entries) {
        let consecutive = entry.log_id.index == expected && entry.log_id.leader_id.term <= append.vote.term;
        assert_always!(
            consecutive,
            "a leader sends consecutive entries of its own or earlier terms",
            entry.log_id,
            expected
        );
        if !consecutive {
            return Err(Refusal::new(ErrorCode::Malformed, format!("entry {} where {expected} follows", entry.log_id)));
        }
    }
    Ok(())
}

fn vote_request<E: Env>(ballot: &BallotRequest) -> VoteRequest<TypeConfig<E>> {
    let mut last = ballot.last;
    if planted!("vote-compares-terms-only") {
        last = last.map(|last| LogPoint { index: u64::MAX, ..last });
    }
    VoteRequest {
        vote: Vote::from(ballot.vote),
        last_log_id: last.map(Into::into),
        leadership_transfer: ballot.transfer,
    }
}

fn ballot_reply<E: Env>(ballot: &BallotRequest, response: VoteResponse<TypeConfig<E>>) -> Response {
    assert_always!(
        !response.vote_granted || response.vote == Vote::from(ballot.vote) || response.vote < Vote::from(ballot.vote),
        "no vote is granted by a node that has seen a higher one",
        response,
        ballot
    );
    Response::Ballot(BallotReply {
        vote: (&response.vote).into(),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(Into::into),
    })
}

pub(super) fn failed<E: Env>(fatal: Fatal<TypeConfig<E>>) -> Refusal {
    Refusal::new(ErrorCode::NodeFailed, fatal.to_string())
}

fn raft_failed<E: Env>(error: RaftError<TypeConfig<E>>) -> Refusal {
    Refusal::new(ErrorCode::NodeFailed, error.to_string())
}
