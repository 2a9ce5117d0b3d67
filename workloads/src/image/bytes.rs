//! A cursor over bytes that came from a disk: nothing is read past their end, no length is believed before it fits.
//!
//! Postcard is read by hand here, because the product reads it with the crate of that name.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The version that every seal begins with.
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

/// Seeds of the checksums, by what they cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    Entry = 1,
    Vote = 2,
    LogId = 3,
    Membership = 4,
    SnapshotMeta = 5,
    Reply = 6,
    KvRow = 7,
    SessionRow = 8,
    LogTime = 9,
    MetaRow = 10,
    StatePointer = 11,
    LogFormat = 12,
}

/// XXH3-64 of `bytes` with the seed of what they are.
pub fn checksum(seed: Seed, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, seed as u64)
}

/// The body of a seal, once checksum and version are right.
pub fn unseal(seed: Seed, sealed: &[u8]) -> Result<Cursor<'_>, String> {
    let Some((covered, sum)) = sealed.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(format!("{} bytes are too few for a seal", sealed.len()));
    };
    let (found, computed) = (u64::from_le_bytes(*sum), checksum(seed, covered));
    if found != computed {
        return Err(format!("its checksum is {found:016x}, its bytes have {computed:016x}"));
    }
    match covered {
        [VERSION, body @ ..] => Ok(Cursor::new(body)),
        [] => Err("it has no version".to_owned()),
        [other, ..] => Err(format!("it has version {other} instead of {VERSION}")),
    }
}

/// Reads from the front. Each method returns `None` when the bytes are not what it reads.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub fn u32_le(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64_le(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length in four little-endian bytes, and then so many bytes.
    pub fn counted(&mut self) -> Option<&'a [u8]> {
        let len = self.u32_le()?;
        self.take(usize::try_from(len).ok()?)
    }

    /// That nothing is left.
    pub fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    // Postcard.

    /// LEB128, low bits first. A number has one encoding: one that ends with a zero byte for nothing is refused.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        self.take(usize::try_from(len).ok()?)
    }

    pub fn string(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.bool()? {
            false => Some(None),
            true => read(self).map(Some),
        }
    }

    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = self.varint()?;
        // Items are read before room is made for them: a length is only a claim.
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(read(self)?);
        }
        Some(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_has_one_encoding_and_fits_64_bits() {
        let read = |bytes: &[u8]| {
            let mut cursor = Cursor::new(bytes);
            cursor.varint().filter(|_| cursor.end().is_some())
        };
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0x7f]), Some(127));
        assert_eq!(read(&[0xac, 0x02]), Some(300));
        let largest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(read(&largest), Some(u64::MAX));
        assert_eq!(read(&[&largest[..9], &[0x02]].concat()), None, "65 bits");
        assert_eq!(read(&[&largest[..9], &[0x81, 0]].concat()), None, "eleven bytes");
        assert_eq!(read(&[0x80, 0]), None, "zero in two bytes");
        assert_eq!(read(&[0x80]), None, "cut short");
    }

    #[test]
    fn a_length_is_not_believed_before_it_fits() {
        assert_eq!(Cursor::new(&[5, 1, 2]).bytes(), None);
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).list(Cursor::u8), None);
        assert_eq!(Cursor::new(&[9, 0, 0, 0, 1]).counted(), None);
    }

    #[test]
    fn a_seal_says_what_is_wrong_with_it() {
        let seal = |version: u8, body: &[u8]| {
            let mut sealed = [&[version], body].concat();
            let sum = checksum(Seed::Vote, &sealed);
            sealed.extend_from_slice(&sum.to_le_bytes());
            sealed
        };
        let sealed = seal(1, b"body");
        assert_eq!(unseal(Seed::Vote, &sealed).unwrap().rest(), b"body");
        assert!(unseal(Seed::LogId, &sealed).unwrap_err().contains("checksum"), "another kind of value");
        assert!(unseal(Seed::Vote, &sealed[..7]).unwrap_err().contains("too few"));
        assert!(unseal(Seed::Vote, &seal(2, b"")).unwrap_err().contains("version 2"));
    }
}
