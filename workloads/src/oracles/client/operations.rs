//! The operations of all clients, and what their commands would do.

use std::collections::BTreeMap;
use std::rc::Rc;

use aspen::command::{Answer, Command, Compare, KeyValue, Outcome, Reply, SessionSeq, TxnOp, TxnResult};
use sim_runtime::checker::history::{History, HistoryError, Operation};
use sim_runtime::engine::{Judge, Stamped};

use crate::event::{Action, Event, OpResult};

/// One operation of one client.
pub(crate) type Write = Operation<Rc<Action>, Rc<OpResult>>;

/// Collects operations as they begin and end.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    history: History<Rc<Action>, Rc<OpResult>>,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate<'a> {
    Acknowledged(&'a Reply),
    Answered(&'a Answer),
    /// It has no effect, ever.
    Failed,
    /// It may have had its effect, or may still have it.
    Unknown,
}

pub(crate) fn fate(operation: &Write) -> Fate<'_> {
    match operation.returned.as_ref().map(|(_, result)| &**result) {
        // That a session is gone says nothing about an earlier attempt of the same operation.
        Some(OpResult::Written(Reply { outcome: Outcome::SessionUnknown | Outcome::SessionStale, .. })) => {
            Fate::Unknown
        }
        Some(OpResult::Written(reply)) => Fate::Acknowledged(reply),
        Some(OpResult::Answered(answer)) => Fate::Answered(answer),
        Some(OpResult::Failed(_)) => Fate::Failed,
        Some(OpResult::Unknown(_)) | None => Fate::Unknown,
    }
}

/// The revision that the client was told.
pub(crate) fn revision(operation: &Write) -> Option<u64> {
    match fate(operation) {
        Fate::Acknowledged(reply) => Some(reply.revision),
        Fate::Answered(answer) => Some(answer.revision),
        Fate::Failed | Fate::Unknown => None,
    }
}

impl Operations {
    pub(crate) fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        let recorded = match &event.event {
            Event::Invoked { client, op, action } => {
                self.history.invoke(u64::from(*client), *op, event.at_ns, action.clone())
            }
            Event::Returned { op, result, .. } => self.history.complete(*op, event.at_ns, result.clone()),
            _ => Ok(()),
        };
        if let Err(
            error @ (HistoryError::InvokedTwice(_) | HistoryError::NeverInvoked(_) | HistoryError::EndedTwice(_)),
        ) = recorded
        {
            judge.undecided(format!("the record of the run is wrong: {error}"));
        }
    }

    /// All operations in the order of invocation. Those that carry the same session and number are one. Where a number was
    /// used for several commands only one of them took effect, and nobody was told which: their outcomes are unknown.
    pub(crate) fn all(&self) -> Vec<Write> {
        let mut merged: Vec<Write> = Vec::new();
        let mut numbered: BTreeMap<SessionSeq, Vec<usize>> = BTreeMap::new();
        for operation in self.history.operations() {
            let Action::Write { session: Some(number), .. } = &*operation.input else {
                merged.push(operation.clone());
                continue;
            };
            let places = numbered.entry(*number).or_default();
            let Some(first) = places.iter().find(|place| merged[**place].input == operation.input) else {
                places.push(merged.len());
                merged.push(operation.clone());
                continue;
            };
            let first = &mut merged[*first];
            // The effect came before the first reply that tells of it.
            let known = |operation: &Write| !matches!(fate(operation), Fate::Unknown);
            let earlier = operation.returned.as_ref().map(|(moment, _)| *moment)
                < first.returned.as_ref().map(|(moment, _)| *moment);
            let failed = |operation: &Write| matches!(fate(operation), Fate::Failed);
            // One attempt that failed says nothing about the others.
            if failed(operation) != failed(first) {
                if failed(first) {
                    first.returned.clone_from(&operation.returned);
                }
            } else if known(operation) && (!known(first) || earlier) {
                first.returned.clone_from(&operation.returned);
            }
        }
        for places in numbered.values().filter(|places| places.len() > 1) {
            places.iter().for_each(|place| forget(&mut merged[*place]));
        }
        merged
    }

    /// Every attempt by itself, as far as its outcome tells of its own command: a number that was used for several commands
    /// is answered with the outcome of the one that took effect.
    pub(crate) fn attempts_of_their_own(&self) -> Vec<Write> {
        let mut attempts = self.history.operations().to_vec();
        let mut commands: BTreeMap<SessionSeq, Option<Command>> = BTreeMap::new();
        for operation in &attempts {
            if let Action::Write { session: Some(number), command } = &*operation.input {
                let only = commands.entry(*number).or_insert_with(|| Some(command.clone()));
                if only.as_ref() != Some(command) {
                    *only = None;
                }
            }
        }
        for operation in &mut attempts {
            if let Action::Write { session: Some(number), .. } = &*operation.input
                && commands[number].is_none()
            {
                forget(operation);
            }
        }
        attempts
    }

    /// Every attempt by itself.
    pub(crate) fn attempts(&self) -> &[Write] {
        self.history.operations()
    }
}

