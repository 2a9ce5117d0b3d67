//! A client at work: one operation after the other, each told to the oracles when it begins and when it ends.
//!
//! Even-numbered clients work through a session and so never see a write applied twice; the others are told *unknown*
//! more often. What a client read last is the only thing it remembers.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use aspen::command::{Answer, Command, Compare, Expect, KeyMeta, Outcome, Pair, Query, Reply, TxnOp, TxnResult};
use aspen::error::ErrorCode;
use aspen::message::StaleBound;
use buggify::{assert_always, assert_reachable, assert_sometimes};
use sim_runtime::engine::{OpKind, OpOutcome, PlannedOp};

use super::alphabet::{Expectation, KvOp, Oversize, Staleness, TxnStep, VALUE_BYTES_MAX, key, value, value_of_bytes};
use crate::event::{Action, Event, OpResult};
use crate::seat::{Desk, Store, in_session};
use crate::teller::failed;

/// Goes through the operations until they, or the time for them, are over. `anew` makes a client of the store that knows
/// nothing yet.
pub async fn work<S: Store>(client: impl Desk, anew: impl Fn() -> S, ops: Vec<PlannedOp>) {
    let in_session = in_session(client.index());
    let mut worker = Worker::new(client, anew, in_session);
    for planned in ops {
        if !worker.client.wait_for_turn(&planned).await {
            return;
        }
        let op: KvOp = serde_json::from_value(planned.op).expect("the plan was written by this workload");
        worker.perform(op).await;
    }
}

/// The last word: everything that is there, by scan and key by key; what each of `nodes` holds of it, since any node may
/// answer a stale read, also one that follows for ever; then fresh writes, each read back, since a cluster that has
/// recovered must serve.
pub async fn final_checks<S: Store>(client: impl Desk, anew: impl Fn() -> S, nodes: Vec<S>) {
    let mut worker = Worker::new(client, anew, true);
    let mut rest = Some(Vec::new());
    while let Some(start) = rest {
        rest = worker.read(Query::Scan { start, end: None, limit: SCAN_ROWS }).await.and_then(|answer| past(&answer));
    }
    for node in &nodes {
        let (mut rest, own) = (Some(Vec::new()), Staleness { max_age_ms: None, monotonic: false });
        while let Some(start) = rest {
            let part = Query::Scan { start, end: None, limit: SCAN_ROWS };
            rest = worker.read_stale_at(Some(node), part, own).await.and_then(|answer| past(&answer));
        }
    }
    let keys: Vec<Vec<u8>> = worker.known.keys().cloned().collect();
    for key in keys {
        worker.read(Query::Get { key }).await;
    }
    for fresh in FRESH_KEYS {
        worker.perform(KvOp::Set { key: fresh, pad: 0 }).await;
        worker.perform(KvOp::Get { key: fresh }).await;
    }
}

/// Where the next scan begins, if this one was cut.
fn past(answer: &Answer) -> Option<Vec<u8>> {
    let last = answer.rows.last().filter(|_| answer.more)?;
    Some([&last.key, [0].as_slice()].concat())
}

/// More than there are.
const SCAN_ROWS: u32 = 10_000;
/// Keys that no plan names.
const FRESH_KEYS: std::ops::Range<u32> = 1_000_000..1_000_030;

struct Worker<D, S, F> {
    client: D,
    aspen: S,
    /// Makes a client that knows nothing yet.
    anew: F,
    in_session: bool,
    /// What this client saw last under a key.
    known: BTreeMap<Vec<u8>, Seen>,
    /// The highest revision that this client was told.
    told: u64,
}

struct Seen {
    value: Option<Vec<u8>>,
    revision: Option<u64>,
}

impl<D: Desk, S: Store, F: Fn() -> S> Worker<D, S, F> {
    fn new(client: D, anew: F, in_session: bool) -> Self {
        Worker { client, aspen: anew(), anew, in_session, known: BTreeMap::new(), told: 0 }
    }

