//! Messages from a hostile link: whatever the bytes, decoding ends with a message or an error, and a message that was
//! written is read back as it was.

use std::collections::BTreeSet;
use std::time::Duration;

use aspen::command::{
    Answer, Command, Compare, Expect, KeyMeta, KeyValue, Outcome, Pair, Query, Reply, SessionSeq, TxnOp,
};
use aspen::error::ERRORS;
use aspen::membership::Change;
use aspen::message::*;
use aspen::types::Address;
use proptest::collection::vec;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..64)
}

fn vote() -> impl Strategy<Value = WireVote> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| WireVote { term, node, committed })
}

fn point() -> impl Strategy<Value = LogPoint> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogPoint { term, index })
}

fn maybe_point() -> impl Strategy<Value = Option<LogPoint>> {
    proptest::option::of(point())
}

fn entries() -> impl Strategy<Value = Entries> {
    vec(bytes(), 0..8).prop_map(|list| {
        let mut entries = Entries::default();
        for entry in list {
            assert!(entries.push(&entry, usize::MAX));
        }
        entries
    })
}

fn pair() -> impl Strategy<Value = Pair> {
    (bytes(), bytes()).prop_map(|(key, value)| Pair { key, value })
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![Just(Expect::Absent), bytes().prop_map(Expect::Value), any::<u64>().prop_map(Expect::ModRevision)]
}

fn txn_op() -> impl Strategy<Value = TxnOp> {
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| TxnOp::Set { key, value }),
        bytes().prop_map(|key| TxnOp::Delete { key }),
        bytes().prop_map(|key| TxnOp::Get { key }),
    ]
}

fn transaction() -> impl Strategy<Value = Command> {
    let compare = (bytes(), expect()).prop_map(|(key, expect)| Compare { key, expect });
    (vec(compare, 0..4), vec(txn_op(), 0..4), vec(txn_op(), 0..4))
        .prop_map(|(compare, then, otherwise)| Command::Transaction { compare, then, otherwise })
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| Command::Set { key, value }),
        bytes().prop_map(|key| Command::Delete { key }),
        (bytes(), expect(), bytes()).prop_map(|(key, expect, value)| Command::CompareAndSwap { key, expect, value }),
        vec(pair(), 0..5).prop_map(|pairs| Command::SetMulti { pairs }),
        any::<u64>().prop_map(|ttl_ms| Command::OpenSession { ttl_ms }),
        any::<u64>().prop_map(|session| Command::RefreshSession { session }),
        any::<u64>().prop_map(|session| Command::CloseSession { session }),
        transaction(),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    prop_oneof![
        bytes().prop_map(|key| Query::Get { key }),
        (bytes(), proptest::option::of(bytes()), any::<u32>()).prop_map(|(start, end, limit)| Query::Scan {
            start,
            end: end.map(Into::into),
            limit
        }),
    ]
}

fn ballot() -> impl Strategy<Value = BallotRequest> {
    (vote(), maybe_point(), any::<bool>()).prop_map(|(vote, last, transfer)| BallotRequest { vote, last, transfer })
}

fn request() -> impl Strategy<Value = Request> {
    let session =
        proptest::option::of((any::<u64>(), any::<u64>()).prop_map(|(session, seq)| SessionSeq { session, seq }));
    prop_oneof![
        (vote(), maybe_point(), maybe_point(), entries())
            .prop_map(|(vote, prev, commit, entries)| Request::Append(AppendRequest { vote, prev, commit, entries })),
        ballot().prop_map(Request::Vote),
        ballot().prop_map(Request::PreVote),
        (vote(), bytes(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(vote, meta, len, checksum)| {
            Request::SnapshotBegin(SnapshotBegin { vote, meta, len, checksum })
        }),
        (vote(), any::<[u8; 32]>(), any::<u64>(), bytes()).prop_map(|(vote, checksum, offset, bytes)| {
            Request::SnapshotChunk(SnapshotChunk { vote, checksum, offset, bytes })
        }),
        (vote(), any::<[u8; 32]>())
            .prop_map(|(vote, checksum)| Request::SnapshotFinish(SnapshotFinish { vote, checksum })),
        (vote(), any::<u64>(), maybe_point()).prop_map(|(from, to, last)| Request::TransferLeader(TransferRequest {
            from,
            to,
            last
        })),
        (session, command(), any::<u32>()).prop_map(|(session, command, budget_ms)| Request::Write {
            session,
            command,
            budget_ms
        }),
        (query(), any::<u32>()).prop_map(|(query, budget_ms)| Request::Read { query, budget_ms }),
        (query(), bound(), any::<u32>()).prop_map(|(query, bound, budget_ms)| Request::StaleRead {
            query,
            bound,
            budget_ms
        }),
        any::<u32>().prop_map(|budget_ms| Request::ReadIndex { budget_ms }),
        Just(Request::Leader),
        (admin_request(), any::<u32>()).prop_map(|(request, budget_ms)| Request::Admin { request, budget_ms }),
    ]
}

fn bound() -> impl Strategy<Value = StaleBound> {
    let max_age = (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, ns)| Duration::new(s, ns));
    (proptest::option::of(max_age), proptest::option::of(any::<u64>()))
        .prop_map(|(max_age, min_revision)| StaleBound { max_age, min_revision })
}

