//! What is written is read back, and nothing else is: of every value, every flipped bit and every truncation is refused.

mod support;

use aspen::codec;
use aspen::command::{Command, Compare, Expect, KeyMeta, Outcome, Pair, Proposal, Reply, SessionSeq, TxnOp};
use aspen::types::{Entry, LeaderId, SnapshotMeta, StoredMembership, Vote};
use proptest::prelude::*;
use support::{blank, log_id, membership, normal, set};

fn sample_entries() -> Vec<Entry> {
    let session = Some(SessionSeq { session: 70_000, seq: 3 });
    let (key, value) = (b"key".to_vec(), vec![7; 300]);
    let pairs = vec![Pair { key: key.clone(), value: value.clone() }, Pair { key: b"other".to_vec(), value: vec![] }];
    let mut entries = vec![blank(1, 0), membership(2, 1, &[1, 2, 300]), set(u64::MAX, u64::MAX - 1, b"k", b"v")];
    let commands = [
        Command::Delete { key: key.clone() },
        Command::CompareAndSwap { key: key.clone(), expect: Expect::Absent, value: value.clone() },
        Command::CompareAndSwap { key: key.clone(), expect: Expect::Value(b"x".to_vec()), value: value.clone() },
        Command::CompareAndSwap { key, expect: Expect::ModRevision(9), value },
        Command::SetMulti { pairs },
        Command::OpenSession { ttl_ms: 1000 },
        Command::RefreshSession { session: 5 },
        Command::CloseSession { session: 5 },
        Command::Transaction {
            compare: vec![Compare { key: b"a".to_vec(), expect: Expect::ModRevision(300) }],
            then: vec![TxnOp::Set { key: b"a".to_vec(), value: vec![1; 5] }, TxnOp::Delete { key: b"b".to_vec() }],
            otherwise: vec![TxnOp::Get { key: b"a".to_vec() }],
        },
    ];
    for (command, index) in commands.into_iter().zip(10..) {
        entries.push(normal(3, index, 12_345, session, command));
    }
    entries
}

/// Every flip and truncation of `sealed` is an error.
fn refuses_damage<T: std::fmt::Debug, X>(sealed: &[u8], decode: impl Fn(&[u8]) -> Result<T, X>) {
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut damaged = sealed.to_vec();
            damaged[at] ^= 1 << bit;
            assert!(decode(&damaged).is_err(), "bit {bit} of byte {at} of {sealed:?} went unnoticed");
        }
        assert!(decode(&sealed[..at]).is_err(), "{sealed:?} cut to {at} bytes went unnoticed");
    }
    let mut longer = sealed.to_vec();
    longer.push(0);
    assert!(decode(&longer).is_err(), "a byte after {sealed:?} went unnoticed");
}

#[test]
fn entries_survive_and_damage_does_not() {
    for entry in sample_entries() {
        let sealed = codec::encode_entry(&entry);
        assert_eq!(codec::decode_entry(&sealed).unwrap(), entry);
        refuses_damage(&sealed, codec::decode_entry);
        let meta = codec::decode_entry_meta(&sealed).unwrap();
        assert_eq!(meta.log_id, entry.log_id);
        assert_eq!(meta.payload_hash, codec::payload_hash(&codec::encode_payload(&entry.payload)));
        assert_eq!(meta.is_membership, matches!(entry.payload, aspen::types::Payload::Membership(_)));
    }
}

#[test]
fn votes_ids_memberships_and_replies_survive_and_damage_does_not() {
    let vote = Vote { leader_id: LeaderId { term: 300, voted_for: 2 }, committed: true };
    let sealed = codec::encode_vote(&vote);
    assert_eq!(codec::decode_vote(&sealed).unwrap(), vote);
    refuses_damage(&sealed, codec::decode_vote);

    let id = log_id(1 << 40, 77);
    let sealed = codec::encode_log_id(&id);
    assert_eq!(codec::decode_log_id(&sealed).unwrap(), id);
    refuses_damage(&sealed, codec::decode_log_id);

    let aspen::types::Payload::Membership(members) = membership(1, 1, &[1, 2, 3]).payload else { unreachable!() };
    for stored in [StoredMembership::default(), StoredMembership::new(Some(id), members)] {
        let sealed = codec::encode_membership(&stored);
        assert_eq!(codec::decode_membership(&sealed).unwrap(), stored);
        refuses_damage(&sealed, codec::decode_membership);

        let meta = SnapshotMeta { last_log_id: Some(id), last_membership: stored };
        let sealed = codec::encode_snapshot_meta(&meta);
        assert_eq!(codec::decode_snapshot_meta(&sealed).unwrap(), meta);
        refuses_damage(&sealed, codec::decode_snapshot_meta);
    }

    let found = Some(KeyMeta { create_revision: 1, mod_revision: 2, version: 2 });
    let reply = Reply { revision: 9, outcome: Outcome::NotMatched { found } };
    let sealed = codec::encode_reply(&reply);
    assert_eq!(codec::decode_reply(&sealed).unwrap(), reply);
    refuses_damage(&sealed, codec::decode_reply);
}

