//! Mutual exclusion: nobody holds a lock while another one does (Burrows, "The Chubby lock service", OSDI 2006).
//!
//! A client holds a lock from the moment it is told that its swap took place until anybody, itself included, begins a swap
//! that expects the revision of that swap: to release the lock, or to break it.

use std::collections::BTreeMap;

use aspen::command::{Command, Expect, Outcome};
use sim_runtime::engine::{Judge, Oracle, Stamped};
use sim_runtime::world::Nanos;

use super::super::client::{Fate, Operations, fate};
use crate::event::{Action, Event};
use crate::lock::{HELD, LOCK_PREFIX};

#[derive(Debug, Default)]
pub struct MutualExclusion {
    operations: Operations,
}

/// One client holds a lock, in the order of all moments.
struct Hold {
    told: u64,
    at_ns: Nanos,
    token: u64,
    op: u64,
    client: u64,
}

impl Oracle<Event> for MutualExclusion {
    fn property(&self) -> &'static str {
        "mutual-exclusion"
    }

    fn workload(&self) -> Option<&'static str> {
        Some("lock")
    }

    fn on_event(&mut self, event: &Stamped<Event>, judge: &mut Judge<'_>) {
        self.operations.on_event(event, judge);
    }

    fn finish(&mut self, _at_ns: Nanos, judge: &mut Judge<'_>) {
        let mut holds: BTreeMap<&[u8], Vec<Hold>> = BTreeMap::new();
        let mut ends: BTreeMap<(&[u8], u64), u64> = BTreeMap::new();
        for operation in self.operations.attempts() {
            let Action::Write { command: Command::CompareAndSwap { key, expect, value }, .. } = &*operation.input
            else {
                continue;
            };
            if !key.starts_with(LOCK_PREFIX.as_bytes()) {
                continue;
            }
            if let Expect::ModRevision(token) = expect {
                ends.entry((key, *token)).or_insert(operation.invoked.order);
            }
            if let (Fate::Acknowledged(reply), Some((told, _))) = (fate(operation), &operation.returned)
                && matches!(reply.outcome, Outcome::Written { .. })
                && value.starts_with(HELD.as_bytes())
            {
                let (op, client) = (operation.id, operation.client);
                let hold = Hold { told: told.order, at_ns: told.at_ns, token: reply.revision, op, client };
                holds.entry(key).or_default().push(hold);
            }
        }
        for (key, mut of) in holds {
            of.sort_by_key(|hold| hold.told);
            let mut held: Option<(u64, &Hold)> = None;
            for hold in &of {
                let until = ends.get(&(key, hold.token)).copied().unwrap_or(u64::MAX);
                if until < hold.told {
                    // Broken before its reply arrived: it never held.
                    continue;
                }
                judge.evaluated(held.is_some());
                if let Some((until, before)) = held
                    && hold.told < until
                {
                    let message = format!(
                        "client {} was told that it holds {} (operation {}, token {}) while client {} held it (operation {}, \
                         token {}) and nobody had begun to end that",
                        hold.client,
                        String::from_utf8_lossy(key),
                        hold.op,
                        hold.token,
                        before.client,
                        before.op,
                        before.token
                    );
                    judge.violated(hold.at_ns, None, message);
                }
                if held.is_none_or(|(latest, _)| until > latest) {
                    held = Some((until, hold));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::*;
    use super::*;

    fn take(run: &mut Run, expect: Expect, state: &str, revision: u64) {
        let value = format!("{state} {revision}").into_bytes();
        run.wrote(Command::CompareAndSwap { key: b"lock-00".to_vec(), expect, value }, revision, 1);
    }

    #[test]
    fn one_after_the_other_is_fine_and_so_is_breaking() {
        let mut run = Run::new();
        take(&mut run, Expect::Absent, "held", 5);
        take(&mut run, Expect::ModRevision(5), "free", 6);
        take(&mut run, Expect::ModRevision(6), "held", 7);
        take(&mut run, Expect::ModRevision(7), "held", 9);
        run.accepts(MutualExclusion::default());
    }

    #[test]
    fn who_hears_of_it_when_it_is_broken_never_held() {
        let swap = |expect, value: &str| Command::CompareAndSwap {
            key: b"lock-00".to_vec(),
            expect,
            value: value.as_bytes().to_vec(),
        };
        let mut run = Run::new();
        let late = run.writes(0, swap(Expect::Absent, "held late"));
        let breaker = run.writes(1, swap(Expect::ModRevision(5), "held breaker"));
        run.told(breaker, 6, Outcome::Written { version: 2 }).told(late, 5, Outcome::Written { version: 1 });
        run.accepts(MutualExclusion::default());
    }

    #[test]
    fn two_holders_at_once_are_found() {
        let mut run = Run::new();
        take(&mut run, Expect::Absent, "held", 5);
        take(&mut run, Expect::Absent, "held", 6);
        run.rejects(MutualExclusion::default(), "while client 0 held it (operation 1, token 5)");
    }
}
