//! Lists that transactions append to and read (Kingsbury and Alvaro, "Elle", VLDB 2020): strict serialisability, by a
//! search for cycles. The search itself is [`sim_runtime::checker::lists`]; here rows become lists.

use aspen::command::{Command, Expect, Outcome, Query, TxnOp, TxnResult};
use sim_runtime::checker::lists::{self, Transaction};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::client::{Fate, Operations, Write, fate};
use crate::append_list::{LIST_PREFIX, elements};
use crate::event::{Action, Event};

#[derive(Debug, Default)]
pub struct AppendList {
    operations: Operations,
}

type Txn = Transaction<String, String>;

fn is_list(key: &[u8]) -> bool {
    key.starts_with(LIST_PREFIX.as_bytes())
}

fn name(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The operation as a transaction on lists; `None` if it has nothing to do with them.
fn transaction(operation: &Write) -> Option<Txn> {
    let mut txn = Txn {
        id: operation.id,
        fate: lists::Fate::Unknown,
        began: operation.invoked.order,
        ended: operation.returned.as_ref().map(|(moment, _)| moment.order),
        reads: Vec::new(),
        appends: Vec::new(),
    };
    match (&*operation.input, fate(operation)) {
        (Action::Read(query), Fate::Answered(answer)) => {
            if let Query::Get { key } = query
                && is_list(key)
                && answer.rows.is_empty()
            {
                txn.reads.push((name(key), Vec::new()));
            }
            let rows = answer.rows.iter().filter(|row| is_list(&row.key));
            txn.reads.extend(rows.map(|row| (name(&row.key), elements(&row.value))));
            txn.fate = lists::Fate::Committed;
        }
        (Action::Write { command: Command::Transaction { compare, then, otherwise }, .. }, fate) => {
            let of_lists = then.iter().chain(otherwise).any(|op| is_list(op.key()));
            if !of_lists {
                return None;
            }
            match fate {
                Fate::Acknowledged(reply) => {
                    let Outcome::Transacted { matched, results } = &reply.outcome else { return None };
                    txn.fate = lists::Fate::Committed;
                    let branch = if *matched { then } else { otherwise };
                    for (op, result) in branch.iter().zip(results) {
                        if let TxnResult::Got { row } = result {
                            let read = row.as_ref().map_or(Vec::new(), |row| elements(&row.value));
                            txn.reads.push((name(op.key()), read));
                        }
                    }
                    if *matched {
                        add_appends(&mut txn, operation, then);
                        // A compare that held is a read of what its client believed.
                        for compare in compare.iter().filter(|compare| is_list(&compare.key)) {
                            let believed = believed(then, &compare.key, operation);
                            let agrees = (compare.expect == Expect::Absent) == believed.is_empty();
                            if agrees {
                                txn.reads.push((name(&compare.key), believed));
                            }
                        }
                    }
                }
                Fate::Failed => {
                    txn.fate = lists::Fate::Aborted;
                    add_appends(&mut txn, operation, then);
                }
                Fate::Unknown | Fate::Answered(_) => add_appends(&mut txn, operation, then),
            }
        }
        _ => return None,
    }
    (!txn.reads.is_empty() || !txn.appends.is_empty()).then_some(txn)
}

/// The mark of this operation's own elements.
fn own(operation: &Write) -> String {
    format!("{}/{}.", operation.client, operation.id)
}

/// What an operation writes ends with what it appends.
fn add_appends(txn: &mut Txn, operation: &Write, then: &[TxnOp]) {
    for op in then {
        if let TxnOp::Set { key, value } = op {
            let appended = elements(value).into_iter().filter(|element| element.starts_with(&own(operation)));
            txn.appends.extend(appended.map(|element| (name(key), element)));
        }
    }
}

/// What an operation writes begins with what its client believed to be there.
fn believed(then: &[TxnOp], of: &[u8], operation: &Write) -> Vec<String> {
    let value = then.iter().find_map(|op| match op {
        TxnOp::Set { key, value } if key == of => Some(value),
        _ => None,
    });
    let all = value.map_or(Vec::new(), |value| elements(value));
    all.into_iter().filter(|element| !element.starts_with(&own(operation))).collect()
}

impl Oracle<Event> for AppendList {
    fn property(&self) -> &'static str {
        "append-list"
    }

    fn workload(&self) -> Option<&'static str> {
        Some("append-list")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, at_ns: Nanos, judge: &mut Judge<'_>) {
        // The client's own numbers stand for merged attempts, so each attempt counts by itself.
        let operations = self.operations.attempts();
        let told: Vec<(&Write, Txn)> =
            operations.iter().filter_map(|operation| Some((operation, transaction(operation)?))).collect();
        let history: Vec<Txn> = told.iter().map(|(_, txn)| txn.clone()).collect();
        for txn in &history {
            judge.evaluated(txn.reads.iter().any(|(_, read)| !read.is_empty()));
        }
        for wrong in lists::check(&history) {
            let shown_by = told[wrong.shown_by].0;
            let at_ns = shown_by.returned.as_ref().map_or(at_ns, |(moment, _)| moment.at_ns);
            judge.violated(at_ns, None, format!("{}: {}", wrong.anomaly, wrong.message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use aspen::command::Compare;

    fn append(run: &mut Run, before: &str, revision: u64, expect: Expect) -> String {
        let op = run.begins_as(|op| {
            let value = format!("{before}0/{op}.0 ");
            let compare = vec![Compare { key: b"list-00".to_vec(), expect }];
            let then = vec![TxnOp::Set { key: b"list-00".to_vec(), value: value.into_bytes() }];
            Command::Transaction { compare, then, otherwise: Vec::new() }
        });
        let results = vec![TxnResult::Written { version: 1 }];
        run.told(op, revision, Outcome::Transacted { matched: true, results });
        format!("{before}0/{op}.0 ")
    }

    #[test]
    fn appends_in_order_are_fine() {
        let mut run = Run::new();
        let one = append(&mut run, "", 5, Expect::Absent);
        let two = append(&mut run, &one, 6, Expect::ModRevision(5));
        run.read("list-00", 7, vec![row("list-00", &two, (5, 6, 2))]);
        run.accepts(AppendList::default());
    }

    #[test]
    fn a_lost_append_and_a_stale_read_are_found() {
        let mut run = Run::new();
        let one = append(&mut run, "", 5, Expect::Absent);
        append(&mut run, &one, 6, Expect::ModRevision(5));
        let fork = append(&mut run, &one, 7, Expect::ModRevision(5));
        run.read("list-00", 8, vec![row("list-00", &fork, (5, 7, 2))]);
        run.rejects(AppendList::default(), "G2");
        let mut run = Run::new();
        append(&mut run, "", 5, Expect::Absent);
        run.read("list-00", 8, vec![]);
        run.rejects(AppendList::default(), "had ended when there began");
    }
}
