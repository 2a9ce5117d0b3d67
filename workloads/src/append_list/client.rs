//! A client that appends: what it believes of the lists it appends to is compared, and if it was wrong it is told and tries
//! again.

use std::collections::BTreeMap;

use aspen::command::{Command, Compare, Expect, KeyValue, Outcome, Reply, TxnOp, TxnResult};
use buggify::assert_sometimes;
use sim_runtime::engine::PlannedOp;

use super::{ListTxn, element, list_key};
use crate::seat::{Desk, Store};
use crate::teller::Teller;

pub async fn work(teller: Teller<impl Desk, impl Store>, ops: Vec<PlannedOp>) {
    let mut appender = Appender { teller, known: BTreeMap::new() };
    for planned in ops {
        if !appender.teller.wait_for_turn(&planned).await {
            return;
        }
        let txn: ListTxn = serde_json::from_value(planned.op).expect("the plan was written by this workload");
        for _ in 0..ATTEMPTS_MAX {
            if appender.attempt(&txn).await {
                break;
            }
        }
    }
}

struct Appender<D, S> {
    teller: Teller<D, S>,
    /// Lists as they were when it saw them last: value and revision. A list that is not there is not here.
    known: BTreeMap<u32, (Vec<u8>, u64)>,
}

impl<D: Desk, S: Store> Appender<D, S> {
    /// Whether there is nothing to try again.
    async fn attempt(&mut self, txn: &ListTxn) -> bool {
        let expected = |list: &u32| match self.known.get(list) {
            Some((_, revision)) => Expect::ModRevision(*revision),
            None => Expect::Absent,
        };
        let compare: Vec<Compare> =
            txn.appends.iter().map(|(list, _)| Compare { key: list_key(*list), expect: expected(list) }).collect();
        let get = |list: &u32| TxnOp::Get { key: list_key(*list) };
        let mut written: Vec<(u32, Vec<u8>)> = Vec::new();
        let command = |id: (u32, u64)| {
            // Reads come first: they show the lists before the appends.
            let mut then: Vec<TxnOp> = txn.reads.iter().map(get).collect();
            for (list, count) in &txn.appends {
                let mut value = self.known.get(list).map_or(Vec::new(), |(value, _)| value.clone());
                for nth in 0..*count {
                    value.extend_from_slice(format!("{} ", element(id, nth)).as_bytes());
                }
                written.push((*list, value.clone()));
                then.push(TxnOp::Set { key: list_key(*list), value });
            }
            let otherwise = txn.appends.iter().map(|(list, _)| get(list)).collect();
            Command::Transaction { compare, then, otherwise }
        };
        let told = self.teller.write(command).await;
        let Ok(Reply { revision, outcome: Outcome::Transacted { matched, results } }) = told else { return true };
        assert_sometimes!(!matched, "a list had changed when it was appended to", owed_by = "mixed");
        if matched {
            self.known.extend(written.into_iter().map(|(list, value)| (list, (value, revision))));
            return true;
        }
        for ((list, _), result) in txn.appends.iter().zip(&results) {
            match result {
                TxnResult::Got { row: Some(KeyValue { value, meta, .. }) } => {
                    self.known.insert(*list, (value.clone(), meta.mod_revision));
                }
                _ => drop(self.known.remove(list)),
            }
        }
        false
    }
}

const ATTEMPTS_MAX: usize = 3;
