//! Who may ask what: a bearer token (RFC 6750) beyond loopback, and for administration everywhere.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};

use crate::production::http::error::Failure;
use crate::production::secret::Token;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whether the node lives: for supervisors and load balancers.
    Open,
    /// Data and status.
    Data,
    /// Changes of the cluster and of the node.
    Admin,
}

/// Decides by the address that the interface is bound to, not by the caller's: a proxy on the same machine would make
/// every caller look local.
#[derive(Clone, Debug)]
pub struct Guard {
    token: Token,
    loopback: bool,
}

impl Guard {
    pub fn new(token: Token, bound_to: IpAddr) -> Self {
        Guard { token, loopback: bound_to.is_loopback() }
    }

    pub fn check(&self, access: Access, headers: &HeaderMap) -> Result<(), Failure> {
        let needed = match access {
            Access::Open => false,
            Access::Data => !self.loopback,
            Access::Admin => true,
        };
        match presented(headers) {
            Some(token) if self.token.matches(token) => Ok(()),
            // A wrong token is a mistake to report, also where none is needed.
            Some(_) => Err(unauthorized("the bearer token is not the node's")),
            None if needed => Err(unauthorized("the request needs a bearer token")),
            None => Ok(()),
        }
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    let (scheme, token) = value.to_str().unwrap_or_default().split_once(' ').unwrap_or_default();
    Some(if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" })
}

fn unauthorized(message: &str) -> Failure {
    let hint = "send `Authorization: Bearer TOKEN`; the token is in the file named by --http-token-file, \
                or in http-token in the data directory";
    Failure::definite(StatusCode::UNAUTHORIZED, "unauthorized", message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: Option<&str>) -> HeaderMap {
        value.map(|value| (header::AUTHORIZATION, value.parse().unwrap())).into_iter().collect()
    }

    #[test]
    fn a_token_is_needed_beyond_loopback_and_for_administration() {
        let local = Guard::new(Token::new("right"), "127.0.0.1".parse().unwrap());
        let public = Guard::new(Token::new("right"), "0.0.0.0".parse().unwrap());
        let cases = [
            (&local, Access::Open, None, true),
            (&local, Access::Data, None, true),
            (&local, Access::Admin, None, false),
            (&local, Access::Admin, Some("Bearer right"), true),
            (&local, Access::Data, Some("Bearer wrong"), false),
            (&public, Access::Open, None, true),
            (&public, Access::Data, None, false),
            (&public, Access::Data, Some("bearer right"), true),
            (&public, Access::Data, Some("Basic right"), false),
            (&public, Access::Admin, Some("Bearer"), false),
        ];
        for (guard, access, value, allowed) in cases {
            assert_eq!(guard.check(access, &headers(value)).is_ok(), allowed, "{guard:?} {access:?} {value:?}");
        }
    }
}
