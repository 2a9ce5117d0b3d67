//! Durability: every acknowledged write, and every write that a read observed, is there at the end or was overwritten by
//! a later one (Raft, section 8: what the client was told survives every failure of a minority).
//!
//! The end is what is read after the cluster has converged.

use std::collections::BTreeMap;

use aspen::command::{Command, KeyValue, Outcome, Query, Reply, TxnResult};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::{Fate, Operations, Write, effects, fate, happened, observed_rows, shown, transacted};
use crate::event::{Action, Event};

#[derive(Debug, Default)]
pub struct Durability {
    operations: Operations,
    /// Operations begun before the cluster had converged.
    before_end: Option<usize>,
}

/// What is certain about a key before the end.
#[derive(Debug, Default)]
struct Certain {
    /// The latest write that was acknowledged or seen: revision and operation that tells.
    written: Option<(u64, u64)>,
    /// The latest removal that was acknowledged.
    removed: Option<u64>,
    /// A removal that may have happened at any time.
    maybe_removed: bool,
}

fn certainties(operations: &[Write]) -> BTreeMap<&[u8], Certain> {
    let mut keys: BTreeMap<&[u8], Certain> = BTreeMap::new();
    for operation in operations {
        for (key, value) in happened(operation) {
            let certain = keys.entry(key).or_default();
            match (fate(operation), value) {
                (
                    Fate::Acknowledged(
                        reply @ Reply { outcome: Outcome::Written { .. } | Outcome::Transacted { .. }, .. },
                    ),
                    Some(_),
                ) => {
                    certain.written = certain.written.max(Some((reply.revision, operation.id)));
                }
                (Fate::Acknowledged(reply), None) if removed(operation, key) => {
                    certain.removed = certain.removed.max(Some(reply.revision));
                }
                (Fate::Unknown, None) => certain.maybe_removed = true,
                _ => {}
            }
        }
    }
    for (operation, row) in observed_rows(operations) {
        let certain = keys.entry(&row.key).or_default();
        certain.written = certain.written.max(Some((row.meta.mod_revision, operation.id)));
    }
    keys
}

/// Whether an acknowledged operation found the key and removed it.
fn removed(operation: &Write, key: &[u8]) -> bool {
    let mut in_transaction = transacted(operation);
    matches!(fate(operation), Fate::Acknowledged(Reply { outcome: Outcome::Deleted { existed: true }, .. }))
        || in_transaction.any(|(op, result)| op.key() == key && *result == TxnResult::Deleted { existed: true })
}

fn check(key: &[u8], certain: &Certain, row: Option<&KeyValue>, read: &Write, judge: &mut Judge<'_>) {
    judge.evaluated(certain.written.is_some());
    let Some((revision, teller)) = certain.written else { return };
    let lost = match row {
        Some(row) => row.meta.mod_revision < revision,
        None => certain.removed < Some(revision) && !certain.maybe_removed,
    };
    if lost {
        let found = row
            .map_or("nothing".to_owned(), |row| format!("{} of revision {}", shown(&row.value), row.meta.mod_revision));
        let message = format!(
            "the write of {} at revision {revision} (operation {teller} tells) is lost: at the end there is {found}",
            shown(key)
        );
        let at_ns = read.returned.as_ref().map_or(0, |(moment, _)| moment.at_ns);
        judge.violated(at_ns, None, message);
    }
}

