//! The `membership` workload: an operator who keeps the cluster whole.
//!
//! Machines that lost their disk get a new identity and take the place of the old one; voters are demoted and promoted
//! again; leadership is handed around. Interrupted changes are finished. When the time for operations is over, the
//! operator goes on until every machine is a voter again and nobody else is.
//!
//! - [`operator`]: the operator at work
//! - [`duties`]: what is to be done next, as a pure function of what the operator sees
pub mod duties;
pub mod operator;

use serde::{Deserialize, Serialize};
use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::event::Event;

/// What the operator wants, besides a whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorOp {
    /// Leadership for this server's node.
    Transfer { server: u32 },
    /// This server's node has no vote for a while.
    Demote { server: u32 },
    /// Asks for what must be refused: an id that was not allocated, a voter that is none.
    Nonsense,
}

/// See the module.
pub struct Membership;

impl Workload<Event> for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    /// One operator, or none.
    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        if shape.clients == 0 {
            return Vec::new();
        }
        let mut ops = Vec::new();
        let mut at_ns = BEGIN_NS;
        loop {
            at_ns += shape.pace_ns / 2 + draws.below(shape.pace_ns.max(1));
            if at_ns >= shape.duration_ns {
                return vec![ops];
            }
            let server = u32::try_from(draws.below(u64::from(shape.servers))).expect("below a u32");
            let op = match draws.below(5) {
                0 | 1 => OperatorOp::Transfer { server },
                2 | 3 => OperatorOp::Demote { server },
                _ => OperatorOp::Nonsense,
            };
            let op = serde_json::to_value(op).expect("an operation is plain data");
            ops.push(PlannedOp { not_before_ns: at_ns, op });
        }
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(operator::work(client, ops))
    }
}

/// Operations begin after the cluster had time to form.
const BEGIN_NS: u64 = 1_500_000_000;