    async fn perform(&mut self, op: KvOp) {
        match op {
            KvOp::Set { key: number, pad } => {
                self.write(|id| Command::Set { key: key(number), value: value(id.0, id.1, 0, pad) }).await;
            }
            KvOp::Delete { key: number } => self.write(|_| Command::Delete { key: key(number) }).await,
            KvOp::Cas { key: number, expect, pad } => {
                let expect = self.expectation(&key(number), expect);
                self.write(move |id| Command::CompareAndSwap {
                    key: key(number),
                    expect,
                    value: value(id.0, id.1, 0, pad),
                })
                .await;
            }
            KvOp::SetMulti { keys, pad } => {
                self.write(move |id| Command::SetMulti {
                    pairs: keys
                        .iter()
                        .enumerate()
                        .map(|(part, number)| Pair { key: key(*number), value: value(id.0, id.1, part, pad) })
                        .collect(),
                })
                .await;
            }
            KvOp::Get { key: number } => drop(self.read(Query::Get { key: key(number) }).await),
            KvOp::Scan { from, to, limit } => {
                let end = Some(key(to).into());
                self.read(Query::Scan { start: key(from), end, limit }).await;
            }
            KvOp::StaleGet { key: number, bound } => self.read_stale(Query::Get { key: key(number) }, bound).await,
            KvOp::StaleScan { from, to, bound } => {
                let end = Some(key(to).into());
                self.read_stale(Query::Scan { start: key(from), end, limit: to - from + 1 }, bound).await;
            }
            KvOp::Transaction { compare, then, otherwise, pad } => {
                let compare = compare.into_iter().map(|(number, expect)| {
                    let key = key(number);
                    Compare { expect: self.expectation(&key, expect), key }
                });
                let compare: Vec<Compare> = compare.collect();
                self.write(move |id| Command::Transaction {
                    compare,
                    then: branch(id, 0, &then, pad),
                    otherwise: branch(id, then.len(), &otherwise, pad),
                })
                .await;
            }
            KvOp::SetLargest { key: number } => {
                self.write(|id| Command::Set { key: key(number), value: value_of_bytes(id.0, id.1, VALUE_BYTES_MAX) })
                    .await;
            }
            KvOp::Oversized { what } => self.oversized(what).await,
            KvOp::RenewSession => {
                if self.in_session {
                    // Whatever comes of it: the next write opens a session if there is none.
                    let _ = self.aspen.close_session().await;
                }
            }
            KvOp::AbandonSession => self.aspen = (self.anew)(),
        }
    }

    fn expectation(&self, key: &[u8], expect: Expectation) -> Expect {
        let seen = self.known.get(key);
        match expect {
            Expectation::Absent => Expect::Absent,
            Expectation::LastValue => match seen.and_then(|seen| seen.value.clone()) {
                Some(value) => Expect::Value(value),
                None => Expect::Absent,
            },
            Expectation::LastRevision => match seen.and_then(|seen| seen.revision) {
                Some(revision) => Expect::ModRevision(revision),
                None => Expect::Absent,
            },
            Expectation::Impossible => Expect::ModRevision(u64::MAX),
        }
    }

    async fn oversized(&mut self, what: Oversize) {
        let long = vec![b'k'; 1025];
        match what {
            Oversize::EmptyKey => self.write(|_| Command::Delete { key: Vec::new() }).await,
            Oversize::LongKey => self.write(|_| Command::Delete { key: long }).await,
            Oversize::TooManyPairs => {
                self.write(|id| Command::SetMulti {
                    pairs: (0..101).map(|part| Pair { key: key(0), value: value(id.0, id.1, part, 0) }).collect(),
                })
                .await;
            }
            Oversize::NoPairs => self.write(|_| Command::SetMulti { pairs: Vec::new() }).await,
            Oversize::LargeValue => {
                let large = |id: (u32, u64)| value_of_bytes(id.0, id.1, VALUE_BYTES_MAX + 1);
                self.write(|id| Command::Set { key: key(0), value: large(id) }).await;
            }
            Oversize::TooManyParts => self.transaction(vec![TxnOp::Get { key: key(0) }; 101]).await,
            Oversize::NoParts => self.transaction(Vec::new()).await,
            Oversize::ModifiedTwice => self.transaction(vec![TxnOp::Delete { key: key(0) }; 2]).await,
            Oversize::ScanOfNothing => drop(self.read(Query::Scan { start: Vec::new(), end: None, limit: 0 }).await),
        }
    }

