//! The errors a client may see, as one table: what each means and whether the operation may have happened.
//!
//! A *definite* error says that the operation was refused before it was proposed: it has no effect, ever. After an
//! *unknown* one anything may have happened, or may still happen. Nothing in between exists, and the table below is the
//! only place that decides; `docs/errors.md` is printed from it.

use serde::{Deserialize, Serialize};

use crate::types::Address;

/// Whether a failed operation may have an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorOutcome {
    /// It has none, and never will.
    Definite,
    /// It may have happened, or may still happen at any later time.
    Unknown,
}

/// What the client should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// At the leader that the error names, or else at another node.
    Elsewhere,
    /// At the same node, a little later.
    Later,
}

/// Declares the codes and their table together, so that none is without a row.
macro_rules! error_table {
    ($($number:literal $variant:ident $name:literal $outcome:ident $retry:ident $http:literal $meaning:literal;)*) => {
        /// Names an error. On the wire it is its number, which never changes meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant = $number,)*
        }

        /// The table of errors, in the order of their numbers.
        pub static ERRORS: &[ErrorRow] = &[$(ErrorRow {
            code: ErrorCode::$variant,
            name: $name,
            outcome: ErrorOutcome::$outcome,
            retry: Retry::$retry,
            http_status: $http,
            meaning: $meaning,
        },)*];
    };
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ErrorRow {
    pub code: ErrorCode,
    /// As it is written in JSON and in logs.
    pub name: &'static str,
    /// Of a write. A read changes nothing, so a failed read is always definite.
    pub outcome: ErrorOutcome,
    pub retry: Retry,
    pub http_status: u16,
    pub meaning: &'static str,
}

error_table! {
    0 Malformed "malformed" Definite Never 400 "The request cannot be decoded, or asks for something that makes no sense.";
    1 LimitExceeded "limit-exceeded" Definite Never 413 "The request exceeds a limit of the node.";
    2 WrongCluster "wrong-cluster" Definite Elsewhere 421 "The node belongs to another cluster.";
    3 WrongNode "wrong-node" Definite Elsewhere 421 "Another node answers at this address than the one that was meant.";
    4 NotLeader "not-leader" Definite Elsewhere 503 "The node does not lead; it names the leader if it knows one.";
    5 NoQuorum "no-quorum" Definite Elsewhere 503 "The leader has not heard of a quorum for so long that it takes no new requests.";
    6 Transferring "transferring" Definite Elsewhere 503 "The leader is handing over to another node.";
    7 Recovering "recovering" Definite Elsewhere 503 "The node was started and has not yet caught up with what it knew before.";
    8 Overloaded "overloaded" Definite Later 503 "As many requests are in flight as the node admits.";
    9 Stopping "stopping" Definite Elsewhere 503 "The node is stopping.";
    10 Unreachable "unreachable" Definite Elsewhere 503 "No node could be reached in time.";
    11 NotDelivered "not-delivered" Definite Later 503 "The deadline passed before the operation was sent to a node that would take it.";
    12 Timeout "timeout" Unknown Elsewhere 504 "No reply came in time.";
    13 ConnectionLost "connection-lost" Unknown Elsewhere 504 "The connection broke before the reply came.";
    14 Discarded "discarded" Unknown Elsewhere 504 "The leader lost its office after the operation had entered its log; another leader may have committed it.";
    15 NodeFailed "node-failed" Unknown Elsewhere 504 "The node failed while the operation was in flight.";
    16 SessionExpired "session-expired" Unknown Never 504 "The session expired between two attempts, and with it the record of what the first one did.";
    17 InvalidReply "invalid-reply" Unknown Elsewhere 504 "The node's reply cannot be decoded.";
    18 PreconditionFailed "precondition-failed" Definite Never 409 "A change of the membership is not safe now, or was decided on another membership than the one in force.";
    19 TooStale "too-stale" Definite Elsewhere 503 "The node's state is older than a stale read allows.";
    20 DiskFull "disk-full" Definite Later 503 "The disk of the leader is nearly full; it takes deletes, but nothing that is to be stored.";
}

