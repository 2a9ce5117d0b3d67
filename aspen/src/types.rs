//! The Raft types of this node: openraft's type parameters, fixed once.
//!
//! [`LogId`], [`Vote`], [`Entry`] and the membership types do not depend on the environment, so stores and codecs are
//! written once; only [`TypeConfig`] carries it, for the runtime.
//!
//! Leader ids are the standard ones (one leader per term; Ongaro's dissertation, section 3.4), not openraft's default.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use openraft::RaftTypeConfig;
use openraft::impls::{BoxedErrorSource, InlineBatch, ProgressResponder, leader_id_std};
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::command::{Proposal, Reply};
use crate::env::Env;

/// A Raft node id. Never reused: a replaced node gets a new one.
pub type NodeId = u64;
pub type Term = u64;
pub type LeaderId = leader_id_std::LeaderId<Term, NodeId>;
pub type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub type LogId = openraft::LogId<CommittedLeaderId>;
pub type Vote = openraft::impls::Vote<LeaderId>;
pub type Payload = openraft::EntryPayload<Proposal, NodeId, Member>;
pub type Entry = openraft::Entry<CommittedLeaderId, Payload>;
pub type Membership = openraft::Membership<NodeId, Member>;
pub type StoredMembership = openraft::StoredMembership<CommittedLeaderId, NodeId, Member>;
pub type SnapshotMeta = openraft::storage::SnapshotMeta<CommittedLeaderId, NodeId, Member>;

/// What the membership configuration says about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Where the transport finds the node.
    pub address: Address,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// A place that the transport can call; only the transport reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address(pub String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// openraft's parameters for a node in environment `E`.
pub struct TypeConfig<E>(PhantomData<fn() -> E>);

impl<E: Env> RaftTypeConfig for TypeConfig<E> {
    type D = Proposal;
    type R = Reply;
    type NodeId = NodeId;
    type Node = Member;
    type Term = Term;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = E::Runtime;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

// Written by hand: derives would ask the same of `E`.
impl<E> Clone for TypeConfig<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for TypeConfig<E> {}
impl<E> Default for TypeConfig<E> {
    fn default() -> Self {
        TypeConfig(PhantomData)
    }
}
impl<E> fmt::Debug for TypeConfig<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<E> PartialEq for TypeConfig<E> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<E> Eq for TypeConfig<E> {}
impl<E> PartialOrd for TypeConfig<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for TypeConfig<E> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