fn nodes() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::btree_set(any::<u64>(), 0..4)
}

fn admin_request() -> impl Strategy<Value = AdminRequest> {
    let change = prop_oneof![
        (any::<u64>(), ".{0,20}").prop_map(|(id, address)| Change::AddLearner { id, address: Address(address) }),
        (nodes(), nodes(), any::<bool>()).prop_map(|(add, remove, retain)| Change::Voters { add, remove, retain }),
        any::<u64>().prop_map(|id| Change::RemoveLearner { id }),
        Just(Change::Finish),
    ];
    prop_oneof![
        Just(AdminRequest::Status),
        Just(AdminRequest::AllocateNodeId),
        (change, maybe_point()).prop_map(|(change, expected)| AdminRequest::Change { change, expected }),
        any::<u64>().prop_map(|to| AdminRequest::TransferLeadership { to }),
        prop_oneof![Just(Upkeep::Snapshot), Just(Upkeep::Purge), Just(Upkeep::Checkpoint), Just(Upkeep::Elect)]
            .prop_map(AdminRequest::Upkeep),
    ]
}

fn admin_reply() -> impl Strategy<Value = AdminReply> {
    let member = (".{0,20}", proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>())).prop_map(
        |(address, matched, silent_for_ms)| MemberStatus { address: Address(address), matched, silent_for_ms },
    );
    let members = proptest::collection::btree_map(any::<u64>(), member, 0..4);
    let status = (any::<[u64; 4]>(), maybe_point(), any::<bool>(), vec(nodes(), 0..3), nodes(), members).prop_map(
        |([leader, term, last_index, wall_clock_ms], membership, is_committed, voters, learners, members)| {
            AdminReply::Status(ClusterStatus {
                leader,
                term,
                membership,
                is_committed,
                voters,
                learners,
                members,
                last_index,
                wall_clock_ms,
            })
        },
    );
    prop_oneof![
        status,
        any::<u64>().prop_map(AdminReply::Allocated),
        point().prop_map(AdminReply::Changed),
        Just(AdminReply::Transferred),
        point().prop_map(|point| AdminReply::Upkept(Upkept::Snapshot(point))),
        point().prop_map(|point| AdminReply::Upkept(Upkept::Purged(point))),
        (maybe_point(), any::<bool>())
            .prop_map(|(applied, whole)| AdminReply::Upkept(Upkept::Checkpointed { applied, whole })),
        Just(AdminReply::Upkept(Upkept::Standing)),
    ]
}

fn meta() -> impl Strategy<Value = KeyMeta> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(create_revision, mod_revision, version)| KeyMeta {
        create_revision,
        mod_revision,
        version,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<u64>().prop_map(|version| Outcome::Written { version }),
        any::<bool>().prop_map(|existed| Outcome::Deleted { existed }),
        proptest::option::of(meta()).prop_map(|found| Outcome::NotMatched { found }),
        any::<u64>().prop_map(|session| Outcome::SessionOpened { session }),
        Just(Outcome::SessionUnknown),
        Just(Outcome::SessionStale),
    ]
}

fn hint() -> impl Strategy<Value = Option<LeaderHint>> {
    proptest::option::of(
        (any::<u64>(), ".{0,20}").prop_map(|(id, address)| LeaderHint { id, address: Address(address) }),
    )
}

