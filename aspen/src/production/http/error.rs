//! Errors as JSON: `{code, message, hint, leader?, outcome}`, with a status that says the same as the outcome.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::error::{ClientError, ErrorCode, ErrorOutcome};
use crate::message::Refusal;
use crate::types::NodeId;

/// Whether the request changes something: a failed read is always definite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Read,
    Write,
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One of `docs/errors.md` or of `docs/http.md`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// The leader, if it is known and is not the node that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderBody>,
    /// Whether the request may have an effect.
    pub outcome: ErrorOutcome,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderBody {
    pub id: NodeId,
    /// `KEY@HOST:PORT`.
    pub address: String,
    /// Where its HTTP interface is, if it is known.
    pub http: Option<String>,
}

/// A request failed.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    pub body: Box<ErrorBody>,
}

impl Failure {
    /// Nothing happened.
    pub fn definite(status: StatusCode, code: &str, message: impl Into<String>, hint: &str) -> Self {
        let (message, outcome) = (message.into(), ErrorOutcome::Definite);
        Failure {
            status,
            body: Box::new(ErrorBody { code: code.to_owned(), message, hint: hint.to_owned(), leader: None, outcome }),
        }
    }

    pub fn malformed(message: impl Into<String>) -> Self {
        Failure::definite(StatusCode::BAD_REQUEST, "malformed", message, "docs/http.md describes every request")
    }

    /// A refusal of the node.
    pub fn refused(refusal: Refusal, effect: Effect, leader: Option<LeaderBody>) -> Self {
        let error = ClientError::new(refusal.code, refusal.message);
        let outcome = if effect == Effect::Read { ErrorOutcome::Definite } else { error.outcome };
        let status = match (outcome, refusal.code.row().http_status) {
            (ErrorOutcome::Definite, 504) => 503,
            // What is too large about a read is what it asks for.
            _ if effect == Effect::Read && refusal.code == ErrorCode::LimitExceeded => 400,
            (_, status) => status,
        };
        let hint = if outcome == error.outcome { error.hint } else { "try again".to_owned() };
        Failure {
            status: StatusCode::from_u16(status).expect("the table has valid statuses"),
            body: Box::new(ErrorBody {
                code: refusal.code.name().to_owned(),
                message: error.message,
                hint,
                leader,
                outcome,
            }),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the metrics, which count errors by their code.
        response.extensions_mut().insert(FailedWith(self.body.code));
        response
    }
}

/// The code that a response failed with.
#[derive(Clone, Debug)]
pub struct FailedWith(pub String);
