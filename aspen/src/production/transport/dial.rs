//! Connections made from here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::{EndpointAddr, PublicKey};

use crate::production::transport::frame::{self, Frame, Kind};
use crate::production::transport::hello::{self, HELLO_BYTES_MAX, Hello, Rejection, Welcome};
use crate::production::transport::link::{CODE_REFUSED, Link};
use crate::production::transport::{ALPN, Shared};

/// A connection is made within this time, its handshake included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ADDRESSES_MAX: usize = 8;

/// Why no connection was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Unreachable(String),
    #[error("refused: {0}")]
    Refused(Rejection),
}

/// Dials a peer at every address that is known of it.
pub(super) async fn dial(shared: &Arc<Shared>, key: PublicKey, named: &str) -> Result<Arc<Link>, DialError> {
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, attempt(shared, key, named));
    let result =
        attempt.await.unwrap_or_else(|_| Err(unreachable(format!("no connection within {CONNECT_TIMEOUT:?}"))));
    shared.counters.dialled(result.is_ok());
    result
}

async fn attempt(shared: &Arc<Shared>, key: PublicKey, named: &str) -> Result<Arc<Link>, DialError> {
    let mut addresses = Vec::new();
    for at in shared.pool.places(&key).iter().map(String::as_str).chain([named]) {
        resolve(at, &mut addresses).await;
    }
    if addresses.is_empty() && !shared.finds_addresses {
        return Err(unreachable(format!("no address of {} is known", key.fmt_short())));
    }
    let to = addresses.into_iter().fold(EndpointAddr::new(key), EndpointAddr::with_ip_addr);
    let connected = shared.endpoint.connect(to, ALPN).await;
    let connection = connected.map_err(|error| unreachable(format!("{error:#}")))?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| unreachable(error.to_string()))?;
    let hello = Hello {
        cluster: shared.cluster.0,
        introduction: shared.introduction(),
        proof: shared.secret.as_ref().map(|secret| secret.proof(&shared.endpoint.id(), &key)),
        ticket: shared.ticket.clone(),
    };
    let bytes = frame::encode(Kind::Hello, 0, &hello::encode(&hello));
    send.write_all(&bytes).await.map_err(|error| unreachable(error.to_string()))?;
    let _ = send.finish();
    let welcome = match frame::read(&mut recv, HELLO_BYTES_MAX).await {
        Ok(Some(Frame { kind: Kind::Welcome, payload, .. })) => hello::decode_welcome(&payload),
        Ok(_) => Err(Rejection::Malformed),
        Err(error) => return Err(unreachable(error.to_string())),
    };
    match welcome {
        Ok(Welcome::Admitted(introduction)) => {
            let link = Link::start(shared, connection, introduction, shared.gate().trusts(&key));
            shared.pool.add(link.clone());
            Ok(link)
        }
        Ok(Welcome::Refused(rejection)) | Err(rejection) => {
            connection.close(CODE_REFUSED.into(), b"");
            Err(DialError::Refused(rejection))
        }
    }
}

/// Adds the addresses that a `HOST:PORT` stands for.
async fn resolve(at: &str, addresses: &mut Vec<SocketAddr>) {
    let Ok(found) = tokio::net::lookup_host(at).await else { return };
    for address in found {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
}

fn unreachable(why: String) -> DialError {
    DialError::Unreachable(why)
}
