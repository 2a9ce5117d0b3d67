//! The state machine against maps: random commands with and without sessions on both, every reply compared, then the
//! whole content. Two machines that cut the same entries into other batches have the same state hash after each entry,
//! and so has a third that was brought up by a snapshot half way.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use aspen::command::{
    Command, Compare, Expect, KeyMeta, KeyValue, Outcome, Pair, Proposal, Query, ROWS_BYTES_MAX, Reply, SessionSeq,
    TxnOp, TxnResult,
};
use aspen::floor::DurableFloor;
use aspen::health::Health;
use aspen::observe::Observation;
use aspen::state_machine::{StateMachine, StateReader};
use aspen::store::StoreConfig;
use aspen::types::{Entry, LogId, Payload};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use support::{Random, TokioEnv, blank, log_id, membership, normal, run};

#[derive(Default)]
struct Model {
    rows: BTreeMap<Vec<u8>, (Vec<u8>, KeyMeta)>,
    sessions: BTreeMap<u64, Session>,
    log_time_ms: u64,
}

#[derive(Clone, Default)]
struct Session {
    last_use_ms: u64,
    ttl_ms: u64,
    answered: Option<(u64, Reply)>,
}

impl Model {
    fn apply(&mut self, entry: &Entry) -> Reply {
        let revision = entry.log_id.index;
        let reply = |outcome| Reply { revision, outcome };
        let Payload::Normal(Proposal { log_time_ms, session, command }) = &entry.payload else {
            return reply(Outcome::Nothing);
        };
        self.log_time_ms = self.log_time_ms.max(*log_time_ms);
        let now = self.log_time_ms;
        self.sessions.retain(|_, session| now < session.last_use_ms + session.ttl_ms);
        let Some(SessionSeq { session: id, seq }) = *session else { return reply(self.execute(revision, command)) };
        let Some(known) = self.sessions.get(&id).cloned() else { return reply(Outcome::SessionUnknown) };
        let last = known.answered.as_ref().map_or(0, |(last, _)| *last);
        if seq == 0 || seq < last {
            return reply(Outcome::SessionStale);
        }
        self.sessions.get_mut(&id).unwrap().last_use_ms = now;
        if let Some((_, cached)) = known.answered.filter(|(last, _)| *last == seq) {
            return cached;
        }
        let answer = reply(self.execute(revision, command));
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last_use_ms = now;
            session.answered = Some((seq, answer.clone()));
        }
        answer
    }

    fn execute(&mut self, revision: u64, command: &Command) -> Outcome {
        match command {
            Command::Set { key, value } => Outcome::Written { version: self.set(revision, key, value) },
            Command::Delete { key } => Outcome::Deleted { existed: self.rows.remove(key).is_some() },
            Command::CompareAndSwap { key, expect, value } => {
                let found = self.rows.get(key).map(|(_, meta)| *meta);
                match self.is(key, expect) {
                    true => Outcome::Written { version: self.set(revision, key, value) },
                    false => Outcome::NotMatched { found },
                }
            }
            Command::SetMulti { pairs } => {
                let last: BTreeMap<_, _> = pairs.iter().map(|pair| (&pair.key, &pair.value)).collect();
                for (key, value) in last {
                    self.set(revision, key, value);
                }
                Outcome::Written { version: self.rows[&pairs[0].key].1.version }
            }
            Command::OpenSession { ttl_ms } => {
                let session = Session { last_use_ms: self.log_time_ms, ttl_ms: *ttl_ms, answered: None };
                self.sessions.insert(revision, session);
                Outcome::SessionOpened { session: revision }
            }
            Command::RefreshSession { session } => match self.sessions.get_mut(session) {
                Some(session) => {
                    session.last_use_ms = self.log_time_ms;
                    Outcome::SessionRefreshed
                }
                None => Outcome::SessionUnknown,
            },
            Command::Transaction { compare, then, otherwise } => {
                let matched = compare.iter().all(|comparison| self.is(&comparison.key, &comparison.expect));
                let branch = if matched { then } else { otherwise };
                let mut shown_bytes = 0;
                let results = branch.iter().map(|op| self.transact(revision, op, &mut shown_bytes)).collect();
                Outcome::Transacted { matched, results }
            }
            Command::CloseSession { session } => match self.sessions.remove(session) {
                Some(_) => Outcome::SessionClosed,
                None => Outcome::SessionUnknown,
            },
        }
    }

    fn is(&self, key: &[u8], expect: &Expect) -> bool {
        let found = self.rows.get(key);
        match expect {
            Expect::Absent => found.is_none(),
            Expect::Value(value) => found.is_some_and(|(found, _)| found == value),
            Expect::ModRevision(revision) => found.is_some_and(|(_, meta)| meta.mod_revision == *revision),
        }
    }

    fn transact(&mut self, revision: u64, op: &TxnOp, shown_bytes: &mut usize) -> TxnResult {
        match op {
            TxnOp::Set { key, value } => TxnResult::Written { version: self.set(revision, key, value) },
            TxnOp::Delete { key } => TxnResult::Deleted { existed: self.rows.remove(key).is_some() },
            TxnOp::Get { key } => match self.rows.get(key).cloned() {
                None => TxnResult::Got { row: None },
                Some((value, meta)) if *shown_bytes + key.len() + value.len() <= ROWS_BYTES_MAX => {
                    *shown_bytes += key.len() + value.len();
                    TxnResult::Got { row: Some(KeyValue { key: key.clone(), value, meta }) }
                }
                Some((_, meta)) => TxnResult::Omitted { meta },
            },
        }
    }

    fn set(&mut self, revision: u64, key: &[u8], value: &[u8]) -> u64 {
        let fresh = KeyMeta { create_revision: revision, mod_revision: revision, version: 0 };
        let (stored, meta) = self.rows.entry(key.to_vec()).or_insert((Vec::new(), fresh));
        *stored = value.to_vec();
        meta.mod_revision = revision;
        meta.version += 1;
        meta.version
    }
}