#[test]
fn a_value_of_another_kind_or_version_is_refused() {
    let vote = codec::encode_vote(&Vote { leader_id: LeaderId { term: 1, voted_for: 2 }, committed: false });
    assert!(codec::decode_log_id(&vote).is_err());
    // A newer program would compute the checksum over its own version byte.
    let mut newer = vote[..vote.len() - 8].to_vec();
    newer[0] = codec::VERSION + 1;
    let checksum = codec::Kind::Vote.checksum(&newer);
    newer.extend_from_slice(&checksum.to_le_bytes());
    let error = codec::decode_vote(&newer).unwrap_err().to_string();
    assert!(error.contains("use a newer program"), "{error}");
}

/// The bytes of `docs/format.md`: they change only together with the version.
#[test]
fn the_format_is_the_documented_one() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let set = codec::encode_entry(&normal(
        2,
        5,
        300,
        Some(SessionSeq { session: 4, seq: 1 }),
        Command::Set { key: b"k".to_vec(), value: b"v".to_vec() },
    ));
    assert_eq!(
        hex(&set[..set.len() - 8]),
        "010200000000000000050000000000000001ac02010401000\
                                            16b0176"
    );
    let vote = codec::encode_vote(&Vote { leader_id: LeaderId { term: 300, voted_for: 2 }, committed: true });
    assert_eq!(hex(&vote[..vote.len() - 8]), "01ac020201");
    assert_eq!(
        hex(&codec::encode_payload(&membership(1, 1, &[1, 2]).payload)),
        "0201020102020108\
                                                                                 6e6f64652d313a3102086e6f64652d323a31"
    );
}

fn any_command() -> impl Strategy<Value = Command> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let expect =
        prop_oneof![Just(Expect::Absent), bytes().prop_map(Expect::Value), any::<u64>().prop_map(Expect::ModRevision)];
    let pair = (bytes(), bytes()).prop_map(|(key, value)| Pair { key, value });
    let ops = || {
        let op = prop_oneof![
            (bytes(), bytes()).prop_map(|(key, value)| TxnOp::Set { key, value }),
            bytes().prop_map(|key| TxnOp::Delete { key }),
            bytes().prop_map(|key| TxnOp::Get { key }),
        ];
        proptest::collection::vec(op, 0..4)
    };
    let compare = (bytes(), expect.clone()).prop_map(|(key, expect)| Compare { key, expect });
    let compare = proptest::collection::vec(compare, 0..4);
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| Command::Set { key, value }),
        bytes().prop_map(|key| Command::Delete { key }),
        (bytes(), expect, bytes()).prop_map(|(key, expect, value)| Command::CompareAndSwap { key, expect, value }),
        proptest::collection::vec(pair, 0..4).prop_map(|pairs| Command::SetMulti { pairs }),
        any::<u64>().prop_map(|ttl_ms| Command::OpenSession { ttl_ms }),
        any::<u64>().prop_map(|session| Command::RefreshSession { session }),
        any::<u64>().prop_map(|session| Command::CloseSession { session }),
        (compare, ops(), ops()).prop_map(|(compare, then, otherwise)| Command::Transaction {
            compare,
            then,
            otherwise
        }),
    ]
}

proptest! {
    #[test]
    fn any_proposal_survives(
        term: u64, index: u64, log_time_ms: u64,
        session in proptest::option::of((any::<u64>(), any::<u64>())),
        command in any_command(),
    ) {
        let session = session.map(|(session, seq)| SessionSeq { session, seq });
        let proposal = Proposal { log_time_ms, session, command };
        let entry = Entry { log_id: log_id(term, index), payload: aspen::types::Payload::Normal(proposal) };
        prop_assert_eq!(codec::decode_entry(&codec::encode_entry(&entry)).unwrap(), entry);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode_entry(&bytes);
        let _ = codec::decode_payload(&bytes);
        let _ = codec::decode_snapshot_meta(&bytes);
        let _ = codec::decode_membership(&bytes);
    }
}
