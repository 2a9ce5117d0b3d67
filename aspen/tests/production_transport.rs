//! The iroh transport keeps the promises of every transport, and lets in only whom its gate admits. On loopback, with
//! nothing else contacted.
#![cfg(feature = "production")]

use std::sync::Arc;
use std::time::Duration;

use aspen::conformance::transport::{Rig, test_all};
use aspen::message::ClusterId;
use aspen::production::secret::ClusterSecret;
use aspen::production::transport::gate::{Gate, Open, Role};
use aspen::production::transport::hello::{Hello, Rejection};
use aspen::production::transport::{IrohTransport, Place, TransportConfig};
use aspen::transport::{Handler, ReplyFuture, Transport, TransportError};
use aspen::types::Address;
use iroh::{PublicKey, SecretKey};
use openraft::impls::TokioRuntime;

const MESSAGE_BYTES_MAX: usize = 10 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

fn config(key: SecretKey) -> TransportConfig {
    TransportConfig {
        key,
        cluster: ClusterId(7),
        bind: "127.0.0.1:0".parse().unwrap(),
        incarnation: 1,
        node: None,
        advertise: None,
        http: None,
        secret: None,
        ticket: None,
        relay: None,
        gate: Arc::new(Open),
        message_bytes_max: MESSAGE_BYTES_MAX,
        connections_max: 100,
    }
}

async fn endpoint() -> IrohTransport {
    IrohTransport::bind(config(SecretKey::generate())).await.unwrap()
}

struct IrohRig;

impl Rig for IrohRig {
    type Runtime = TokioRuntime;
    type Transport = IrohTransport;

    async fn endpoint(&self) -> (IrohTransport, Address) {
        let endpoint = endpoint().await;
        let address = endpoint.place().address();
        (endpoint, address)
    }

    fn nowhere(&self) -> Address {
        Place::new(SecretKey::from_bytes(&[1; 32]).public(), "127.0.0.1:9").address()
    }

    fn message_bytes_max(&self) -> usize {
        MESSAGE_BYTES_MAX
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(2)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_transport_over_quic_conforms() {
    test_all(&IrohRig).await;
}

/// Replies with the request.
struct Echo;

impl Handler for Echo {
    fn handle(&self, request: Vec<u8>) -> ReplyFuture {
        Box::pin(std::future::ready(request))
    }
}

/// Lets in holders of a secret, as clients.
struct Secretive(ClusterSecret, PublicKey);

impl Gate for Secretive {
    fn admit(&self, who: &PublicKey, hello: &Hello) -> Result<Role, Rejection> {
        match &hello.proof {
            Some(proof) if self.0.is_proof(proof, who, &self.1) => Ok(Role::Client),
            _ => Err(Rejection::Stranger),
        }
    }

    fn role(&self, _: &PublicKey, role: Role) -> Role {
        role
    }

    fn trusts(&self, _: &PublicKey) -> Role {
        Role::Member
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_whom_the_gate_admits_is_let_in() {
    let key = SecretKey::generate();
    let secret = || ClusterSecret::new("the secret of this test");
    let gate = Arc::new(Secretive(secret(), key.public()));
    let server = IrohTransport::bind(TransportConfig { gate, ..config(key) }).await.unwrap();
    server.serve(Arc::new(Echo));
    let to = server.place().address();

    let stranger = endpoint().await;
    assert_eq!(stranger.call(&to, vec![1], PATIENCE).await, Err(TransportError::Refused(to.clone())));
    let elsewhere = TransportConfig { cluster: ClusterId(8), ..config(SecretKey::generate()) };
    let elsewhere = IrohTransport::bind(elsewhere).await.unwrap();
    assert_eq!(elsewhere.call(&to, vec![1], PATIENCE).await, Err(TransportError::Refused(to.clone())));

    let client = TransportConfig { secret: Some(secret()), ..config(SecretKey::generate()) };
    let client = IrohTransport::bind(client).await.unwrap();
    let unserved = client.call(&to, vec![1], PATIENCE).await;
    assert_eq!(unserved, Err(TransportError::Refused(to.clone())), "a client may not ask what nodes ask");
    server.serve_clients(Arc::new(Echo));
    assert_eq!(client.call(&to, vec![1], PATIENCE).await, Ok(vec![1]));

    let stats = server.stats();
    assert_eq!(stats.refused.get(&Rejection::Stranger), Some(&1));
    assert_eq!(stats.refused.get(&Rejection::WrongCluster), Some(&1));
    for endpoint in [stranger, elsewhere, client, server] {
        endpoint.close();
    }
}

/// A peer that was started again, elsewhere, is the same peer: once it has connected it is found where it is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moved_is_found_by_its_key() {
    let key = SecretKey::generate();
    let (near, first) = (endpoint().await, IrohTransport::bind(config(key.clone())).await.unwrap());
    near.serve(Arc::new(Echo));
    first.serve(Arc::new(Echo));
    let known_as = first.place().address();
    assert_eq!(near.call(&known_as, vec![1], PATIENCE).await, Ok(vec![1]));
    first.close();
    first.closed(PATIENCE).await;

    let moved = IrohTransport::bind(TransportConfig { incarnation: 2, ..config(key) }).await.unwrap();
    moved.serve(Arc::new(Echo));
    assert_ne!(moved.place(), first.place());
    assert_eq!(moved.call(&near.place().address(), vec![2], PATIENCE).await, Ok(vec![2]));
    assert_eq!(near.call(&known_as, vec![3], PATIENCE).await, Ok(vec![3]), "by its old address");
    near.close();
    moved.close();
}

/// Another key at a known address is not the peer that was meant.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impostor_at_the_right_address_is_not_talked_to() {
    let (client, impostor) = (endpoint().await, endpoint().await);
    impostor.serve(Arc::new(Echo));
    let meant = Place::new(SecretKey::generate().public(), impostor.place().at).address();
    let error = client.call(&meant, vec![1], PATIENCE).await.unwrap_err();
    assert_eq!(error, TransportError::Unreachable(meant));
    assert_eq!(impostor.stats().frames_received, 0);
    client.close();
    impostor.close();
}
