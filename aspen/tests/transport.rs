//! The in-memory transport of the tests keeps the promises of every transport.

mod support;

use std::time::Duration;

use aspen::conformance::transport::{Rig, test_all};
use aspen::types::Address;
use openraft::impls::TokioRuntime;
use support::net::{MESSAGE_BYTES_MAX, MemNet, MemTransport};

struct MemRig(MemNet);

impl Rig for MemRig {
    type Runtime = TokioRuntime;
    type Transport = MemTransport;

    async fn endpoint(&self) -> (MemTransport, Address) {
        let endpoint = self.0.endpoint(&self.0.fresh_name());
        (endpoint.clone(), endpoint.address())
    }

    fn nowhere(&self) -> Address {
        Address("nowhere".to_owned())
    }

    fn message_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(500)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transport_in_memory_conforms() {
    test_all(&MemRig(MemNet::default())).await;
}
