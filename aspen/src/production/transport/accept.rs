//! Connections made by others: checked, introduced, and served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iroh::endpoint::{Connection, Incoming};

use crate::production::transport::Shared;
use crate::production::transport::dial::CONNECT_TIMEOUT;
use crate::production::transport::frame::{self, Frame, Kind};
use crate::production::transport::gate::Role;
use crate::production::transport::hello::{self, HELLO_BYTES_MAX, Introduction, Rejection, Welcome};
use crate::production::transport::link::{CODE_REFUSED, Link};

/// Handshakes in progress; more are refused, unread.
const HANDSHAKES_MAX: usize = 64;
/// A refused peer has so long to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// Accepts connections until the endpoint is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let handshakes = Arc::new(AtomicUsize::new(0));
    while let Some(incoming) = shared.endpoint.accept().await {
        if handshakes.fetch_add(1, Ordering::SeqCst) >= HANDSHAKES_MAX {
            handshakes.fetch_sub(1, Ordering::SeqCst);
            shared.counters.refused(Rejection::Full);
            incoming.refuse();
            continue;
        }
        let (shared, handshakes) = (shared.clone(), handshakes.clone());
        tokio::spawn(async move {
            // A peer that vanishes within the handshake is nobody's loss.
            let _ = tokio::time::timeout(CONNECT_TIMEOUT, handshake(&shared, incoming)).await;
            handshakes.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn handshake(shared: &Arc<Shared>, incoming: Incoming) -> Option<()> {
    let connection = incoming.await.ok()?;
    let (mut send, mut recv) = connection.accept_bi().await.ok()?;
    let read = frame::read(&mut recv, HELLO_BYTES_MAX).await;
    let judged = match read {
        Ok(Some(Frame { kind: Kind::Hello, payload, .. })) => judge(shared, &connection, &payload),
        Ok(_) | Err(_) => Err(Rejection::Malformed),
    };
    let welcome = match &judged {
        Ok(_) => Welcome::Admitted(shared.introduction()),
        Err(rejection) => Welcome::Refused(*rejection),
    };
    let sent = send.write_all(&frame::encode(Kind::Welcome, 0, &hello::encode(&welcome))).await;
    let _ = send.finish();
    match judged {
        Ok((introduction, role)) => {
            sent.ok()?;
            shared.counters.accepted();
            shared.pool.add(Link::start(shared, connection, introduction, role));
        }
        Err(rejection) => {
            shared.counters.refused(rejection);
            tracing::debug!("{} was refused: {rejection}", connection.remote_id().fmt_short());
            let _ = tokio::time::timeout(FAREWELL, connection.closed()).await;
            connection.close(CODE_REFUSED.into(), b"");
        }
    }
    Some(())
}

fn judge(shared: &Shared, connection: &Connection, payload: &[u8]) -> Result<(Introduction, Role), Rejection> {
    let hello = hello::decode_hello(payload)?;
    if hello.cluster != shared.cluster.0 {
        return Err(Rejection::WrongCluster);
    }
    let role = shared.gate().admit(&connection.remote_id(), &hello)?;
    if shared.pool.open_links() >= shared.connections_max {
        return Err(Rejection::Full);
    }
    Ok((hello.introduction, role))
}
