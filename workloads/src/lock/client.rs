//! A contender for locks.

use std::collections::BTreeMap;

use aspen::command::{Command, Compare, Expect, Outcome, Query, Reply, TxnOp};
use aspen::error::ErrorOutcome;
use buggify::assert_sometimes;
use sim_runtime::engine::PlannedOp;

use super::{HELD, LockOp, guarded_key, lock_key};
use crate::seat::{Desk, Store};
use crate::teller::{Teller, Told};

pub async fn work(teller: Teller<impl Desk, impl Store>, ops: Vec<PlannedOp>) {
    let mut contender = Contender { teller, tokens: BTreeMap::new() };
    for planned in ops {
        if !contender.teller.wait_for_turn(&planned).await {
            return;
        }
        let op: LockOp = serde_json::from_value(planned.op).expect("the plan was written by this workload");
        contender.perform(op).await;
    }
}

struct Contender<D, S> {
    teller: Teller<D, S>,
    /// Locks that it holds as far as it knows, with the revision of its swap.
    tokens: BTreeMap<u32, u64>,
}

impl<D: Desk, S: Store> Contender<D, S> {
    async fn perform(&mut self, op: LockOp) {
        match op {
            LockOp::Acquire { lock } => self.take(lock, false).await,
            LockOp::Break { lock } => self.take(lock, true).await,
            LockOp::Guarded { lock } => self.write_guarded(lock).await,
            LockOp::Release { lock } => {
                if let Some(token) = self.tokens.remove(&lock) {
                    let _ = self.swap(lock, "free", Expect::ModRevision(token)).await;
                }
            }
        }
    }

    async fn take(&mut self, lock: u32, also_from_others: bool) {
        if self.tokens.contains_key(&lock) {
            return;
        }
        let Ok(answer) = self.teller.read(Query::Get { key: lock_key(lock) }).await else { return };
        let expect = match answer.rows.first() {
            None => Expect::Absent,
            Some(row) if also_from_others || !row.value.starts_with(HELD.as_bytes()) => {
                Expect::ModRevision(row.meta.mod_revision)
            }
            Some(_) => return,
        };
        let taken = self.swap(lock, HELD, expect).await;
        if let Ok(Reply { revision, outcome: Outcome::Written { .. } }) = taken {
            self.tokens.insert(lock, revision);
        }
        let lost = matches!(taken, Ok(Reply { outcome: Outcome::NotMatched { .. }, .. }));
        assert_sometimes!(lost, "two contenders wanted one lock", owed_by = "mixed");
        assert_sometimes!(
            taken == Err(ErrorOutcome::Unknown),
            "whether a lock was taken is unknown",
            owed_by = "mixed"
        );
    }

    async fn write_guarded(&mut self, lock: u32) {
        let Some(token) = self.tokens.get(&lock).copied() else { return };
        let written = self
            .teller
            .write(|(client, op)| Command::Transaction {
                compare: vec![Compare { key: lock_key(lock), expect: Expect::ModRevision(token) }],
                then: vec![TxnOp::Set { key: guarded_key(lock), value: format!("{token} {client}/{op}").into_bytes() }],
                otherwise: Vec::new(),
            })
            .await;
        if matches!(written, Ok(Reply { outcome: Outcome::Transacted { matched: false, .. }, .. })) {
            self.tokens.remove(&lock);
            buggify::assert_reachable!("a write of a former holder was fenced off", owed_by = "mixed");
        }
    }

    async fn swap(&self, lock: u32, state: &str, expect: Expect) -> Told<Reply> {
        let command = |(client, op): (u32, u64)| Command::CompareAndSwap {
            key: lock_key(lock),
            expect,
            value: format!("{state} {client}/{op}").into_bytes(),
        };
        self.teller.write(command).await
    }
}