impl ErrorCode {
    pub fn row(self) -> &'static ErrorRow {
        &ERRORS[usize::from(self as u8)]
    }

    /// The code with this number on the wire.
    pub fn from_number(number: u8) -> Option<ErrorCode> {
        ERRORS.get(usize::from(number)).map(|row| row.code)
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Of a write; see [`ErrorRow::outcome`].
    pub fn outcome(self) -> ErrorOutcome {
        self.row().outcome
    }

    pub fn retry(self) -> Retry {
        self.row().retry
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        ErrorCode::from_number(number).ok_or_else(|| serde::de::Error::custom("unknown error code"))
    }
}

/// An operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({outcome:?}): {message}")]
pub struct ClientError {
    pub code: ErrorCode,
    /// What happened, for people.
    pub message: String,
    /// What to do about it, for people.
    pub hint: String,
    /// The leader, if it is known.
    pub leader: Option<Address>,
    /// Whether the operation may have an effect. An attempt may be refused for a definite reason after an earlier
    /// attempt had an unknown outcome; the operation's outcome is then unknown.
    pub outcome: ErrorOutcome,
}

impl ClientError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let hint = match code.retry() {
            _ if code == ErrorCode::PreconditionFailed => {
                "look at the membership, and ask again once the message's reason is gone"
            }
            _ if code == ErrorCode::DiskFull => {
                "make room on the disk, or hand the leadership to a node that has some; writes are taken again by themselves"
            }
            Retry::Never => "the same request will fail again",
            Retry::Elsewhere => "try again, at another node",
            Retry::Later => "try again later",
        };
        let outcome = code.outcome();
        let hint = match outcome {
            ErrorOutcome::Definite => hint.to_owned(),
            ErrorOutcome::Unknown => "read before you repeat it, or use a session".to_owned(),
        };
        ClientError { code, message: message.into(), hint, leader: None, outcome }
    }
}

/// The table as a page of the book.
pub fn errors_page() -> String {
    let mut page = String::from(
        "# Errors\n\nA *definite* error: the operation was refused before it was proposed; it has no effect, ever. An *unknown* one:\n\
         it may have happened, or may still happen. A failed read changes nothing and is always definite.\n\n\
         This page is printed from `aspen/src/error.rs`; a test compares them.\n\n\
         | number | code | outcome of a write | HTTP | retry | meaning |\n|---|---|---|---|---|---|\n",
    );
    for row in ERRORS {
        let outcome = match row.outcome {
            ErrorOutcome::Definite => "definite",
            ErrorOutcome::Unknown => "unknown",
        };
        let retry = match row.retry {
            Retry::Never => "never",
            Retry::Elsewhere => "elsewhere",
            Retry::Later => "later",
        };
        let number = row.code as u8;
        page.push_str(&format!(
            "| {number} | `{}` | {outcome} | {} | {retry} | {} |\n",
            row.name, row.http_status, row.meaning
        ));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_by_its_number_and_only_by_it() {
        for (number, row) in ERRORS.iter().enumerate() {
            assert_eq!(row.code as usize, number);
            assert_eq!(ErrorCode::from_number(u8::try_from(number).unwrap()), Some(row.code));
        }
        assert_eq!(ErrorCode::from_number(u8::try_from(ERRORS.len()).unwrap()), None);
    }

    #[test]
    fn http_says_the_same_as_the_outcome() {
        for row in ERRORS {
            let definite = row.http_status / 100 == 4 || row.http_status == 503;
            assert_eq!(definite, row.outcome == ErrorOutcome::Definite, "{}", row.name);
            assert_eq!(!definite, row.http_status == 504, "{}", row.name);
        }
    }

    #[test]
    fn the_page_is_that_of_the_book() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors.md");
        assert_eq!(std::fs::read_to_string(path).unwrap(), errors_page(), "print it anew with `errors_page`");
    }
}
