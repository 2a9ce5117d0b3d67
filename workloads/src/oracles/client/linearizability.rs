//! Linearizability, blind (Herlihy and Wing, 1990; Raft, section 8): per key there is an order of the operations, within
//! real time, in which each has the outcome that its client was told. Revisions and versions are not looked at, so this
//! check shares no assumption with the one that verifies the order they claim.
//!
//! An operation on several keys is taken apart: a set-multi is a write of each of its keys, a scan a read of each key of
//! its range. Of a transaction that was acknowledged each comparison of a value or of absence that held and each get is a
//! read, each change a write, all within its time: in whatever order they are put, the one that happened is among them.
//! Of one whose outcome is unknown each change of either branch is a write that may have happened, whatever was compared:
//! that allows more than can have been, never less. That operations are atomic is not seen here.

use std::collections::{BTreeMap, BTreeSet};

use aspen::command::{Command, Compare, Expect, Outcome, Query, Reply, TxnOp, TxnResult};
use sim_runtime::checker::history::Operation;
use sim_runtime::checker::linearizability::{Budget, Decision, Model, check};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Fate, Operations, Write, comparisons_that_held, effects, fate, observed_rows, shown, transacted};
use crate::event::{Action, Event};

#[derive(Debug)]
pub struct Linearizability {
    operations: Operations,
    budget: Budget,
}

impl Linearizability {
    pub fn new(budget: Budget) -> Linearizability {
        Linearizability { operations: Operations::default(), budget }
    }
}

/// A value by number. Values that nobody reads or expects are all [`UNSEEN`]: no operation tells them apart.
type ValueId = u32;
const UNSEEN: ValueId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Read,
    Write(ValueId),
    Delete,
    Cas { expect: Wanted, value: ValueId },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Absent,
    Value(ValueId),
    /// Some revision of the key, which is not looked at: it may match whenever the key exists.
    Present,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Value(Option<ValueId>),
    Written,
    Deleted { existed: bool },
    NotMatched { found: bool },
}

/// One key.
struct Key;

impl Model for Key {
    type State = Option<ValueId>;
    type Input = Input;
    type Output = Output;

    fn initial(&self) -> Option<ValueId> {
        None
    }

    fn step(&self, state: &Option<ValueId>, input: &Input, output: Option<&Output>) -> Option<Option<ValueId>> {
        let may_match = |expect: Wanted| match expect {
            Wanted::Absent => state.is_none(),
            Wanted::Value(value) => *state == Some(value),
            Wanted::Present => state.is_some(),
        };
        match (*input, output) {
            (Input::Read, None) => Some(*state),
            (Input::Read, Some(Output::Value(value))) => (value == state).then_some(*state),
            (Input::Write(value), None | Some(Output::Written)) => Some(Some(value)),
            (Input::Delete, None) => Some(None),
            (Input::Delete, Some(Output::Deleted { existed })) => (state.is_some() == *existed).then_some(None),
            (Input::Cas { expect, value }, None | Some(Output::Written)) => may_match(expect).then_some(Some(value)),
            (Input::Cas { expect, .. }, Some(Output::NotMatched { found })) => {
                let must_match = may_match(expect) && expect != Wanted::Present;
                (state.is_some() == *found && !must_match).then_some(*state)
            }
            _ => None,
        }
    }

    fn overwrites(&self, input: &Input) -> bool {
        matches!(input, Input::Write(_) | Input::Delete)
    }

    fn observes_only(&self, operation: &Operation<Input, Output>) -> bool {
        matches!(
            (operation.input, &operation.returned),
            (Input::Read, _) | (_, Some((_, Output::NotMatched { .. } | Output::Deleted { existed: false })))
        )
    }

    fn independent(&self, removed: &Operation<Input, Output>, kept: &Operation<Input, Output>) -> bool {
        let (Input::Write(value) | Input::Cas { value, .. }) = removed.input else { return false };
        match (kept.input, kept.returned.as_ref().map(|(_, output)| *output)) {
            (Input::Read, Some(Output::Value(seen))) => seen.is_some() && seen != Some(value),
            (Input::Read | Input::Write(_) | Input::Delete, None) | (Input::Write(_), _) => true,
            (Input::Cas { expect: Wanted::Value(expected), .. }, Some(Output::Written) | None) => expected != value,
            _ => false,
        }
    }
}