    async fn transaction(&mut self, then: Vec<TxnOp>) {
        self.write(|_| Command::Transaction { compare: Vec::new(), then, otherwise: Vec::new() }).await;
    }

    /// `command` is made for the ids of the client and the operation.
    async fn write(&mut self, command: impl FnOnce((u32, u64)) -> Command) {
        let op = self.client.begin();
        let command = command((self.client.index(), op));
        self.invoked(op, Action::Write { session: None, command: command.clone() });
        let result = self.aspen.execute(command.clone()).await;
        if let Ok(reply) = &result {
            self.learn(&command, reply);
        }
        let result = match result {
            Ok(reply) => OpResult::Written(reply),
            Err(error) => {
                assert_always!(
                    error.code != ErrorCode::DiskFull || command.stores(),
                    "what makes room is not refused for want of it"
                );
                failed(&error)
            }
        };
        self.returned(op, OpKind::Write, result);
    }

    async fn read(&mut self, query: Query) -> Option<Answer> {
        let op = self.client.begin();
        self.invoked(op, Action::Read(query.clone()));
        let result = match self.aspen.query(query.clone()).await {
            Ok(answer) => {
                self.learn_answer(&query, &answer);
                OpResult::Answered(answer)
            }
            Err(error) => failed(&error),
        };
        assert_always!(!matches!(result, OpResult::Unknown(_)), "a failed read is definite");
        let answer = answered(&result);
        self.returned(op, OpKind::Read, result);
        answer
    }

    /// What is read is not remembered: it may be older than what this client knows.
    async fn read_stale(&mut self, query: Query, staleness: Staleness) {
        self.read_stale_at(None, query, staleness).await;
    }

    /// By way of another store than this client's own, if one is given.
    async fn read_stale_at(
        &mut self,
        node: Option<&S>,
        query: Query,
        Staleness { max_age_ms, monotonic }: Staleness,
    ) -> Option<Answer> {
        let op = self.client.begin();
        let bound = StaleBound {
            max_age: max_age_ms.map(Duration::from_millis),
            min_revision: (monotonic && self.told > 0).then_some(self.told),
        };
        self.invoked(op, Action::StaleRead { query: query.clone(), bound });
        let result = match node.unwrap_or(&self.aspen).query_stale(query, bound).await {
            Ok(answer) => {
                assert_sometimes!(answer.revision < self.told, "a stale read was older than what its client knew");
                self.told = self.told.max(answer.revision);
                OpResult::Answered(answer)
            }
            Err(error) => {
                assert_sometimes!(
                    error.code == ErrorCode::TooStale,
                    "no node had a state within the bound of a stale read"
                );
                failed(&error)
            }
        };
        assert_always!(!matches!(result, OpResult::Unknown(_)), "a failed stale read is definite");
        let answer = answered(&result);
        self.returned(op, OpKind::Read, result);
        answer
    }

    fn invoked(&self, op: u64, action: Action) {
        self.client.emit(Event::Invoked { client: self.client.index(), op, action: Rc::new(action) });
    }

    fn returned(&self, op: u64, kind: OpKind, result: OpResult) {
        let outcome = match &result {
            OpResult::Written(_) | OpResult::Answered(_) => OpOutcome::Ok,
            OpResult::Failed(_) => OpOutcome::Failed,
            OpResult::Unknown(_) => OpOutcome::Unknown,
        };
        assert_sometimes!(outcome == OpOutcome::Unknown, "an operation ended unknown");
        assert_sometimes!(outcome == OpOutcome::Failed, "an operation failed for good");
        self.client.emit(Event::Returned { client: self.client.index(), op, result: Rc::new(result) });
        self.client.end(op, kind, outcome);
    }

