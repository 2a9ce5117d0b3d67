//! The HTTP interface (axum), for clients and operators. `docs/http.md` describes it.
//!
//! - [`text`], [`schema`]: what goes over the wire; [`error`]: how failures look
//! - [`kv`]: reads and writes; [`ask`]: sent on to the leader where need be
//! - [`health`], [`status`], [`metrics`]: what the node says of itself
//! - [`admin`]: changes of the cluster; [`auth`]: who may ask what

pub mod admin;
mod ask;
pub mod auth;
pub mod error;
pub mod health;
mod kv;
pub mod metrics;
pub mod schema;
pub mod status;
pub mod text;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

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

/// What the handlers share.
pub struct App {
    pub node: Node<RealEnv>,
    pub transport: IrohTransport,
    pub config: NodeConfig,
    pub cluster: ClusterId,
    pub http_address: SocketAddr,
    pub guard: Guard,
    pub gate: Arc<ClusterGate>,
    /// Without it no tickets are issued here.
    pub secret: Option<ClusterSecret>,
    pub disk: Arc<Disk>,
    pub metrics: HttpMetrics,
    /// Held while a node is let in.
    pub joins: tokio::sync::Mutex<()>,
    pub started: Instant,
}

/// Serves until `stop` resolves, then lets requests in progress end.
pub async fn serve(
    app: Arc<App>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    use axum::serve::ListenerExt;
    // A small reply must not wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router(app)).with_graceful_shutdown(stop).await
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

/// Around every request: may it be asked, and how long did it take.
async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let path = endpoint(request.uri().path());
    let allowed = app.guard.check(access(path), request.headers()).and_then(|()| is_json(&request));
    let response = match allowed {
        Ok(()) => uniform(next.run(request).await),
        Err(failure) => failure.into_response(),
    };
    let failed_with = response.extensions().get::<FailedWith>().map(|FailedWith(code)| code.clone());
    app.metrics.record(path, begun.elapsed(), failed_with);
    response
}

/// Requests that a browser sends without asking first (CORS, "simple requests") are no JSON: a web page must not be able
/// to write to a node on the reader's own machine.
fn is_json(request: &Request) -> Result<(), Failure> {
    if request.method() != Method::POST {
        return Ok(());
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
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

/// Refusals of axum itself, as ours look.
fn uniform(response: Response) -> Response {
    match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE if response.extensions().get::<FailedWith>().is_none() => {
            let message = format!("the body has more than {BODY_BYTES_MAX} bytes");
            let hint = "docs/limits.md has the bounds";
            let refused = Failure::definite(StatusCode::PAYLOAD_TOO_LARGE, "limit-exceeded", message, hint);
            // The rest of the body was not read, so nothing more can be asked on this connection.
            ([(header::CONNECTION, "close")], refused).into_response()
        }
        _ => response,
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