/// What happened to each key, and its values by number.
#[derive(Default)]
struct Keys<'a> {
    parts: BTreeMap<&'a [u8], Vec<Operation<Input, Output>>>,
    /// Values that somebody read or expected, from 1.
    values: BTreeMap<(&'a [u8], &'a [u8]), ValueId>,
}

impl<'a> Keys<'a> {
    fn new(operations: &'a [Write]) -> Keys<'a> {
        let mut keys = Keys::default();
        let mut looked_at: BTreeSet<(&[u8], &[u8])> = BTreeSet::new();
        for operation in operations {
            if let Action::Write {
                command: Command::CompareAndSwap { key, expect: Expect::Value(value), .. }, ..
            } = &*operation.input
            {
                looked_at.insert((key, value));
            }
            for compare in comparisons_that_held(operation) {
                if let Expect::Value(value) = &compare.expect {
                    looked_at.insert((&compare.key, value));
                }
            }
        }
        looked_at.extend(observed_rows(operations).map(|(_, row)| (row.key.as_slice(), row.value.as_slice())));
        keys.values = looked_at.into_iter().zip(UNSEEN + 1..).collect();
        let written: BTreeSet<&[u8]> = operations
            .iter()
            .filter_map(|operation| match &*operation.input {
                Action::Write { command, .. } => Some(effects(command)),
                Action::Read(_) | Action::StaleRead { .. } => None,
            })
            .flatten()
            .map(|(key, _)| key)
            .collect();
        for operation in operations {
            match &*operation.input {
                Action::Write { command, .. } => keys.write(operation, command),
                Action::Read(query) => keys.read(operation, query, &written),
                // Promises less.
                Action::StaleRead { .. } => {}
            }
        }
        keys
    }

    fn id(&self, key: &[u8], value: &[u8]) -> ValueId {
        self.values.get(&(key, value)).copied().unwrap_or(UNSEEN)
    }

    fn push(&mut self, of: &Write, key: &'a [u8], input: Input, output: Option<Output>) {
        let returned = of.returned.as_ref().zip(output).map(|((moment, _), output)| (*moment, output));
        let operation = Operation { client: of.client, id: of.id, input, invoked: of.invoked, returned };
        self.parts.entry(key).or_default().push(operation);
    }

    /// See the module.
    fn transaction(&mut self, operation: &'a Write) {
        for Compare { key, expect } in comparisons_that_held(operation) {
            let value = match expect {
                Expect::Absent => None,
                Expect::Value(value) => Some(self.id(key, value)),
                Expect::ModRevision(_) => continue,
            };
            self.push(operation, key, Input::Read, Some(Output::Value(value)));
        }
        for (op, result) in transacted(operation) {
            let (input, output) = match (op, result) {
                (TxnOp::Set { key, value }, TxnResult::Written { .. }) => {
                    (Input::Write(self.id(key, value)), Output::Written)
                }
                (TxnOp::Delete { .. }, TxnResult::Deleted { existed }) => {
                    (Input::Delete, Output::Deleted { existed: *existed })
                }
                (TxnOp::Get { key }, TxnResult::Got { row }) => {
                    (Input::Read, Output::Value(row.as_ref().map(|row| self.id(key, &row.value))))
                }
                _ => continue,
            };
            self.push(operation, op.key(), input, Some(output));
        }
    }

    fn write(&mut self, operation: &'a Write, command: &'a Command) {
        if matches!(fate(operation), Fate::Acknowledged(Reply { outcome: Outcome::Transacted { .. }, .. })) {
            return self.transaction(operation);
        }
        let output = match fate(operation) {
            Fate::Failed => return,
            Fate::Acknowledged(reply) => match reply.outcome {
                Outcome::Written { .. } => Some(Output::Written),
                Outcome::Deleted { existed } => Some(Output::Deleted { existed }),
                Outcome::NotMatched { found } => Some(Output::NotMatched { found: found.is_some() }),
                _ => None,
            },
            Fate::Unknown | Fate::Answered(_) => None,
        };
        for (key, value) in effects(command) {
            let value = value.map(|value| self.id(key, value));
            let input = match (command, value) {
                (Command::CompareAndSwap { expect, .. }, Some(value)) => {
                    let expect = match expect {
                        Expect::Absent => Wanted::Absent,
                        Expect::Value(wanted) => Wanted::Value(self.id(key, wanted)),
                        Expect::ModRevision(_) => Wanted::Present,
                    };
                    Input::Cas { expect, value }
                }
                (_, Some(value)) => Input::Write(value),
                (_, None) => Input::Delete,
            };
            self.push(operation, key, input, output);
        }
    }

    fn read(&mut self, operation: &Write, query: &'a Query, written: &BTreeSet<&'a [u8]>) {
        let Fate::Answered(answer) = fate(operation) else { return };
        let seen: BTreeMap<&[u8], ValueId> =
            answer.rows.iter().map(|row| (row.key.as_slice(), self.id(&row.key, &row.value))).collect();
        let mut look = |key: &'a [u8]| {
            self.push(operation, key, Input::Read, Some(Output::Value(seen.get(key).copied())));
        };
        match query {
            Query::Get { key } => look(key),
            Query::Scan { start, end, .. } => {
                // Past the last row of a scan that stopped at its limit nothing was seen.
                let last = answer.rows.last().filter(|_| answer.more).map(|row| row.key.as_slice());
                let in_range = |key: &&&[u8]| {
                    end.as_ref().is_none_or(|end| **key < end.as_slice()) && last.is_none_or(|last| **key <= last)
                };
                written.range(start.as_slice()..).filter(in_range).for_each(|key| look(key));
            }
        }
    }
}

