//! Who is let in: the members of the cluster, peers that the operator named, holders of the secret or of a ticket.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use iroh::PublicKey;

use crate::production::secret::ClusterSecret;
use crate::production::ticket::{Ticket, TicketError};
use crate::production::transport::Place;
use crate::production::transport::gate::{Gate, Role};
use crate::production::transport::hello::{Hello, Rejection};

/// The gate of one node.
pub struct ClusterGate {
    me: PublicKey,
    secret: Option<ClusterSecret>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the newest membership in the log.
    members: BTreeSet<PublicKey>,
    /// Named by the operator, or by the cluster when this node joined it.
    peers: BTreeSet<PublicKey>,
}

impl ClusterGate {
    pub fn new(me: PublicKey, secret: Option<ClusterSecret>, peers: impl IntoIterator<Item = PublicKey>) -> Self {
        let known = Known { members: BTreeSet::new(), peers: peers.into_iter().collect() };
        ClusterGate { me, secret, known: RwLock::new(known) }
    }

    pub fn add_peer(&self, key: PublicKey) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).peers.insert(key);
    }

    /// The membership is this now. Returns who has no business here any more.
    pub fn set_members(&self, members: impl IntoIterator<Item = Place>) -> BTreeSet<PublicKey> {
        let members: BTreeSet<PublicKey> = members.into_iter().map(|place| place.key).collect();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let gone = known.members.iter().filter(|key| !members.contains(*key) && !known.peers.contains(*key));
        let gone = gone.copied().collect();
        known.members = members;
        gone
    }

    fn is_known(&self, who: &PublicKey) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.members.contains(who) || known.peers.contains(who)
    }

    /// Whether the ticket lets somebody in, now.
    pub fn verify(&self, ticket: &str) -> Result<Ticket, TicketError> {
        let secret = self.secret.as_ref().ok_or(TicketError::Forged)?;
        Ticket::verify(ticket, secret, now_s())
    }
}

/// Seconds since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "tickets expire by the wall clock; nothing else depends on it")]
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Gate for ClusterGate {
    fn admit(&self, who: &PublicKey, hello: &Hello) -> Result<Role, Rejection> {
        if self.is_known(who) {
            return Ok(Role::Member);
        }
        let proved = |secret: &ClusterSecret| hello.proof.is_some_and(|proof| secret.is_proof(&proof, who, &self.me));
        if self.secret.as_ref().is_some_and(proved) {
            return Ok(Role::Client);
        }
        match hello.ticket.as_ref().map(|ticket| self.verify(ticket)) {
            None => Err(Rejection::Stranger),
            Some(Err(_)) if self.secret.is_none() => Err(Rejection::TicketUnproved),
            Some(Ok(_)) => Ok(Role::Joiner),
            Some(Err(TicketError::Expired)) => Err(Rejection::TicketExpired),
            Some(Err(_)) => Err(Rejection::TicketInvalid),
        }
    }

    fn role(&self, who: &PublicKey, admitted: Role) -> Role {
        match admitted {
            _ if self.is_known(who) => Role::Member,
            // It was removed since.
            Role::Member => Role::Joiner,
            other => other,
        }
    }

    fn trusts(&self, who: &PublicKey) -> Role {
        if self.is_known(who) { Role::Member } else { Role::Joiner }
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;
    use crate::message::ClusterId;

    fn key(byte: u8) -> PublicKey {
        SecretKey::from_bytes(&[byte; 32]).public()
    }

    fn secret() -> ClusterSecret {
        ClusterSecret::new("the secret of the test cluster")
    }

    fn hello() -> Hello {
        Hello { cluster: 0, introduction: Default::default(), proof: None, ticket: None }
    }

    fn ticket(expires_at: u64, secret: &ClusterSecret) -> String {
        let peers = vec![Place::new(key(1), "127.0.0.1:1")];
        let ticket = Ticket { cluster: ClusterId(secret.cluster().0), peers, expires_at, join_id: [0; 16], uses: 1 };
        ticket.issue(secret)
    }

    #[test]
    fn members_and_named_peers_are_let_in_until_they_leave() {
        let gate = ClusterGate::new(key(1), None, [key(2)]);
        assert_eq!(gate.admit(&key(2), &hello()), Ok(Role::Member));
        assert_eq!(gate.admit(&key(3), &hello()), Err(Rejection::Stranger));
        assert!(gate.set_members([Place::new(key(3), "a:1"), Place::new(key(2), "b:1")]).is_empty());
        assert_eq!(gate.admit(&key(3), &hello()), Ok(Role::Member));
        assert_eq!(gate.set_members([Place::new(key(1), "a:1")]), [key(3)].into(), "the named one may stay");
        assert_eq!(gate.role(&key(3), Role::Member), Role::Joiner);
        assert_eq!(gate.role(&key(2), Role::Member), Role::Member);
    }

    #[test]
    fn the_secret_makes_a_client_and_a_ticket_a_joiner() {
        let gate = ClusterGate::new(key(1), Some(secret()), []);
        let with_proof = |proof| Hello { proof: Some(proof), ..hello() };
        let with_ticket = |ticket| Hello { ticket: Some(ticket), ..hello() };
        assert_eq!(gate.admit(&key(5), &with_proof(secret().proof(&key(5), &key(1)))), Ok(Role::Client));
        assert_eq!(gate.admit(&key(6), &with_proof(secret().proof(&key(5), &key(1)))), Err(Rejection::Stranger));
        assert_eq!(gate.admit(&key(6), &with_ticket(ticket(u64::MAX, &secret()))), Ok(Role::Joiner));
        assert_eq!(gate.admit(&key(6), &with_ticket(ticket(1, &secret()))), Err(Rejection::TicketExpired));
        let other = ClusterSecret::new("the secret of another cluster");
        assert_eq!(gate.admit(&key(6), &with_ticket(ticket(u64::MAX, &other))), Err(Rejection::TicketInvalid));
        let unproved = ClusterGate::new(key(1), None, []).admit(&key(6), &with_ticket(ticket(u64::MAX, &secret())));
        assert_eq!(unproved, Err(Rejection::TicketUnproved), "who holds no secret cannot tell");
        // It becomes a member while it is connected.
        gate.set_members([Place::new(key(6), "a:1")]);
        assert_eq!(gate.role(&key(6), Role::Joiner), Role::Member);
    }
}
