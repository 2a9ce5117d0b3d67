//! The `append-list` workload (Kingsbury and Alvaro, "Elle", VLDB 2020): transactions that read lists and append to
//! lists. A list is one row; every element is unique; so what is read tells which transactions came before.
//!
//! - [`client`]: a client at work
pub mod client;

use serde::{Deserialize, Serialize};
use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::event::Event;
use crate::pace;
use crate::seat::in_session;
use crate::teller::Teller;

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListTxn {
    pub reads: Vec<u32>,
    /// Lists and how many elements each gets.
    pub appends: Vec<(u32, u32)>,
}

/// The list with this number.
pub fn list_key(list: u32) -> Vec<u8> {
    format!("{LIST_PREFIX}{list:02}").into_bytes()
}

pub const LIST_PREFIX: &str = "list-";

/// The elements of a list, as they stand in its row: `client/op.nth`, each followed by a space.
pub fn elements(value: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(value).split_whitespace().map(str::to_owned).collect()
}

/// The element that this operation appends as its `nth` to a list.
pub fn element((client, op): (u32, u64), nth: u32) -> String {
    format!("{client}/{op}.{nth}")
}

/// See the module.
pub struct AppendList;

impl Workload<Event> for AppendList {
    fn name(&self) -> &'static str {
        "append-list"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let lists = 2 + pace::below(draws, 5);
        let txn = |draws: &mut Stream| {
            let mut txn = ListTxn { reads: Vec::new(), appends: Vec::new() };
            for list in 0..lists {
                match draws.below(6) {
                    0 | 1 => txn.reads.push(list),
                    2 => txn.appends.push((list, 1 + pace::below(draws, 2))),
                    _ => {}
                }
            }
            if txn.reads.is_empty() && txn.appends.is_empty() {
                txn.appends.push((pace::below(draws, lists), 1));
            }
            txn
        };
        (0..shape.clients).map(|_| pace::spread(shape, draws, txn)).collect()
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let in_session = in_session(client.index);
            client::work(Teller::simulated(client, in_session, false), ops).await;
        })
    }
}
