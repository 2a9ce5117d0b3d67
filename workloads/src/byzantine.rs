//! Links that lie: Raft messages altered on their way, with checksums that match.
//!
//! Calibration, not a fault that Raft survives: it trusts its members. A link that lies about votes must make the
//! election-safety oracle speak; what the other lies do is in `docs/faults.md`. The fault lives here and not in the
//! network because only a reader of the messages can lie well.

use std::cell::RefCell;
use std::collections::BTreeMap;

use aspen::message::{
    AppendRequest, BallotReply, Entries, Envelope, Request, Response, decode_request, decode_response, encode_request,
    encode_response,
};
use sim_runtime::engine::run;
use sim_runtime::world::draws::Dice;
use sim_runtime::world::{self, HostId, Purpose};

use crate::event::Event;

thread_local! {
    static LIES: RefCell<Lies> = RefCell::default();
}

/// A refusal of a vote, or of a pre-vote, arrives as a grant.
pub const FLIP_VOTE: &str = "byzantine/flip-vote";
/// A request of a node is of the next term.
pub const INCREMENT_TERM: &str = "byzantine/increment-term";
/// An append arrives without its entries.
pub const CLEAR_ENTRIES: &str = "byzantine/clear-entries";
/// A request of a node arrives twice, as two requests.
pub const DUPLICATE: &str = "byzantine/duplicate";

/// Every lie, as in specs. Strengths are in ppm per message.
pub const FAMILIES: &[&str] = &[FLIP_VOTE, INCREMENT_TERM, CLEAR_ENTRIES, DUPLICATE];

