//! The values that stand in seals: votes, log ids, memberships, payloads, replies.

use std::collections::{BTreeMap, BTreeSet};

use aspen::command::{
    Command, Compare, Expect, KeyMeta, KeyValue, Outcome, Pair, Proposal, Reply, SessionSeq, TxnOp, TxnResult,
};
use aspen::observe::EntryMeta;
use aspen::types::{Address, CommittedLeaderId, LeaderId, LogId, Member, Membership, NodeId, Payload, Vote};
use xxhash_rust::xxh3::xxh3_64;

use super::bytes::{Cursor, Seed, unseal};

/// An entry as it stands in the log.
pub fn entry(sealed: &[u8]) -> Result<EntryMeta, String> {
    let mut body = unseal(Seed::Entry, sealed)?;
    let id = body.u64_le().zip(body.u64_le()).ok_or("it has no log id")?;
    let encoded = body.rest();
    let payload = payload(encoded).ok_or("its payload does not parse")?;
    Ok(EntryMeta {
        log_id: log_id_of(id),
        payload_hash: xxh3_64(encoded),
        is_membership: matches!(payload, Payload::Membership(_)),
    })
}

pub fn vote(sealed: &[u8]) -> Result<Vote, String> {
    whole(Seed::Vote, sealed, |body| {
        let leader_id = LeaderId { term: body.varint()?, voted_for: body.varint()? };
        Some(Vote { leader_id, committed: body.bool()? })
    })
}

pub fn log_id(sealed: &[u8]) -> Result<LogId, String> {
    whole(Seed::LogId, sealed, read_log_id)
}

/// A membership and the entry it came with; none before the first.
pub fn stored_membership(sealed: &[u8]) -> Result<(Option<LogId>, Membership), String> {
    whole(Seed::Membership, sealed, read_stored_membership)
}

/// The last entry in a snapshot, and the membership there.
pub fn snapshot_meta(sealed: &[u8]) -> Result<SnapshotMeta, String> {
    whole(Seed::SnapshotMeta, sealed, |body| {
        let last = body.option(read_log_id)?;
        let membership_encoded = body.rest().to_vec();
        let (membership_log_id, membership) = read_stored_membership(body)?;
        Some(SnapshotMeta { last, membership_log_id, membership, membership_encoded })
    })
}

pub fn reply(sealed: &[u8]) -> Result<Reply, String> {
    whole(Seed::Reply, sealed, |body| Some(Reply { revision: body.varint()?, outcome: outcome(body)? }))
}

/// What a snapshot says of the state in it.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotMeta {
    pub last: Option<LogId>,
    pub membership_log_id: Option<LogId>,
    pub membership: Membership,
    /// The stored membership as it stands in the metadata, without a seal.
    pub membership_encoded: Vec<u8>,
}

/// A payload as it stands in an entry; all of `encoded`.
pub fn payload(encoded: &[u8]) -> Option<Payload> {
    let mut body = Cursor::new(encoded);
    let payload = match body.varint()? {
        0 => Payload::Blank,
        1 => Payload::Normal(proposal(&mut body)?),
        2 => Payload::Membership(read_membership(&mut body)?),
        _ => return None,
    };
    body.end().map(|()| payload)
}

/// Opens a seal whose body is one value.
fn whole<'a, T>(seed: Seed, sealed: &'a [u8], read: impl FnOnce(&mut Cursor<'a>) -> Option<T>) -> Result<T, String> {
    let mut body = unseal(seed, sealed)?;
    let value = read(&mut body).ok_or("its body does not parse")?;
    body.end().ok_or("bytes follow its body")?;
    Ok(value)
}

fn log_id_of((term, index): (u64, u64)) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

fn read_log_id(body: &mut Cursor<'_>) -> Option<LogId> {
    Some(log_id_of((body.varint()?, body.varint()?)))
}

fn read_stored_membership(body: &mut Cursor<'_>) -> Option<(Option<LogId>, Membership)> {
    Some((body.option(read_log_id)?, read_membership(body)?))
}