    fn learn(&mut self, command: &Command, reply: &Reply) {
        self.told = self.told.max(reply.revision);
        match (command, &reply.outcome) {
            (Command::Set { key, value } | Command::CompareAndSwap { key, value, .. }, Outcome::Written { .. }) => {
                self.saw(key, Some(value.clone()), Some(reply.revision));
            }
            (Command::SetMulti { pairs }, Outcome::Written { .. }) => {
                for pair in pairs {
                    self.saw(&pair.key, Some(pair.value.clone()), Some(reply.revision));
                }
            }
            (Command::Delete { key }, Outcome::Deleted { existed }) => {
                assert_sometimes!(!existed, "a delete found nothing");
                self.saw(key, None, None);
            }
            (Command::CompareAndSwap { key, .. }, Outcome::NotMatched { found }) => {
                assert_reachable!("a compare did not match");
                assert_sometimes!(found.is_none(), "a compare found no key");
                let revision = found.map(|KeyMeta { mod_revision, .. }| mod_revision);
                self.saw(key, None, revision);
            }
            (Command::Transaction { compare, then, otherwise }, Outcome::Transacted { matched, results }) => {
                assert_sometimes!(*matched && !compare.is_empty(), "a transaction was told that all it compared held");
                assert_sometimes!(!matched, "a transaction was told that what it compared did not hold");
                let branch = if *matched { then } else { otherwise };
                for (op, result) in branch.iter().zip(results) {
                    self.learn_of_transaction(op, result, reply.revision);
                }
            }
            _ => {}
        }
    }

    fn learn_of_transaction(&mut self, op: &TxnOp, result: &TxnResult, revision: u64) {
        match (op, result) {
            (TxnOp::Set { key, value }, _) => self.saw(key, Some(value.clone()), Some(revision)),
            (TxnOp::Delete { key }, _) => self.saw(key, None, None),
            (TxnOp::Get { key }, TxnResult::Got { row: Some(row) }) => {
                assert_sometimes!(row.meta.mod_revision == revision, "a transaction read what it wrote itself");
                self.saw(key, Some(row.value.clone()), Some(row.meta.mod_revision));
            }
            (TxnOp::Get { key }, TxnResult::Omitted { meta }) => {
                self.saw(key, None, Some(meta.mod_revision));
            }
            (TxnOp::Get { key }, _) => self.saw(key, None, None),
        }
    }

    fn learn_answer(&mut self, query: &Query, answer: &Answer) {
        self.told = self.told.max(answer.revision);
        match query {
            Query::Get { key } => {
                let row = answer.rows.first();
                assert_sometimes!(row.is_none(), "a read found nothing");
                let seen = row.map(|row| (row.value.clone(), row.meta.mod_revision));
                let (value, revision) = seen.unzip();
                self.saw(key, value, revision);
            }
            Query::Scan { .. } => {
                assert_sometimes!(answer.rows.is_empty(), "a scan found nothing");
                assert_sometimes!(answer.more, "a scan stopped at its limit");
                for row in &answer.rows {
                    self.saw(&row.key, Some(row.value.clone()), Some(row.meta.mod_revision));
                }
            }
        }
    }

    fn saw(&mut self, key: &[u8], value: Option<Vec<u8>>, revision: Option<u64>) {
        self.known.insert(key.to_vec(), Seen { value, revision });
    }
}

/// A branch of a transaction; its values are numbered from `first`.
fn answered(result: &OpResult) -> Option<Answer> {
    match result {
        OpResult::Answered(answer) => Some(answer.clone()),
        _ => None,
    }
}

fn branch((client, op): (u32, u64), first: usize, steps: &[TxnStep], pad: u32) -> Vec<TxnOp> {
    let step = |(part, step): (usize, &TxnStep)| match *step {
        TxnStep::Set(number) => TxnOp::Set { key: key(number), value: value(client, op, first + part, pad) },
        TxnStep::Delete(number) => TxnOp::Delete { key: key(number) },
        TxnStep::Get(number) => TxnOp::Get { key: key(number) },
    };
    steps.iter().enumerate().map(step).collect()
}
