//! The `membership` workload: operators who keep the cluster whole, and change it while it works.
//!
//! Machines that lost their disk get a new identity and take the place of the old one. The cluster grows, shrinks and
//! moves to other machines; who leads or is not heard is taken out; voters are demoted and promoted again; leadership is
//! handed around. Interrupted changes are finished. Where there are two operators each does what it sees must be done,
//! and wishes of its own besides. When the time for operations is over, they go on until every machine that shall serve
//! is a voter and nobody else is a member.
//!
//! - [`operator`]: an operator at work; [`wishes`]: what it does besides
//! - [`duties`]: what is to be done next, as a pure function of what the operator sees
//! - [`notebook`]: what operators agree on, and which changes were made
pub mod duties;
pub mod notebook;
pub mod operator;
mod wishes;

use serde::{Deserialize, Serialize};
use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::event::Event;

/// What an operator wants, besides a whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorOp {
    /// Leadership for this server's node.
    Transfer { server: u32 },
    /// This server's node has no vote for a while.
    Demote { server: u32 },
    /// Asks for what must be refused: an id that was not allocated, a voter that is none.
    Nonsense,
    /// From now on so many machines serve, counted from `first` on: the cluster grows, shrinks or moves. In haste new
    /// nodes are to vote as soon as they were added.
    Place { first: u32, voters: u32, in_haste: bool },
    /// Whoever leads leaves the cluster.
    RemoveLeader,
    /// The next voter that the leader has not heard of for a while leaves the cluster, though it may well be running.
    RemoveSilent,
    /// Adds a node under an address that nobody has, and wants it to vote.
    WrongAddress,
    /// While the next lost machine is not replaced: wants votes taken away that cannot be spared.
    Reckless,
}

/// See the module.
pub struct Membership;

impl Workload<Event> for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    /// One list of wishes for each operator.
    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        (0..shape.clients).map(|_| of_one_operator(shape, draws)).collect()
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(operator::work(client, ops))
    }
}

fn of_one_operator(shape: &Shape, draws: &mut Stream) -> Vec<PlannedOp> {
    let mut ops = Vec::new();
    let mut at_ns = BEGIN_NS;
    loop {
        at_ns += shape.pace_ns / 2 + draws.below(shape.pace_ns.max(1));
        if at_ns >= shape.duration_ns {
            return ops;
        }
        let op = serde_json::to_value(wish(shape.servers, draws)).expect("an operation is plain data");
        ops.push(PlannedOp { not_before_ns: at_ns, op });
    }
}

fn wish(servers: u32, draws: &mut Stream) -> OperatorOp {
    let mut below = |most: u32| u32::try_from(draws.below(u64::from(most))).expect("below a u32");
    let server = below(servers);
    match below(16) {
        0..3 => OperatorOp::Transfer { server },
        3..5 => OperatorOp::Demote { server },
        5 => OperatorOp::Nonsense,
        6..11 => {
            // As often as not the same machines, and the extremes as often as all numbers between.
            let first = if below(2) == 0 { 0 } else { server };
            let voters = match below(4) {
                0 => 1,
                1 => servers,
                _ => 1 + below(servers),
            };
            OperatorOp::Place { first, voters, in_haste: below(2) == 0 }
        }
        11 => OperatorOp::RemoveLeader,
        12..14 => OperatorOp::RemoveSilent,
        14 => OperatorOp::WrongAddress,
        _ => OperatorOp::Reckless,
    }
}

/// Operations begin after the cluster had time to form.
const BEGIN_NS: u64 = 1_500_000_000;
