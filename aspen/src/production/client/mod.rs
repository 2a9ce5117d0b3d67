//! The client of the HTTP interface: finds the leader, retries within a deadline, and says whether a failed operation may
//! have happened. The rules are those of [`crate::client`].
//!
//! ```no_run
//! use aspen::command::Command;
//! use aspen::production::client::{ClientOptions, HttpClient};
//!
//! # async fn example() -> Result<(), aspen::production::client::HttpError> {
//! let client = HttpClient::new(vec!["http://127.0.0.1:8080".to_owned()], ClientOptions::default());
//! let reply = client.execute(Command::Set { key: b"greeting".to_vec(), value: b"hello".to_vec() }).await?;
//! let read = client.read("greeting".into(), None).await?;
//! assert!(read.revision >= reply.revision);
//! # Ok(())
//! # }
//! ```

mod call;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use axum::http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use self::call::{CallError, Caller};
use crate::client::session::{Session, Verdict, judge};
use crate::command::{Command, Outcome, SessionSeq};
use crate::error::{ERRORS, ErrorCode, ErrorOutcome, Retry};
use crate::production::http::error::ErrorBody;
use crate::production::http::schema::{
    ReadReply, ReadRequest, ScanReply, ScanRequest, Stale, WriteReply, WriteRequest, WriteResult,
};
use crate::production::http::text::Text;

/// How a client works.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// An operation with all its retries ends after so long.
    pub deadline: Duration,
    /// One attempt waits so long for its response.
    pub attempt: Duration,
    /// Writes go through a session: they are retried until their outcome is known, and have one effect at most.
    pub session: bool,
    pub session_ttl: Duration,
    /// The bearer token, where one is needed.
    pub token: Option<String>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            deadline: Duration::from_secs(10),
            attempt: Duration::from_secs(5),
            session: true,
            session_ttl: Duration::from_secs(60),
            token: None,
        }
    }
}

/// An operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {} ({})", .0.code, .0.message, .0.hint)]
pub struct HttpError(pub Box<ErrorBody>);

impl HttpError {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let error = crate::error::ClientError::new(code, message);
        HttpError(Box::new(ErrorBody {
            code: code.name().to_owned(),
            message: error.message,
            hint: error.hint,
            leader: None,
            outcome: error.outcome,
        }))
    }

    /// Whether the operation may have an effect.
    pub fn outcome(&self) -> ErrorOutcome {
        self.0.outcome
    }
}

/// A client of one cluster. Clones share the session and what is known of the leader.
#[derive(Clone)]
pub struct HttpClient {
    inner: Arc<Inner>,
}

struct Inner {
    caller: Caller,
    options: ClientOptions,
    endpoints: Vec<String>,
    target: Mutex<Target>,
    session: tokio::sync::Mutex<Session>,
}

/// Whom to ask next.
#[derive(Default)]
struct Target {
    leader: Option<String>,
    next: usize,
}

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Hints followed in a row without a pause.
const REDIRECTS_MAX: u32 = 3;

/// Refusals that say something of one node only, and that it repeats: it has another token, or is in no cluster.
const OF_ONE_NODE: [&str; 2] = ["unauthorized", "no-cluster"];

/// What may be done about an attempt that failed.
struct Attempt {
    error: HttpError,
    retry: Retry,
    leader: Option<String>,
}

