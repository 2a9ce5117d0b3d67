//! Frames: how messages lie on a stream.
//!
//! ```text
//! offset  bytes  what
//!      0      1  version, 1
//!      1      1  kind
//!      2      2  zero
//!      4      4  length of the payload, little endian
//!      8      8  number of the request within its connection and direction, little endian
//!     16      8  XXH3 (64 bit) of the first 16 bytes and the payload, little endian
//!     24         payload
//! ```
//!
//! QUIC authenticates what it carries, so a checksum that does not match is a defect of memory or of software at one of
//! the ends; it is checked all the same, and ends the connection. Memory is reserved as bytes arrive, not as announced.

use std::time::Duration;

use iroh::endpoint::{ReadExactError, RecvStream};
use xxhash_rust::xxh3::Xxh3;

pub(super) const VERSION: u8 = 1;
pub(super) const HEADER_BYTES: usize = 24;
/// Payload read, and memory reserved, at one time.
const STEP_BYTES: usize = 1 << 20;
/// A step has so long to arrive once its frame has begun.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The first frame of a connection, from who dialled.
    Hello = 1,
    /// The answer to it.
    Welcome = 2,
    Request = 3,
    Reply = 4,
    /// Nobody serves requests here: it was not handled.
    Unserved = 5,
    /// A request beside those of the node: see [`super::Side`].
    Side = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Hello, Kind::Welcome, Kind::Request, Kind::Reply, Kind::Unserved, Kind::Side]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub len: usize,
    pub id: u64,
    checksum: u64,
}

/// A message with its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    pub id: u64,
    pub payload: Vec<u8>,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the frame has version {0}, this node speaks {VERSION}")]
    Version(u8),
    #[error("the frame is of no known kind")]
    Kind,
    #[error("the frame has {actual} bytes, {max} are allowed")]
    TooLong { actual: usize, max: usize },
    #[error("the frame does not match its checksum")]
    Checksum,
    #[error("the stream ends within a frame, or broke: {0}")]
    Broken(String),
}

/// Writes a frame.
pub(super) fn encode(kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a message is shorter than 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    let checksum = checksum(&bytes, payload);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads a header whose payload may have `max` bytes.
pub(super) fn decode_header(bytes: &[u8; HEADER_BYTES], max: usize) -> Result<Header, FrameError> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    if bytes[0] != VERSION {
        return Err(FrameError::Version(bytes[0]));
    }
    let kind = Kind::from_byte(bytes[1]).filter(|_| bytes[2..4] == [0, 0]).ok_or(FrameError::Kind)?;
    let len = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
    let actual = usize::try_from(len).unwrap_or(usize::MAX);
    if actual > max {
        return Err(FrameError::TooLong { actual, max });
    }
    Ok(Header { kind, len: actual, id: number(8), checksum: number(16) })
}

/// Compares the payload with the header's checksum.
pub(super) fn verify(header_bytes: &[u8; HEADER_BYTES], header: &Header, payload: &[u8]) -> Result<(), FrameError> {
    let matches = checksum(&header_bytes[..16], payload) == header.checksum;
    if matches { Ok(()) } else { Err(FrameError::Checksum) }
}

/// The next frame of a stream, `None` at its end.
pub(super) async fn read(stream: &mut RecvStream, max: usize) -> Result<Option<Frame>, FrameError> {
    let broken = |error: &dyn std::fmt::Display| FrameError::Broken(error.to_string());
    let mut bytes = [0; HEADER_BYTES];
    match stream.read_exact(&mut bytes).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(broken(&error)),
    }
    let header = decode_header(&bytes, max)?;
    let mut payload = Vec::with_capacity(header.len.min(STEP_BYTES));
    while payload.len() < header.len {
        let from = payload.len();
        payload.resize(header.len.min(from + STEP_BYTES), 0);
        let step = tokio::time::timeout(READ_TIMEOUT, stream.read_exact(&mut payload[from..]));
        step.await.map_err(|late| broken(&late))?.map_err(|error| broken(&error))?;
    }
    verify(&bytes, &header, &payload)?;
    Ok(Some(Frame { kind: header.kind, id: header.id, payload }))
}

fn checksum(header: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8], max: usize) -> Result<(Header, Vec<u8>), FrameError> {
        let Some((head, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(FrameError::Broken("short".to_owned()));
        };
        let header = decode_header(head, max)?;
        let payload = payload.get(..header.len).ok_or(FrameError::Broken("short".to_owned()))?;
        verify(head, &header, payload)?;
        Ok((header, payload.to_vec()))
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written(id: u64, payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let (header, read) = decode(&encode(Kind::Request, id, &payload), 300).unwrap();
            prop_assert_eq!((header.kind, header.id, read), (Kind::Request, id, payload));
        }

        #[test]
        fn any_bytes_are_refused_or_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok((header, payload)) = decode(&bytes, 64) {
                prop_assert_eq!(&encode(header.kind, header.id, &payload)[..], &bytes[..HEADER_BYTES + header.len]);
            }
        }

        #[test]
        fn one_flipped_bit_is_noticed(payload in prop::collection::vec(any::<u8>(), 0..50), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = encode(Kind::Reply, 7, &payload);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes, 100).is_err());
        }
    }

    #[test]
    fn a_long_frame_is_refused_by_its_header() {
        let bytes = encode(Kind::Request, 1, &[0; 11]);
        assert_eq!(decode(&bytes, 10), Err(FrameError::TooLong { actual: 11, max: 10 }));
    }
}
