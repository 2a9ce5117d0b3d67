//! `/write`, `/read`, `/scan`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query as UrlQuery, State};
use axum::http::{StatusCode, Uri};
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::command::{Answer, Command, Query, TxnOp};
use crate::limits::LimitError;
use crate::message::{Request, Response};
use crate::node::StaleBound;
use crate::production::http::App;
use crate::production::http::ask::mismatched;
use crate::production::http::error::{Effect, Failure};
use crate::production::http::schema::{
    ReadReply, ReadRequest, SCAN_LIMIT_DEFAULT, ScanReply, ScanRequest, Stale, WriteReply, WriteRequest, after_prefix,
    parse,
};
use crate::production::http::text::Text;
use crate::production::side::RESERVED_PREFIX;

pub(super) async fn write(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<WriteReply>, Failure> {
    let WriteRequest { command, session, timeout_ms } = WriteRequest::parse(&body).map_err(Failure::malformed)?;
    if keys(&command).iter().any(|key| key.starts_with(RESERVED_PREFIX)) {
        return Err(Failure::malformed("keys that begin with \\0aspen/ are the node's own"));
    }
    // The node checks it all, once it is encoded; what is wrong whatever its length is no matter of size.
    if let Err(error) = app.config.store.limits.check_command(&command, 0)
        && !is_too_long(&error)
    {
        let hint = "docs/limits.md has the bounds";
        return Err(Failure::definite(StatusCode::BAD_REQUEST, "limit-exceeded", error.to_string(), hint));
    }
    let (budget, budget_ms) = app.budget(timeout_ms);
    match app.ask(Request::Write { session, command, budget_ms }, budget).await {
        Ok(Response::Written(reply)) => Ok(Json(reply.into())),
        Ok(_) => Err(app.failure(mismatched(), Effect::Write)),
        Err(refusal) => Err(app.failure(refusal, Effect::Write)),
    }
}

fn is_too_long(error: &LimitError) -> bool {
    match error {
        LimitError::KeyTooLong { .. } | LimitError::ValueTooLong { .. } | LimitError::CommandTooLong { .. } => true,
        LimitError::KeyEmpty
        | LimitError::PairCount { .. }
        | LimitError::TransactionParts { .. }
        | LimitError::ModifiedTwice
        | LimitError::SessionTtl { .. }
        | LimitError::ScanLimit { .. } => false,
    }
}

pub(super) async fn read(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<ReadReply>, Failure> {
    let request: ReadRequest = parse(&body).map_err(Failure::malformed)?;
    answer(&app, request.query(), request.stale, request.timeout_ms).await.map(|answer| Json(answer.into()))
}

pub(super) async fn scan(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<ScanReply>, Failure> {
    let request: ScanRequest = parse(&body).map_err(Failure::malformed)?;
    rows(&app, request).await
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

pub(super) async fn read_url(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<ReadReply>, Failure> {
    let url: ReadUrl = parameters(&uri)?;
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

pub(super) async fn scan_url(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<ScanReply>, Failure> {
    let url: ScanUrl = parameters(&uri)?;
    let text = |text: Option<String>| text.map(|text| text.as_str().into());
    let request = ScanRequest {
        prefix: text(url.prefix),
        start: text(url.start),
        end: text(url.end),
        limit: url.limit,
        stale: stale(url.stale, url.max_age_ms, url.min_revision),
        timeout_ms: url.timeout_ms,
    };
    rows(&app, request).await
}

/// What stands after the question mark. Bytes that are no text would be read as other ones.
fn parameters<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    if !is_text(uri.query().unwrap_or_default()) {
        let message = "the URL escapes bytes that are no UTF-8; POST takes them, as {\"base64\": \"...\"}";
        return Err(Failure::malformed(message));
    }
    let parsed = UrlQuery::try_from_uri(uri);
    parsed.map(|UrlQuery(parameters)| parameters).map_err(|error| Failure::malformed(error.body_text()))
}

/// Whether a query string is UTF-8 once its escapes are resolved (RFC 3986, section 2.1).
fn is_text(query: &str) -> bool {
    let mut rest = query.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&first, after)) = rest.split_first() {
        let escaped =
            after.get(..2).filter(|_| first == b'%').and_then(|digits| HEXLOWER_PERMISSIVE.decode(digits).ok());
        match escaped.as_deref() {
            Some([byte]) => {
                bytes.push(*byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// The rows of a scan. The node's own keys are left out unless it is them that are asked for: whoever scans everything wants
/// what clients wrote.
///
/// They take places in an answer that has a limit. It is asked for anew then, with as many more, so that it is of one state.
async fn rows(app: &App, mut request: ScanRequest) -> Result<Json<ScanReply>, Failure> {
    let begin = request.prefix.as_ref().or(request.start.as_ref());
    let is_meant = begin.is_some_and(|Text(begin)| begin.starts_with(RESERVED_PREFIX));
    let wanted = request.limit.unwrap_or(SCAN_LIMIT_DEFAULT);
    let rows_max = app.config.store.limits.scan_rows_max;
    loop {
        let query = request.query().map_err(Failure::malformed)?;
        let asked_for = request.limit.unwrap_or(SCAN_LIMIT_DEFAULT);
        let mut answer = answer(app, query, request.stale, request.timeout_ms).await?;
        if is_meant {
            return Ok(Json(answer.into()));
        }
        let (all, last) = (answer.rows.len(), answer.rows.last().map(|row| row.key.clone()));
        answer.rows.retain(|row| !row.key.starts_with(RESERVED_PREFIX));
        let hidden = all - answer.rows.len();
        let kept = usize::try_from(wanted).unwrap_or(usize::MAX);
        if hidden == 0 || !answer.more || answer.rows.len() >= kept {
            answer.more |= answer.rows.len() > kept;
            answer.rows.truncate(kept);
            return Ok(Json(answer.into()));
        }
        let more = wanted.saturating_add(u32::try_from(hidden).unwrap_or(u32::MAX)).min(rows_max);
        match last {
            _ if more > asked_for => request.limit = Some(more),
            // Nothing else fits an answer: the next one begins after them.
            Some(last) if answer.rows.is_empty() => {
                let end = request.prefix.take().and_then(|Text(prefix)| after_prefix(&prefix)).map(Text);
                request.end = end.or(request.end.take());
                request.start = Some(Text([&last[..], &[0]].concat()));
            }
            _ => return Ok(Json(answer.into())),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_bytes_are_text_or_refused() {
        for text in ["", "key=a", "key=%c3%A9", "key=%EF%BF%BD", "key=100%", "key=%zz%4", "key=%00aspen%2F"] {
            assert!(is_text(text), "{text}");
        }
        for bytes in ["key=%ff", "key=%FF", "key=a%c3", "key=%c3%28"] {
            assert!(!is_text(bytes), "{bytes}");
        }
    }
}