/// Makes entries that often meet: few keys, few sessions, retries, time that stands still, jumps and goes back.
struct Source {
    random: Random,
    index: u64,
    log_time_ms: u64,
    sessions: Vec<(u64, u64)>,
}

impl Source {
    fn next(&mut self, model: &Model) -> Entry {
        self.index += 1;
        match self.random.below(30) {
            0 => return blank(1, self.index),
            1 => return membership(1, self.index, &[1, 2, 3 + self.random.below(3)]),
            _ => {}
        }
        self.log_time_ms += [0, 1, 5, 300][self.random.below(4) as usize];
        let log_time_ms = self.log_time_ms.saturating_sub([0, 0, 0, 20][self.random.below(4) as usize]);
        let command = self.command(model);
        let session = self.session();
        if matches!(command, Command::OpenSession { .. }) && session.is_none() {
            self.sessions.push((self.index, 1));
        }
        normal(1, self.index, log_time_ms, session, command)
    }

    fn session(&mut self) -> Option<SessionSeq> {
        if self.sessions.is_empty() || self.random.one_in(2) {
            return None;
        }
        let at = self.random.below(self.sessions.len() as u64) as usize;
        let (session, next) = &mut self.sessions[at];
        let seq = match self.random.below(6) {
            0 => next.saturating_sub(1),
            1 => next.saturating_sub(2),
            _ => *next,
        };
        *next = (*next).max(seq + 1);
        Some(SessionSeq { session: *session, seq })
    }

    fn command(&mut self, model: &Model) -> Command {
        let (key, value) = (self.key(), self.value());
        match self.random.below(20) {
            0..=4 => Command::Set { key, value },
            5..=7 => Command::Delete { key },
            8..=10 => {
                let expect = self.expect(model, &key);
                Command::CompareAndSwap { key, expect, value }
            }
            11 | 12 => {
                let pairs =
                    (0..1 + self.random.below(5)).map(|_| Pair { key: self.key(), value: self.value() }).collect();
                Command::SetMulti { pairs }
            }
            13 => Command::OpenSession { ttl_ms: 1 + self.random.below(1000) },
            14 => Command::RefreshSession { session: self.any_session() },
            15 => Command::CloseSession { session: self.any_session() },
            _ => self.transaction(model),
        }
    }

    /// Often with several operations on one key, which no client may ask for: applying must not depend on that.
    fn transaction(&mut self, model: &Model) -> Command {
        let compare = (0..self.random.below(3)).map(|_| {
            let key = self.key();
            Compare { expect: self.expect(model, &key), key }
        });
        let compare = compare.collect();
        let [then, otherwise] = [0, 1].map(|_| (0..self.random.below(6)).map(|_| self.txn_op()).collect());
        Command::Transaction { compare, then, otherwise }
    }

