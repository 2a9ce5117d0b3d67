//! The handshake: who dials, what lets it in, and where it listens itself.
//!
//! TLS has proved both public keys before a byte of this is read. So a proof that names both keys cannot be used by
//! anybody else, and an address that a peer announces cannot make its key mean another peer.

use serde::{Deserialize, Serialize};

use crate::production::transport::frame::HEADER_BYTES;
use crate::production::transport::place::check_at;
use crate::types::NodeId;

/// Neither message of the handshake is longer.
pub(super) const HELLO_BYTES_MAX: usize = 4096 - HEADER_BYTES;
const ADDRESSES_MAX: usize = 4;

/// From who dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster that it means.
    pub cluster: u64,
    pub introduction: Introduction,
    /// Shows that the dialler holds the cluster's secret: see [`crate::production::secret::ClusterSecret::proof`].
    pub proof: Option<[u8; 32]>,
    /// An encoded [`crate::production::ticket::Ticket`].
    pub ticket: Option<String>,
}

/// What each end says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Drawn when the process started: tells a peer that was restarted from one that dialled twice.
    pub incarnation: u64,
    /// `None` for a client.
    pub node: Option<NodeId>,
    /// Where it listens, `HOST:PORT` each.
    pub listens: Vec<String>,
    /// Where its HTTP interface is, `HOST:PORT`.
    pub http: Option<String>,
}

/// From who was dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Welcome {
    Admitted(Introduction),
    Refused(Rejection),
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    #[error("it belongs to another cluster")]
    WrongCluster,
    #[error("neither a member, nor a holder of the cluster's secret or of a valid ticket")]
    Stranger,
    #[error("the ticket has expired")]
    TicketExpired,
    #[error("the ticket is not one of this cluster, or was changed")]
    TicketInvalid,
    #[error("as many connections are open as the node admits")]
    Full,
    #[error("the handshake is malformed")]
    Malformed,
    #[error("this node holds no secret, so it cannot tell whether the ticket is valid: ask another one")]
    TicketUnproved,
}

/// Writes either message.
pub(super) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("a handshake has no length unknown in advance and no map")
}

pub(super) fn decode_hello(bytes: &[u8]) -> Result<Hello, Rejection> {
    let hello: Hello = postcard::from_bytes(bytes).map_err(|_| Rejection::Malformed)?;
    check(&hello.introduction)?;
    Ok(hello)
}

pub(super) fn decode_welcome(bytes: &[u8]) -> Result<Welcome, Rejection> {
    let welcome = postcard::from_bytes(bytes).map_err(|_| Rejection::Malformed)?;
    if let Welcome::Admitted(introduction) = &welcome {
        check(introduction)?;
    }
    Ok(welcome)
}

fn check(introduction: &Introduction) -> Result<(), Rejection> {
    let Introduction { listens, http, .. } = introduction;
    let known = listens.len() <= ADDRESSES_MAX && listens.iter().chain(http).all(|at| check_at(at).is_ok());
    if known { Ok(()) } else { Err(Rejection::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn introduction() -> Introduction {
        let listens = vec!["127.0.0.1:7001".to_owned()];
        Introduction { incarnation: 5, node: Some(1), listens, http: Some("127.0.0.1:8001".to_owned()) }
    }

    #[test]
    fn both_messages_are_read_as_they_were_written() {
        let hello =
            Hello { cluster: 7, introduction: introduction(), proof: Some([3; 32]), ticket: Some("aspen".to_owned()) };
        assert_eq!(decode_hello(&encode(&hello)), Ok(hello));
        let welcome = Welcome::Admitted(introduction());
        assert_eq!(decode_welcome(&encode(&welcome)), Ok(welcome));
    }

    #[test]
    fn an_introduction_with_a_false_address_is_refused() {
        let introduction = Introduction { listens: vec!["nowhere".to_owned()], ..introduction() };
        assert_eq!(decode_welcome(&encode(&Welcome::Admitted(introduction))), Err(Rejection::Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode_hello(&bytes), decode_welcome(&bytes));
        }
    }
}