/// Makes the outcome unknown, unless nothing happened for certain.
fn forget(operation: &mut Write) {
    if let Some((_, result)) =
        operation.returned.as_mut().filter(|(_, result)| !matches!(**result, OpResult::Failed(_)))
    {
        *result = Rc::new(OpResult::Unknown("its number was used for another command too".to_owned()));
    }
}

/// What a command does to keys if it does anything: the value stored, or `None` for removal. Each key once: of a key
/// that occurs twice in a set-multi the last value stays. Of a transaction what each of its branches would do.
pub(crate) fn effects(command: &Command) -> Vec<(&[u8], Option<&[u8]>)> {
    match command {
        Command::Set { key, value } | Command::CompareAndSwap { key, value, .. } => vec![(key, Some(value))],
        Command::Delete { key } => vec![(key, None)],
        Command::SetMulti { pairs } => {
            let last: BTreeMap<&[u8], &[u8]> =
                pairs.iter().map(|pair| (pair.key.as_slice(), pair.value.as_slice())).collect();
            last.into_iter().map(|(key, value)| (key, Some(value))).collect()
        }
        Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. } => Vec::new(),
        Command::Transaction { then, otherwise, .. } => {
            branch_effects(then).into_iter().chain(branch_effects(otherwise)).collect()
        }
    }
}

/// What a branch of a transaction does to keys, each once.
pub(crate) fn branch_effects(ops: &[TxnOp]) -> Vec<(&[u8], Option<&[u8]>)> {
    let modified = ops.iter().filter_map(|op| match op {
        TxnOp::Set { key, value } => Some((key.as_slice(), Some(value.as_slice()))),
        TxnOp::Delete { key } => Some((key.as_slice(), None)),
        TxnOp::Get { .. } => None,
    });
    modified.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// What an operation did to keys, as far as its reply tells: of a transaction only the branch that was taken. Before
/// there is a reply, everything that it might do.
pub(crate) fn happened(operation: &Write) -> Vec<(&[u8], Option<&[u8]>)> {
    let Action::Write { command, .. } = &*operation.input else { return Vec::new() };
    match (command, fate(operation)) {
        (
            Command::Transaction { then, otherwise, .. },
            Fate::Acknowledged(Reply { outcome: Outcome::Transacted { matched, .. }, .. }),
        ) => branch_effects(if *matched { then } else { otherwise }),
        _ => effects(command),
    }
}

/// The operations of the branch that a transaction took, each with what it did.
pub(crate) fn transacted(operation: &Write) -> impl Iterator<Item = (&TxnOp, &TxnResult)> {
    let (branch, results): (&[TxnOp], &[TxnResult]) = match (&*operation.input, fate(operation)) {
        (
            Action::Write { command: Command::Transaction { then, otherwise, .. }, .. },
            Fate::Acknowledged(Reply { outcome: Outcome::Transacted { matched, results }, .. }),
        ) => (if *matched { then } else { otherwise }, results),
        _ => (&[], &[]),
    };
    branch.iter().zip(results)
}

/// What the comparisons of a transaction found to be so, if all of them held.
pub(crate) fn comparisons_that_held(operation: &Write) -> &[Compare] {
    match (&*operation.input, fate(operation)) {
        (
            Action::Write { command: Command::Transaction { compare, .. }, .. },
            Fate::Acknowledged(Reply { outcome: Outcome::Transacted { matched: true, .. }, .. }),
        ) => compare,
        _ => &[],
    }
}

/// Whether the operation, if it does anything, leaves `value` under `key`.
pub(crate) fn would_write(operation: &Write, key: &[u8], value: &[u8]) -> bool {
    match &*operation.input {
        Action::Write { command, .. } => effects(command).contains(&(key, Some(value))),
        Action::Read(_) | Action::StaleRead { .. } => false,
    }
}

/// Who wrote which value under which key.
#[derive(Debug, Default)]
pub(crate) struct Writers<'a> {
    /// Place of the operation; `None` when more than one wrote the value.
    of_value: BTreeMap<(&'a [u8], &'a [u8]), Option<usize>>,
}

