//! The `admin` workload: an operator's upkeep of single nodes while clients work: snapshots, purges, checkpoints, and
//! elections and transfers that nobody needed.
//!
//! What a node promised when it answered is told to the oracles, which compare it with what is on its disk, at once and from
//! then on.

use aspen::client::Client as Aspen;
use aspen::env::Env;
use aspen::message::{Upkeep, Upkept};
use aspen::types::{Address, NodeId};
use buggify::assert_reachable;
use serde::{Deserialize, Serialize};
use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::cluster;
use crate::env::SimEnv;
use crate::event::Event;
use crate::machines;
use crate::pace;
use crate::seat::Desk;
use crate::teller;
use crate::transport;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminOp {
    Snapshot { server: u32 },
    Purge { server: u32 },
    Checkpoint { server: u32 },
    Elect { server: u32 },
    Transfer { server: u32 },
}

/// See the module.
pub struct Admin;

impl Workload<Event> for Admin {
    fn name(&self) -> &'static str {
        "admin"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        let op = |draws: &mut Stream| {
            let server = pace::below(draws, shape.servers);
            match draws.below(12) {
                0..4 => AdminOp::Snapshot { server },
                4..7 => AdminOp::Purge { server },
                7..10 => AdminOp::Checkpoint { server },
                10 => AdminOp::Elect { server },
                _ => AdminOp::Transfer { server },
            }
        };
        (0..shape.clients).map(|_| pace::spread(shape, draws, op)).collect()
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let aspen = teller::store(&client, SimEnv::new(None), false, false)();
            let hosts = client.servers.clone();
            let host = |server: u32| hosts[usize::try_from(server).expect("a u32 is a usize")];
            let place = |server| Some((machines::node_on(server)?, transport::address(host(server))));
            work(client, aspen, place, |server| cluster::look_at_promise(server, host(server)), ops).await;
        })
    }
}

/// `place` says which node a server is and where, if it is any; `promised` is called when the node there has made a promise.
pub async fn work<E: Env>(
    client: impl Desk,
    aspen: Aspen<E>,
    place: impl Fn(u32) -> Option<(NodeId, Address)>,
    promised: impl Fn(u32),
    ops: Vec<PlannedOp>,
) {
    for planned in ops {
        if !client.wait_for_turn(&planned).await {
            return;
        }
        let op: AdminOp = serde_json::from_value(planned.op).expect("the plan was written by this workload");
        let (upkeep, server) = match op {
            AdminOp::Snapshot { server } => (Some(Upkeep::Snapshot), server),
            AdminOp::Purge { server } => (Some(Upkeep::Purge), server),
            AdminOp::Checkpoint { server } => (Some(Upkeep::Checkpoint), server),
            AdminOp::Elect { server } => (Some(Upkeep::Elect), server),
            AdminOp::Transfer { server } => (None, server),
        };
        let Some((node, address)) = place(server) else { continue };
        let Some(upkeep) = upkeep else {
            // Whatever comes of it.
            let _ = aspen.transfer_leadership(node).await;
            continue;
        };
        let done = aspen.upkeep(upkeep, node, address).await;
        if let Ok(upkept) = done {
            match upkept {
                Upkept::Snapshot(_) => assert_reachable!("an operator had a snapshot taken", owed_by = "mixed"),
                Upkept::Purged(_) => assert_reachable!("an operator had a log purged", owed_by = "mixed"),
                Upkept::Checkpointed { .. } => assert_reachable!("an operator had a checkpoint", owed_by = "mixed"),
                Upkept::Standing => assert_reachable!("an operator had a node stand for election", owed_by = "mixed"),
            }
            client.emit(Event::Upkept { node, upkept });
            promised(server);
        }
    }
}
