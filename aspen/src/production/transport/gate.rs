//! Who may connect, and what each may ask.

use iroh::PublicKey;

use crate::production::transport::hello::{Hello, Rejection};

/// What a connected peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything: a member of the cluster, or a peer that the operator named.
    Member,
    /// What clients do: it holds the cluster's secret.
    Client,
    /// Ask to be added as a learner: it holds a ticket.
    Joiner,
}

/// Decides. Asked for every connection, and for the role at every request: it changes with the membership.
pub trait Gate: Send + Sync + 'static {
    /// Whether the connection is accepted. `who` is proved.
    fn admit(&self, who: &PublicKey, hello: &Hello) -> Result<Role, Rejection>;

    /// The role of `who` now, admitted with `role` when it connected.
    fn role(&self, who: &PublicKey, role: Role) -> Role;

    /// Whether a peer at the other end of a connection made from here may ask anything. It proved its key only.
    fn trusts(&self, who: &PublicKey) -> Role;
}

/// Accepts everybody: for tests, and for clients, which nobody dials.
#[derive(Clone, Copy, Debug)]
pub struct Open;

impl Gate for Open {
    fn admit(&self, _: &PublicKey, _: &Hello) -> Result<Role, Rejection> {
        Ok(Role::Member)
    }

    fn role(&self, _: &PublicKey, role: Role) -> Role {
        role
    }

    fn trusts(&self, _: &PublicKey) -> Role {
        Role::Member
    }
}
