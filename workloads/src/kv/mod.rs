//! The `kv` workload: all commands and queries of the store, from one to eight concurrent clients.
//!
//! - [`alphabet`]: the operations as they stand in a plan
//! - [`generator`]: draws them
//! - `phases`: what all clients do more of for a while
//! - [`client`]: carries them out and tells the oracles; [`seat`]: where it does so, in a simulation or in the real world
pub mod alphabet;
pub mod client;
pub mod generator;
mod phases;
pub mod seat;

use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::env::SimEnv;
use crate::event::Event;

/// See the module.
pub struct Kv;

impl Workload<Event> for Kv {
    fn name(&self) -> &'static str {
        "kv"
    }

    fn plan(&self, shape: &Shape, draws: &mut Stream) -> Vec<Vec<PlannedOp>> {
        generator::plan(shape, draws)
    }

    fn client(&self, client: Client<Event>, ops: Vec<PlannedOp>) -> ClientProcess {
        Box::pin(async move {
            let store = client::store(&client, SimEnv::new(None), client::in_session(client.index), false);
            client::work(client, store, ops).await;
        })
    }

    fn check(&self, client: Client<Event>) -> Option<ClientProcess> {
        Some(Box::pin(async move {
            let env = SimEnv::new(None);
            let nodes = client::stores_of_each(&client, &env);
            let store = client::store(&client, env, true, true);
            client::final_checks(client, store, nodes).await;
        }))
    }
}
