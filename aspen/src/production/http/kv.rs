//! `/write`, `/read`, `/scan`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query as UrlQuery, State};
use serde::Deserialize;

use crate::command::{Answer, Command, Query, TxnOp};
use crate::message::{Request, Response};
use crate::node::StaleBound;
use crate::production::http::App;
use crate::production::http::ask::mismatched;
use crate::production::http::error::{Effect, Failure};
use crate::production::http::schema::{
    ReadReply, ReadRequest, ScanReply, ScanRequest, Stale, WriteReply, WriteRequest, parse,
};
use crate::production::side::RESERVED_PREFIX;

pub(super) async fn write(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<WriteReply>, Failure> {
    let WriteRequest { command, session, timeout_ms } = WriteRequest::parse(&body).map_err(Failure::malformed)?;
    if keys(&command).iter().any(|key| key.starts_with(RESERVED_PREFIX)) {
        return Err(Failure::malformed("keys that begin with \\0aspen/ are the node's own"));
    }
    let (budget, budget_ms) = app.budget(timeout_ms);
    match app.ask(Request::Write { session, command, budget_ms }, budget).await {
        Ok(Response::Written(reply)) => Ok(Json(reply.into())),
        Ok(_) => Err(app.failure(mismatched(), Effect::Write)),
        Err(refusal) => Err(app.failure(refusal, Effect::Write)),
    }
}

pub(super) async fn read(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<ReadReply>, Failure> {
    let request: ReadRequest = parse(&body).map_err(Failure::malformed)?;
    answer(&app, request.query(), request.stale, request.timeout_ms).await.map(|answer| Json(answer.into()))
}

pub(super) async fn scan(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<ScanReply>, Failure> {
    let request: ScanRequest = parse(&body).map_err(Failure::malformed)?;
    let query = request.query().map_err(Failure::malformed)?;
    answer(&app, query, request.stale, request.timeout_ms).await.map(|answer| Json(answer.into()))
}

/// `?key=K`: for people with a shell or a browser.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadUrl {
    key: String,
    #[serde(default)]
    stale: bool,
    max_age_ms: Option<u64>,
    min_revision: Option<u64>,
    timeout_ms: Option<u32>,
}

pub(super) async fn read_url(
    State(app): State<Arc<App>>,
    url: Result<UrlQuery<ReadUrl>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ReadReply>, Failure> {
    let UrlQuery(url) = url.map_err(|error| Failure::malformed(error.body_text()))?;
    let stale = stale(url.stale, url.max_age_ms, url.min_revision);
    let query = Query::Get { key: url.key.into_bytes() };
    answer(&app, query, stale, url.timeout_ms).await.map(|answer| Json(answer.into()))
}

/// `?prefix=P&limit=N`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScanUrl {
    prefix: Option<String>,
    start: Option<String>,
    end: Option<String>,
    limit: Option<u32>,
    #[serde(default)]
    stale: bool,
    max_age_ms: Option<u64>,
    min_revision: Option<u64>,
    timeout_ms: Option<u32>,
}

pub(super) async fn scan_url(
    State(app): State<Arc<App>>,
    url: Result<UrlQuery<ScanUrl>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ScanReply>, Failure> {
    let UrlQuery(url) = url.map_err(|error| Failure::malformed(error.body_text()))?;
    let text = |text: Option<String>| text.map(|text| text.as_str().into());
    let request = ScanRequest {
        prefix: text(url.prefix),
        start: text(url.start),
        end: text(url.end),
        limit: url.limit,
        stale: stale(url.stale, url.max_age_ms, url.min_revision),
        timeout_ms: url.timeout_ms,
    };
    let query = request.query().map_err(Failure::malformed)?;
    answer(&app, query, request.stale, request.timeout_ms).await.map(|answer| Json(answer.into()))
}

fn stale(asked: bool, max_age_ms: Option<u64>, min_revision: Option<u64>) -> Option<Stale> {
    (asked || max_age_ms.is_some() || min_revision.is_some()).then_some(Stale { max_age_ms, min_revision })
}

async fn answer(app: &App, query: Query, stale: Option<Stale>, timeout_ms: Option<u32>) -> Result<Answer, Failure> {
    let Some(Stale { max_age_ms, min_revision }) = stale else { return app.read(query, timeout_ms).await };
    let bound = StaleBound { max_age: max_age_ms.map(Duration::from_millis), min_revision };
    let (budget, _) = app.budget(timeout_ms);
    let answered = app.node.read_stale(query, bound, budget).await;
    answered.map_err(|refusal| app.failure(refusal, Effect::Read))
}

/// Every key that a command names.
fn keys(command: &Command) -> Vec<&[u8]> {
    match command {
        Command::Set { key, .. } | Command::Delete { key } | Command::CompareAndSwap { key, .. } => vec![key],
        Command::SetMulti { pairs } => pairs.iter().map(|pair| pair.key.as_slice()).collect(),
        Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. } => Vec::new(),
        Command::Transaction { compare, then, otherwise } => {
            let compared = compare.iter().map(|comparison| comparison.key.as_slice());
            compared.chain(then.iter().chain(otherwise).map(TxnOp::key)).collect()
        }
    }
}
