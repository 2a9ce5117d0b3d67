//! Outcomes: a definite failure has no effect, ever (the meaning of *definite* in aspen's table of errors), and every
//! reply is one that its command can have.
//!
//! A write that failed for good shows itself when its value is read, or when a compare expects the value and matches.

use std::collections::BTreeMap;

use aspen::command::{Command, Expect, Outcome, TxnOp, TxnResult};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Fate, Operations, Write, comparisons_that_held, effects, fate, observed_rows, shown};
use crate::event::{Action, Event, OpResult};

#[derive(Debug, Default)]
pub struct Outcomes {
    operations: Operations,
}

impl Oracle<Event> for Outcomes {
    fn property(&self) -> &'static str {
        "outcomes"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let operations = self.operations.all();
        for operation in &operations {
            check_kind(operation, judge);
        }
        let seen = seen_values(&operations);
        for operation in operations.iter().filter(|operation| matches!(fate(operation), Fate::Failed)) {
            let Action::Write { command, .. } = &*operation.input else { continue };
            for (key, value) in effects(command) {
                let Some(value) = value else { continue };
                let looks = seen.get(key);
                judge.evaluated(looks.is_some());
                if let Some((by, at_ns)) = looks.and_then(|values| values.get(value)) {
                    let message = format!(
                        "operation {} failed for good, but operation {by} saw its value {} under {}",
                        operation.id,
                        shown(value),
                        shown(key)
                    );
                    judge.violated(*at_ns, None, message);
                }
            }
        }
    }
}

/// Per key the values that were there, each with the first operation that shows it.
type Seen<'a> = BTreeMap<&'a [u8], BTreeMap<&'a [u8], (u64, Nanos)>>;

fn seen_values(operations: &[Write]) -> Seen<'_> {
    let mut seen = Seen::new();
    let ended = |operation: &Write| operation.returned.as_ref().map_or(0, |(moment, _)| moment.at_ns);
    for (operation, row) in observed_rows(operations) {
        let values = seen.entry(&row.key).or_default();
        values.entry(&row.value).or_insert((operation.id, ended(operation)));
    }
    for operation in operations {
        if let Action::Write { command: Command::CompareAndSwap { key, expect: Expect::Value(value), .. }, .. } =
            &*operation.input
            && let Fate::Acknowledged(reply) = fate(operation)
            && matches!(reply.outcome, Outcome::Written { .. })
        {
            seen.entry(key).or_default().entry(value).or_insert((operation.id, ended(operation)));
        }
        for compare in comparisons_that_held(operation) {
            if let Expect::Value(value) = &compare.expect {
                seen.entry(&compare.key).or_default().entry(value).or_insert((operation.id, ended(operation)));
            }
        }
    }
    seen
}

/// Whether every operation of the branch that was taken is answered in kind.
fn fits_branch(branch: &[TxnOp], results: &[TxnResult]) -> bool {
    let fits = |(op, result): (&TxnOp, &TxnResult)| match (op, result) {
        (TxnOp::Set { .. }, TxnResult::Written { version }) => *version > 0,
        (TxnOp::Get { key }, TxnResult::Got { row }) => row.as_ref().is_none_or(|row| row.key == *key),
        (TxnOp::Delete { .. }, TxnResult::Deleted { .. }) | (TxnOp::Get { .. }, TxnResult::Omitted { .. }) => true,
        _ => false,
    };
    branch.len() == results.len() && branch.iter().zip(results).all(fits)
}

