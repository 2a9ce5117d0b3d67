//! Both decoders read the same values, and what this one accepts the product's accepts as the same value.

use aspen::codec;
use aspen::command::{
    Command, Compare, Expect, KeyMeta, KeyValue, Outcome, Pair, Proposal, Reply, SessionSeq, TxnOp, TxnResult,
};
use aspen::types::{
    Address, CommittedLeaderId, Entry, LeaderId, LogId, Member, Membership, NodeId, Payload, SnapshotMeta,
    StoredMembership, Vote,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::super::values;

/// Numbers of every length that a varint can have.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 120..300)]
}

fn log_id() -> impl Strategy<Value = LogId> {
    (number(), number()).prop_map(|(term, index)| LogId { leader_id: CommittedLeaderId::new(term), index })
}

fn membership() -> impl Strategy<Value = Membership> {
    let config = btree_set(0..300u64, 1..5);
    (vec(config, 0..3), btree_set(number(), 0..3), ".{0,12}").prop_map(|(configs, learners, address)| {
        let ids = configs.iter().flatten().copied().chain(learners).collect::<Vec<NodeId>>();
        let members = ids.into_iter().map(|id| (id, Member { address: Address(format!("{address}{id}")) }));
        Membership::new(configs, members.collect::<std::collections::BTreeMap<_, _>>()).unwrap()
    })
}

fn stored_membership() -> impl Strategy<Value = StoredMembership> {
    (proptest::option::of(log_id()), membership()).prop_map(|(id, membership)| StoredMembership::new(id, membership))
}

fn txn_op() -> impl Strategy<Value = TxnOp> {
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| TxnOp::Set { key, value }),
        bytes().prop_map(|key| TxnOp::Delete { key }),
        bytes().prop_map(|key| TxnOp::Get { key }),
    ]
}

fn txn_result() -> impl Strategy<Value = TxnResult> {
    let row = (bytes(), bytes(), key_meta()).prop_map(|(key, value, meta)| KeyValue { key, value, meta });
    prop_oneof![
        number().prop_map(|version| TxnResult::Written { version }),
        any::<bool>().prop_map(|existed| TxnResult::Deleted { existed }),
        proptest::option::of(row).prop_map(|row| TxnResult::Got { row }),
        key_meta().prop_map(|meta| TxnResult::Omitted { meta }),
    ]
}

fn key_meta() -> impl Strategy<Value = KeyMeta> {
    (number(), number(), number()).prop_map(|(create_revision, mod_revision, version)| KeyMeta {
        create_revision,
        mod_revision,
        version,
    })
}

fn command() -> impl Strategy<Value = Command> {
    let expect =
        prop_oneof![Just(Expect::Absent), bytes().prop_map(Expect::Value), number().prop_map(Expect::ModRevision)];
    let compare = (bytes(), expect.clone()).prop_map(|(key, expect)| Compare { key, expect });
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| Command::Set { key, value }),
        bytes().prop_map(|key| Command::Delete { key }),
        (bytes(), expect, bytes()).prop_map(|(key, expect, value)| Command::CompareAndSwap { key, expect, value }),
        vec((bytes(), bytes()).prop_map(|(key, value)| Pair { key, value }), 0..4)
            .prop_map(|pairs| Command::SetMulti { pairs }),
        number().prop_map(|ttl_ms| Command::OpenSession { ttl_ms }),
        number().prop_map(|session| Command::RefreshSession { session }),
        number().prop_map(|session| Command::CloseSession { session }),
        (vec(compare, 0..4), vec(txn_op(), 0..4), vec(txn_op(), 0..4))
            .prop_map(|(compare, then, otherwise)| Command::Transaction { compare, then, otherwise }),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    let session = proptest::option::of((number(), number()).prop_map(|(session, seq)| SessionSeq { session, seq }));
    prop_oneof![
        1 => Just(Payload::Blank),
        6 => (number(), session, command())
            .prop_map(|(log_time_ms, session, command)| Payload::Normal(Proposal { log_time_ms, session, command })),
        2 => membership().prop_map(Payload::Membership),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let outcome = prop_oneof![
        Just(Outcome::Nothing),
        number().prop_map(|version| Outcome::Written { version }),
        any::<bool>().prop_map(|existed| Outcome::Deleted { existed }),
        proptest::option::of(key_meta()).prop_map(|found| Outcome::NotMatched { found }),
        number().prop_map(|session| Outcome::SessionOpened { session }),
        Just(Outcome::SessionRefreshed),
        Just(Outcome::SessionClosed),
        Just(Outcome::SessionUnknown),
        Just(Outcome::SessionStale),
        (any::<bool>(), vec(txn_result(), 0..4))
            .prop_map(|(matched, results)| Outcome::Transacted { matched, results }),
    ];
    (number(), outcome).prop_map(|(revision, outcome)| Reply { revision, outcome })
}

