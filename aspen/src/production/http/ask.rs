//! Requests of clients: answered here, or sent on to the leader.
//!
//! A request goes to another node three times at most. What may have been delivered is never sent again, but for reads.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::FutureExt;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::command::Answer;
use crate::error::{ErrorCode, ErrorOutcome, Retry};
use crate::message::{AdminRequest, Envelope, LeaderHint, Refusal, Request, Response, decode_response, encode_request};
use crate::production::http::App;
use crate::production::http::error::{Effect, Failure, LeaderBody};
use crate::production::http::standing::Standing;
use crate::transport::{Transport, TransportError};
use crate::types::NodeId;

/// A request may be sent on so often.
const FORWARDS_MAX: u32 = 3;
/// A leader that handed over still answers what it has in flight.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// A request that names no timeout.
pub const TIMEOUT_DEFAULT_MS: u32 = 5000;

impl App {
    /// Answers a write, a read or a question for the leader, here or at the leader, within `budget`.
    pub(crate) async fn ask(&self, request: Request, budget: Duration) -> Result<Response, Refusal> {
        let deadline = Instant::now() + budget;
        if self.node.raft().is_leader() {
            return self.ask_here(request).await;
        }
        if self.standing() == Standing::Outside {
            return Err(Refusal::new(ErrorCode::NotLeader, self.outside()));
        }
        let Some(mut leader) = self.await_leader(budget / 2).await else {
            return self.ask_here(request).await;
        };
        if leader.id == self.node.id() {
            return self.ask_here(request).await;
        }
        let repeatable = matches!(request, Request::Read { .. } | Request::Leader);
        let patience = match &request {
            Request::Read { .. } | Request::Leader => Duration::ZERO,
            // It ends with a new leader when all goes well.
            Request::Admin { request: AdminRequest::TransferLeadership { .. }, .. } => budget,
            _ => LAST_WORDS,
        };
        let mut forwards = 0;
        let limits = &self.config.store.limits;
        loop {
            forwards += 1;
            let envelope = Envelope { cluster: self.cluster, to: Some(leader.id), request: request.clone() };
            let left = deadline.saturating_duration_since(Instant::now());
            let call = self.transport.call(&leader.address, encode_request(&envelope), left);
            // A leader that was killed answers no more, and its connection looks alive for a while.
            let called = tokio::select! {
                biased;
                called = call => Some(called),
                () = self.deposed(leader.id, patience) => None,
            };
            let refusal = match called {
                Some(Ok(reply)) => match decode_response(&reply, limits.message_bytes_max) {
                    Ok(Response::Refused(refusal)) => refusal,
                    Ok(response) => return Ok(response),
                    Err(error) => Refusal::new(ErrorCode::InvalidReply, error.to_string()),
                },
                Some(Err(error)) => not_forwarded(&error),
                None => Refusal::new(ErrorCode::ConnectionLost, "the leader was deposed before it answered"),
            };
            let definite = refusal.code.outcome() == ErrorOutcome::Definite;
            let elsewhere = refusal.code.retry() == Retry::Elsewhere;
            if !(elsewhere && (definite || repeatable)) || forwards >= FORWARDS_MAX {
                return Err(refusal);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let named = refusal.leader.clone().filter(|hint| hint.id != leader.id);
            let next = match named {
                Some(hint) => Some(hint),
                None => self.await_leader(left / 2).await.filter(|hint| hint.id != leader.id),
            };
            match next {
                None => return Err(refusal),
                Some(hint) if hint.id == self.node.id() => return self.ask_here(request).await,
                Some(hint) => leader = hint,
            }
        }
    }

    /// Asks this node. What was begun is brought to its end, also when the client has hung up: openraft's calls must not be
    /// dropped half way.
    async fn ask_here(&self, request: Request) -> Result<Response, Refusal> {
        let node = self.node.clone();
        let call = async move { node.ask(request).await };
        match ToTheEnd::new(AssertUnwindSafe(call).catch_unwind()).await {
            Ok(response) => sorted(response),
            Err(_) => Err(Refusal::new(ErrorCode::NodeFailed, "the request made the node panic")),
        }
    }

    /// Resolves `patience` after this node knows that `leader` leads no more. May be dropped at any time.
    async fn deposed(&self, leader: NodeId, patience: Duration) {
        let mut metrics = self.node.raft().metrics();
        if metrics.wait_until(move |metrics| metrics.current_leader != Some(leader)).await.is_err() {
            // The node stops; the call ends by itself.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(patience).await;
    }

    /// The leader as this node sees it; waits for one to be elected.
    pub(crate) async fn await_leader(&self, timeout: Duration) -> Option<LeaderHint> {
        if let Some(leader) = self.leader() {
            return Some(leader);
        }
        let mut metrics = self.node.raft().metrics();
        let elected = metrics.wait_until(|metrics| metrics.current_leader.is_some());
        drop(tokio::time::timeout(timeout, elected).await);
        self.leader()
    }

    /// The leader as this node sees it.
    pub(crate) fn leader(&self) -> Option<LeaderHint> {
        let metrics = self.node.raft().metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&id)?;
        Some(LeaderHint { id, address: member.address.clone() })
    }

    /// The leader as clients are told of it.
    pub(crate) fn leader_body(&self, hint: &LeaderHint) -> LeaderBody {
        let http = if hint.id == self.node.id() {
            self.http_advertised.clone()
        } else {
            self.transport.introduction(&hint.address).and_then(|introduction| introduction.http)
        };
        LeaderBody { id: hint.id, address: hint.address.to_string(), http }
    }

    /// An error for the client of a refused request.
    pub(crate) fn failure(&self, refusal: Refusal, effect: Effect) -> Failure {
        let is_early = matches!(refusal.code, ErrorCode::NotLeader | ErrorCode::Recovering);
        if is_early && self.standing() == Standing::Outside {
            let hint = "ask a member of the cluster";
            return Failure::definite(StatusCode::SERVICE_UNAVAILABLE, "no-cluster", self.outside(), hint);
        }
        let hint = refusal.leader.clone().or_else(|| self.leader()).filter(|hint| hint.id != self.node.id());
        let leader = hint.map(|hint| self.leader_body(&hint));
        Failure::refused(refusal, effect, leader)
    }

    /// How long to work on a request that names this timeout.
    pub(crate) fn budget(&self, timeout_ms: Option<u32>) -> (Duration, u32) {
        let max = u32::try_from(self.config.raft.request_timeout_ms).unwrap_or(u32::MAX);
        let budget_ms = timeout_ms.unwrap_or(TIMEOUT_DEFAULT_MS).min(max);
        (Duration::from_millis(budget_ms.into()), budget_ms)
    }

    /// Reads, linearizable.
    pub(crate) async fn read(&self, query: crate::command::Query, timeout_ms: Option<u32>) -> Result<Answer, Failure> {
        let (budget, budget_ms) = self.budget(timeout_ms);
        match self.ask(Request::Read { query, budget_ms }, budget).await {
            Ok(Response::Answered(answer)) => Ok(answer),
            Ok(_) => Err(self.failure(mismatched(), Effect::Read)),
            // A quorum that is asked for less than it takes to notice that it is gone may be there.
            Err(refusal)
                if refusal.code == ErrorCode::NoQuorum && u64::from(budget_ms) < self.config.raft.election_max_ms =>
            {
                let message = format!("no quorum answered within the {budget_ms} ms that the request allows");
                Err(self.failure(
                    Refusal { leader: refusal.leader, ..Refusal::new(ErrorCode::Timeout, message) },
                    Effect::Read,
                ))
            }
            Err(refusal) => Err(self.failure(refusal, Effect::Read)),
        }
    }
}

/// A call that goes on in a task of its own when it is dropped, and costs none otherwise.
struct ToTheEnd<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> ToTheEnd<T> {
    fn new(call: impl Future<Output = T> + Send + 'static) -> Self {
        ToTheEnd(Some(Box::pin(call)))
    }
}

impl<T: Send + 'static> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // A call that panics is not put back: it cannot go on.
        let mut call = self.0.take().expect("it is not polled again after its end");
        let polled = call.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(call);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        // Outside a runtime the node is gone, and the call with it.
        if let (Some(call), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(call));
        }
    }
}