fn check_kind(operation: &Write, judge: &mut Judge<'_>) {
    let Some((moment, result)) = &operation.returned else { return };
    let result = &**result;
    let fits = match (&*operation.input, result) {
        (_, OpResult::Failed(_) | OpResult::Unknown(_)) => return,
        (Action::Read(_) | Action::StaleRead { .. }, OpResult::Answered(_)) => true,
        (Action::Write { session, command }, OpResult::Written(reply)) => {
            let of_session = session.is_some();
            match (command, &reply.outcome) {
                (
                    Command::Set { .. } | Command::SetMulti { .. } | Command::CompareAndSwap { .. },
                    Outcome::Written { version },
                ) => *version > 0,
                (Command::CompareAndSwap { .. }, Outcome::NotMatched { .. })
                | (Command::Delete { .. }, Outcome::Deleted { .. })
                | (Command::CloseSession { .. }, Outcome::SessionClosed | Outcome::SessionUnknown) => true,
                (Command::OpenSession { .. }, Outcome::SessionOpened { session }) => *session == reply.revision,
                (Command::Transaction { compare, then, otherwise }, Outcome::Transacted { matched, results }) => {
                    let branch = if *matched { then } else { otherwise };
                    fits_branch(branch, results) && (*matched || !compare.is_empty())
                }
                (Command::RefreshSession { .. }, Outcome::SessionRefreshed | Outcome::SessionUnknown) => true,
                (_, Outcome::SessionUnknown | Outcome::SessionStale) => of_session,
                _ => false,
            }
        }
        _ => false,
    };
    judge.evaluated(true);
    if !fits {
        let message = format!("operation {}: {:?} was answered with {result:?}", operation.id, operation.input);
        judge.violated(moment.at_ns, None, message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    fn failed(run: &mut Run, command: Command) {
        let op = run.writes(0, command);
        run.ends(op, OpResult::Failed("refused".to_owned()));
    }

    #[test]
    fn failures_without_a_trace_are_fine() {
        let mut run = Run::new();
        failed(&mut run, set("a", "1"));
        run.wrote(set("a", "2"), 5, 1).read("a", 6, vec![row("a", "2", (5, 5, 1))]);
        run.accepts(Outcomes::default());
    }

    #[test]
    fn a_failed_write_that_is_read_is_found() {
        let mut run = Run::new();
        failed(&mut run, set("a", "1"));
        run.read("a", 6, vec![row("a", "1", (5, 5, 1))]);
        run.rejects(Outcomes::default(), "operation 1 failed for good, but operation 2 saw its value \"1\"");
    }

    #[test]
    fn a_failed_write_that_a_compare_matches_is_found() {
        let mut run = Run::new();
        failed(&mut run, set("a", "1"));
        let swap =
            Command::CompareAndSwap { key: b"a".to_vec(), expect: Expect::Value(b"1".to_vec()), value: b"2".to_vec() };
        run.wrote(swap, 6, 2);
        run.rejects(Outcomes::default(), "operation 2 saw its value");
    }

    #[test]
    fn the_reply_to_the_other_branch_is_found() {
        let command = transaction(&[("a", Expect::Absent)], &[txn_set("a", "1")], &[txn_delete("a")]);
        let replied = |matched, result| {
            let mut run = Run::new();
            let op = run.writes(0, command.clone());
            run.told(op, 5, Outcome::Transacted { matched, results: vec![result] });
            run
        };
        replied(true, TxnResult::Written { version: 1 }).accepts(Outcomes::default());
        replied(false, TxnResult::Deleted { existed: false }).accepts(Outcomes::default());
        replied(true, TxnResult::Deleted { existed: false }).rejects(Outcomes::default(), "was answered with");
    }

    #[test]
    fn a_failed_write_that_a_transaction_finds_is_found() {
        let mut run = Run::new();
        failed(&mut run, transaction(&[], &[txn_set("a", "1")], &[]));
        let op = run.writes(0, transaction(&[("a", Expect::Value(b"1".to_vec()))], &[], &[txn_get("a")]));
        run.told(op, 6, Outcome::Transacted { matched: true, results: vec![] });
        run.rejects(Outcomes::default(), "operation 1 failed for good, but operation 2 saw its value");
    }

    #[test]
    fn a_reply_of_another_kind_is_found() {
        let mut run = Run::new();
        let op = run.writes(0, delete("a"));
        run.told(op, 5, Outcome::Written { version: 1 });
        run.rejects(Outcomes::default(), "was answered with");
    }
}