proptest! {
    #[test]
    fn entries_are_read_alike(log_id in log_id(), payload in payload()) {
        let sealed = codec::encode_entry(&Entry { log_id, payload: payload.clone() });
        prop_assert_eq!(values::entry(&sealed).unwrap(), codec::decode_entry_meta(&sealed).unwrap());
        prop_assert_eq!(values::payload(&codec::encode_payload(&payload)).unwrap(), payload);
    }

    #[test]
    fn damaged_payloads_are_never_read_differently(
        payload in payload(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        len in any::<prop::sample::Index>(),
    ) {
        let mut encoded = codec::encode_payload(&payload);
        for (at, byte) in changes {
            let at = at.index(encoded.len());
            encoded[at] = byte;
        }
        for encoded in [&encoded[..], &encoded[..len.index(encoded.len())]] {
            // Ours is stricter: it refuses numbers in too many bytes, and sets out of order.
            if let Some(read) = values::payload(encoded) {
                prop_assert_eq!(codec::decode_payload(encoded).unwrap(), read);
            }
        }
    }

    #[test]
    fn marks_and_replies_are_read_alike(
        id in log_id(),
        (term, voted_for, committed) in (number(), number(), any::<bool>()),
        reply in reply(),
    ) {
        prop_assert_eq!(values::log_id(&codec::encode_log_id(&id)).unwrap(), id);
        let vote = Vote { leader_id: LeaderId { term, voted_for }, committed };
        prop_assert_eq!(values::vote(&codec::encode_vote(&vote)).unwrap(), vote);
        prop_assert_eq!(values::reply(&codec::encode_reply(&reply)).unwrap(), reply);
    }

    #[test]
    fn memberships_are_read_alike(last in proptest::option::of(log_id()), stored in stored_membership()) {
        let read = values::stored_membership(&codec::encode_membership(&stored)).unwrap();
        prop_assert_eq!(&read, &(*stored.log_id(), stored.membership().clone()));
        let meta = SnapshotMeta { last_log_id: last, last_membership: stored };
        let found = values::snapshot_meta(&codec::encode_snapshot_meta(&meta)).unwrap();
        prop_assert_eq!(found.last, last);
        prop_assert_eq!((found.membership_log_id, found.membership), read);
    }

    #[test]
    fn a_flipped_bit_of_a_sealed_entry_is_found(
        log_id in log_id(),
        payload in payload(),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut sealed = codec::encode_entry(&Entry { log_id, payload });
        let at = at.index(sealed.len());
        sealed[at] ^= 1_u8 << bit;
        prop_assert!(values::entry(&sealed).is_err());
    }
}

/// The examples of `docs/format.md`.
#[test]
fn the_documented_examples_are_read() {
    use super::super::bytes::{Seed, checksum};
    let seal = |seed, hex: &str| {
        let mut sealed: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let sum = checksum(seed, &sealed);
        sealed.extend_from_slice(&sum.to_le_bytes());
        sealed
    };
    let vote = values::vote(&seal(Seed::Vote, "01ac020201")).unwrap();
    assert_eq!(vote, Vote { leader_id: LeaderId { term: 300, voted_for: 2 }, committed: true });
    let sealed =
        seal(Seed::Entry, "010200000000000000050000000000000001ac020104010001 6b0176".replace(' ', "").as_str());
    let entry = values::entry(&sealed).unwrap();
    assert_eq!(entry.log_id, LogId { leader_id: CommittedLeaderId::new(2), index: 5 });
    let command = Command::Set { key: b"k".to_vec(), value: b"v".to_vec() };
    let session = Some(SessionSeq { session: 4, seq: 1 });
    let expected = Payload::Normal(Proposal { log_time_ms: 300, session, command });
    assert_eq!(values::payload(&sealed[17..sealed.len() - 8]).unwrap(), expected);
}
