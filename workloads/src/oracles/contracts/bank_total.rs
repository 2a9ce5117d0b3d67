//! The total of all accounts never changes (the bank test of Jepsen): a look at all of them, by one scan or by one
//! transaction, shows either none or a sum of as many opening balances as there are accounts, and none in debt.
//!
//! Whether a transfer happened need not be known: half of one is what may never be seen.

use aspen::command::{Command, KeyValue, Outcome, Query, TxnOp, TxnResult};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::client::{Fate, Operations, Write, fate};
use crate::bank::{ACCOUNT_PREFIX, OPENING, balance};
use crate::event::{Action, Event};

#[derive(Debug, Default)]
pub struct BankTotal {
    operations: Operations,
}

/// How many accounts an operation may open.
fn opens(operation: &Write) -> Option<usize> {
    let Action::Write { command: Command::Transaction { compare, then, .. }, .. } = &*operation.input else {
        return None;
    };
    let opening = format!("{OPENING} ");
    let is_opening = |op: &TxnOp| match op {
        TxnOp::Set { key, value } => {
            key.starts_with(ACCOUNT_PREFIX.as_bytes()) && value.starts_with(opening.as_bytes())
        }
        _ => false,
    };
    let absent = compare.iter().all(|compare| compare.expect == aspen::command::Expect::Absent);
    (absent && !then.is_empty() && then.iter().all(is_opening)).then_some(then.len())
}

/// The rows of all accounts, if the operation looked at all of them.
fn looked(operation: &Write, accounts: usize) -> Option<Vec<&KeyValue>> {
    match (&*operation.input, fate(operation)) {
        (Action::Read(Query::Scan { start, .. }), Fate::Answered(answer)) => {
            (start == ACCOUNT_PREFIX.as_bytes() && !answer.more).then(|| answer.rows.iter().collect())
        }
        (Action::Write { command: Command::Transaction { compare, then, .. }, .. }, Fate::Acknowledged(reply)) => {
            let is_account =
                |op: &TxnOp| matches!(op, TxnOp::Get { key } if key.starts_with(ACCOUNT_PREFIX.as_bytes()));
            let is_look = compare.is_empty() && then.len() == accounts && then.iter().all(is_account);
            let Outcome::Transacted { results, .. } = &reply.outcome else { return None };
            is_look.then(|| results.iter().filter_map(row_of).collect())
        }
        _ => None,
    }
}

fn row_of(result: &TxnResult) -> Option<&KeyValue> {
    match result {
        TxnResult::Got { row } => row.as_ref(),
        _ => None,
    }
}

impl Oracle<Event> for BankTotal {
    fn property(&self) -> &'static str {
        "bank-total"
    }

    fn workload(&self) -> Option<&'static str> {
        Some("bank")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let operations = self.operations.attempts();
        let Some(accounts) = operations.iter().find_map(opens) else { return };
        let total = OPENING * i64::try_from(accounts).unwrap_or(i64::MAX);
        for operation in operations {
            let Some(rows) = looked(operation, accounts) else { continue };
            let balances: Vec<Option<i64>> = rows.iter().map(|row| balance(&row.value)).collect();
            judge.evaluated(!rows.is_empty());
            let sum: i64 = balances.iter().flatten().sum();
            let is_whole =
                balances.len() == accounts && balances.iter().all(|balance| balance.is_some_and(|of| of >= 0));
            if !rows.is_empty() && (!is_whole || sum != total) {
                let at_ns = operation.returned.as_ref().map_or(0, |(moment, _)| moment.at_ns);
                let shown: Vec<String> = balances
                    .iter()
                    .map(|balance| balance.map_or("nonsense".to_owned(), |balance| balance.to_string()))
                    .collect();
                let message = format!(
                    "operation {} saw {} accounts with {sum} ({}), there are {accounts} with {total}",
                    operation.id,
                    rows.len(),
                    shown.join(", ")
                );
                judge.violated(at_ns, None, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use crate::bank::account_key;
    use aspen::command::{Compare, Expect};

    fn opened() -> Run {
        let mut run = Run::new();
        let compare = (0..2).map(|nth| Compare { key: account_key(nth), expect: Expect::Absent }).collect();
        let then = (0..2).map(|nth| TxnOp::Set { key: account_key(nth), value: b"100 0/1".to_vec() }).collect();
        let op = run.writes(0, Command::Transaction { compare, then, otherwise: Vec::new() });
        let results = vec![TxnResult::Written { version: 1 }; 2];
        run.told(op, 5, Outcome::Transacted { matched: true, results });
        run
    }

    fn look(run: &mut Run, balances: &[&str]) {
        let query = Query::Scan { start: ACCOUNT_PREFIX.into(), end: None, limit: 10 };
        let op = run.reads(0, query);
        let key = |nth| String::from_utf8(account_key(nth)).unwrap();
        let rows = (0..).zip(balances).map(|(nth, value)| row(&key(nth), value, (5, 5, 1))).collect();
        run.answered(op, 9, rows);
    }

    #[test]
    fn a_total_that_stays_is_fine() {
        let mut run = opened();
        look(&mut run, &[]);
        look(&mut run, &["100 0/1", "100 0/1"]);
        look(&mut run, &["40 0/2", "160 0/2"]);
        run.accepts(BankTotal::default());
    }

    #[test]
    fn half_a_transfer_a_missing_account_and_a_debt_are_found() {
        for (balances, saying) in [
            (&["40 0/2", "100 0/1"][..], "saw 2 accounts with 140"),
            (&["200 0/2"], "saw 1 accounts"),
            (&["-1 0/2", "201 0/2"], "(-1, 201)"),
        ] {
            let mut run = opened();
            look(&mut run, balances);
            run.rejects(BankTotal::default(), saying);
        }
    }
}
