//! Cluster tickets: what lets a new node in.
//!
//! A ticket names the cluster and some of its nodes, and carries a MAC that only holders of the cluster's secret can
//! make. It admits as a learner only, to a number of nodes, until it expires; it does not contain the secret. It is a
//! credential: it travels in a file or in the environment, never on a command line.
//!
//! As text: `aspen`, then Base32 (RFC 4648, lower case, without padding) of a version byte, the body in postcard, and 32
//! bytes of MAC (BLAKE3, keyed) over everything before them.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use iroh::PublicKey;
use serde::{Deserialize, Serialize};

use crate::message::ClusterId;
use crate::production::secret::ClusterSecret;
use crate::production::transport::{Place, check_at};

pub const PEERS_MAX: usize = 16;
/// Nodes that one ticket may admit.
pub const USES_MAX: u8 = 100;
const PREFIX: &str = "aspen";
const VERSION: u8 = 1;
const MAC_BYTES: usize = 32;
/// No ticket is longer: 16 peers with the longest names.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub cluster: ClusterId,
    /// Members to ask, at least one and at most [`PEERS_MAX`].
    pub peers: Vec<Place>,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    /// Tells tickets apart.
    pub join_id: [u8; 16],
    /// Nodes that it admits.
    pub uses: u8,
}

#[derive(Serialize, Deserialize)]
struct Body {
    cluster: u64,
    peers: Vec<([u8; 32], String)>,
    expires_at: u64,
    join_id: [u8; 16],
    uses: u8,
}

/// Why a text is no ticket, or not a valid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("it is not a ticket: a ticket begins with \"aspen\" and consists of small letters and digits")]
    NotATicket,
    #[error("the ticket is damaged, or was cut when it was copied")]
    Damaged,
    #[error("the ticket has another version than this program")]
    Version,
    #[error("the ticket is not of this cluster, or was changed")]
    Forged,
    #[error("the ticket has expired; ask for a new one")]
    Expired,
}

impl Ticket {
    /// The ticket as text, with a MAC by `secret`.
    pub fn issue(&self, secret: &ClusterSecret) -> String {
        let mut bytes = self.body();
        let mac = secret.ticket_mac(&bytes);
        bytes.extend_from_slice(mac.as_bytes());
        format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }

    /// What the text says. Whether it is true, only a holder of the secret can tell: see [`Ticket::verify`].
    pub fn parse(text: &str) -> Result<Ticket, TicketError> {
        split(text).and_then(|(body, _)| decode(&body))
    }

    /// A ticket that a holder of `secret` issued and that has not expired at `now`, in seconds since the Unix epoch.
    pub fn verify(text: &str, secret: &ClusterSecret, now: u64) -> Result<Ticket, TicketError> {
        let (body, mac) = split(text)?;
        // In constant time.
        if secret.ticket_mac(&body) != blake3::Hash::from_bytes(mac) {
            return Err(TicketError::Forged);
        }
        let ticket = decode(&body)?;
        if ticket.cluster != secret.cluster() {
            return Err(TicketError::Forged);
        }
        if ticket.expires_at <= now {
            return Err(TicketError::Expired);
        }
        Ok(ticket)
    }

    fn body(&self) -> Vec<u8> {
        let body = Body {
            cluster: self.cluster.0,
            peers: self.peers.iter().map(|place| (*place.key.as_bytes(), place.at.clone())).collect(),
            expires_at: self.expires_at,
            join_id: self.join_id,
            uses: self.uses,
        };
        postcard::to_extend(&body, vec![VERSION]).expect("a ticket has no length unknown in advance and no map")
    }
}

impl fmt::Display for Ticket {
    /// Without what makes it a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ticket to cluster {} for {} nodes until {} s", self.cluster, self.uses, self.expires_at)
    }
}