impl HttpClient {
    /// `endpoints` are URLs of nodes, one at least: `http://HOST:PORT`.
    pub fn new(endpoints: Vec<String>, options: ClientOptions) -> Self {
        assert!(!endpoints.is_empty(), "a client knows at least one endpoint");
        let endpoints = endpoints.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        HttpClient {
            inner: Arc::new(Inner {
                caller: Caller::default(),
                options,
                endpoints,
                target: Mutex::default(),
                session: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Changes the store, through the session if the client is configured so.
    pub async fn execute(&self, command: Command) -> Result<WriteReply, HttpError> {
        let deadline = self.deadline();
        let of_session = matches!(
            command,
            Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. }
        );
        if !self.inner.options.session || of_session {
            return self.write(None, command, deadline).await.map(|(reply, _)| reply);
        }
        let mut session = self.inner.session.lock().await;
        loop {
            let Some(name) = session.next() else {
                let ttl_ms = u64::try_from(self.inner.options.session_ttl.as_millis()).unwrap_or(u64::MAX);
                // Whatever became of it, the operation itself was never sent.
                let opened = self.write(None, Command::OpenSession { ttl_ms }, deadline).await;
                let (reply, _) = opened.map_err(|HttpError(body)| {
                    HttpError(Box::new(ErrorBody { outcome: ErrorOutcome::Definite, ..*body }))
                })?;
                let WriteResult::SessionOpened { session: id } = reply.result else {
                    return Err(HttpError::new(ErrorCode::InvalidReply, "no session was opened"));
                };
                *session = Session::opened(id);
                continue;
            };
            let (reply, earlier) = self.write(Some(name), command.clone(), deadline).await?;
            let outcome = match reply.result {
                WriteResult::SessionUnknown => Outcome::SessionUnknown,
                WriteResult::SessionStale => Outcome::SessionStale,
                _ => Outcome::Nothing,
            };
            match judge(&outcome, earlier) {
                Verdict::Done => return Ok(reply),
                Verdict::Reopen => session.forget(),
                Verdict::Lost => {
                    session.forget();
                    let message = "the session is gone after an attempt of unknown outcome";
                    return Err(HttpError::new(ErrorCode::SessionExpired, message));
                }
            }
        }
    }

    /// Changes the store under a name that the caller gives the operation; see
    /// [`Client::execute_as`](crate::client::Client::execute_as).
    pub async fn execute_as(&self, name: SessionSeq, command: Command) -> Result<WriteReply, HttpError> {
        self.write(Some(name), command, self.deadline()).await.map(|(reply, _)| reply)
    }

    /// Ends the session, if one is open.
    pub async fn close_session(&self) -> Result<(), HttpError> {
        let mut session = self.inner.session.lock().await;
        let Some(id) = session.id() else { return Ok(()) };
        session.forget();
        self.write(None, Command::CloseSession { session: id }, self.deadline()).await.map(|_| ())
    }

    /// Reads a key: linearizable, or what one node has, within bounds.
    pub async fn read(&self, key: Text, stale: Option<Stale>) -> Result<ReadReply, HttpError> {
        self.query("/read", &ReadRequest { key, stale, timeout_ms: None }).await
    }

    pub async fn scan(&self, request: &ScanRequest) -> Result<ScanReply, HttpError> {
        self.query("/scan", request).await
    }

    /// Posts a request that may be repeated.
    pub async fn query<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T, HttpError> {
        let body = serde_json::to_vec(request).expect("a request is JSON");
        self.look(Method::POST, path, body).await
    }

    /// Posts a request that is sent once more only while nothing was delivered.
    pub async fn command<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T, HttpError> {
        let body = serde_json::to_vec(request).expect("a request is JSON");
        self.deliver(Method::POST, path, body, false, self.deadline()).await.map(|(reply, _)| reply)
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        self.look(Method::GET, path, Vec::new()).await
    }

    /// A request that changes nothing: however it failed, nothing happened.
    async fn look<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> Result<T, HttpError> {
        let looked = self.deliver(method, path, body, true, self.deadline()).await;
        looked.map(|(reply, _)| reply).map_err(|HttpError(mut body)| {
            if body.outcome == ErrorOutcome::Unknown {
                body.outcome = ErrorOutcome::Definite;
                body.hint = "try again, at another node, or with more time".to_owned();
            }
            HttpError(body)
        })
    }

    /// Asks one node, once. The status is that of the response; the body is whatever it says.
    pub async fn get_from(&self, endpoint: &str, path: &str) -> Result<(u16, Vec<u8>), CallError> {
        let url = format!("{}{path}", endpoint.trim_end_matches('/'));
        let Inner { caller, options, .. } = &*self.inner;
        let called = caller.call(Method::GET, &url, options.token.as_deref(), Vec::new(), options.attempt);
        called.await.map(|(status, bytes)| (status.as_u16(), bytes.to_vec()))
    }

    /// Asks this endpoint next, as if it were known to lead.
    pub fn prefer(&self, endpoint: String) {
        self.lock().leader = Some(endpoint);
    }

    pub fn endpoints(&self) -> &[String] {
        &self.inner.endpoints
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.inner.options.deadline
    }

    async fn write(
        &self,
        session: Option<SessionSeq>,
        command: Command,
        deadline: Instant,
    ) -> Result<(WriteReply, bool), HttpError> {
        let repeatable = session.is_some()
            || matches!(
                command,
                Command::OpenSession { .. } | Command::RefreshSession { .. } | Command::CloseSession { .. }
            );
        let timeout_ms = u32::try_from(self.inner.options.attempt.as_millis()).ok();
        let request = WriteRequest { command, session, timeout_ms };
        let body = serde_json::to_vec(&request.to_json()).expect("a request is JSON");
        self.deliver(Method::POST, "/write", body, repeatable, deadline).await
    }

    /// Sends a request until it is answered, refused for good, or the deadline passes. Returns also whether an attempt
    /// before the one that was answered may have been delivered.
    async fn deliver<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        repeatable: bool,
        deadline: Instant,
    ) -> Result<(T, bool), HttpError> {
        let mut unknown: Option<HttpError> = None;
        // Endpoints that would say the same again.
        let mut refused: BTreeSet<String> = BTreeSet::new();
        let (mut pause, mut redirects) = (PAUSE_MIN, 0);
        loop {
            let endpoint = self.target();
            let left = deadline.saturating_duration_since(Instant::now()).min(self.inner.options.attempt);
            let Attempt { error, retry, leader } = match self.attempt(&method, &endpoint, path, &body, left).await {
                Ok(reply) => {
                    self.lock().leader = Some(endpoint);
                    return Ok((reply, unknown.is_some()));
                }
                Err(attempt) => attempt,
            };
            if error.outcome() == ErrorOutcome::Unknown {
                unknown = Some(error.clone());
            }
            // An unknown outcome outweighs every later refusal.
            let ended = unknown.clone().unwrap_or_else(|| error.clone());
            if OF_ONE_NODE.contains(&error.0.code.as_str()) {
                refused.insert(endpoint.clone());
                if self.inner.endpoints.iter().all(|known| refused.contains(known)) {
                    return Err(ended);
                }
            }
            if retry == Retry::Never || (unknown.is_some() && !repeatable) {
                return Err(ended);
            }
            let follow = leader.filter(|leader| *leader != endpoint && redirects < REDIRECTS_MAX);
            if follow.is_some() {
                redirects += 1;
                self.lock().leader = follow;
                continue;
            }
            redirects = 0;
            self.pass_over(&endpoint);
            if Instant::now() + pause >= deadline {
                return Err(ended);
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        method: &Method,
        endpoint: &str,
        path: &str,
        body: &[u8],
        timeout: Duration,
    ) -> Result<T, Attempt> {
        let failed = |code: ErrorCode, message: String| Attempt {
            error: HttpError::new(code, message),
            retry: code.retry(),
            leader: None,
        };
        let Inner { caller, options, .. } = &*self.inner;
        let url = format!("{endpoint}{path}");
        let called = caller.call(method.clone(), &url, options.token.as_deref(), body.to_vec(), timeout).await;
        let (status, bytes) = called.map_err(|error| {
            let code = match &error {
                CallError::NotSent(_) => ErrorCode::Unreachable,
                CallError::Lost(_) => ErrorCode::ConnectionLost,
                CallError::Late(_) => ErrorCode::Timeout,
            };
            failed(code, format!("{url}: {error}"))
        })?;
        if status.is_success() {
            let invalid = |error: serde_json::Error| failed(ErrorCode::InvalidReply, format!("{url}: {error}"));
            return serde_json::from_slice(&bytes).map_err(invalid);
        }
        let mut error: ErrorBody = serde_json::from_slice(&bytes)
            .map_err(|_| failed(ErrorCode::InvalidReply, format!("{url}: status {status}, and no error of aspen")))?;
        let row = ERRORS.iter().find(|row| row.name == error.code);
        let retry = match row {
            Some(row) => row.retry,
            None if OF_ONE_NODE.contains(&error.code.as_str()) => {
                // Which of several nodes it was is not to be seen otherwise.
                error.message = format!("{endpoint}: {}", error.message);
                Retry::Elsewhere
            }
            None if status.as_u16() == 503 => Retry::Elsewhere,
            None => Retry::Never,
        };
        let leader = error.leader.as_ref().and_then(|leader| leader.http.as_ref()).map(|at| format!("http://{at}"));
        Err(Attempt { error: HttpError(Box::new(error)), retry, leader })
    }

    fn target(&self) -> String {
        let target = self.lock();
        target.leader.clone().unwrap_or_else(|| self.inner.endpoints[target.next % self.inner.endpoints.len()].clone())
    }

    fn pass_over(&self, failed: &str) {
        let mut target = self.lock();
        let endpoints = &self.inner.endpoints;
        target.leader = None;
        target.next = (target.next + 1) % endpoints.len();
        if endpoints[target.next] == failed {
            target.next = (target.next + 1) % endpoints.len();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Target> {
        self.inner.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
