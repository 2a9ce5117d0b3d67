//! The HTTP interface (axum), for clients and operators. `docs/http.md` describes it.
//!
//! - [`text`], [`schema`]: what goes over the wire; [`error`]: how failures look
//! - [`kv`]: reads and writes; [`ask`]: sent on to the leader where need be
//! - [`health`], [`standing`], [`status`], [`metrics`]: what the node says of itself
//! - [`admin`]: changes of the cluster; [`auth`]: who may ask what
//! - [`serve`]: connections, how many and for how long

pub mod admin;
mod ask;
pub mod auth;
pub mod error;
pub mod health;
mod kv;
pub mod metrics;
pub mod schema;
mod serve;
pub(crate) mod standing;
pub mod status;
pub mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

pub use self::serve::serve;
use crate::message::ClusterId;
use crate::node::{Node, NodeConfig};
use crate::production::disk::Disk;
use crate::production::env::RealEnv;
use crate::production::http::auth::{Access, Guard};
use crate::production::http::error::{FailedWith, Failure};
use crate::production::http::metrics::HttpMetrics;
use crate::production::membership::ClusterGate;
use crate::production::secret::ClusterSecret;
use crate::production::transport::IrohTransport;

/// A body may be so long: the longest command, whose bytes Base64 makes a third longer, and what is around them.
pub const BODY_BYTES_MAX: usize = 6 << 20;
/// and takes so long to arrive at most.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the handlers share.
pub struct App {
    pub node: Node<RealEnv>,
    pub transport: IrohTransport,
    pub config: NodeConfig,
    pub cluster: ClusterId,
    pub http_address: SocketAddr,
    /// Where clients reach it, `HOST:PORT`.
    pub http_advertised: Option<String>,
    pub guard: Guard,
    pub gate: Arc<ClusterGate>,
    /// Without it no tickets are issued here.
    pub secret: Option<ClusterSecret>,
    pub disk: Arc<Disk>,
    pub metrics: HttpMetrics,
    /// Held while a node is let in.
    pub joins: tokio::sync::Mutex<()>,
    /// A cluster let this node in; otherwise it is a founder.
    pub has_joined: bool,
    /// A member said that this node was removed, or refused its connection as a stranger's.
    pub is_disowned: AtomicBool,
    pub started: Instant,
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/write", post(kv::write))
        .route("/read", post(kv::read).get(kv::read_url))
        .route("/scan", post(kv::scan).get(kv::scan_url))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/raft-metrics", get(status::raft_metrics))
        .route("/leader", get(status::leader))
        .route("/node-info", get(status::node_info))
        .route("/init", post(admin::init))
        .route("/add-learner", post(admin::add_learner))
        .route("/promote-learner", post(admin::promote_learner))
        .route("/change-membership", post(admin::change_membership))
        .route("/remove-node", post(admin::remove_node))
        .route("/transfer-leader", post(admin::transfer_leader))
        .route("/add-peer", post(admin::add_peer))
        .route("/trigger-snapshot", post(admin::trigger_snapshot))
        .route("/cluster-ticket", post(admin::cluster_ticket))
        .route("/admin/checkpoint-wal", post(admin::checkpoint_wal))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), around))
        .with_state(app)
}

/// Around every request: may it be asked, is all of it there, and how long did it take.
async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let path = endpoint(request.uri().path());
    let response = match app.guard.check(access(path), request.headers()) {
        Ok(()) => match whole(request, BODY_TIMEOUT).await {
            Ok(request) => next.run(request).await,
            Err(refused) => refused,
        },
        Err(failure) => failure.into_response(),
    };
    let failed_with = response.extensions().get::<FailedWith>().map(|FailedWith(code)| code.clone());
    app.metrics.record(path, begun.elapsed(), failed_with);
    response
}