    fn txn_op(&mut self) -> TxnOp {
        let key = self.key();
        match self.random.below(5) {
            0 | 1 => TxnOp::Set { key, value: self.value() },
            2 => TxnOp::Delete { key },
            _ => TxnOp::Get { key },
        }
    }

    fn expect(&mut self, model: &Model, key: &[u8]) -> Expect {
        match (self.random.below(4), model.rows.get(key)) {
            (0, _) => Expect::Absent,
            (1, Some((value, _))) => Expect::Value(value.clone()),
            (2, Some((_, meta))) => Expect::ModRevision(meta.mod_revision),
            _ => Expect::Value(self.value()),
        }
    }

    fn any_session(&mut self) -> u64 {
        let at = self.random.below(self.sessions.len() as u64 + 1) as usize;
        self.sessions.get(at).map_or(7, |(session, _)| *session)
    }

    fn key(&mut self) -> Vec<u8> {
        vec![b'k', self.random.below(12) as u8]
    }

    fn value(&mut self) -> Vec<u8> {
        vec![self.random.below(3) as u8; self.random.below(6000) as usize]
    }
}

struct Machine {
    env: TokioEnv,
    state: StateMachine<TokioEnv>,
    reader: StateReader<TokioEnv>,
}

impl Machine {
    async fn open(dir: &Path, config: &StoreConfig) -> Self {
        let env = TokioEnv::observed();
        let opened = StateMachine::open(&env, dir, config.state(), Health::default(), DurableFloor::default()).await;
        let (state, reader, _) = opened.unwrap();
        Machine { env, state, reader }
    }

    fn hashes(&self) -> Vec<(LogId, u64)> {
        let applied = |observation| match observation {
            Observation::Applied { log_id, state_hash } => Some((log_id, state_hash)),
            _ => None,
        };
        self.env.take_observations().into_iter().filter_map(applied).collect()
    }

    async fn check(&self, model: &Model, applied: u64) {
        let query = Query::Scan { start: Vec::new(), end: None, limit: u32::MAX };
        let answer = self.reader.query(query).await.unwrap();
        let expected: Vec<KeyValue> = model
            .rows
            .iter()
            .map(|(key, (value, meta))| KeyValue { key: key.clone(), value: value.clone(), meta: *meta })
            .collect();
        assert_eq!((answer.revision, answer.more), (applied, false));
        assert_eq!(answer.rows, expected);
        assert_eq!(self.reader.log_time_ms(), model.log_time_ms);
        self.reader.verify().await.unwrap();
    }
}

#[test]
fn the_state_machine_is_a_pair_of_maps() {
    for seed in 0..6 {
        run(one_run(seed));
    }
}

