//! One HTTP request and its response, over connections that are kept.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// A longer response is refused: the longest answer to a scan, written as Base64 in JSON.
const RESPONSE_BYTES_MAX: usize = 16 << 20;

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    client: Client<HttpConnector, Body>,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// The request may have been handled.
    #[error("{0}")]
    Lost(String),
    /// The same.
    #[error("no response within {0:.1?}")]
    Late(Duration),
}

impl Default for Caller {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let mut builder = Client::builder(TokioExecutor::new());
        // A kept connection that turns out to be closed must not make a request go twice.
        builder.retry_canceled_requests(false).set_host(true);
        // Nor must one be used in the moment in which the node closes it, since nothing was asked for long.
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT);
        Caller { client: builder.build(connector) }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A kept connection is used no more after so long: well before the node closes it, which has no
/// request to wait for (30 s: `docs/limits.md`).
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

impl Caller {
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        token: Option<&str>,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let uri: Uri = url.parse().map_err(|error| CallError::NotSent(format!("{url}: {error}")))?;
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body));
        let request = request.map_err(|error| CallError::NotSent(error.to_string()))?;
        let respond = async {
            let response = self.client.request(request).await.map_err(|error| {
                let text = chain(&error);
                if error.is_connect() { CallError::NotSent(text) } else { CallError::Lost(text) }
            })?;
            let status = response.status();
            let bytes = axum::body::to_bytes(Body::new(response.into_body()), RESPONSE_BYTES_MAX).await;
            Ok((status, bytes.map_err(|error| CallError::Lost(chain(&error)))?))
        };
        tokio::time::timeout(timeout, respond).await.unwrap_or(Err(CallError::Late(timeout)))
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