/// The request with its body in memory, if that is what it should be.
async fn whole(request: Request, patience: Duration) -> Result<Request, Response> {
    if request.method() != Method::POST {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let mut carrier = Request::new(body);
    DefaultBodyLimit::max(BODY_BYTES_MAX).apply(&mut carrier);
    // After a body that was not read to its end nothing more can be asked on the connection.
    let unread = |failure: Failure| ([(header::CONNECTION, "close")], failure).into_response();
    let bytes = match tokio::time::timeout(patience, Bytes::from_request(carrier, &())).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body has more than {BODY_BYTES_MAX} bytes");
            let hint = "docs/limits.md has the bounds";
            return Err(unread(Failure::definite(rejection.status(), "limit-exceeded", message, hint)));
        }
        Ok(Err(rejection)) => return Err(unread(Failure::malformed(rejection.body_text()))),
        Err(_) => {
            let message = format!("the body did not arrive within {patience:?}");
            let hint = "send it faster, or in parts";
            return Err(unread(Failure::definite(StatusCode::REQUEST_TIMEOUT, "too-slow", message, hint)));
        }
    };
    if !bytes.is_empty() {
        is_json(&parts.headers).map_err(IntoResponse::into_response)?;
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Bodies that a browser sends without asking first (CORS, "simple requests") are no JSON: a web page must not be able to
/// write to a node on the reader's own machine.
fn is_json(headers: &HeaderMap) -> Result<(), Failure> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let (status, hint) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "send `Content-Type: application/json`");
    Err(Failure::definite(status, "not-json", "the body of a request is JSON", hint))
}

/// Every path that is served, so that a label of a metric is never a caller's text.
const ENDPOINTS: [&str; 20] = [
    "/write",
    "/read",
    "/scan",
    "/livez",
    "/readyz",
    "/health",
    "/metrics",
    "/raft-metrics",
    "/leader",
    "/node-info",
    "/init",
    "/add-learner",
    "/promote-learner",
    "/change-membership",
    "/remove-node",
    "/transfer-leader",
    "/add-peer",
    "/trigger-snapshot",
    "/cluster-ticket",
    "/admin/checkpoint-wal",
];

fn endpoint(path: &str) -> &'static str {
    ENDPOINTS.into_iter().find(|known| *known == path).unwrap_or("other")
}

fn access(path: &str) -> Access {
    match path {
        "/livez" | "/readyz" | "/health" => Access::Open,
        "/write" | "/read" | "/scan" | "/metrics" | "/raft-metrics" | "/leader" | "/node-info" | "other" => {
            Access::Data
        }
        _ => Access::Admin,
    }
}

async fn unknown_path() -> Failure {
    let (message, hint) = ("there is nothing at this path", "docs/http.md lists the paths");
    Failure::definite(StatusCode::NOT_FOUND, "unknown-path", message, hint)
}

async fn unknown_method() -> Failure {
    let (message, hint) = ("the path does not take this method", "docs/http.md lists the paths and methods");
    Failure::definite(StatusCode::METHOD_NOT_ALLOWED, "unknown-method", message, hint)
}

/// Connections that are still open so long after the end was announced are cut.
pub const GRACE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_whole_or_refused() {
        let request = |kind: &str, body: Body| {
            let request = Request::builder().method(Method::POST).header(header::CONTENT_TYPE, kind);
            request.body(body).unwrap()
        };
        let patience = Duration::from_millis(50);
        let status =
            async |request: Request| whole(request, patience).await.err().map(|refused| refused.status().as_u16());
        assert_eq!(status(request("application/json; charset=utf-8", Body::from("{}"))).await, None);
        assert_eq!(status(request("text/plain", Body::from("{}"))).await, Some(415));
        assert_eq!(status(request("text/plain", Body::empty())).await, None, "nothing is of any type");
        let endless = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        assert_eq!(status(request("application/json", Body::from_stream(endless))).await, Some(408));
        let long = Body::from(vec![b' '; BODY_BYTES_MAX + 1]);
        assert_eq!(status(request("application/json", long)).await, Some(413));
    }
}
