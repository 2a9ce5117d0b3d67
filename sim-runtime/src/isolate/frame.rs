//! Length-prefixed messages on a pipe: a record that was cut off is never taken for a whole one.

use std::io::{self, Read, Write};

/// A record is a few hundred KB; anything near this is a bug.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// Writes the length (u32, little-endian) and the bytes.
pub(super) fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|_| bytes.len() <= FRAME_BYTES_MAX)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("a message of {} bytes", bytes.len())))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

/// Reads one message; `None` when the other side closed instead of starting one.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = [0u8; 4];
    let mut filled = 0;
    while filled < prefix.len() {
        match from.read(&mut prefix[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut bytes = vec![0; length(prefix)?];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// The message that `bytes` consists of, exactly; `None` when it is cut off or followed by anything.
pub(super) fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = bytes.split_first_chunk::<4>()?;
    (length(*prefix).ok()? == rest.len()).then_some(rest)
}

fn length(prefix: [u8; 4]) -> io::Result<usize> {
    usize::try_from(u32::from_le_bytes(prefix))
        .ok()
        .filter(|&length| length <= FRAME_BYTES_MAX)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a message of ours"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_and_every_cut_is_noticed() {
        let mut pipe = Vec::new();
        write(&mut pipe, b"record").unwrap();
        assert_eq!(whole(&pipe), Some(b"record".as_slice()));
        assert_eq!(read(&mut pipe.as_slice()).unwrap(), Some(b"record".to_vec()));
        assert_eq!(read(&mut [].as_slice()).unwrap(), None);
        for cut in 0..pipe.len() {
            assert_eq!(whole(&pipe[..cut]), None, "cut at {cut}");
            assert!(cut == 0 || read(&mut &pipe[..cut]).is_err(), "cut at {cut}");
        }
        pipe.push(0);
        assert_eq!(whole(&pipe), None, "trailing bytes");
        assert!(read(&mut [255u8; 8].as_slice()).is_err(), "an absurd length");
    }
}
