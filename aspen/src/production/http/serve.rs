//! Connections: how many are open, and how long one may do nothing.
//!
//! A client that sends its headers a byte at a time, or nothing at all, must not keep others out for ever.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::production::http::{App, router};

/// See the module.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Connections that are served; more wait until one of them ends.
    connections_max: usize,
    /// A request's headers arrive within this time, from the end of the one before.
    header_timeout: Duration,
}

const BOUNDS: Bounds = Bounds { connections_max: 512, header_timeout: Duration::from_secs(30) };
/// When no connection can be taken: the process may have as many files open as it is allowed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` resolves, then lets requests in progress end.
pub async fn serve(app: Arc<App>, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) {
    serve_within(BOUNDS, router(app), listener, stop).await;
}

async fn serve_within(bounds: Bounds, router: Router, listener: TcpListener, stop: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.header_timeout);
    let connections = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(bounds.connections_max));
    let mut stop = std::pin::pin!(stop);
    loop {
        let taken = async {
            let place = room.clone().acquire_owned().await.expect("nobody closes it");
            (accept(&listener).await, place)
        };
        let (stream, place) = tokio::select! {
            taken = taken => taken,
            () = &mut stop => break,
        };
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            // A client that hangs up is nobody's loss.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// The next connection that can be used.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A small reply must not wait for the acknowledgement of the one before.
                if stream.set_nodelay(true).is_ok() {
                    return stream;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!("HTTP: no connection can be taken: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    const ASKED: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    async fn all_of(mut stream: TcpStream) -> String {
        let mut said = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await;
        drop(read.expect("the connection ends"));
        String::from_utf8(said).unwrap()
    }

    async fn connect(to: SocketAddr, said: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream
    }

    /// Whoever says nothing, or not enough, makes room after a while; who waits meanwhile is served then.
    #[tokio::test]
    async fn a_silent_connection_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let bounds = Bounds { connections_max: 2, header_timeout: Duration::from_millis(200) };
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().route("/", get(async || "served"));
        let server = tokio::spawn(serve_within(bounds, router, listener, async move { drop(stopped.await) }));
        let silent = connect(at, b"").await;
        let slow = connect(at, &ASKED[..20]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let third = connect(at, ASKED).await;
        assert!(third.try_read(&mut [0; 1]).is_err(), "it waits");
        assert!(all_of(third).await.ends_with("served"));
        assert!(!all_of(silent).await.contains("served") && !all_of(slow).await.contains("served"));
        drop(stop);
        server.await.unwrap();
    }
}
