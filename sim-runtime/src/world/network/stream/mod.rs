//! Ordered streams: bytes arrive in order and whole, or the connection breaks.
//!
//! What QUIC's streams and TCP offer, over the same links as messages: a segment that a link swallows is sent again,
//! so loss, cuts and hangs show as delay, and as [`StreamError::TimedOut`] when they last. Writes are taken as far as the
//! window allows (back-pressure) and sometimes not even so far; reads return what is there, sometimes less. A connection
//! has two ends that may disagree: a machine without power says nothing, and its peer believes in the connection until it
//! hears nothing for too long, or until the rebooted machine says that it knows of none.
//!
//! - [`listen`], [`connect`]: how a [`Stream`] comes to be
//! - `state`: the two ends of each connection; `carry`: segments on their way

mod carry;
mod state;

use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::world::draws::{Dice, Purpose, entity};
use crate::world::section;
use crate::world::slab::Key;
use crate::world::state::{try_with, with};
use crate::world::task::note_wait;
use crate::world::{HostId, Incarnation, Nanos};

use state::Piece;
pub(crate) use state::Streams;

/// Bytes that one end may have sent and the other not yet read.
pub const WINDOW_BYTES: usize = 64 << 10;
/// A segment carries no more than this.
pub const SEGMENT_BYTES_MAX: usize = 16 << 10;
/// A swallowed segment is sent again after so long, and after twice as long each time it is swallowed again.
pub const RETRANSMIT_NS: Nanos = 200_000_000;
/// The longest pause between two attempts.
pub const RETRANSMIT_NS_MAX: Nanos = 1_600_000_000;
/// A segment that did not get through for so long breaks the connection, at the end that sent it.
pub const GIVE_UP_NS: Nanos = 10_000_000_000;
/// Connections that a listener has not accepted yet; more are refused.
pub const BACKLOG_MAX: usize = 128;

/// Why a connection was not made, or is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The machine answers, but nobody listens there.
    #[error("connection refused")]
    Refused,
    /// The other end is gone: its process died, or it dropped the stream with bytes unread.
    #[error("connection reset")]
    Reset,
    /// Nothing got through for [`GIVE_UP_NS`].
    #[error("connection timed out")]
    TimedOut,
    /// This end has shut its direction down.
    #[error("the stream is shut down")]
    Shut,
}

/// Takes connections to a port. Dropping it refuses those that were not accepted.
#[derive(Debug)]
pub struct Listener {
    host: HostId,
    port: u16,
    world: usize,
}

/// Listens on a port of the current host.
///
/// # Panics
/// If somebody listens there already.
pub fn listen(port: u16) -> Listener {
    with(|world| {
        let owner = world.context.get().incarnation;
        if !world.is_mute() {
            let is_new = world.streams.borrow_mut().listen(owner, port);
            assert!(is_new, "somebody listens on port {port} of host {} already", owner.host.0);
        }
        Listener { host: owner.host, port, world: world.address() }
    })
}

impl Listener {
    /// The next connection. Never ready once the incarnation is dead. Cancel-safe.
    pub async fn accept(&mut self) -> Stream {
        let (host, port) = (self.host, self.port);
        poll_fn(move |cx| {
            let accepted = with(|world| world.streams.borrow_mut().accept(host, port, cx.waker()));
            match accepted {
                Ok(connection) => Poll::Ready(Stream::of(connection, 1)),
                Err(stale) => wait("a connection", stale),
            }
        })
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        try_with(|world| {
            if world.address() == self.world {
                world.stop_listening(self.host, self.port);
            }
        });
    }
}

/// Connects the current host with a port of another.
///
/// # Errors
/// [`StreamError::Refused`] when nobody listens there, [`StreamError::TimedOut`] when nothing answers.
///
/// # Panics
/// If there is no such host.
pub async fn connect(to: HostId, port: u16) -> Result<Stream, StreamError> {
    let stream = with(|world| {
        let connection = world.open_connection(to, port);
        Stream::of(connection, 0)
    });
    poll_fn(|cx| {
        let polled = with(|world| world.streams.borrow_mut().poll_connected(stream.connection, cx.waker()));
        match polled {
            Ok(result) => Poll::Ready(result),
            Err(stale) => wait("a connection to be made", stale),
        }
    })
    .await?;
    Ok(stream)
}

