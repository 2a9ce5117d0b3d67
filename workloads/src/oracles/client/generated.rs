//! Random histories that a store really had, from a sequential model with random overlap, and ways to spoil them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use aspen::command::{
    Answer, Command, Compare, Expect, KeyMeta, KeyValue, Outcome, Pair, Query, Reply, TxnOp, TxnResult,
};

use super::super::testing::Run;
use crate::event::{Action, Event, OpResult};

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Generated {
    pub count: usize,
    pub clients: u32,
    pub keys: u64,
    /// So many of 100 outcomes are unknown.
    pub lost: u64,
    pub seed: u64,
}

/// A history, and what the store had at each revision.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub run: Run,
    /// Per key and mod revision the row.
    rows: BTreeMap<(Vec<u8>, u64), KeyValue>,
}

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The specification of the store, as plain as can be.
#[derive(Default)]
struct Store {
    revision: u64,
    rows: BTreeMap<Vec<u8>, KeyValue>,
}

impl Store {
    fn put(&mut self, key: &[u8], value: &[u8]) -> u64 {
        let revision = self.revision;
        let row = self.rows.entry(key.to_vec()).or_insert_with(|| KeyValue {
            key: key.to_vec(),
            value: Vec::new(),
            meta: KeyMeta { create_revision: revision, mod_revision: revision, version: 0 },
        });
        if row.meta.version == 0 || row.meta.mod_revision != revision {
            row.meta.version += 1;
        }
        row.meta.mod_revision = revision;
        row.value = value.to_vec();
        row.meta.version
    }

