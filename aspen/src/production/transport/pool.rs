//! The peers: their connections, and where they listen.
//!
//! A peer has one connection that requests go out on, whoever dialled it. Two ends that dial at the same time make two;
//! both stay, and each end uses its newest. A new incarnation of a peer ends the connections of the old one at once: they
//! lead nowhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iroh::PublicKey;
use tokio::sync::watch;

use crate::production::transport::dial::DialError;
use crate::production::transport::hello::{Introduction, Rejection};
use crate::production::transport::link::{CODE_SUPERSEDED, Link};

/// More connections of one peer are closed, the oldest first.
const LINKS_PER_PEER_MAX: usize = 2;
/// Addresses of one peer that are remembered, the newest first.
const PLACES_PER_PEER_MAX: usize = 4;
/// A peer that could not be reached is not dialled again for so long.
const DIAL_PAUSE: Duration = Duration::from_millis(100);

pub(super) type DialResult = Result<Arc<Link>, DialError>;

/// How to get a connection.
pub(super) enum Way {
    Open(Arc<Link>),
    /// Somebody dials; the result will be here.
    Dialling(watch::Receiver<Option<DialResult>>),
    /// The caller must dial, and tell the result here.
    Dial(watch::Sender<Option<DialResult>>, watch::Receiver<Option<DialResult>>),
    /// The last attempt has just failed.
    Failed(DialError),
}

#[derive(Default)]
struct Peer {
    /// The newest last.
    links: Vec<Arc<Link>>,
    dialling: Option<watch::Receiver<Option<DialResult>>>,
    failed: Option<(Instant, DialError)>,
    places: Vec<String>,
    introduction: Option<Introduction>,
}

#[derive(Default)]
pub(super) struct Pool {
    peers: Mutex<BTreeMap<PublicKey, Peer>>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::disallowed_methods, reason = "a pause between attempts of a real network")]
    pub(super) fn way(&self, key: &PublicKey) -> Way {
        let mut peers = self.lock();
        let peer = peers.entry(*key).or_default();
        peer.links.retain(|link| link.is_open());
        if let Some(link) = peer.links.last() {
            return Way::Open(link.clone());
        }
        if let Some(dialling) = &peer.dialling {
            return Way::Dialling(dialling.clone());
        }
        if let Some((at, error)) = peer.failed.as_ref().filter(|(at, _)| at.elapsed() < DIAL_PAUSE) {
            let _ = at;
            return Way::Failed(error.clone());
        }
        let (tell, told) = watch::channel(None);
        peer.dialling = Some(told.clone());
        Way::Dial(tell, told)
    }

    /// The attempt to dial is over.
    #[allow(clippy::disallowed_methods, reason = "a pause between attempts of a real network")]
    pub(super) fn dialled(&self, key: &PublicKey, failure: Option<DialError>) {
        let mut peers = self.lock();
        let peer = peers.entry(*key).or_default();
        peer.dialling = None;
        peer.failed = failure.map(|error| (Instant::now(), error));
    }

    /// A connection is open.
    pub(super) fn add(&self, link: Arc<Link>) {
        let mut peers = self.lock();
        let peer = peers.entry(link.remote).or_default();
        let introduction = &link.introduction;
        peer.links.retain(|old| {
            let same = old.introduction.incarnation == introduction.incarnation;
            if !same {
                old.close(CODE_SUPERSEDED, "the peer was restarted");
            }
            same && old.is_open()
        });
        for at in introduction.listens.iter().rev() {
            remember(&mut peer.places, at);
        }
        peer.introduction = Some(introduction.clone());
        peer.links.push(link);
        while peer.links.len() > LINKS_PER_PEER_MAX {
            peer.links.remove(0).close(CODE_SUPERSEDED, "more connections than one peer needs");
        }
    }

    pub(super) fn learn(&self, key: &PublicKey, at: &str) {
        remember(&mut self.lock().entry(*key).or_default().places, at);
    }

    /// Where the peer was heard to listen, the newest first.
    pub(super) fn places(&self, key: &PublicKey) -> Vec<String> {
        self.lock().get(key).map(|peer| peer.places.clone()).unwrap_or_default()
    }

    /// What the peer last said of itself.
    pub(super) fn introduction(&self, key: &PublicKey) -> Option<Introduction> {
        self.lock().get(key)?.introduction.clone()
    }

    /// Why it refused the last connection that was tried from here.
    pub(super) fn rejection(&self, key: &PublicKey) -> Option<Rejection> {
        match self.lock().get(key)?.failed.as_ref()? {
            (_, DialError::Refused(rejection)) => Some(*rejection),
            (_, DialError::Unreachable(_)) => None,
        }
    }

    pub(super) fn is_connected(&self, key: &PublicKey) -> bool {
        self.lock().get(key).is_some_and(|peer| peer.links.iter().any(|link| link.is_open()))
    }

    pub(super) fn open_links(&self) -> usize {
        self.lock().values().map(|peer| peer.links.iter().filter(|link| link.is_open()).count()).sum()
    }

    /// Closes what `unwanted` names, and forgets peers that have neither connection nor address.
    pub(super) fn close_where(&self, unwanted: impl Fn(&PublicKey) -> bool, code: u32, reason: &str) {
        for (key, peer) in self.lock().iter_mut() {
            if unwanted(key) {
                peer.links.drain(..).for_each(|link| link.close(code, reason));
            }
        }
    }
}

fn remember(places: &mut Vec<String>, at: &str) {
    places.retain(|known| known != at);
    places.insert(0, at.to_owned());
    places.truncate(PLACES_PER_PEER_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_address_comes_first_and_few_are_kept() {
        let mut places = Vec::new();
        for at in ["a:1", "b:1", "c:1", "a:1", "d:1", "e:1"] {
            remember(&mut places, at);
        }
        assert_eq!(places, ["e:1", "d:1", "a:1", "c:1"]);
    }
}
