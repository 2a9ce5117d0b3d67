//! Votes, log ids, memberships and snapshot metadata. The structs here are the format; openraft's may change theirs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{CodecError, Kind, open_postcard, seal_postcard};
use crate::types::{
    Address, CommittedLeaderId, LeaderId, LogId, Member, Membership, NodeId, SnapshotMeta, StoredMembership, Term, Vote,
};

#[derive(Serialize, Deserialize)]
pub(super) struct LogIdV1 {
    term: Term,
    index: u64,
}

#[derive(Serialize, Deserialize)]
struct VoteV1 {
    term: Term,
    voted_for: NodeId,
    committed: bool,
}

/// `configs` has one set of voters, or two while a change is joint; `members` are voters and learners in order of id.
#[derive(Serialize, Deserialize)]
pub(super) struct MembershipV1 {
    configs: Vec<BTreeSet<NodeId>>,
    members: BTreeMap<NodeId, String>,
}

#[derive(Serialize, Deserialize)]
struct StoredMembershipV1 {
    log_id: Option<LogIdV1>,
    membership: MembershipV1,
}

#[derive(Serialize, Deserialize)]
struct SnapshotMetaV1 {
    last: Option<LogIdV1>,
    membership: StoredMembershipV1,
}

impl From<LogId> for LogIdV1 {
    fn from(id: LogId) -> Self {
        LogIdV1 { term: id.leader_id.term, index: id.index }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        LogId { leader_id: CommittedLeaderId::new(id.term), index: id.index }
    }
}

impl From<&Membership> for MembershipV1 {
    fn from(membership: &Membership) -> Self {
        MembershipV1 {
            configs: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(id, member)| (*id, member.address.0.clone())).collect(),
        }
    }
}

impl MembershipV1 {
    /// Refuses what cannot be a membership: an empty set of voters, or a voter that is no member.
    pub(super) fn into_membership(self) -> Option<Membership> {
        let members: BTreeMap<NodeId, Member> =
            self.members.into_iter().map(|(id, address)| (id, Member { address: Address(address) })).collect();
        Membership::new(self.configs, members).ok()
    }
}

impl From<&StoredMembership> for StoredMembershipV1 {
    fn from(stored: &StoredMembership) -> Self {
        StoredMembershipV1 { log_id: stored.log_id().map(LogIdV1::from), membership: stored.membership().into() }
    }
}

impl StoredMembershipV1 {
    fn into_stored(self, kind: Kind) -> Result<StoredMembership, CodecError> {
        let membership = self.membership.into_membership().ok_or(CodecError::Body { kind })?;
        Ok(StoredMembership::new(self.log_id.map(LogId::from), membership))
    }
}

pub fn encode_log_id(id: &LogId) -> Vec<u8> {
    seal_postcard(Kind::LogId, &LogIdV1::from(*id))
}

pub fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    open_postcard::<LogIdV1>(Kind::LogId, bytes).map(LogId::from)
}

pub fn encode_vote(vote: &Vote) -> Vec<u8> {
    let LeaderId { term, voted_for } = vote.leader_id;
    seal_postcard(Kind::Vote, &VoteV1 { term, voted_for, committed: vote.committed })
}

pub fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let VoteV1 { term, voted_for, committed } = open_postcard(Kind::Vote, bytes)?;
    Ok(Vote { leader_id: LeaderId { term, voted_for }, committed })
}

pub fn encode_membership(stored: &StoredMembership) -> Vec<u8> {
    seal_postcard(Kind::Membership, &StoredMembershipV1::from(stored))
}

pub fn decode_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    open_postcard::<StoredMembershipV1>(Kind::Membership, bytes)?.into_stored(Kind::Membership)
}

pub fn encode_snapshot_meta(meta: &SnapshotMeta) -> Vec<u8> {
    let mirror = SnapshotMetaV1 {
        last: meta.last_log_id.map(LogIdV1::from),
        membership: StoredMembershipV1::from(&meta.last_membership),
    };
    seal_postcard(Kind::SnapshotMeta, &mirror)
}

pub fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    let mirror: SnapshotMetaV1 = open_postcard(Kind::SnapshotMeta, bytes)?;
    Ok(SnapshotMeta {
        last_log_id: mirror.last.map(LogId::from),
        last_membership: mirror.membership.into_stored(Kind::SnapshotMeta)?,
    })
}
