//! Segments on their way: sent, swallowed and sent again, and what happens when nobody knows the connection any more.

use std::task::Waker;

use super::state::Piece;
use super::{GIVE_UP_NS, RETRANSMIT_NS, RETRANSMIT_NS_MAX, StreamError};
use crate::world::host::HostStatus;
use crate::world::slab::Key;
use crate::world::state::{Inner, with};
use crate::world::trace::{Class, hash_bytes};
use crate::world::{self, Cause, HostId, Incarnation, Nanos};

/// Something on its way from one end of a connection to the other.
#[derive(Clone, Debug)]
struct Segment {
    connection: Key,
    /// The end it comes from.
    side: usize,
    cargo: Cargo,
    first_sent_at: Nanos,
    pause_ns: Nanos,
}

#[derive(Clone, Debug)]
enum Cargo {
    /// Asks for a connection.
    Open,
    /// Grants it.
    Opened,
    Piece {
        number: u64,
        piece: Piece,
    },
    /// So many bytes were read.
    Room(usize),
    /// The sender knows of no such connection, or refuses it. Not sent again.
    Reset(StreamError),
}

impl Segment {
    fn new(connection: Key, side: usize, cargo: Cargo) -> Segment {
        Segment { connection, side, cargo, first_sent_at: world::now_ns(), pause_ns: RETRANSMIT_NS }
    }

    fn len(&self) -> usize {
        match &self.cargo {
            Cargo::Piece { piece: Piece::Data(bytes), .. } => bytes.len() + HEADER_BYTES,
            _ => HEADER_BYTES,
        }
    }

    /// What the digest sees of it.
    fn hash(&self) -> (usize, u64) {
        match &self.cargo {
            Cargo::Piece { piece: Piece::Data(bytes), .. } => hash_bytes(bytes),
            _ => (0, 0),
        }
    }