    fn apply(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Set { key, value } => Outcome::Written { version: self.put(key, value) },
            Command::Delete { key } => Outcome::Deleted { existed: self.rows.remove(key).is_some() },
            Command::CompareAndSwap { key, expect, value } => {
                if self.is(key, expect) {
                    Outcome::Written { version: self.put(key, value) }
                } else {
                    Outcome::NotMatched { found: self.rows.get(key).map(|row| row.meta) }
                }
            }
            Command::SetMulti { pairs } => {
                for pair in pairs {
                    self.put(&pair.key, &pair.value);
                }
                Outcome::Written { version: self.rows[&pairs[0].key].meta.version }
            }
            Command::Transaction { compare, then, otherwise } => {
                let matched = compare.iter().all(|compare| self.is(&compare.key, &compare.expect));
                let branch = if matched { then } else { otherwise };
                let results = branch.iter().map(|op| match op {
                    TxnOp::Set { key, value } => TxnResult::Written { version: self.put(key, value) },
                    TxnOp::Delete { key } => TxnResult::Deleted { existed: self.rows.remove(key).is_some() },
                    TxnOp::Get { key } => TxnResult::Got { row: self.rows.get(key).cloned() },
                });
                Outcome::Transacted { matched, results: results.collect() }
            }
            other => panic!("not generated: {other:?}"),
        }
    }

    fn is(&self, key: &[u8], expect: &Expect) -> bool {
        let found = self.rows.get(key);
        match expect {
            Expect::Absent => found.is_none(),
            Expect::Value(value) => found.is_some_and(|row| row.value == *value),
            Expect::ModRevision(revision) => found.is_some_and(|row| row.meta.mod_revision == *revision),
        }
    }

    fn answer(&self, query: &Query) -> Answer {
        let (rows, more): (Vec<KeyValue>, bool) = match query {
            Query::Get { key } => (self.rows.get(key).cloned().into_iter().collect(), false),
            Query::Scan { start, end, limit } => {
                let in_range = self.rows.range(start.clone()..);
                let in_range =
                    in_range.filter(|(key, _)| end.as_ref().is_none_or(|end| key.as_slice() < end.as_slice()));
                let mut rows: Vec<KeyValue> = in_range.map(|(_, row)| row.clone()).collect();
                let limit = usize::try_from(*limit).unwrap();
                let more = rows.len() > limit;
                rows.truncate(limit);
                (rows, more)
            }
        };
        Answer { revision: self.revision, rows, more }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Fortune {
    Told,
    Refused,
    Lost { happens: bool },
}

impl Generated {
    pub(crate) fn story(&self) -> Story {
        let mut numbers = Numbers(self.seed);
        let mut free_at = vec![0u64; usize::try_from(self.clients).unwrap()];
        // (invoked, effect, returned, client, fortune)
        let mut spans = Vec::new();
        for _ in 0..self.count {
            let client = usize::try_from(numbers.below(u64::from(self.clients))).unwrap();
            let invoked = free_at[client] + 1 + numbers.below(30);
            let returned = invoked + 2 + numbers.below(60);
            free_at[client] = returned;
            let within = invoked + 1 + numbers.below(returned - invoked - 1);
            let (fortune, effect) = match numbers.below(100) {
                draw if draw < self.lost => {
                    let happens = numbers.below(3) > 0;
                    (Fortune::Lost { happens }, invoked + 1 + numbers.below(400))
                }
                draw if draw >= 97 => (Fortune::Refused, within),
                _ => (Fortune::Told, within),
            };
            spans.push((invoked, effect, returned, client, fortune));
        }
        let mut order: Vec<usize> = (0..spans.len()).collect();
        order.sort_by_key(|at| (spans[*at].1, *at));
        let mut store = Store { revision: 3, ..Store::default() };
        let mut rows = BTreeMap::new();
        let mut done: Vec<Option<(Action, OpResult)>> = vec![None; spans.len()];
        for at in order {
            let action = self.action(&mut numbers, at, &store);
            let happens = matches!(spans[at].4, Fortune::Told | Fortune::Lost { happens: true });
            let result = match &action {
                Action::Read(query) if happens => OpResult::Answered(store.answer(query)),
                Action::Write { command, .. } if happens => {
                    // Blank entries and sessions take revisions, too.
                    store.revision += 1 + numbers.below(5) / 4;
                    let outcome = store.apply(command);
                    for row in store.rows.values().filter(|row| row.meta.mod_revision == store.revision) {
                        rows.insert((row.key.clone(), store.revision), row.clone());
                    }
                    OpResult::Written(Reply { revision: store.revision, outcome })
                }
                _ => OpResult::Failed("refused".to_owned()),
            };
            let result = match spans[at].4 {
                Fortune::Lost { .. } if matches!(action, Action::Write { .. }) => {
                    OpResult::Unknown("silence".to_owned())
                }
                Fortune::Lost { .. } => OpResult::Failed("silence".to_owned()),
                _ => result,
            };
            done[at] = Some((action, result));
        }
        let run = Self::tell(&spans, done, &store);
        Story { run, rows }
    }

    fn action(&self, numbers: &mut Numbers, at: usize, store: &Store) -> Action {
        let key = format!("k{}", numbers.below(self.keys)).into_bytes();
        let value = format!("v{at}").into_bytes();
        let command = match numbers.below(15) {
            0..3 => Command::Set { key, value },
            3 => Command::Delete { key },
            4..7 => {
                let expect = Self::expect(numbers, store.rows.get(&key));
                Command::CompareAndSwap { key, expect, value }
            }
            7 => {
                let pairs = (0..1 + numbers.below(3)).map(|part| Pair {
                    key: format!("k{}", numbers.below(self.keys)).into_bytes(),
                    value: format!("v{at}/{part}").into_bytes(),
                });
                Command::SetMulti { pairs: pairs.collect() }
            }
            8..11 => return Action::Read(Query::Get { key }),
            11..14 => self.transaction(numbers, at, store),
            _ => {
                let limit = 1 + u32::try_from(numbers.below(self.keys + 1)).unwrap();
                let end = (numbers.below(2) == 0).then(|| b"k3".to_vec().into());
                return Action::Read(Query::Scan { start: Vec::new(), end, limit });
            }
        };
        Action::Write { session: None, command }
    }

    fn expect(numbers: &mut Numbers, present: Option<&KeyValue>) -> Expect {
        let expect = match (numbers.below(4), present) {
            (0, _) | (_, None) => Expect::Absent,
            (1, Some(row)) => Expect::Value(row.value.clone()),
            (2, Some(row)) => Expect::ModRevision(row.meta.mod_revision),
            (_, Some(_)) => Expect::ModRevision(u64::MAX),
        };
        if present.is_none() && numbers.below(2) == 0 { Expect::ModRevision(1) } else { expect }
    }

    fn transaction(&self, numbers: &mut Numbers, at: usize, store: &Store) -> Command {
        let compare = (0..numbers.below(3)).map(|_| {
            let key = format!("k{}", numbers.below(self.keys)).into_bytes();
            Compare { expect: Self::expect(numbers, store.rows.get(&key)), key }
        });
        let compare = compare.collect();
        let [then, otherwise] = ["then", "otherwise"].map(|branch| {
            let mut modified = BTreeSet::new();
            let mut ops = Vec::new();
            for part in 0..numbers.below(4) {
                let key = format!("k{}", numbers.below(self.keys)).into_bytes();
                let change = numbers.below(5);
                if change > 2 || !modified.insert(key.clone()) {
                    ops.push(TxnOp::Get { key });
                } else if change == 2 {
                    ops.push(TxnOp::Delete { key });
                } else {
                    ops.push(TxnOp::Set { key, value: format!("v{at}/{branch}{part}").into_bytes() });
                }
            }
            ops
        });
        Command::Transaction { compare, then, otherwise }
    }

    /// The events, in the order of time, and the final reads.
    fn tell(
        spans: &[(u64, u64, u64, usize, Fortune)],
        mut done: Vec<Option<(Action, OpResult)>>,
        store: &Store,
    ) -> Run {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (at, (invoked, _, returned, _, _)) in spans.iter().enumerate() {
            moments.push((*invoked, false, at));
            moments.push((*returned, true, at));
        }
        moments.sort_unstable();
        let mut run = Run::new();
        let mut ids = BTreeMap::new();
        for (_, is_return, at) in moments {
            let client = u32::try_from(spans[at].3).unwrap();
            if is_return {
                let (_, result) = done[at].take().unwrap();
                run.ends(ids[&at], result);
            } else {
                let (action, _) = done[at].as_ref().unwrap();
                ids.insert(at, run.begins(client, action.clone()));
            }
        }
        run.emit(0, Event::Converged { result: Ok(()) });
        let everything = Query::Scan { start: Vec::new(), end: None, limit: 1000 };
        let op = run.reads(0, everything.clone());
        run.ends(op, OpResult::Answered(store.answer(&everything)));
        run
    }
}

fn can_be_spoilt(result: &TxnResult) -> bool {
    !matches!(result, TxnResult::Got { row: None } | TxnResult::Omitted { .. })
}

/// Of which answers a row is taken: not of a scan that stopped early, which may leave out its last one.
fn is_missing_a_row(op: u64, answer: &Answer) -> bool {
    !answer.rows.is_empty() && !answer.more && op.is_multiple_of(2)
}

impl Story {
    fn results(&mut self) -> impl Iterator<Item = (u64, &mut OpResult)> {
        self.run.events.iter_mut().filter_map(|event| match &mut event.event {
            Event::Returned { op, result, .. } => Some((*op, Rc::make_mut(result))),
            _ => None,
        })
    }

    /// Makes one detail of one reply wrong; says which. `None` when there is nothing to spoil.
    pub(crate) fn spoil(&mut self, pick: usize) -> Option<String> {
        let rows = self.rows.clone();
        let mut spoilt: Vec<(u64, &mut OpResult, &'static str)> = Vec::new();
        for (op, result) in self.results() {
            let how = match result {
                OpResult::Written(Reply { outcome: Outcome::Written { .. }, .. }) => "version too high",
                OpResult::Written(Reply { outcome: Outcome::Deleted { .. }, .. }) => "existed or not",
                OpResult::Written(Reply { outcome: Outcome::NotMatched { found: Some(_) }, .. }) => "found nothing",
                OpResult::Written(Reply { outcome: Outcome::Transacted { results, .. }, .. })
                    if results.iter().any(can_be_spoilt) =>
                {
                    "one result of a transaction"
                }
                OpResult::Answered(answer) if is_missing_a_row(op, answer) => "a row is missing",
                OpResult::Answered(answer) if !answer.rows.is_empty() => "a row of another version",
                _ => continue,
            };
            spoilt.push((op, result, how));
        }
        if spoilt.is_empty() {
            return None;
        }
        let at = pick % spoilt.len();
        let (op, result, how) = spoilt.swap_remove(at);
        match result {
            OpResult::Written(Reply { outcome: Outcome::Written { version }, .. }) => *version += 1,
            OpResult::Written(Reply { outcome: Outcome::Deleted { existed }, .. }) => *existed = !*existed,
            OpResult::Written(Reply { outcome: Outcome::NotMatched { found }, .. }) => *found = None,
            OpResult::Written(Reply { outcome: Outcome::Transacted { results, .. }, .. }) => {
                match results.iter_mut().find(|result| can_be_spoilt(result))? {
                    TxnResult::Written { version } => *version += 1,
                    TxnResult::Deleted { existed } => *existed = !*existed,
                    TxnResult::Got { row } => *row = None,
                    TxnResult::Omitted { .. } => return None,
                }
            }
            OpResult::Answered(answer) => {
                let at = pick % answer.rows.len();
                if is_missing_a_row(op, answer) {
                    answer.rows.remove(at);
                } else {
                    let row = &mut answer.rows[at];
                    let other =
                        rows.iter().find(|((key, revision), _)| *key == row.key && *revision != row.meta.mod_revision);
                    *row = other?.1.clone();
                }
            }
            _ => return None,
        }
        Some(format!("operation {op}: {how}"))
    }

    /// Makes a get return a value that was certainly overwritten before it began.
    pub(crate) fn make_a_read_stale(&mut self, pick: usize) -> Option<String> {
        // Acknowledged plain writes: key, value, begun, ended, in places of the order of events.
        let mut begun: BTreeMap<u64, (usize, &Action)> = BTreeMap::new();
        let mut sets: Vec<(Vec<u8>, Vec<u8>, usize, usize)> = Vec::new();
        let mut gets: Vec<(usize, usize, Vec<u8>)> = Vec::new();
        for (place, event) in self.run.events.iter().enumerate() {
            match &event.event {
                Event::Invoked { op, action, .. } => {
                    begun.insert(*op, (place, action));
                }
                Event::Returned { op, result, .. } => match (&begun[op], &**result) {
                    ((from, Action::Write { command: Command::Set { key, value }, .. }), OpResult::Written(_)) => {
                        sets.push((key.clone(), value.clone(), *from, place));
                    }
                    ((from, Action::Read(Query::Get { key })), OpResult::Answered(_)) => {
                        gets.push((*from, place, key.clone()));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        for offset in 0..gets.len() {
            let (from, place, key) = &gets[(pick + offset) % gets.len()];
            let stale = sets.iter().find(|(of, _, _, ended)| {
                of == key && sets.iter().any(|(other, _, begun, over)| other == key && begun > ended && over < from)
            });
            let Some((_, value, _, _)) = stale else { continue };
            let row = self.rows.values().find(|row| row.value == *value)?.clone();
            let Event::Returned { op, result, .. } = &mut self.run.events[*place].event else { return None };
            let OpResult::Answered(answer) = Rc::make_mut(result) else { return None };
            answer.rows = vec![row];
            return Some(format!("operation {op} reads {}", String::from_utf8_lossy(value)));
        }
        None
    }
}
