//! Who may ask what: a bearer token (RFC 6750) beyond loopback, and for administration everywhere.
//!
//! On loopback a browser may ask too, for whatever page it shows. A page can make it send a request to this machine, and with
//! a name that it makes point to 127.0.0.1 (DNS rebinding) it could read the answer. Both show in the request's headers.

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
            None if access == Access::Data => self.is_of_this_machine(headers),
            None => Ok(()),
        }
    }

    /// Refuses what a web page had a browser send. Other programs name no origin, and a host that they connect to.
    fn is_of_this_machine(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if let Some(origin) = headers.get(header::ORIGIN) {
            return Err(foreign(&format!("the request was sent by a web page, of {origin:?}")));
        }
        match headers.get(header::HOST) {
            Some(host) if !host.to_str().is_ok_and(is_loopback) => {
                Err(foreign(&format!("the request is for the host {host:?}, which is not this machine")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a `Host` header names this machine: `localhost` (RFC 6761, section 6.3) or a loopback address, with any port.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn foreign(message: &str) -> Failure {
    let hint = "ask by 127.0.0.1, [::1] or localhost, or send the bearer token";
    Failure::definite(StatusCode::FORBIDDEN, "foreign-request", message, hint)
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

    #[test]
    fn a_web_page_is_no_program_of_this_machine() {
        let local = Guard::new(Token::new("right"), "127.0.0.1".parse().unwrap());
        let with = |name: header::HeaderName, value: &str| HeaderMap::from_iter([(name, value.parse().unwrap())]);
        let hosts =
            ["localhost", "LOCALHOST:8080", "a.localhost.:1", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080", "[::1]"];
        for host in hosts {
            local.check(Access::Data, &with(header::HOST, host)).unwrap();
        }
        for host in ["attacker.example:8080", "10.0.0.1:8080", "", "localhost.example", "127.0.0.1.example", "[::2]:1"]
        {
            let refused = local.check(Access::Data, &with(header::HOST, host)).unwrap_err();
            assert_eq!((refused.status.as_u16(), refused.body.code.as_str()), (403, "foreign-request"), "{host}");
            local.check(Access::Open, &with(header::HOST, host)).unwrap();
        }
        let mut of_page = with(header::ORIGIN, "http://localhost:3000");
        assert_eq!(local.check(Access::Data, &of_page).unwrap_err().status, StatusCode::FORBIDDEN);
        of_page.insert(header::AUTHORIZATION, "Bearer right".parse().unwrap());
        local.check(Access::Data, &of_page).unwrap();
    }
}