    fn name(&self) -> &'static str {
        match &self.cargo {
            Cargo::Open => "open",
            Cargo::Opened => "opened",
            Cargo::Piece { piece: Piece::Data(_), .. } => "stream",
            Cargo::Piece { piece: Piece::End, .. } => "end",
            Cargo::Room(_) => "room",
            Cargo::Reset(_) => "reset",
        }
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Inner {
    pub(super) fn open_connection(&self, to: HostId, port: u16) -> Key {
        self.with_host(to, |_| ());
        let owner = self.context.get().incarnation;
        let key = self.streams.borrow_mut().open(owner, to, port);
        if !self.is_mute() {
            self.ask(Segment::new(key, 0, Cargo::Open));
        }
        key
    }

    /// Asks for a connection, and again until it is granted or refused: the answer may be lost too.
    fn ask(&self, mut segment: Segment) {
        let is_waiting = self.streams.borrow().is_waiting(segment.connection);
        if !is_waiting {
            return;
        }
        if self.now.get().saturating_sub(segment.first_sent_at) >= GIVE_UP_NS {
            let wakers = self.streams.borrow_mut().break_end(segment.connection, 0, StreamError::TimedOut);
            return wake(wakers);
        }
        self.send_segment(segment.clone());
        let again_at = self.seen_now() + segment.pause_ns;
        segment.pause_ns = (segment.pause_ns * 2).min(RETRANSMIT_NS_MAX);
        world::at(again_at, move || with(|world| world.ask(segment)));
    }

    pub(super) fn stop_listening(&self, host: HostId, port: u16) {
        let (unaccepted, waker) = self.streams.borrow_mut().unlisten(host, port);
        drop(waker);
        for key in unaccepted {
            self.close_end(key, 1);
        }
    }

    pub(super) fn send_piece(&self, connection: Key, side: usize, piece: Piece) {
        let number = self.streams.borrow_mut().end(connection, side).map(|end| {
            end.sent += 1;
            end.sent - 1
        });
        if let Some(number) = number
            && !self.is_mute()
        {
            self.send_segment(Segment::new(connection, side, Cargo::Piece { number, piece }));
        }
    }

    /// The end has read `count` bytes: the other may send more.
    pub(super) fn make_room(&self, connection: Key, side: usize, count: usize) {
        if !self.is_mute() {
            self.send_segment(Segment::new(connection, side, Cargo::Room(count)));
        }
    }

    pub(super) fn shut_end(&self, connection: Key, side: usize) {
        let is_first = self
            .streams
            .borrow_mut()
            .end(connection, side)
            .is_some_and(|end| end.broken.is_none() && !std::mem::replace(&mut end.is_shut, true));
        if is_first {
            self.send_piece(connection, side, Piece::End);
        }
    }

    /// The stream was dropped.
    pub(super) fn close_end(&self, connection: Key, side: usize) {
        let in_order = self.streams.borrow_mut().is_drained(connection, side);
        if in_order {
            self.shut_end(connection, side);
        } else {
            self.send_segment(Segment::new(connection, side, Cargo::Reset(StreamError::Reset)));
        }
        drop(self.streams.borrow_mut().forget(connection, side));
    }

    /// A host's process died. The operating system, if it lives, tells the peers.
    pub fn break_streams_of(&self, host: HostId, cause: Cause) {
        for port in self.streams.borrow().ports_of(host) {
            drop(self.streams.borrow_mut().unlisten(host, port));
        }
        let held = self.streams.borrow().of_host(host);
        for (connection, side) in held {
            if cause != Cause::PowerLoss {
                self.send_segment(Segment::new(connection, side, Cargo::Reset(StreamError::Reset)));
            }
            drop(self.streams.borrow_mut().forget(connection, side));
        }
    }

    fn route(&self, segment: &Segment) -> Option<(HostId, HostId)> {
        let streams = self.streams.borrow();
        let ends = &streams.connection(segment.connection)?.ends;
        Some((ends[segment.side].host, ends[1 - segment.side].host))
    }

    /// Puts a segment on its link; the link may swallow it.
    fn send_segment(&self, segment: Segment) {
        let Some((from, to)) = self.route(&segment) else { return };
        let fields = [u64::from(to.0), u64::from(segment.connection.slot), segment.side as u64];
        self.record_for(from, Class::Send, segment.name(), &fields, segment.hash());
        match self.carry(from, to, segment.len()) {
            Some(carried) if carried.breaks => {
                world::at(carried.at, move || with(|world| world.break_both(&segment)));
            }
            Some(carried) if carried.refuses && matches!(segment.cargo, Cargo::Open) => {
                world::at(carried.at, move || with(|world| world.answer_unknown(&segment, StreamError::Refused)));
            }
            Some(carried) => {
                world::at(carried.at, move || with(|world| world.segment_arrives(segment, carried.epoch)));
            }
            None => self.send_again(segment),
        }
    }

    /// The link swallowed a segment: it is sent again, until its end gives up. Requests for a connection are repeated by
    /// [`Inner::ask`], and with them their answers.
    fn send_again(&self, mut segment: Segment) {
        if matches!(segment.cargo, Cargo::Reset(_) | Cargo::Open | Cargo::Opened) {
            return;
        }
        let pause_ns = segment.pause_ns;
        segment.pause_ns = (pause_ns * 2).min(RETRANSMIT_NS_MAX);
        world::at(self.seen_now() + pause_ns, move || with(|world| world.retransmit(segment)));
    }

    fn retransmit(&self, segment: Segment) {
        let (connection, side) = (segment.connection, segment.side);
        // A machine that lost its power sends nothing again; one whose process ended in order still does.
        let is_broken = self.streams.borrow_mut().end(connection, side).is_none_or(|end| end.broken.is_some());
        let Some((from, _)) = self.route(&segment) else { return };
        if is_broken || self.is_silent(from) {
            return;
        }
        if self.now.get().saturating_sub(segment.first_sent_at) >= GIVE_UP_NS {
            let wakers = self.streams.borrow_mut().break_end(connection, side, StreamError::TimedOut);
            return wake(wakers);
        }
        self.send_segment(segment);
    }

    fn is_silent(&self, host: HostId) -> bool {
        self.with_host(host, |host| {
            matches!(host.status, HostStatus::NeverBooted | HostStatus::Killed(Cause::PowerLoss))
        })
    }

    fn segment_arrives(&self, segment: Segment, epoch: u64) {
        let Some((from, to)) = self.route(&segment) else { return };
        if !self.is_link_open(from, to, epoch) || self.is_silent(to) {
            return self.send_again(segment);
        }
        let fields = [u64::from(from.0), u64::from(segment.connection.slot), segment.side as u64];
        let number = self.record_for(to, Class::Deliver, segment.name(), &fields, segment.hash());
        self.cause.set(number);
        let (key, other) = (segment.connection, 1 - segment.side);
        if let Cargo::Reset(error) = segment.cargo {
            let wakers = self.streams.borrow_mut().break_end(key, other, error);
            return wake(wakers);
        }
        if let Cargo::Open = segment.cargo {
            let was_granted = self.streams.borrow().is_granted(key);
            let arrived = if was_granted {
                self.knows(key, other).then_some(None)
            } else {
                self.streams.borrow_mut().arrive(key)
            };
            match arrived {
                Some(waker) => {
                    wake(waker);
                    self.send_segment(Segment::new(key, other, Cargo::Opened));
                }
                None => self.answer_unknown(&segment, StreamError::Refused),
            }
            return;
        }
        if !self.knows(key, other) {
            return self.answer_unknown(&segment, StreamError::Reset);
        }
        let mut streams = self.streams.borrow_mut();
        let waker = match segment.cargo {
            Cargo::Opened => streams.establish(key),
            Cargo::Piece { number, piece } => streams.take(key, other, number, piece),
            Cargo::Room(count) => streams.release(key, other, count),
            Cargo::Open | Cargo::Reset(_) => None,
        };
        drop(streams);
        wake(waker);
    }

    /// Whether the process that holds an end still runs and has not let go of it.
    fn knows(&self, connection: Key, side: usize) -> bool {
        let owner: Option<Incarnation> =
            self.streams.borrow_mut().end(connection, side).filter(|end| !end.is_gone).and_then(|end| end.owner);
        owner.is_some_and(|owner| self.is_alive(owner))
    }

    /// The machine at the other end says that it knows of no such connection.
    fn answer_unknown(&self, segment: &Segment, error: StreamError) {
        self.send_segment(Segment::new(segment.connection, 1 - segment.side, Cargo::Reset(error)));
    }

    /// Something between the ends breaks the connection, and tells both.
    fn break_both(&self, segment: &Segment) {
        for side in [0, 1] {
            let wakers = self.streams.borrow_mut().break_end(segment.connection, side, StreamError::Reset);
            wake(wakers);
        }
    }
}

/// What a segment weighs besides its bytes.
const HEADER_BYTES: usize = 40;