fn progress() -> impl Strategy<Value = SnapshotProgress> {
    prop_oneof![
        any::<u64>().prop_map(|next| SnapshotProgress::Receiving { next }),
        Just(SnapshotProgress::Installing),
        Just(SnapshotProgress::Installed),
        Just(SnapshotProgress::Unknown),
        Just(SnapshotProgress::Rejected),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let row = (bytes(), bytes(), meta()).prop_map(|(key, value, meta)| KeyValue { key, value, meta });
    prop_oneof![
        Just(Response::Append(AppendReply::Success)),
        Just(Response::Append(AppendReply::Conflict)),
        vote().prop_map(|vote| Response::Append(AppendReply::HigherVote(vote))),
        (vote(), any::<bool>(), maybe_point()).prop_map(|(vote, granted, last)| Response::Ballot(BallotReply {
            vote,
            granted,
            last
        })),
        (vote(), progress()).prop_map(|(vote, progress)| Response::Snapshot(SnapshotReply { vote, progress })),
        vote().prop_map(|actual| Response::TransferLeader(TransferReply::VoteChanged { actual })),
        maybe_point().prop_map(|actual| Response::TransferLeader(TransferReply::LogNotFlushed { actual })),
        (any::<u64>(), outcome()).prop_map(|(revision, outcome)| Response::Written(Reply { revision, outcome })),
        (any::<u64>(), vec(row, 0..4), any::<bool>()).prop_map(|(revision, rows, more)| Response::Answered(Answer {
            revision,
            rows,
            more
        })),
        (any::<u64>(), hint()).prop_map(|(term, leader)| Response::Leader { term, leader }),
        admin_reply().prop_map(Response::Admin),
        any::<u64>().prop_map(|index| Response::ReadIndex { index }),
        (0..ERRORS.len(), ".{0,20}", hint()).prop_map(|(code, message, leader)| {
            Response::Refused(Refusal { code: ERRORS[code].code, message, leader })
        }),
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (any::<u64>(), proptest::option::of(any::<u64>()), request()).prop_map(|(cluster, to, request)| Envelope {
        cluster: ClusterId(cluster),
        to,
        request,
    })
}

/// Damages bytes: flips one bit, cuts the end off, or appends one byte.
fn damaged(bytes: &[u8], place: usize, how: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = place % bytes.len();
    match how % 3 {
        0 => bytes[place] ^= 1 << (how / 3 % 8),
        1 => bytes.truncate(place),
        _ => bytes.push(how),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_is_read_as_it_was_written(envelope in envelope()) {
        let bytes = encode_request(&envelope);
        prop_assert_eq!(decode_request(&bytes, MAX), Ok(envelope));
        prop_assert_eq!(
            decode_request(&bytes, bytes.len() - 1),
            Err(DecodeError::TooLong { actual: bytes.len(), max: bytes.len() - 1 })
        );
    }

    #[test]
    fn a_response_is_read_as_it_was_written(response in response()) {
        prop_assert_eq!(decode_response(&encode_response(&response), MAX), Ok(response));
    }

    /// What is cut short or too long is an error; what has a flipped bit is an error or another message.
    #[test]
    fn a_damaged_request_is_no_panic(envelope in envelope(), place in any::<usize>(), how in any::<u8>()) {
        let bytes = encode_request(&envelope);
        let other = damaged(&bytes, place, how);
        let decoded = decode_request(&other, MAX);
        if how % 3 == 0 {
            prop_assert_ne!(decoded.clone(), Ok(envelope));
        } else {
            prop_assert!(decoded.is_err());
        }
        if let Ok(Envelope { request: Request::Append(append), .. }) = decoded {
            let _ = append.entries.unpack();
        }
    }

    #[test]
    fn a_damaged_response_is_no_panic(response in response(), place in any::<usize>(), how in any::<u8>()) {
        let other = damaged(&encode_response(&response), place, how);
        let decoded = decode_response(&other, MAX);
        prop_assert!(how % 3 == 0 || decoded.is_err());
    }

    #[test]
    fn noise_is_no_panic(mut noise in vec(any::<u8>(), 0..256), versioned in any::<bool>()) {
        if versioned && !noise.is_empty() {
            noise[0] = VERSION;
        }
        let _ = decode_response(&noise, MAX);
        if let Ok(Envelope { request: Request::Append(append), .. }) = decode_request(&noise, MAX) {
            let _ = append.entries.unpack();
        }
    }
}

/// A length that promises more than there is must not be believed before it is checked.
#[test]
fn a_huge_length_allocates_nothing() {
    let mut bytes = vec![VERSION, 0, 0];
    bytes.extend([0xff; 9]);
    bytes.push(0x01);
    assert!(decode_request(&bytes, MAX).is_err());
    assert_eq!(decode_request(&[], MAX), Err(DecodeError::Empty));
    assert_eq!(decode_request(&[VERSION + 1, 0], MAX), Err(DecodeError::Version(VERSION + 1)));
}