#[derive(Default)]
struct Lies {
    /// Per family the strengths in force.
    active: BTreeMap<&'static str, Vec<u32>>,
    /// Draws so far, by family and link.
    drawn: BTreeMap<(&'static str, HostId, HostId), u64>,
}

/// A new run begins.
pub fn reset() {
    LIES.set(Lies::default());
}

/// Begins or ends a lie. Returns whether there is one of this name.
pub fn set(family: &str, strength: u64, on: bool) -> bool {
    let Some(family) = FAMILIES.iter().find(|known| **known == family) else { return false };
    let ppm = u32::try_from(strength).unwrap_or(u32::MAX).min(1_000_000);
    LIES.with_borrow_mut(|lies| {
        let active = lies.active.entry(family).or_default();
        if on {
            active.push(ppm);
        } else if let Some(position) = active.iter().position(|other| *other == ppm) {
            active.swap_remove(position);
        }
    });
    true
}

/// Whether any lie is in force.
fn is_quiet() -> bool {
    LIES.with_borrow(|lies| lies.active.values().all(Vec::is_empty))
}

/// Whether to tell this lie to the next message from `from` to `to` for which it can be told.
fn tells(family: &'static str, from: HostId, to: HostId) -> bool {
    let drawn = LIES.with_borrow_mut(|lies| {
        let ppm = lies.active.get(family)?.iter().max().copied()?;
        let drawn = lies.drawn.entry((family, from, to)).or_default();
        *drawn += 1;
        Some((ppm, *drawn))
    });
    let Some((ppm, ordinal)) = drawn else { return false };
    let link = world::entity(&[u64::from(from.0), u64::from(to.0)]);
    let told = Dice::new(world::draw(Purpose(family), link, ordinal)).chance(ppm);
    if told {
        run::notice::<Event>(family);
    }
    told
}

/// What arrives of a request.
pub struct Tampered {
    pub bytes: Vec<u8>,
    /// It arrives a second time.
    pub twice: bool,
}

/// A request on its way from `from` to `to`.
pub fn tamper_with_request(from: HostId, to: HostId, bytes: Vec<u8>) -> Tampered {
    if is_quiet() {
        return Tampered { bytes, twice: false };
    }
    alter_request(bytes, |family| tells(family, from, to))
}

fn alter_request(bytes: Vec<u8>, tells: impl Fn(&'static str) -> bool) -> Tampered {
    let Ok(Envelope { cluster, to: node, mut request }) = decode_request(&bytes, usize::MAX) else {
        return Tampered { bytes, twice: false };
    };
    let term = match &mut request {
        Request::Append(AppendRequest { vote, .. }) => Some(&mut vote.term),
        Request::Vote(ballot) | Request::PreVote(ballot) => Some(&mut ballot.vote.term),
        _ => None,
    };
    let is_of_node = term.is_some();
    if let Some(term) = term
        && tells(INCREMENT_TERM)
    {
        *term += 1;
    }
    if let Request::Append(append) = &mut request
        && !append.entries.is_empty()
        && tells(CLEAR_ENTRIES)
    {
        append.entries = Entries::default();
    }
    let twice = is_of_node && tells(DUPLICATE);
    Tampered { bytes: encode_request(&Envelope { cluster, to: node, request }), twice }
}

/// The reply to `request`, on its way from `from` to `to`.
pub fn tamper_with_reply(from: HostId, to: HostId, request: &[u8], reply: Vec<u8>) -> Vec<u8> {
    if is_quiet() {
        return reply;
    }
    flip_vote(request, reply, || tells(FLIP_VOTE, from, to))
}

fn flip_vote(request: &[u8], reply: Vec<u8>, tells: impl FnOnce() -> bool) -> Vec<u8> {
    let Ok(Envelope { request: Request::Vote(asked) | Request::PreVote(asked), .. }) =
        decode_request(request, usize::MAX)
    else {
        return reply;
    };
    match decode_response(&reply, usize::MAX) {
        Ok(Response::Ballot(BallotReply { granted: false, last, .. })) if tells() => {
            encode_response(&Response::Ballot(BallotReply { vote: asked.vote, granted: true, last }))
        }
        _ => reply,
    }
}

#[cfg(test)]
mod tests {
    use aspen::message::{BallotRequest, ClusterId, LogPoint, WireVote};

    use super::*;

    const VOTE: WireVote = WireVote { term: 7, node: 2, committed: false };
    const LATER: WireVote = WireVote { term: 9, node: 3, committed: true };

    fn request(request: Request) -> Vec<u8> {
        encode_request(&Envelope { cluster: ClusterId(1), to: Some(2), request })
    }

    fn ballot() -> BallotRequest {
        BallotRequest { vote: VOTE, last: Some(LogPoint { term: 6, index: 40 }), transfer: false }
    }

    fn refusal() -> Vec<u8> {
        encode_response(&Response::Ballot(BallotReply { vote: LATER, granted: false, last: None }))
    }

    /// With one lie in force, which is always told.
    fn with<T>(family: &str, tell: impl FnOnce() -> T) -> T {
        reset();
        assert!(set(family, 1_000_000, true));
        let told = tell();
        reset();
        told
    }

    #[test]
    fn a_refused_vote_becomes_a_grant_of_the_vote_that_was_asked_for() {
        for asked in [Request::Vote(ballot()), Request::PreVote(ballot())] {
            let reply = with(FLIP_VOTE, || flip(&request(asked), refusal()));
            let granted = Response::Ballot(BallotReply { vote: VOTE, granted: true, last: None });
            assert_eq!(decode_response(&reply, usize::MAX), Ok(granted));
        }
        // Other replies are left alone.
        assert_eq!(with(FLIP_VOTE, || flip(&request(Request::Leader), refusal())), refusal());
    }

    #[test]
    fn a_request_is_of_the_next_term_or_has_no_entries_or_comes_twice() {
        let mut entries = Entries::default();
        assert!(entries.push(b"entry", usize::MAX));
        let append = AppendRequest { vote: LATER, prev: None, commit: None, entries };
        let sent = request(Request::Append(append.clone()));
        let raised = AppendRequest { vote: WireVote { term: 10, ..LATER }, ..append.clone() };
        let cleared = AppendRequest { entries: Entries::default(), ..append };
        for (family, arrives, twice) in [
            (INCREMENT_TERM, request(Request::Append(raised)), false),
            (CLEAR_ENTRIES, request(Request::Append(cleared)), false),
            (DUPLICATE, sent.clone(), true),
        ] {
            let told = with(family, || alter(&sent));
            assert_eq!((told.bytes, told.twice), (arrives, twice), "{family}");
        }
    }

    #[test]
    fn nothing_is_altered_when_no_lie_is_in_force() {
        reset();
        assert!(set(FLIP_VOTE, 1_000_000, true) && set(FLIP_VOTE, 1_000_000, false));
        assert_eq!(tamper_with_reply(HostId(1), HostId(2), &request(Request::Vote(ballot())), refusal()), refusal());
        assert!(!set("byzantine/unheard-of", 1, true));
    }

    fn flip(asked: &[u8], reply: Vec<u8>) -> Vec<u8> {
        flip_vote(asked, reply, || true)
    }

    fn alter(sent: &[u8]) -> Tampered {
        alter_request(sent.to_vec(), |family| LIES.with_borrow(|lies| lies.active.contains_key(family)))
    }
}
