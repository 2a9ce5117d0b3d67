//! The `kv` workload: all commands and queries of the store, from one to eight concurrent clients.
//!
//! - [`alphabet`]: the operations as they stand in a plan
//! - [`generator`]: draws them
//! - `phases`: what all clients do more of for a while
//! - [`client`]: carries them out and tells the oracles
pub mod alphabet;
pub mod client;
pub mod generator;
mod phases;

use sim_runtime::engine::{Client, ClientProcess, PlannedOp, Shape, Workload};
use sim_runtime::world::draws::Stream;

use crate::env::SimEnv;
use crate::event::Event;
use crate::seat::in_session;
use crate::teller;

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
            let store = teller::store(&client, SimEnv::new(None), in_session(client.index), false);
            client::work(client, store, ops).await;
        })
    }

    fn check(&self, client: Client<Event>) -> Option<ClientProcess> {
        Some(Box::pin(async move {
            let env = SimEnv::new(None);
            let nodes = teller::stores_of_each(&client, &env);
            let store = teller::store(&client, env, true, true);
            client::final_checks(client, store, nodes).await;
        }))
    }
}
