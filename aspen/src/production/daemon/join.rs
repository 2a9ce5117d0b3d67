//! A new node asks to be let in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::production::daemon::DaemonError;
use crate::production::side::{self, JoinRequest, Joined, NotJoined};
use crate::production::ticket::Ticket;
use crate::production::transport::hello::Rejection;
use crate::production::transport::{IrohTransport, Place};

/// It asks again after so long.
const JOIN_PAUSE: Duration = Duration::from_millis(500);
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Asks one member after the other until one lets this node in, or says no for good. Every other reason is said once.
pub(super) async fn ask_to_join(
    said: &Ticket,
    ticket: &str,
    transport: &IrohTransport,
    incarnation: u64,
) -> Result<Joined, DaemonError> {
    let address = transport.place().to_string();
    let request = JoinRequest { ticket: ticket.to_owned(), address, incarnation };
    let request = serde_json::to_vec(&request).expect("a request has string keys only");
    let mut reasons: BTreeMap<&Place, String> = BTreeMap::new();
    loop {
        let mut elsewhere = 0;
        for place in &said.peers {
            let replied = transport.ask_side(&place.address(), request.clone(), JOIN_TIMEOUT).await;
            let NotJoined { is_final, mut message } = match side::read_answer(replied) {
                Ok(joined) => return Ok(joined),
                Err(refused) => refused,
            };
            let rejection = transport.rejection(&place.key);
            if let Some(rejection) = rejection {
                message = rejection.to_string();
            }
            // All who hold the secret judge a ticket alike, and an expired one does not become valid again.
            if is_final || matches!(rejection, Some(Rejection::TicketInvalid | Rejection::TicketExpired)) {
                return Err(DaemonError::NotAdmitted(format!("{place}: {message}")));
            }
            elsewhere += usize::from(rejection == Some(Rejection::WrongCluster));
            if reasons.get(place) != Some(&message) {
                tracing::warn!("{place}: not yet joined: {message}; it is asked again every {JOIN_PAUSE:?}");
                reasons.insert(place, message);
            }
        }
        if elsewhere == said.peers.len() {
            let message = "every node that the ticket names belongs to another cluster now: ask for a new ticket";
            return Err(DaemonError::NotAdmitted(message.to_owned()));
        }
        tokio::time::sleep(JOIN_PAUSE).await;
    }
}