impl<'a> Writers<'a> {
    pub(crate) fn new(operations: &'a [Write], judge: &mut Judge<'_>) -> Writers<'a> {
        let mut writers = Writers::default();
        for (place, operation) in operations.iter().enumerate() {
            let Action::Write { command, .. } = &*operation.input else { continue };
            for (key, value) in effects(command) {
                let Some(value) = value else { continue };
                let writer = writers.of_value.entry((key, value)).or_insert(Some(place));
                if *writer != Some(place) {
                    *writer = None;
                    judge.undecided(format!("the workload wrote {} under {} twice", shown(value), shown(key)));
                }
            }
        }
        writers
    }

    /// Place of the operation that wrote the value; `Err` when nobody did, `Ok(None)` when several did.
    pub(crate) fn of(&self, key: &[u8], value: &[u8]) -> Result<Option<usize>, Nobody> {
        self.of_value.get(&(key, value)).copied().ok_or(Nobody)
    }
}

/// No operation wrote the value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nobody;

/// Every row that a client was shown, with the operation that showed it.
pub(crate) fn observed_rows(operations: &[Write]) -> impl Iterator<Item = (&Write, &KeyValue)> {
    operations.iter().flat_map(|operation| {
        let rows = match fate(operation) {
            Fate::Answered(answer) => answer.rows.as_slice(),
            _ => &[],
        };
        let read = transacted(operation).filter_map(|(_, result)| match result {
            TxnResult::Got { row } => row.as_ref(),
            _ => None,
        });
        rows.iter().chain(read).map(move |row| (operation, row))
    })
}

/// A key or value for people.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(40) {
        Some((cut, _)) => format!("{:?}..", &text[..cut]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use aspen::command::Pair;
    use sim_runtime::engine::oracle::Verdicts;

    #[test]
    fn the_last_value_of_a_key_stays() {
        let pair = |key: &str, value: &str| Pair { key: key.into(), value: value.into() };
        let command = Command::SetMulti { pairs: vec![pair("b", "1"), pair("a", "2"), pair("b", "3")] };
        let expected: Vec<(&[u8], Option<&[u8]>)> = vec![(b"a", Some(b"2")), (b"b", Some(b"3"))];
        assert_eq!(effects(&command), expected);
    }

    #[test]
    fn retries_of_one_number_are_one_operation() {
        let session = Some(SessionSeq { session: 4, seq: 1 });
        let mut run = Run::new();
        let first = run.begins(0, Action::Write { session, command: set("a", "1") });
        let second = run.begins(1, Action::Write { session, command: set("a", "1") });
        run.told(second, 7, Outcome::Written { version: 1 });
        run.ends(first, OpResult::Unknown("silence".to_owned()));
        let mut operations = Operations::default();
        let mut verdicts = Verdicts::default();
        for event in &run.events {
            operations.on_event(event, &mut verdicts.judge("test"));
        }
        let all = operations.all();
        let [only] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(only.id, first);
        assert!(matches!(fate(only), Fate::Acknowledged(reply) if reply.revision == 7));
        assert_eq!(operations.attempts().len(), 2);
    }
}
