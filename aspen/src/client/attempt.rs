//! What attempts tell about an operation.

use crate::error::{ClientError, ErrorCode, ErrorOutcome};
use crate::message::{Refusal, Response, decode_response};
use crate::planted::planted;
use crate::transport::TransportError;
use crate::types::Address;

/// One attempt failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    /// The leader that the node named.
    pub(super) leader: Option<Address>,
}

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), leader: None }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let leader = refusal.leader.map(|hint| hint.address);
        Failure { code: refusal.code, message: refusal.message, leader }
    }
}

/// Sorts what came back from one call; a reply may have `bytes_max` bytes.
pub(super) fn classify(received: Result<Vec<u8>, TransportError>, bytes_max: usize) -> Result<Response, Failure> {
    match received {
        Ok(bytes) => match decode_response(&bytes, bytes_max) {
            Ok(Response::Refused(refusal)) => Err(refusal.into()),
            Ok(response) => Ok(response),
            Err(error) => Err(Failure::new(ErrorCode::InvalidReply, error.to_string())),
        },
        Err(error) => {
            let code = match error {
                TransportError::Unreachable(_) | TransportError::Refused(_) => ErrorCode::Unreachable,
                TransportError::Reset(_) => ErrorCode::ConnectionLost,
                TransportError::Timeout(..) if planted!("timeout-taken-for-refusal") => ErrorCode::Unreachable,
                TransportError::Timeout(..) => ErrorCode::Timeout,
                TransportError::TooLarge { .. } => ErrorCode::LimitExceeded,
                TransportError::Closed => ErrorCode::NotDelivered,
            };
            Err(Failure::new(code, error.to_string()))
        }
    }
}

/// The failed attempts of one operation so far.
#[derive(Debug, Default)]
pub(super) struct Trail {
    last: Option<Failure>,
    /// The last one whose outcome is unknown.
    unknown: Option<Failure>,
    attempts: u64,
}

impl Trail {
    pub(super) fn add(&mut self, failure: Failure) {
        self.attempts += 1;
        if failure.code.outcome() == ErrorOutcome::Unknown {
            self.unknown = Some(failure.clone());
        }
        self.last = Some(failure);
    }

    /// Whether an attempt may have been delivered and executed.
    pub(super) fn is_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// The operation ends with the last failure.
    pub(super) fn refused(self) -> ClientError {
        self.finish("")
    }

    /// The operation ends because its deadline has passed.
    pub(super) fn expired(self) -> ClientError {
        let attempts = self.attempts;
        self.finish(&format!("the deadline passed after {attempts} attempts: "))
    }

    /// An unknown outcome outweighs every later refusal.
    fn finish(self, prefix: &str) -> ClientError {
        let leader = self.last.as_ref().and_then(|last| last.leader.clone());
        let unknown = self.unknown.filter(|_| !planted!("unknown-reported-definite"));
        let (code, message) = match unknown.or(self.last) {
            Some(failure) => (failure.code, failure.message),
            None => (ErrorCode::NotDelivered, "nothing was sent".to_owned()),
        };
        ClientError { leader, ..ClientError::new(code, format!("{prefix}{message}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_attempt_outweighs_every_later_refusal() {
        let mut trail = Trail::default();
        trail.add(Failure::new(ErrorCode::NotLeader, "a follower"));
        assert!(!trail.is_unknown());
        trail.add(Failure::new(ErrorCode::Timeout, "silence"));
        trail.add(Failure { leader: Some(Address("c".to_owned())), ..Failure::new(ErrorCode::LimitExceeded, "long") });
        assert!(trail.is_unknown());
        let error = trail.refused();
        assert_eq!((error.code, error.outcome), (ErrorCode::Timeout, ErrorOutcome::Unknown));
        assert_eq!(error.leader, Some(Address("c".to_owned())));
    }

    #[test]
    fn refusals_alone_are_definite() {
        let mut trail = Trail::default();
        trail.add(Failure::new(ErrorCode::Unreachable, "nobody"));
        assert_eq!(trail.expired().outcome, ErrorOutcome::Definite);
        assert_eq!(Trail::default().expired().code, ErrorCode::NotDelivered);
    }

    /// A code says the same as the transport about delivery.
    #[test]
    fn codes_agree_with_the_transport() {
        let to = Address("a".to_owned());
        let errors = [
            TransportError::Unreachable(to.clone()),
            TransportError::Refused(to.clone()),
            TransportError::Reset(to.clone()),
            TransportError::Timeout(to, std::time::Duration::ZERO),
            TransportError::TooLarge { actual: 2, max: 1 },
            TransportError::Closed,
        ];
        for error in errors {
            let delivered = error.may_have_been_delivered();
            let failure = classify(Err(error), 100).unwrap_err();
            assert_eq!(failure.code.outcome() == ErrorOutcome::Unknown, delivered, "{}", failure.code);
        }
        assert_eq!(classify(Ok(vec![1, 250]), 100).unwrap_err().code, ErrorCode::InvalidReply);
    }
}