impl Oracle<Event> for Linearizability {
    fn property(&self) -> &'static str {
        "linearizability"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, at_ns: Nanos, judge: &mut Judge<'_>) {
        let operations = self.operations.all();
        let keys = Keys::new(&operations);
        for (key, part) in &keys.parts {
            let looks = part.iter().any(|operation| Key.observes_only(operation) && operation.returned.is_some());
            let changes = part.iter().any(|operation| !Key.observes_only(operation));
            judge.evaluated(looks && changes);
            match check(&Key, part, &mut self.budget) {
                Decision::Linearizable => {}
                Decision::Undecided => judge.undecided(format!("key {}: the search ran out of steps", shown(key))),
                Decision::Violation(shown_part) => {
                    let returns = shown_part.operations.iter().filter_map(|operation| operation.returned.as_ref());
                    let last = returns.map(|(moment, _)| moment.at_ns).max().unwrap_or(at_ns);
                    let values = keys.legend(key, &shown_part.operations);
                    let message = format!(
                        "no order of these operations on key {} explains their outcomes:\n{}{values}",
                        shown(key),
                        shown_part.render()
                    );
                    judge.violated(last, None, message);
                }
            }
        }
    }
}

impl Keys<'_> {
    /// Which number stands for which value, one line each.
    fn legend(&self, key: &[u8], operations: &[Operation<Input, Output>]) -> String {
        let mut used: BTreeSet<ValueId> = BTreeSet::new();
        for operation in operations {
            if let Input::Write(value) | Input::Cas { value, .. } = operation.input {
                used.insert(value);
            }
            if let Input::Cas { expect: Wanted::Value(value), .. } = operation.input {
                used.insert(value);
            }
            if let Some((_, Output::Value(Some(value)))) = operation.returned {
                used.insert(value);
            }
        }
        let named = self.values.iter().filter(|((of, _), id)| *of == key && used.contains(id));
        named.map(|((_, value), id)| format!("value {id} is {}\n", shown(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use crate::event::OpResult;
    use aspen::command::{Answer, KeyMeta, Pair};

    fn oracle() -> Linearizability {
        Linearizability::new(Budget::default())
    }

    fn swap(key: &str, expect: Expect, value: &str) -> Command {
        Command::CompareAndSwap { key: key.into(), expect, value: value.into() }
    }

    /// Rows whose revisions say nothing.
    fn bare(key: &str, value: &str) -> Vec<aspen::command::KeyValue> {
        vec![row(key, value, (0, 0, 0))]
    }

    #[test]
    fn all_commands_in_sequence_are_fine() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 0, 1).read("a", 0, bare("a", "1"));
        run.wrote(swap("a", Expect::Value(b"1".to_vec()), "2"), 0, 2).read("a", 0, bare("a", "2"));
        run.wrote(swap("a", Expect::ModRevision(9), "3"), 0, 3).read("a", 0, bare("a", "3"));
        let op = run.writes(0, swap("a", Expect::Absent, "4"));
        let found = Some(KeyMeta { create_revision: 0, mod_revision: 0, version: 0 });
        run.told(op, 0, Outcome::NotMatched { found });
        let op = run.writes(0, delete("a"));
        run.told(op, 0, Outcome::Deleted { existed: true });
        let op = run.writes(0, delete("a"));
        run.told(op, 0, Outcome::Deleted { existed: false }).read("a", 0, vec![]);
        let pairs = ["a", "b"].map(|key| Pair { key: key.into(), value: format!("{key}5").into_bytes() });
        run.wrote(Command::SetMulti { pairs: pairs.to_vec() }, 0, 1);
        let op = run.reads(0, scan(1));
        let rows = bare("a", "a5");
        run.ends(op, OpResult::Answered(Answer { revision: 0, rows, more: true })).read("b", 0, bare("b", "b5"));
        run.accepts(oracle());
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_and_once() {
        let mut run = Run::new();
        run.lost(0, set("a", "1"));
        run.wrote(set("a", "2"), 0, 1).read("a", 0, bare("a", "2")).read("a", 0, bare("a", "1"));
        run.accepts(oracle());
        run.read("a", 0, bare("a", "2"));
        run.rejects(oracle(), "no order of these operations on key \"a\"");
    }

    #[test]
    fn a_stale_read_is_found_and_named() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 0, 1).wrote(set("a", "2"), 0, 2).read("a", 0, bare("a", "1"));
        run.rejects(oracle(), "is \"1\"");
    }

    #[test]
    fn a_scan_that_misses_a_key_is_found() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 0, 1).wrote(set("b", "2"), 0, 1);
        let op = run.reads(0, scan(10));
        run.answered(op, 0, bare("b", "2"));
        run.rejects(oracle(), "on key \"a\"");
    }

    #[test]
    fn a_failed_write_that_is_read_is_found() {
        let mut run = Run::new();
        let op = run.writes(0, set("a", "1"));
        run.ends(op, OpResult::Failed("refused".to_owned())).read("a", 0, bare("a", "1"));
        run.rejects(oracle(), "on key \"a\"");
    }

    #[test]
    fn a_transaction_that_found_what_was_overwritten_is_found() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 0, 1).wrote(set("b", "2"), 0, 1);
        let swap = transaction(&[("a", Expect::Value(b"1".to_vec()))], &[txn_set("a", "3"), txn_get("b")], &[]);
        let read = TxnResult::Got { row: bare("b", "2").pop() };
        let told = Outcome::Transacted { matched: true, results: vec![TxnResult::Written { version: 2 }, read] };
        let op = run.writes(0, swap.clone());
        run.told(op, 0, told.clone()).read("a", 0, bare("a", "3"));
        run.accepts(oracle());
        let op = run.writes(0, swap);
        run.told(op, 0, told);
        run.rejects(oracle(), "on key \"a\"");
    }

    #[test]
    fn an_unknown_transaction_may_have_taken_either_branch_late() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 0, 1);
        run.lost(0, transaction(&[("b", Expect::Absent)], &[txn_set("a", "2")], &[txn_delete("a")]));
        run.read("a", 0, bare("a", "1"));
        let (mut then, mut otherwise) = (run.clone(), run);
        then.read("a", 0, bare("a", "2"));
        then.accepts(oracle());
        otherwise.read("a", 0, vec![]);
        otherwise.accepts(oracle());
        then.read("a", 0, bare("a", "1"));
        then.rejects(oracle(), "on key \"a\"");
    }

    #[test]
    fn two_swaps_of_one_value_are_found() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 0, 1);
        run.wrote(swap("a", Expect::Value(b"1".to_vec()), "2"), 0, 2);
        run.wrote(swap("a", Expect::Value(b"1".to_vec()), "3"), 0, 3);
        run.rejects(oracle(), "on key \"a\"");
    }

    #[test]
    fn without_steps_nothing_is_decided() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 0, 1).read("a", 0, bare("a", "1"));
        let verdicts = run.verdicts(Linearizability::new(Budget { steps: 1 }));
        assert!(verdicts.violations().is_empty() && !verdicts.undecided().is_empty());
    }
}