/// One end of a connection. Dropping it ends the stream in order when all that arrived was read and the direction was
/// shut down or nothing is missing; otherwise the other end sees a reset.
#[derive(Debug)]
pub struct Stream {
    connection: Key,
    side: usize,
    owner: Incarnation,
    world: usize,
}

impl Stream {
    fn of(connection: Key, side: usize) -> Stream {
        with(|world| Stream { connection, side, owner: world.context.get().incarnation, world: world.address() })
    }

    /// The host at the other end.
    pub fn peer(&self) -> HostId {
        with(|world| world.streams.borrow().peer(self.connection, self.side)).unwrap_or(HostId::DRIVER)
    }

    /// Waits until something has arrived, and takes up to `buffer.len()` bytes of it; 0 when the other end has shut its
    /// direction down and all of it was read. Cancel-safe.
    ///
    /// # Errors
    /// [`StreamError::Reset`] or [`StreamError::TimedOut`] when the connection broke. Bytes that had arrived before are
    /// lost with it.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let (connection, side) = (self.connection, self.side);
        poll_fn(move |cx| {
            let most = portion(connection, side, buffer.len());
            let read = with(|world| {
                let read = world.streams.borrow_mut().read(connection, side, &mut buffer[..most], cx.waker());
                if let Ok(Ok(taken)) = read
                    && taken > 0
                {
                    world.make_room(connection, side, taken);
                }
                read
            });
            match read {
                Ok(result) => Poll::Ready(result),
                Err(stale) => wait("a stream's bytes", stale),
            }
        })
        .await
    }

    /// Reads exactly so many bytes; `None` if the stream ends before.
    ///
    /// # Errors
    /// As [`Stream::read`].
    pub async fn read_exact(&mut self, count: usize) -> Result<Option<Vec<u8>>, StreamError> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read(&mut bytes[filled..]).await? {
                0 => return Ok(None),
                read => filled += read,
            }
        }
        Ok(Some(bytes))
    }

    /// Waits until there is room in the window, and sends as much of `bytes` as is taken: at least one byte. Inside a
    /// blocking section nothing may be sent.
    ///
    /// # Errors
    /// When the connection broke, or this direction was shut down.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, StreamError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let (connection, side) = (self.connection, self.side);
        poll_fn(move |cx| {
            assert!(!section::active(), "a blocking section cannot wait for a stream");
            let most = portion(connection, side, bytes.len().min(SEGMENT_BYTES_MAX));
            let taken = with(|world| {
                let taken = world.streams.borrow_mut().reserve(connection, side, most, cx.waker());
                if let Ok(Ok(count)) = taken {
                    world.send_piece(connection, side, Piece::Data(bytes[..count].to_vec()));
                }
                taken
            });
            match taken {
                Ok(result) => Poll::Ready(result),
                Err(stale) => wait("room in a stream", stale),
            }
        })
        .await
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As [`Stream::write`]; some of it may have been sent.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut written = 0;
        while written < bytes.len() {
            written += self.write(&bytes[written..]).await?;
        }
        Ok(())
    }

    /// Says that nothing more will be written. The other direction stays open.
    pub fn shut_down(&mut self) {
        with(|world| world.shut_end(self.connection, self.side));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        try_with(|world| {
            if world.address() == self.world && world.is_alive(self.owner) && !world.is_mute() {
                world.close_end(self.connection, self.side);
            }
        });
    }
}

/// How much of what is possible happens: mostly all of it, now and then less. At least 1 when anything is possible.
fn portion(connection: Key, side: usize, most: usize) -> usize {
    const PORTION: Purpose = Purpose("stream portion");
    with(|world| {
        let ordinal = world.streams.borrow_mut().count_portion(connection, side);
        let id = entity(&[u64::from(connection.slot), side as u64]);
        let mut dice = Dice::new(world.key.draw(PORTION, id, ordinal));
        if most > 1 && dice.chance(PARTIAL_PPM) {
            1 + usize::try_from(dice.below(most as u64 - 1)).expect("below a usize")
        } else {
            most
        }
    })
}

fn wait<T>(what: &'static str, stale: Option<Waker>) -> Poll<T> {
    drop(stale);
    note_wait(what);
    Poll::Pending
}

/// One read or write in ten is a partial one.
const PARTIAL_PPM: u32 = 100_000;