pub(crate) fn mismatched() -> Refusal {
    Refusal::new(ErrorCode::InvalidReply, "the leader answered another question")
}

fn sorted(response: Response) -> Result<Response, Refusal> {
    match response {
        Response::Refused(refusal) => Err(refusal),
        response => Ok(response),
    }
}

fn not_forwarded(error: &TransportError) -> Refusal {
    let code = match error {
        TransportError::Unreachable(_) | TransportError::Refused(_) => ErrorCode::Unreachable,
        TransportError::Reset(_) => ErrorCode::ConnectionLost,
        TransportError::Timeout(..) => ErrorCode::Timeout,
        TransportError::TooLarge { .. } => ErrorCode::LimitExceeded,
        TransportError::Closed => ErrorCode::Stopping,
    };
    Refusal::new(code, format!("the request was sent on to the leader: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A client hangs up while its write is in progress: the write is not dropped half way.
    #[tokio::test]
    async fn a_dropped_call_goes_on() {
        let (go, wait) = oneshot::channel::<()>();
        let (say, said) = oneshot::channel();
        let mut call = ToTheEnd::new(async move {
            wait.await.unwrap();
            say.send("done").unwrap();
        });
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        go.send(()).unwrap();
        assert_eq!(said.await, Ok("done"));
        assert_eq!(ToTheEnd::new(async { 7 }).await, 7);
    }
}
