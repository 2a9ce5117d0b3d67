//! Fencing: a write by a holder that has lost its lock has no effect (Kleppmann, "How to do distributed locking", 2016).
//!
//! A guarded write carries the revision of the swap that took the lock. If it was accepted, nothing may have modified the
//! lock after that revision and before the write's own. The rows that readers see tell of modifications too.

use std::collections::{BTreeMap, BTreeSet};

use aspen::command::{Command, Expect, Outcome};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::client::{Fate, Operations, fate, observed_rows};
use crate::event::{Action, Event};
use crate::lock::LOCK_PREFIX;

#[derive(Debug, Default)]
pub struct Fencing {
    operations: Operations,
}

impl Oracle<Event> for Fencing {
    fn property(&self) -> &'static str {
        "fencing"
    }

    fn workload(&self) -> Option<&'static str> {
        Some("lock")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let operations = self.operations.attempts();
        let mut modified: BTreeMap<&[u8], BTreeSet<u64>> = BTreeMap::new();
        for operation in operations {
            if let (Action::Write { command: Command::CompareAndSwap { key, .. }, .. }, Fate::Acknowledged(reply)) =
                (&*operation.input, fate(operation))
                && matches!(reply.outcome, Outcome::Written { .. })
            {
                modified.entry(key).or_default().insert(reply.revision);
            }
        }
        for (_, row) in observed_rows(operations) {
            modified.entry(&row.key).or_default().insert(row.meta.mod_revision);
        }
        for operation in operations {
            let (Action::Write { command: Command::Transaction { compare, .. }, .. }, Fate::Acknowledged(reply)) =
                (&*operation.input, fate(operation))
            else {
                continue;
            };
            let Some(guard) = compare.iter().find(|compare| compare.key.starts_with(LOCK_PREFIX.as_bytes())) else {
                continue;
            };
            let (Expect::ModRevision(token), Outcome::Transacted { matched, .. }) = (&guard.expect, &reply.outcome)
            else {
                continue;
            };
            let known = modified.get(guard.key.as_slice());
            judge.evaluated(known.is_some_and(|known| known.range(token + 1..).next().is_some()));
            let between = known.and_then(|known| known.range(token + 1..reply.revision.max(token + 1)).next());
            if let Some(lost) = between.filter(|_| *matched) {
                let message = format!(
                    "operation {} wrote at revision {} as holder of {} with token {token}, which was lost at revision {lost}",
                    operation.id,
                    reply.revision,
                    String::from_utf8_lossy(&guard.key)
                );
                let at_ns = operation.returned.as_ref().map_or(0, |(moment, _)| moment.at_ns);
                judge.violated(at_ns, None, message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;
    use aspen::command::{Compare, TxnOp, TxnResult};

    fn take(run: &mut Run, expect: Expect, revision: u64) {
        let value = format!("held {revision}").into_bytes();
        run.wrote(Command::CompareAndSwap { key: b"lock-00".to_vec(), expect, value }, revision, 1);
    }

    fn guarded(run: &mut Run, token: u64, revision: u64, matched: bool) {
        let compare = vec![Compare { key: b"lock-00".to_vec(), expect: Expect::ModRevision(token) }];
        let then = vec![TxnOp::Set { key: b"guarded-00".to_vec(), value: b"x".to_vec() }];
        let op = run.writes(0, Command::Transaction { compare, then, otherwise: Vec::new() });
        let results = if matched { vec![TxnResult::Written { version: 1 }] } else { Vec::new() };
        run.told(op, revision, Outcome::Transacted { matched, results });
    }

    #[test]
    fn a_holder_writes_and_a_former_one_does_not() {
        let mut run = Run::new();
        take(&mut run, Expect::Absent, 5);
        guarded(&mut run, 5, 6, true);
        take(&mut run, Expect::ModRevision(5), 7);
        guarded(&mut run, 5, 8, false);
        guarded(&mut run, 7, 9, true);
        run.accepts(Fencing::default());
    }

    #[test]
    fn a_write_of_a_former_holder_is_found() {
        let mut run = Run::new();
        take(&mut run, Expect::Absent, 5);
        take(&mut run, Expect::ModRevision(5), 7);
        guarded(&mut run, 5, 8, true);
        run.rejects(Fencing::default(), "with token 5, which was lost at revision 7");
    }
}
