//! Encoded log entries, packed into one block so that a malformed count cannot make the receiver allocate.

use serde::{Deserialize, Serialize};

use crate::message::DecodeError;

/// Entries in one message at most.
pub const ENTRIES_MAX: u32 = 4096;

/// A count and, for each entry, its length (u32, little endian) and bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    count: u32,
    #[serde(with = "serde_bytes")]
    block: Vec<u8>,
}

impl Entries {
    /// Appends one entry unless there are [`ENTRIES_MAX`], or the block would pass `bytes_max` with at least one entry
    /// in it already. Returns whether it was appended.
    pub fn push(&mut self, entry: &[u8], bytes_max: usize) -> bool {
        let too_long = self.count > 0 && self.block.len() + LENGTH_BYTES + entry.len() > bytes_max;
        if too_long || self.count == ENTRIES_MAX {
            return false;
        }
        let length = u32::try_from(entry.len()).expect("an entry is bounded by the limit of a command");
        self.block.extend_from_slice(&length.to_le_bytes());
        self.block.extend_from_slice(entry);
        self.count += 1;
        true
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the block.
    pub fn bytes(&self) -> usize {
        self.block.len()
    }

    /// The encoded entries, in order.
    pub fn unpack(&self) -> Result<Vec<&[u8]>, DecodeError> {
        if self.count > ENTRIES_MAX {
            return Err(DecodeError::Malformed(format!("{} entries, {ENTRIES_MAX} are allowed", self.count)));
        }
        let mut entries = Vec::with_capacity(self.len());
        let mut rest = self.block.as_slice();
        for _ in 0..self.count {
            let entry = split_entry(&mut rest)
                .ok_or_else(|| DecodeError::Malformed("the block of entries is cut short".to_owned()))?;
            entries.push(entry);
        }
        if !rest.is_empty() {
            return Err(DecodeError::Malformed("bytes follow the last entry".to_owned()));
        }
        Ok(entries)
    }
}

fn split_entry<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (entry, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(entry)
}

const LENGTH_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_stops_at_its_bound_but_holds_one_entry_at_least() {
        let mut entries = Entries::default();
        assert!(entries.push(&[1; 100], 10), "the first entry always fits");
        assert!(!entries.push(&[2], 10));
        assert_eq!(entries.unpack().unwrap(), vec![&[1u8; 100][..]]);

        let mut entries = Entries::default();
        assert!(entries.push(&[1; 6], 20));
        assert!(entries.push(&[2; 6], 20));
        assert!(!entries.push(&[], 20));
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn a_block_stops_at_its_count() {
        let mut entries = Entries::default();
        let mut pushed = 0;
        while entries.push(&[], usize::MAX) {
            pushed += 1;
        }
        assert_eq!(pushed, ENTRIES_MAX);
        let over = Entries { count: ENTRIES_MAX + 1, block: vec![0; LENGTH_BYTES * (ENTRIES_MAX as usize + 1)] };
        assert!(over.unpack().is_err());
    }

    #[test]
    fn a_wrong_count_or_length_is_refused() {
        for (count, block) in [(1, vec![]), (1, vec![1, 0, 0, 0]), (0, vec![9]), (1, vec![255; 8]), (2, vec![0; 7])] {
            assert!(Entries { count, block }.unpack().is_err());
        }
    }
}
