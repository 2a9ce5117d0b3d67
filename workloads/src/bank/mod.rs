//! The `bank` workload: money moves between accounts and none is made or lost.
//!
//! A transfer reads two accounts and then writes both in one transaction, if nobody changed them meanwhile. Whether it
//! happened may be unknown; the total is known always. It is looked at by scans and by transactions that read every
//! account.
//!
//! - [`client`]: a clerk at work
pub mod client;

use serde::{Deserialize, Serialize};
use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::event::Event;
use crate::pace;
use crate::seat::in_session;
use crate::teller::Teller;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BankOp {
    /// Opens this many accounts, unless there are any.
    Open {
        accounts: u32,
    },
    Transfer {
        from: u32,
        to: u32,
        amount: u32,
    },
    /// Looks at all accounts by one scan.
    Scan,
    /// Looks at all accounts by one transaction.
    ReadAll {
        accounts: u32,
    },
}

/// The account with this number.
pub fn account_key(account: u32) -> Vec<u8> {
    format!("{ACCOUNT_PREFIX}{account:03}").into_bytes()
}

pub const ACCOUNT_PREFIX: &str = "account-";
/// The first key after those of all accounts.
pub const ACCOUNT_END: &str = "account.";
/// What is in each account at first.
pub const OPENING: i64 = 100;

/// The balance that a value says; the rest of it makes it unique.
pub fn balance(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.split(' ').next()?.parse().ok()
}

/// See the module.
pub struct Bank;

impl Workload<Event> for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let accounts = 2 + pace::below(draws, 7);
        let plan = |first: bool, draws: &mut Stream| {
            let mut opened = !first;
            pace::spread(shape, draws, |draws| {
                if !std::mem::replace(&mut opened, true) {
                    return BankOp::Open { accounts };
                }
                match draws.below(10) {
                    0 => BankOp::Open { accounts },
                    1..7 => {
                        let from = pace::below(draws, accounts);
                        let to = (from + 1 + pace::below(draws, accounts - 1)) % accounts;
                        BankOp::Transfer { from, to, amount: 1 + pace::below(draws, 40) }
                    }
                    7 | 8 => BankOp::Scan,
                    _ => BankOp::ReadAll { accounts },
                }
            })
        };
        (0..shape.clients).map(|client| plan(client == 0, draws)).collect()
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let in_session = in_session(client.index);
            client::work(Teller::simulated(client, in_session, false), ops).await;
        })
    }
}