fn split(text: &str) -> Result<(Vec<u8>, [u8; MAC_BYTES]), TicketError> {
    let text = text.trim();
    let encoded = text.strip_prefix(PREFIX).filter(|_| text.len() <= TEXT_BYTES_MAX).ok_or(TicketError::NotATicket)?;
    if !encoded.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return Err(TicketError::NotATicket);
    }
    let bytes = BASE32_NOPAD.decode(encoded.to_uppercase().as_bytes()).map_err(|_| TicketError::Damaged)?;
    let (body, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(TicketError::Damaged)?;
    Ok((body.to_vec(), *mac))
}

fn decode(body: &[u8]) -> Result<Ticket, TicketError> {
    let (&version, body) = body.split_first().ok_or(TicketError::Damaged)?;
    if version != VERSION {
        return Err(TicketError::Version);
    }
    let (body, rest): (Body, _) = postcard::take_from_bytes(body).map_err(|_| TicketError::Damaged)?;
    if !rest.is_empty() || body.peers.is_empty() || body.peers.len() > PEERS_MAX || body.uses == 0 {
        return Err(TicketError::Damaged);
    }
    let place = |(key, at): ([u8; 32], String)| {
        let key = PublicKey::from_bytes(&key).map_err(|_| TicketError::Damaged)?;
        check_at(&at).map_err(|_| TicketError::Damaged)?;
        Ok(Place::new(key, at))
    };
    Ok(Ticket {
        cluster: ClusterId(body.cluster),
        peers: body.peers.into_iter().map(place).collect::<Result<_, TicketError>>()?,
        expires_at: body.expires_at,
        join_id: body.join_id,
        uses: body.uses,
    })
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use proptest::prelude::*;

    use super::*;

    fn secret() -> ClusterSecret {
        ClusterSecret::new("the secret of the test cluster")
    }

    fn ticket(peers: u8) -> Ticket {
        let place = |byte| Place::new(SecretKey::from_bytes(&[byte; 32]).public(), format!("127.0.0.1:{byte}"));
        Ticket {
            cluster: secret().cluster(),
            peers: (1..=peers).map(place).collect(),
            expires_at: 1000,
            join_id: [9; 16],
            uses: 2,
        }
    }

    #[test]
    fn a_ticket_is_read_as_it_was_issued() {
        for peers in [1, 16] {
            let text = ticket(peers).issue(&secret());
            assert!(text.starts_with("aspen"));
            assert_eq!(Ticket::parse(&format!("{text}\n")), Ok(ticket(peers)));
            assert_eq!(Ticket::verify(&text, &secret(), 999), Ok(ticket(peers)));
        }
    }

    #[test]
    fn it_ends_with_its_time() {
        let text = ticket(1).issue(&secret());
        assert_eq!(Ticket::verify(&text, &secret(), 1000), Err(TicketError::Expired));
    }

    #[test]
    fn only_the_secret_makes_it_valid() {
        let text = ticket(1).issue(&ClusterSecret::new("the secret of somebody else"));
        assert_eq!(Ticket::verify(&text, &secret(), 0), Err(TicketError::Forged));
        assert!(Ticket::parse(&text).is_ok(), "anybody can read whom to ask");
    }

    #[test]
    fn what_is_no_ticket_says_why() {
        let text = ticket(1).issue(&secret());
        assert_eq!(Ticket::parse("hello"), Err(TicketError::NotATicket));
        assert_eq!(Ticket::parse(&text.to_uppercase()), Err(TicketError::NotATicket));
        assert!(Ticket::parse(&text[..40]).is_err(), "cut");
        assert_eq!(Ticket::parse(&ticket(17).issue(&secret())), Err(TicketError::Damaged), "too many peers");
    }

    proptest! {
        #[test]
        fn a_changed_ticket_is_never_valid(at in 5usize..200, to in "[a-z2-7]") {
            let mut text = ticket(1).issue(&secret());
            let at = at % (text.len() - 5) + 5;
            prop_assume!(text[at..=at] != to);
            text.replace_range(at..=at, &to);
            prop_assert!(Ticket::verify(&text, &secret(), 0).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in "(aspen)?[a-z2-7]{0,300}", any in any::<String>()) {
            let _ = (Ticket::parse(&text), Ticket::parse(&any));
        }
    }
}
