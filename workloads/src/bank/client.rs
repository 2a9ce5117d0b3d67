//! A clerk of the bank.

use aspen::command::{Command, Compare, Expect, KeyValue, Outcome, Query, Reply, TxnOp, TxnResult};
use buggify::assert_sometimes;
use sim_runtime::engine::PlannedOp;

use super::{ACCOUNT_END, ACCOUNT_PREFIX, BankOp, OPENING, account_key, balance};
use crate::seat::{Desk, Store};
use crate::teller::Teller;

pub async fn work(teller: Teller<impl Desk, impl Store>, ops: Vec<PlannedOp>) {
    for planned in ops {
        if !teller.wait_for_turn(&planned).await {
            return;
        }
        let op: BankOp = serde_json::from_value(planned.op).expect("the plan was written by this workload");
        perform(&teller, op).await;
    }
}

async fn perform(teller: &Teller<impl Desk, impl Store>, op: BankOp) {
    match op {
        BankOp::Open { accounts } => open(teller, accounts).await,
        BankOp::Transfer { from, to, amount } => transfer(teller, from, to, i64::from(amount)).await,
        BankOp::Scan => {
            let end = Some(ACCOUNT_END.as_bytes().to_vec().into());
            let _ = teller.read(Query::Scan { start: ACCOUNT_PREFIX.into(), end, limit: 1000 }).await;
        }
        BankOp::ReadAll { accounts } => {
            let then = (0..accounts).map(|account| TxnOp::Get { key: account_key(account) }).collect();
            let _ = teller.write(|_| Command::Transaction { compare: Vec::new(), then, otherwise: Vec::new() }).await;
        }
    }
}

async fn open(teller: &Teller<impl Desk, impl Store>, accounts: u32) {
    let absent = |account| Compare { key: account_key(account), expect: Expect::Absent };
    let compare = (0..accounts).map(absent).collect();
    let command = |(client, op): (u32, u64)| {
        let value = format!("{OPENING} {client}/{op}").into_bytes();
        let then =
            (0..accounts).map(|account| TxnOp::Set { key: account_key(account), value: value.clone() }).collect();
        Command::Transaction { compare, then, otherwise: Vec::new() }
    };
    let _ = teller.write(command).await;
}

/// Both accounts are read first, in one transaction.
async fn transfer(teller: &Teller<impl Desk, impl Store>, from: u32, to: u32, amount: i64) {
    let look = [from, to].map(|account| TxnOp::Get { key: account_key(account) }).to_vec();
    let seen = teller.write(|_| Command::Transaction { compare: Vec::new(), then: look, otherwise: Vec::new() }).await;
    let Ok(Reply { outcome: Outcome::Transacted { results, .. }, .. }) = seen else { return };
    let rows: Vec<&KeyValue> = results.iter().filter_map(row).collect();
    let [payer, payee] = rows.as_slice() else { return };
    let (Some(has), Some(gets)) = (balance(&payer.value), balance(&payee.value)) else { return };
    assert_sometimes!(has < amount, "an account had too little for a transfer", owed_by = "mixed");
    if has < amount {
        return;
    }
    let compare = [payer, payee]
        .map(|row| Compare { key: row.key.clone(), expect: Expect::ModRevision(row.meta.mod_revision) })
        .to_vec();
    let command = |(client, op): (u32, u64)| {
        let value = |balance: i64| format!("{balance} {client}/{op}").into_bytes();
        let then = vec![
            TxnOp::Set { key: payer.key.clone(), value: value(has - amount) },
            TxnOp::Set { key: payee.key.clone(), value: value(gets + amount) },
        ];
        Command::Transaction { compare, then, otherwise: Vec::new() }
    };
    let moved = teller.write(command).await;
    let lost = matches!(moved, Ok(Reply { outcome: Outcome::Transacted { matched: false, .. }, .. }));
    assert_sometimes!(lost, "a transfer met another one", owed_by = "mixed");
}

fn row(result: &TxnResult) -> Option<&KeyValue> {
    match result {
        TxnResult::Got { row } => row.as_ref(),
        _ => None,
    }
}
