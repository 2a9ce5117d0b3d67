//! Messages between nodes and from clients: calls with a reply, over whatever carries them.
//!
//! A transport knows nothing of Raft. It delivers a request to the handler at an address and brings back the reply; it
//! verifies checksums, bounds sizes and correlates replies. It does not retry: an error says whether the request may
//! have been delivered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::types::Address;

/// Carries calls.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Sends `request` to the handler at `to` and returns its reply. Calls are independent: no order among them.
    /// Dropping the future abandons the call; the request may still be handled.
    fn call(
        &self,
        to: &Address,
        request: Vec<u8>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, TransportError>> + Send;

    /// Hands every incoming request to `handler` until [`Transport::close`]. Each is handled in a task of its own.
    fn serve(&self, handler: Arc<dyn Handler>);

    /// Stops serving and refuses further calls.
    fn close(&self);
}

/// A future of a reply.
pub type ReplyFuture = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// `request` is as it was sent; its checksum was verified. Malformed requests are answered with an error reply.
    ///
    /// The future is run to its end, also when nobody waits for the reply any more: openraft's calls must not be dropped
    /// half way.
    fn handle(&self, request: Vec<u8>) -> ReplyFuture;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection could be made; the request was not delivered.
    #[error("{0} cannot be reached")]
    Unreachable(Address),
    /// The peer's host answers, but nobody listens there; the request was not delivered.
    #[error("{0} refused the connection")]
    Refused(Address),
    /// The connection broke; the request may have been delivered.
    #[error("the connection to {0} was reset")]
    Reset(Address),
    /// No reply in time; the request may have been delivered, or may still be.
    #[error("{0} did not reply within {1:?}")]
    Timeout(Address, Duration),
    /// The message exceeds the limit; it was not sent.
    #[error("the message has {actual} bytes, {max} are allowed")]
    TooLarge { actual: usize, max: usize },
    /// The transport was closed here; the request was not sent.
    #[error("the transport is closed")]
    Closed,
}

impl TransportError {
    /// Whether the peer may have acted on the request, or may still do so.
    pub fn may_have_been_delivered(&self) -> bool {
        matches!(self, TransportError::Reset(_) | TransportError::Timeout(..))
    }
}