async fn one_run(seed: u64) {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let small = StoreConfig { checkpoint_pages: 3, snapshot_step_rows: 1, ..StoreConfig::default() };
    let one = Machine::open(dirs[0].path(), &StoreConfig::default()).await;
    let mut other = Machine::open(dirs[1].path(), &small).await;
    let mut third: Option<Machine> = None;
    let mut source = Source { random: Random::new(seed), index: 0, log_time_ms: 0, sessions: Vec::new() };
    let mut model = Model::default();
    let (mut first, mut second, mut third_hashes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..40 {
        let entries: Vec<Entry> = (0..1 + source.random.below(20))
            .map(|_| {
                let entry = source.next(&model);
                (entry.clone(), first.push(model.apply(&entry))).0
            })
            .collect();
        assert_eq!(one.state.apply_entries(entries.clone()).await.unwrap(), std::mem::take(&mut first), "seed {seed}");
        for chunk in entries.chunks(1 + source.random.below(3) as usize) {
            other.state.apply_entries(chunk.to_vec()).await.unwrap();
        }
        if let Some(third) = &third {
            third.state.apply_entries(entries.clone()).await.unwrap();
        }
        if round == 20 {
            let snapshot = other.state.get_snapshot_builder().await.build_snapshot().await.unwrap();
            let mut machine = Machine::open(dirs[2].path(), &small).await;
            machine
                .state
                .install_snapshot(&snapshot.meta, copy_of(&snapshot.snapshot, dirs[2].path()).await)
                .await
                .unwrap();
            machine.check(&model, source.index).await;
            third = Some(machine);
            third_hashes.clear();
        }
        second.extend(other.hashes());
        third_hashes.extend(third.as_ref().map(Machine::hashes).unwrap_or_default());
        if round % 10 == 0 {
            // A restart keeps everything: it was closed, so nothing was lost.
            other.reader.close().await.unwrap();
            other = Machine::open(dirs[1].path(), &small).await;
            other.check(&model, source.index).await;
        }
    }
    one.check(&model, source.index).await;
    let hashes = one.hashes();
    assert_eq!(hashes, second, "seed {seed}");
    assert!(!third_hashes.is_empty() && hashes.ends_with(&third_hashes), "seed {seed}");
    third.unwrap().check(&model, source.index).await;
}

/// Sends a snapshot to another directory, as a peer would.
async fn copy_of(
    file: &aspen::snapshot::SnapshotFile<TokioEnv>,
    dir: &Path,
) -> aspen::snapshot::SnapshotFile<TokioEnv> {
    let env = TokioEnv::default();
    let mut incoming = aspen::snapshot::Incoming::new(&env, dir, file.len(), file.checksum()).await.unwrap();
    while incoming.written() < file.len() {
        let chunk = file.read_chunk(incoming.written(), 700).await.unwrap();
        incoming.write_chunk(incoming.written(), &chunk).await.unwrap();
    }
    incoming.finish().await.unwrap()
}

#[test]
fn the_reply_to_a_transaction_is_bounded() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::open(dir.path(), &StoreConfig::default()).await;
        let open = normal(1, 1, 0, None, Command::OpenSession { ttl_ms: 60_000 });
        let large = support::set(1, 2, b"large", &vec![1; ROWS_BYTES_MAX - 6]);
        let fits = support::set(1, 3, b"fits", &[1]);
        let get = |key: &[u8]| TxnOp::Get { key: key.to_vec() };
        let gets = vec![get(b"fits"), get(b"large"), get(b"fits"), get(b"none")];
        let command = Command::Transaction { compare: Vec::new(), then: gets, otherwise: Vec::new() };
        let session = Some(SessionSeq { session: 1, seq: 1 });
        let read = |index| normal(1, index, 0, session, command.clone());
        let replies = machine.state.apply_entries(vec![open, large, fits, read(4), read(5)]).await.unwrap();
        let meta = KeyMeta { create_revision: 3, mod_revision: 3, version: 1 };
        let shown = TxnResult::Got { row: Some(KeyValue { key: b"fits".to_vec(), value: vec![1], meta }) };
        let omitted = TxnResult::Omitted { meta: KeyMeta { create_revision: 2, mod_revision: 2, version: 1 } };
        let results = vec![shown.clone(), omitted, shown, TxnResult::Got { row: None }];
        let expected = Reply { revision: 4, outcome: Outcome::Transacted { matched: true, results } };
        // The retry is answered from the session, with the reply to the first.
        assert_eq!(replies[3..], [expected.clone(), expected]);
    });
}

#[test]
fn a_scan_stops_at_its_limit_or_when_it_grows_too_large() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { scan_bytes_max: 500, ..StoreConfig::default() };
        let machine = Machine::open(dir.path(), &config).await;
        let entries = (1..=9).map(|index| support::set(1, index, &[b'a' + index as u8], &[0; 100])).collect();
        machine.state.apply_entries(entries).await.unwrap();
        let scan = |start: &[u8], end: Option<&[u8]>, limit| Query::Scan {
            start: start.to_vec(),
            end: end.map(|end| serde_bytes::ByteBuf::from(end.to_vec())),
            limit,
        };
        let keys = async |query| {
            let answer = machine.reader.query(query).await.unwrap();
            (answer.rows.iter().map(|row| row.key[0]).collect::<Vec<u8>>(), answer.more)
        };
        assert_eq!(keys(scan(b"", None, 3)).await, (b"bcd".to_vec(), true));
        assert_eq!(keys(scan(b"", None, 100)).await, (b"bcde".to_vec(), true));
        assert_eq!(keys(scan(b"d", Some(b"f"), 100)).await, (b"de".to_vec(), false));
        assert_eq!(keys(scan(b"d", Some(b"f"), 2)).await, (b"de".to_vec(), false));
        assert_eq!(keys(scan(b"z", None, 2)).await, (Vec::new(), false));
        let answer = machine.reader.query(Query::Get { key: b"c".to_vec() }).await.unwrap();
        assert_eq!((answer.revision, answer.rows[0].meta.mod_revision), (9, 2));
        assert_eq!(machine.reader.applied(), Some(log_id(1, 9)));
    });
}
