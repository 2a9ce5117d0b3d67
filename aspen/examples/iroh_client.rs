//! A client over iroh: the same protocol that nodes speak, for programs that hold the cluster's secret.
//!
//! ```console
//! $ aspen-node --dev
//! aspen-node 1 of cluster 0f3aa1e52c1bbd02 serves http://127.0.0.1:8080 and KEY@127.0.0.1:7080
//! $ cargo run -p aspen --features production --example iroh_client -- aspen-data/cookie KEY@127.0.0.1:7080
//! ```
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aspen::client::{Client, ClientConfig, ClientTuning};
use aspen::command::{Command, Query};
use aspen::production::env::RealEnv;
use aspen::production::secret::{self, ClusterSecret};
use aspen::production::transport::gate::Open;
use aspen::production::transport::{IrohTransport, TransportConfig};
use aspen::transport::Transport;
use aspen::types::Address;

/// Connections are told that they are over, rather than left to run into their timeouts.
const FAREWELL: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let cookie = arguments.next().ok_or("usage: iroh_client COOKIE_FILE KEY@HOST:PORT...")?;
    let addresses: Vec<Address> = arguments.map(Address).collect();
    let secret = ClusterSecret::new(&secret::read(Path::new(&cookie))?);
    let cluster = secret.cluster();
    let transport = IrohTransport::bind(TransportConfig {
        // A client needs no name that lasts.
        key: iroh::SecretKey::generate(),
        cluster,
        bind: "127.0.0.1:0".parse()?,
        incarnation: u64::from_le_bytes(secret::random()),
        node: None,
        advertise: None,
        http: None,
        // What lets it in.
        secret: Some(secret),
        ticket: None,
        relay: None,
        gate: Arc::new(Open),
        message_bytes_max: 10 << 20,
        connections_max: 100,
    })
    .await?;
    let config = ClientConfig { cluster, tuning: ClientTuning::default(), session: true };
    let client = Client::new(RealEnv::new(transport.clone()), addresses, config);

    let key = || b"example/iroh".to_vec();
    let written = client.execute(Command::Set { key: key(), value: b"one".to_vec() }).await?;
    println!("written at revision {}", written.revision);
    let answer = client.query(Query::Get { key: key() }).await?;
    for row in answer.rows {
        println!("read {}", String::from_utf8_lossy(&row.value));
    }
    client.execute(Command::Delete { key: key() }).await?;
    client.close_session().await?;
    transport.close();
    transport.closed(FAREWELL).await;
    Ok(())
}
