//! The pages of a SQLite database: those in its write-ahead log that were committed, else those in its file.
//!
//! Written from <https://sqlite.org/fileformat2.html>, section 4 (the write-ahead log) and 1.3 (the header). SQLite itself
//! is not asked: in a simulation its only way to files is the simulated disk, and its random generator is the run's.

use std::collections::BTreeMap;

use super::bytes::Cursor;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes of the header on the first page.
pub const HEADER_BYTES: usize = 100;
const FRAME_HEADER_BYTES: usize = 24;

/// A database as a reader sees it who opens it now.
pub struct Pages<'a> {
    file: &'a [u8],
    wal: &'a [u8],
    /// Page number to the place of its newest committed content in the write-ahead log.
    committed: BTreeMap<u32, usize>,
    page_bytes: usize,
    /// Bytes of a page that are in use.
    usable: usize,
    /// Pages in the database.
    count: u32,
}

impl<'a> Pages<'a> {
    /// An absent or empty `wal` is one without commits.
    pub fn open(file: &'a [u8], wal: &'a [u8]) -> Result<Self, String> {
        let log = Log::recover(wal)?;
        let first = match log.committed.get(&1) {
            Some(at) => &wal[*at..],
            None => file,
        };
        let header = first.get(..HEADER_BYTES).ok_or("it is shorter than its header")?;
        if &header[..16] != MAGIC {
            return Err("it does not begin as a SQLite database".to_owned());
        }
        let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 1 << 16,
            bytes => usize::from(bytes),
        };
        if !page_bytes.is_power_of_two() || page_bytes < 512 {
            return Err(format!("its header says that a page has {page_bytes} bytes"));
        }
        if log.count.is_some() && log.page_bytes != page_bytes {
            return Err(format!("its pages have {page_bytes} bytes, those in its log {}", log.page_bytes));
        }
        if header[18..20] != [2, 2] {
            return Err(format!("its header says {:?} where write-ahead logging is 2 and 2", &header[18..20]));
        }
        let in_file = u32::try_from(file.len().div_ceil(page_bytes)).map_err(|_| "it is too long")?;
        let count = match log.count {
            Some(count) => count,
            None => count_of(header, in_file)?,
        };
        let usable = page_bytes - usize::from(header[20]);
        Ok(Pages { file, wal, committed: log.committed, page_bytes, usable, count })
    }

    /// The bytes of a page that are in use. Pages are numbered from 1.
    pub fn page(&self, number: u32) -> Result<&'a [u8], String> {
        if number == 0 || number > self.count {
            return Err(format!("it refers to page {number} of {}", self.count));
        }
        let page = match self.committed.get(&number) {
            Some(at) => self.wal.get(*at..at + self.page_bytes),
            None => {
                let at = (number as usize - 1) * self.page_bytes;
                self.file.get(at..at + self.page_bytes)
            }
        };
        page.map(|page| &page[..self.usable]).ok_or_else(|| format!("page {number} is past the end of the file"))
    }
}

/// The number of pages without a write-ahead log: as the header says if it is up to date, else by the file's length.
fn count_of(header: &[u8], in_file: u32) -> Result<u32, String> {
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (counted, counted_at, changed_at) = (word(28), word(92), word(24));
    match counted {
        0 => Ok(in_file),
        _ if counted_at != changed_at => Ok(in_file),
        _ if counted > in_file => Err(format!("its header counts {counted} pages, the file has {in_file}")),
        _ => Ok(counted),
    }
}

/// What of a write-ahead log counts.
#[derive(Debug, Default)]
struct Log {
    page_bytes: usize,
    committed: BTreeMap<u32, usize>,
    /// Pages of the database after the last commit; `None` without a commit.
    count: Option<u32>,
}

impl Log {
    /// Reads frames for as long as each is of this log and its checksum continues that of the one before; what follows
    /// the last commit among them never happened. A log whose header is damaged is empty: SQLite syncs the header before
    /// it relies on it.
    fn recover(wal: &[u8]) -> Result<Log, String> {
        let mut log = Log::default();
        let mut cursor = Cursor::new(wal);
        let Some(header) = cursor.take(24) else { return Ok(log) };
        let Some(mut sum) = cursor.array().map(Sum::from_bytes) else { return Ok(log) };
        let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let big_endian = match word(0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return Ok(log),
        };
        log.page_bytes = word(8) as usize;
        let plausible = log.page_bytes.is_power_of_two() && (512..=1 << 16).contains(&log.page_bytes);
        if !plausible || Sum::default().then(header, big_endian) != sum {
            return Ok(log);
        }
        if word(4) != 3_007_000 {
            return Err(format!("its write-ahead log has version {}", word(4)));
        }
        let salt = &header[16..24];
        let mut uncommitted = Vec::new();
        while let Some(frame) = cursor.take(FRAME_HEADER_BYTES) {
            let at = wal.len() - cursor.rest().len();
            let Some(content) = cursor.take(log.page_bytes) else { break };
            let mut head = Cursor::new(frame);
            let (number, count) = (head.array().map(u32::from_be_bytes), head.array().map(u32::from_be_bytes));
            let (Some(number), Some(count)) = (number, count) else { break };
            sum = sum.then(&frame[..8], big_endian).then(content, big_endian);
            if number == 0 || &frame[8..16] != salt || sum.to_bytes() != frame[16..24] {
                break;
            }
            uncommitted.push((number, at));
            if count > 0 {
                log.committed.extend(uncommitted.drain(..));
                log.count = Some(count);
            }
        }
        Ok(log)
    }
}

/// The checksum of a write-ahead log: two interleaved Fibonacci-weighted sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum(u32, u32);

impl Sum {
    fn from_bytes(bytes: [u8; 8]) -> Sum {
        let [a, b, c, d, e, f, g, h] = bytes;
        Sum(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
    }

    fn to_bytes(self) -> [u8; 8] {
        let ([a, b, c, d], [e, f, g, h]) = (self.0.to_be_bytes(), self.1.to_be_bytes());
        [a, b, c, d, e, f, g, h]
    }

    /// Continues over `bytes`, a multiple of 8 of them, as words of the given order.
    fn then(self, bytes: &[u8], big_endian: bool) -> Sum {
        if big_endian { self.over(bytes, u32::from_be_bytes) } else { self.over(bytes, u32::from_le_bytes) }
    }

    fn over(self, bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> Sum {
        let Sum(mut even, mut odd) = self;
        for pair in bytes.chunks_exact(8) {
            even = even.wrapping_add(word([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(odd);
            odd = odd.wrapping_add(word([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(even);
        }
        Sum(even, odd)
    }
}
