//! Both ends of every connection: what has arrived, what may be sent, and what each believes of the other.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use super::{BACKLOG_MAX, StreamError, WINDOW_BYTES};
use crate::world::slab::{Key, Slab};
use crate::world::{HostId, Incarnation};

/// What a segment carries.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// Nothing follows.
    End,
}

#[derive(Debug)]
pub(super) struct End {
    pub host: HostId,
    /// The process that holds it.
    pub owner: Option<Incarnation>,
    /// Bytes in order, to be read.
    arrived: VecDeque<u8>,
    /// Segments that overtook others, by number.
    early: BTreeMap<u64, Piece>,
    /// Number of the next segment to take.
    next: u64,
    /// Segments sent.
    pub sent: u64,
    /// Bytes sent that the other end has not read, as far as is known here.
    outstanding: usize,
    pub is_shut: bool,
    peer_is_shut: bool,
    pub broken: Option<StreamError>,
    /// The stream was dropped, or its process died: this machine knows of no connection.
    pub is_gone: bool,
    portions: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl End {
    fn new(host: HostId, owner: Option<Incarnation>) -> End {
        End {
            host,
            owner,
            arrived: VecDeque::new(),
            early: BTreeMap::new(),
            next: 0,
            sent: 0,
            outstanding: 0,
            is_shut: false,
            peer_is_shut: false,
            broken: None,
            is_gone: false,
            portions: 0,
            reader: None,
            writer: None,
        }
    }

    fn wakers(&mut self) -> Vec<Waker> {
        [self.reader.take(), self.writer.take()].into_iter().flatten().collect()
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub ends: [End; 2],
    /// The other side has agreed.
    pub is_established: bool,
    pub port: u16,
}

#[derive(Debug)]
struct Listening {
    owner: Incarnation,
    port: u16,
    backlog: VecDeque<Key>,
    waker: Option<Waker>,
}

/// All listeners and connections of a world.
#[derive(Debug)]
pub(crate) struct Streams {
    connections: Slab<Connection>,
    listening: Vec<Listening>,
}

/// Ready with a value, or waiting: then with the waker that was replaced.
type Polled<T> = Result<T, Option<Waker>>;

impl Streams {
    pub fn new() -> Streams {
        Streams { connections: Slab::new(), listening: Vec::new() }
    }

    pub(super) fn connection(&self, key: Key) -> Option<&Connection> {
        self.connections.get(key)
    }

    pub(super) fn end(&mut self, key: Key, side: usize) -> Option<&mut End> {
        self.connections.get_mut(key).map(|connection| &mut connection.ends[side])
    }

    pub fn listen(&mut self, owner: Incarnation, port: u16) -> bool {
        let taken = self.listening.iter().any(|one| one.owner.host == owner.host && one.port == port);
        if !taken {
            self.listening.push(Listening { owner, port, backlog: VecDeque::new(), waker: None });
        }
        !taken
    }

    fn listener(&mut self, host: HostId, port: u16) -> Option<&mut Listening> {
        self.listening.iter_mut().find(|one| one.owner.host == host && one.port == port)
    }

    /// Removes a listener; returns the connections that nobody accepted, and who waited.
    pub fn unlisten(&mut self, host: HostId, port: u16) -> (Vec<Key>, Option<Waker>) {
        let position = self.listening.iter().position(|one| one.owner.host == host && one.port == port);
        match position.map(|position| self.listening.remove(position)) {
            Some(one) => (one.backlog.into(), one.waker),
            None => (Vec::new(), None),
        }
    }

    pub fn open(&mut self, owner: Incarnation, to: HostId, port: u16) -> Key {
        let ends = [End::new(owner.host, Some(owner)), End::new(to, None)];
        self.connections.insert(Connection { ends, is_established: false, port })
    }

    /// A connection arrives at a listener. `None` when nobody listens, or too many wait.
    pub fn arrive(&mut self, key: Key) -> Option<Option<Waker>> {
        let connection = self.connections.get_mut(key)?;
        let (host, port) = (connection.ends[1].host, connection.port);
        let listening = self.listening.iter_mut().find(|one| one.owner.host == host && one.port == port)?;
        if listening.backlog.len() >= BACKLOG_MAX {
            return None;
        }
        connection.ends[1].owner = Some(listening.owner);
        listening.backlog.push_back(key);
        Some(listening.waker.take())
    }

    pub fn accept(&mut self, host: HostId, port: u16, waker: &Waker) -> Polled<Key> {
        let Some(listening) = self.listener(host, port) else { return Err(None) };
        match listening.backlog.pop_front() {
            Some(key) => Ok(key),
            None => Err(replace(&mut listening.waker, waker)),
        }
    }

    pub fn poll_connected(&mut self, key: Key, waker: &Waker) -> Polled<Result<(), StreamError>> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(Err(StreamError::Reset)) };
        if let Some(error) = connection.ends[0].broken {
            return Ok(Err(error));
        }
        if connection.is_established {
            return Ok(Ok(()));
        }
        Err(replace(&mut connection.ends[0].reader, waker))
    }