impl Oracle<Event> for Durability {
    fn property(&self) -> &'static str {
        "durability"
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
        if matches!(event.event, Event::Converged { result: Ok(()) }) {
            self.before_end = Some(self.operations.attempts().len());
        }
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let Some(before_end) = self.before_end else { return };
        let attempts = self.operations.attempts_of_their_own();
        let (before, after) = attempts.split_at(before_end);
        let keys = certainties(before);
        let changes_later = |key: &[u8]| {
            let mut writes = after.iter().filter_map(|operation| match &*operation.input {
                Action::Write { command, .. } => Some(command),
                Action::Read(_) | Action::StaleRead { .. } => None,
            });
            writes.any(|command: &Command| effects(command).iter().any(|(changed, _)| *changed == key))
        };
        for read in after {
            let (Action::Read(query), Fate::Answered(answer)) = (&*read.input, fate(read)) else { continue };
            let row_of = |key: &[u8]| answer.rows.iter().find(|row| row.key == key);
            match query {
                Query::Get { key } => {
                    if let Some(certain) = keys.get(key.as_slice()).filter(|_| !changes_later(key)) {
                        check(key, certain, row_of(key), read, judge);
                    }
                }
                Query::Scan { start, end, .. } => {
                    let last = answer.rows.last().map(|row| row.key.as_slice());
                    let in_range = keys.range(start.as_slice()..).filter(|(key, _)| {
                        end.as_ref().is_none_or(|end| **key < end.as_slice()) && (!answer.more || Some(**key) <= last)
                    });
                    for (key, certain) in in_range.filter(|(key, _)| !changes_later(key)) {
                        check(key, certain, row_of(key), read, judge);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use aspen::command::{SessionSeq, TxnOp};

    fn converged(run: &mut Run) -> &mut Run {
        run.emit(0, Event::Converged { result: Ok(()) })
    }

    #[test]
    fn what_is_there_or_overwritten_or_removed_is_fine() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1).wrote(set("b", "2"), 6, 1).wrote(set("c", "3"), 7, 1);
        let op = run.writes(0, delete("c"));
        run.told(op, 8, Outcome::Deleted { existed: true });
        run.lost(1, set("b", "4"));
        converged(&mut run);
        let op = run.reads(0, scan(100));
        run.answered(op, 20, vec![row("a", "1", (5, 5, 1)), row("b", "4", (6, 9, 2))]).read("c", 20, vec![]);
        run.accepts(Durability::default());
    }

    #[test]
    fn an_acknowledged_write_that_is_lost_is_found() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1);
        converged(&mut run).read("a", 20, vec![]);
        run.rejects(Durability::default(), "the write of \"a\" at revision 5 (operation 1 tells) is lost");
    }

    #[test]
    fn a_reply_to_a_number_of_several_commands_proves_none_of_them() {
        let mut run = Run::new();
        let number = Some(SessionSeq { session: 3, seq: 1 });
        let first = run.begins(0, Action::Write { session: number, command: set("a", "1") });
        let second = run.begins(1, Action::Write { session: number, command: set("b", "2") });
        run.told(first, 5, Outcome::Written { version: 1 }).told(second, 5, Outcome::Written { version: 1 });
        converged(&mut run).read("a", 20, vec![row("a", "1", (5, 5, 1))]).read("b", 20, vec![]);
        run.accepts(Durability::default());
    }

    #[test]
    fn a_write_of_a_transaction_that_is_lost_is_found() {
        let mut run = Run::new();
        let branches = |then: &[TxnOp], otherwise: &[TxnOp]| transaction(&[], then, otherwise);
        let op = run.writes(0, branches(&[txn_set("a", "1"), txn_set("b", "2")], &[txn_set("c", "3")]));
        let results = vec![TxnResult::Written { version: 1 }; 2];
        run.told(op, 5, Outcome::Transacted { matched: true, results });
        let op = run.writes(0, branches(&[txn_delete("b")], &[]));
        run.told(op, 6, Outcome::Transacted { matched: true, results: vec![TxnResult::Deleted { existed: true }] });
        converged(&mut run).read("a", 20, vec![row("a", "1", (5, 5, 1))]).read("b", 20, vec![]).read("c", 20, vec![]);
        run.accepts(Durability::default());
        run.read("a", 21, vec![]);
        run.rejects(Durability::default(), "the write of \"a\" at revision 5 (operation 1 tells) is lost");
    }

    #[test]
    fn an_observed_write_that_is_lost_is_found() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1);
        run.lost(1, set("a", "2"));
        run.read("a", 8, vec![row("a", "2", (5, 7, 2))]);
        converged(&mut run);
        let op = run.reads(0, scan(100));
        run.answered(op, 20, vec![row("a", "1", (5, 5, 1))]);
        run.rejects(Durability::default(), "at revision 7 (operation 3 tells) is lost");
    }

    #[test]
    fn a_removal_that_may_have_happened_excuses_absence() {
        let mut run = Run::new();
        run.wrote(set("a", "1"), 5, 1);
        run.lost(1, delete("a"));
        converged(&mut run).read("a", 20, vec![]);
        run.accepts(Durability::default());
    }
}
