//! Where a peer is: its public key, and where it was last heard to listen.
//!
//! The key is the identity; the rest is a hint. So a peer that moved is the same peer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use iroh::PublicKey;

use crate::types::Address;

/// `KEY@HOST:PORT`. The key is 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub key: PublicKey,
    /// `HOST:PORT`; the host is an IP address or a name that the system resolves.
    pub at: String,
}

/// The text is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not KEY@HOST:PORT: {problem}")]
pub struct PlaceError {
    text: String,
    problem: &'static str,
}

/// A longer host is no name (RFC 1035, section 2.3.4).
const AT_BYTES_MAX: usize = 255 + 6;

impl Place {
    pub fn new(key: PublicKey, at: impl Into<String>) -> Self {
        Place { key, at: at.into() }
    }

    pub fn address(&self) -> Address {
        Address(self.to_string())
    }
}

/// The places that were parsed last: reading a key verifies that it is a point of its curve, which takes longer than sending
/// a request.
#[derive(Debug, Default)]
pub(super) struct Parsed(Mutex<BTreeMap<Address, Place>>);

impl Parsed {
    pub(super) fn place(&self, address: &Address) -> Result<Place, PlaceError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = known.get(address) {
            return Ok(place.clone());
        }
        let place: Place = address.0.parse()?;
        if known.len() >= PARSED_MAX {
            known.clear();
        }
        known.insert(address.clone(), place.clone());
        Ok(place)
    }
}

/// More than a cluster has members.
const PARSED_MAX: usize = 256;

/// Whether this can be looked up: `HOST:PORT`.
pub(crate) fn check_at(at: &str) -> Result<(), &'static str> {
    let Some((host, port)) = at.rsplit_once(':') else { return Err("the port is missing") };
    if host.is_empty() {
        return Err("the host is missing");
    }
    if at.len() > AT_BYTES_MAX || !at.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the host is not a name or an IP address");
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err("the port is not a number from 1 to 65535"),
        Ok(_) => Ok(()),
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let fail = |problem| PlaceError { text: text.chars().take(400).collect(), problem };
        let (key, at) = text.split_once('@').ok_or_else(|| fail("the @ is missing"))?;
        if key.len() != 64 {
            return Err(fail("the key is not 64 hexadecimal digits"));
        }
        let key: PublicKey = key.parse().map_err(|_| fail("the key is not a public key"))?;
        // One of few points that everybody can sign for.
        if key.as_verifying_key().is_weak() {
            return Err(fail("the key is not a public key of any node"));
        }
        check_at(at).map_err(fail)?;
        Ok(Place { key, at: at.to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.at)
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let key = SecretKey::from_bytes(&[7; 32]).public();
        for at in ["127.0.0.1:7001", "[::1]:7001", "node-1.example:65535"] {
            let place = Place::new(key, at);
            assert_eq!(place.to_string().parse(), Ok(place));
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let key = SecretKey::from_bytes(&[7; 32]).public();
        let weak = format!("{}@127.0.0.1:1", "0".repeat(64));
        for text in
            ["", "@", "127.0.0.1:1", &format!("{key}@127.0.0.1"), &format!("{key}@:1"), &format!("{key}@a:0"), &weak]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    /// The bound is met, what is no place is never kept, and a place is the same however it was found.
    #[test]
    fn parsed_places_are_bounded() {
        let key = SecretKey::from_bytes(&[7; 32]).public();
        let parsed = Parsed::default();
        for port in 1..=2 * PARSED_MAX + 1 {
            let place = Place::new(key, format!("127.0.0.1:{port}"));
            for _ in 0..2 {
                assert_eq!(parsed.place(&place.address()), Ok(place.clone()));
            }
            assert!(parsed.place(&Address("nowhere".to_owned())).is_err());
            assert!(parsed.0.lock().unwrap().len() <= PARSED_MAX);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = text.parse::<Place>();
        }
    }
}