    /// Whether the end that asked for the connection has heard nothing yet.
    pub fn is_waiting(&self, key: Key) -> bool {
        let connection = self.connections.get(key);
        connection.is_some_and(|one| !one.is_established && one.ends[0].broken.is_none() && !one.ends[0].is_gone)
    }

    /// Whether a listener took it.
    pub fn is_granted(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(|connection| connection.ends[1].owner.is_some())
    }

    pub fn establish(&mut self, key: Key) -> Option<Waker> {
        let connection = self.connections.get_mut(key)?;
        connection.is_established = true;
        connection.ends[0].reader.take()
    }

    pub fn peer(&self, key: Key, side: usize) -> Option<HostId> {
        self.connections.get(key).map(|connection| connection.ends[1 - side].host)
    }

    pub fn count_portion(&mut self, key: Key, side: usize) -> u64 {
        self.end(key, side).map_or(0, |end| {
            end.portions += 1;
            end.portions
        })
    }

    pub fn read(
        &mut self,
        key: Key,
        side: usize,
        buffer: &mut [u8],
        waker: &Waker,
    ) -> Polled<Result<usize, StreamError>> {
        let Some(end) = self.end(key, side) else { return Ok(Err(StreamError::Reset)) };
        if let Some(error) = end.broken {
            return Ok(Err(error));
        }
        if !end.arrived.is_empty() || buffer.is_empty() {
            let count = end.arrived.len().min(buffer.len());
            for (slot, byte) in buffer.iter_mut().zip(end.arrived.drain(..count)) {
                *slot = byte;
            }
            return Ok(Ok(count));
        }
        if end.peer_is_shut {
            return Ok(Ok(0));
        }
        Err(replace(&mut end.reader, waker))
    }

    /// Takes room for up to `most` bytes.
    pub fn reserve(&mut self, key: Key, side: usize, most: usize, waker: &Waker) -> Polled<Result<usize, StreamError>> {
        let Some(end) = self.end(key, side) else { return Ok(Err(StreamError::Reset)) };
        if let Some(error) = end.broken {
            return Ok(Err(error));
        }
        if end.is_shut {
            return Ok(Err(StreamError::Shut));
        }
        let room = WINDOW_BYTES.saturating_sub(end.outstanding).min(most);
        if room == 0 {
            return Err(replace(&mut end.writer, waker));
        }
        end.outstanding += room;
        Ok(Ok(room))
    }

    /// The other end has read `count` bytes.
    pub fn release(&mut self, key: Key, side: usize, count: usize) -> Option<Waker> {
        let end = self.end(key, side)?;
        end.outstanding = end.outstanding.saturating_sub(count);
        end.writer.take()
    }

    /// A segment arrives at an end. Returns who waits for it.
    pub fn take(&mut self, key: Key, side: usize, number: u64, piece: Piece) -> Option<Waker> {
        let end = self.end(key, side)?;
        if number < end.next {
            return None;
        }
        end.early.insert(number, piece);
        let before = end.next;
        while let Some(piece) = end.early.remove(&end.next) {
            end.next += 1;
            match piece {
                Piece::Data(bytes) => end.arrived.extend(bytes),
                Piece::End => end.peer_is_shut = true,
            }
        }
        if end.next > before { end.reader.take() } else { None }
    }

    /// Breaks one end, unless it is broken already. Returns who waits.
    pub fn break_end(&mut self, key: Key, side: usize, error: StreamError) -> Vec<Waker> {
        match self.end(key, side) {
            Some(end) if end.broken.is_none() => {
                end.broken = Some(error);
                end.arrived.clear();
                end.early.clear();
                end.wakers()
            }
            _ => Vec::new(),
        }
    }

    /// Whether everything that arrived at an end was read.
    pub fn is_drained(&mut self, key: Key, side: usize) -> bool {
        self.end(key, side).is_none_or(|end| end.arrived.is_empty() && end.early.is_empty())
    }

    /// The end's machine forgets the connection; when both have, nothing is left of it.
    pub fn forget(&mut self, key: Key, side: usize) -> Vec<Waker> {
        let Some(connection) = self.connections.get_mut(key) else { return Vec::new() };
        connection.ends[side].is_gone = true;
        let other_is_gone = connection.ends[1 - side].is_gone;
        let wakers = connection.ends[side].wakers();
        if other_is_gone {
            self.connections.remove(key);
        }
        wakers
    }

    /// The connections in which processes of a host have a part, with their sides.
    pub fn of_host(&self, host: HostId) -> Vec<(Key, usize)> {
        let sides = |(key, connection): (Key, &Connection)| {
            let held = |side: usize| {
                let end = &connection.ends[side];
                (end.host == host && end.owner.is_some() && !end.is_gone).then_some((key, side))
            };
            [held(0), held(1)].into_iter().flatten().collect::<Vec<_>>()
        };
        self.connections.iter().flat_map(sides).collect()
    }

    pub fn ports_of(&self, host: HostId) -> Vec<u16> {
        self.listening.iter().filter(|one| one.owner.host == host).map(|one| one.port).collect()
    }
}

fn replace(slot: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match slot {
        Some(old) if old.will_wake(waker) => None,
        _ => slot.replace(waker.clone()),
    }
}