fn read_membership(body: &mut Cursor<'_>) -> Option<Membership> {
    let configs = body.list(|body| ascending(body.list(Cursor::varint)?, |id| *id))?;
    let member = |body: &mut Cursor<'_>| {
        let (id, address) = (body.varint()?, body.string()?.to_owned());
        Some((id, Member { address: Address(address) }))
    };
    let members = ascending(body.list(member)?, |(id, _)| *id)?;
    let configs: Vec<BTreeSet<NodeId>> = configs.into_iter().map(BTreeSet::from_iter).collect();
    let members: BTreeMap<NodeId, Member> = members.into_iter().collect();
    let votes = configs.iter().all(|voters| !voters.is_empty() && voters.iter().all(|id| members.contains_key(id)));
    if !votes {
        return None;
    }
    Membership::new(configs, members).ok()
}

/// Sets and maps are written in order, each key once.
fn ascending<T>(items: Vec<T>, key: impl Fn(&T) -> NodeId) -> Option<Vec<T>> {
    items.is_sorted_by(|before, after| key(before) < key(after)).then_some(items)
}

fn proposal(body: &mut Cursor<'_>) -> Option<Proposal> {
    let log_time_ms = body.varint()?;
    let session = body.option(|body| Some(SessionSeq { session: body.varint()?, seq: body.varint()? }))?;
    Some(Proposal { log_time_ms, session, command: command(body)? })
}

fn owned(body: &mut Cursor<'_>) -> Option<Vec<u8>> {
    body.bytes().map(<[u8]>::to_vec)
}

fn expect(body: &mut Cursor<'_>) -> Option<Expect> {
    Some(match body.varint()? {
        0 => Expect::Absent,
        1 => Expect::Value(owned(body)?),
        2 => Expect::ModRevision(body.varint()?),
        _ => return None,
    })
}

fn command(body: &mut Cursor<'_>) -> Option<Command> {
    Some(match body.varint()? {
        0 => Command::Set { key: owned(body)?, value: owned(body)? },
        1 => Command::Delete { key: owned(body)? },
        2 => Command::CompareAndSwap { key: owned(body)?, expect: expect(body)?, value: owned(body)? },
        3 => Command::SetMulti { pairs: body.list(|body| Some(Pair { key: owned(body)?, value: owned(body)? }))? },
        4 => Command::OpenSession { ttl_ms: body.varint()? },
        5 => Command::RefreshSession { session: body.varint()? },
        6 => Command::CloseSession { session: body.varint()? },
        7 => Command::Transaction {
            compare: body.list(|body| Some(Compare { key: owned(body)?, expect: expect(body)? }))?,
            then: body.list(transaction_op)?,
            otherwise: body.list(transaction_op)?,
        },
        _ => return None,
    })
}

fn transaction_op(body: &mut Cursor<'_>) -> Option<TxnOp> {
    Some(match body.varint()? {
        0 => TxnOp::Set { key: owned(body)?, value: owned(body)? },
        1 => TxnOp::Delete { key: owned(body)? },
        2 => TxnOp::Get { key: owned(body)? },
        _ => return None,
    })
}

fn key_meta(body: &mut Cursor<'_>) -> Option<KeyMeta> {
    let (create_revision, mod_revision) = (body.varint()?, body.varint()?);
    Some(KeyMeta { create_revision, mod_revision, version: body.varint()? })
}

fn transaction_result(body: &mut Cursor<'_>) -> Option<TxnResult> {
    let row = |body: &mut Cursor<'_>| Some(KeyValue { key: owned(body)?, value: owned(body)?, meta: key_meta(body)? });
    Some(match body.varint()? {
        0 => TxnResult::Written { version: body.varint()? },
        1 => TxnResult::Deleted { existed: body.bool()? },
        2 => TxnResult::Got { row: body.option(row)? },
        3 => TxnResult::Omitted { meta: key_meta(body)? },
        _ => return None,
    })
}

fn outcome(body: &mut Cursor<'_>) -> Option<Outcome> {
    Some(match body.varint()? {
        0 => Outcome::Nothing,
        1 => Outcome::Written { version: body.varint()? },
        2 => Outcome::Deleted { existed: body.bool()? },
        3 => Outcome::NotMatched { found: body.option(key_meta)? },
        4 => Outcome::SessionOpened { session: body.varint()? },
        5 => Outcome::SessionRefreshed,
        6 => Outcome::SessionClosed,
        7 => Outcome::SessionUnknown,
        8 => Outcome::SessionStale,
        9 => Outcome::Transacted { matched: body.bool()?, results: body.list(transaction_result)? },
        _ => return None,
    })
}
