//! The B-trees of a SQLite database: the records of a table or an index, in order.
//!
//! Written from <https://sqlite.org/fileformat2.html>, sections 1.6 (pages), 1.7 (overflow), 2.1 (records).

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::bytes::Cursor;
use super::pages::{HEADER_BYTES, Pages};

/// A tree is never deeper, with 2^32 pages and two children at least.
const DEPTH_MAX: usize = 32;

/// One column of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Integer(i64),
    Text(&'a [u8]),
    Blob(&'a [u8]),
    /// Nothing that the product stores.
    Real,
}

impl<'a> Value<'a> {
    /// A number that is stored as the signed one with the same bits.
    pub fn unsigned(self) -> Option<u64> {
        match self {
            Value::Integer(number) => Some(number.cast_unsigned()),
            _ => None,
        }
    }

    pub fn blob(self) -> Option<&'a [u8]> {
        match self {
            Value::Blob(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub fn text(self) -> Option<&'a [u8]> {
        match self {
            Value::Text(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// Shows every row of the table rooted at `root` to `visit`, in the order of their ids: id and columns.
pub fn scan_table(
    pages: &Pages<'_>,
    root: u32,
    mut visit: impl FnMut(i64, &[Value<'_>]) -> Result<(), String>,
) -> Result<(), String> {
    let mut last = None;
    let mut each = |id: Option<i64>, record: &[u8]| {
        let id = id.ok_or("an index is where a table should be")?;
        if last.is_some_and(|last| last >= id) {
            return Err(format!("row {id} comes after row {}", last.unwrap_or_default()));
        }
        last = Some(id);
        visit(id, &columns(record).ok_or_else(|| format!("the record of row {id} does not parse"))?)
    };
    Walk { pages, seen: BTreeSet::new(), table: true }.tree(root, 0, &mut each)
}

/// Shows every record of the index rooted at `root` to `visit`, in order.
pub fn scan_index(
    pages: &Pages<'_>,
    root: u32,
    mut visit: impl FnMut(&[Value<'_>]) -> Result<(), String>,
) -> Result<(), String> {
    let mut each =
        |_: Option<i64>, record: &[u8]| visit(&columns(record).ok_or("a record of an index does not parse")?);
    Walk { pages, seen: BTreeSet::new(), table: false }.tree(root, 0, &mut each)
}

type Visit<'v> = dyn FnMut(Option<i64>, &[u8]) -> Result<(), String> + 'v;

/// A way through one tree. Each page is met once: a damaged tree may have cycles.
struct Walk<'p, 'a> {
    pages: &'p Pages<'a>,
    seen: BTreeSet<u32>,
    table: bool,
}

impl<'a> Walk<'_, 'a> {
    fn tree(&mut self, number: u32, depth: usize, visit: &mut Visit<'_>) -> Result<(), String> {
        if depth > DEPTH_MAX || !self.seen.insert(number) {
            return Err(format!("page {number} is part of a cycle"));
        }
        let page = self.pages.page(number)?;
        let start = if number == 1 { HEADER_BYTES } else { 0 };
        let broken = || format!("page {number} does not parse");
        let mut head = Cursor::new(page.get(start..).ok_or_else(broken)?);
        let kind = head.u8().ok_or_else(broken)?;
        let (table, leaf) = match kind {
            0x02 => (false, false),
            0x05 => (true, false),
            0x0a => (false, true),
            0x0d => (true, true),
            _ => return Err(format!("page {number} has the unknown kind {kind:#04x}")),
        };
        if table != self.table {
            return Err(format!("page {number} is of a table in an index, or of an index in a table"));
        }
        head.take(2).ok_or_else(broken)?;
        let cells = be16(&mut head).ok_or_else(broken)?;
        head.take(3).ok_or_else(broken)?;
        let last_child = if leaf { None } else { Some(be32(&mut head).ok_or_else(broken)?) };
        for _ in 0..cells {
            let at = be16(&mut head).ok_or_else(broken)?;
            let mut cell = Cursor::new(page.get(usize::from(at)..).ok_or_else(broken)?);
            if !leaf {
                self.tree(be32(&mut cell).ok_or_else(broken)?, depth + 1, visit)?;
            }
            // The inner pages of a table have keys only.
            if !table || leaf {
                let len = varint(&mut cell).ok_or_else(broken)?;
                let id = if table { Some(varint(&mut cell).ok_or_else(broken)?) } else { None };
                visit(id.map(u64::cast_signed), &self.payload(cell, len)?)?;
            }
        }
        last_child.map_or(Ok(()), |child| self.tree(child, depth + 1, visit))
    }

    /// The payload of a cell: what is in the cell, and then what its overflow pages hold.
    fn payload(&mut self, mut cell: Cursor<'a>, len: u64) -> Result<Cow<'a, [u8]>, String> {
        let short = || "a cell is cut short".to_owned();
        let usable = self.pages.page(1)?.len();
        let len = usize::try_from(len).map_err(|_| short())?;
        let local = local_bytes(usable, len, self.table);
        let here = cell.take(local).ok_or_else(short)?;
        if local == len {
            return Ok(Cow::Borrowed(here));
        }
        let mut next = be32(&mut cell).ok_or_else(short)?;
        let mut payload = here.to_vec();
        while payload.len() < len {
            if !self.seen.insert(next) {
                return Err(format!("overflow page {next} is part of a cycle"));
            }
            let mut page = Cursor::new(self.pages.page(next)?);
            next = be32(&mut page).ok_or_else(short)?;
            let rest = page.rest();
            payload.extend_from_slice(&rest[..rest.len().min(len - payload.len())]);
        }
        if next != 0 {
            return Err(format!("overflow pages go on to page {next} after the end of a record"));
        }
        Ok(Cow::Owned(payload))
    }
}

/// How many bytes of a payload of `len` stand in the cell itself.
fn local_bytes(usable: usize, len: usize, table: bool) -> usize {
    let max = if table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
    if len <= max {
        return len;
    }
    let min = (usable - 12) * 32 / 255 - 23;
    let wanted = min + (len - min) % (usable - 4);
    if wanted <= max { wanted } else { min }
}

/// The columns of a record; all of `record`.
fn columns(record: &[u8]) -> Option<Vec<Value<'_>>> {
    let mut header = Cursor::new(record);
    let header_len = usize::try_from(varint(&mut header)?).ok()?;
    let counted = record.len() - header.rest().len();
    let mut types = Cursor::new(record.get(counted..header_len)?);
    let mut body = Cursor::new(record.get(header_len..)?);
    let mut columns = Vec::with_capacity(8);
    while types.end().is_none() {
        columns.push(match varint(&mut types)? {
            0 => Value::Null,
            1 => Value::Integer(integer(body.take(1)?)),
            2 => Value::Integer(integer(body.take(2)?)),
            3 => Value::Integer(integer(body.take(3)?)),
            4 => Value::Integer(integer(body.take(4)?)),
            5 => Value::Integer(integer(body.take(6)?)),
            6 => Value::Integer(integer(body.take(8)?)),
            7 => body.take(8).map(|_| Value::Real)?,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            10 | 11 => return None,
            kind => {
                let bytes = body.take(usize::try_from((kind - 12) / 2).ok()?)?;
                if kind % 2 == 0 { Value::Blob(bytes) } else { Value::Text(bytes) }
            }
        });
    }
    body.end().map(|()| columns)
}

/// Two's complement, high byte first.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
}

/// SQLite's varint: 7 bits a byte, *high* bits first; a ninth byte holds 8.
fn varint(cursor: &mut Cursor<'_>) -> Option<u64> {
    let mut value = 0;
    for _ in 0..8 {
        let byte = cursor.u8()?;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    Some(value << 8 | u64::from(cursor.u8()?))
}

fn be16(cursor: &mut Cursor<'_>) -> Option<u16> {
    cursor.array().map(u16::from_be_bytes)
}

fn be32(cursor: &mut Cursor<'_>) -> Option<u32> {
    cursor.array().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_varints_are_read_high_byte_first() {
        assert_eq!(integer(&[0xff]), -1);
        assert_eq!(integer(&[0x7f, 0xff]), 32767);
        assert_eq!(integer(&[0x80, 0, 0]), -(1 << 23));
        assert_eq!(integer(&[0x80, 0, 0, 0, 0, 0, 0, 0]), i64::MIN);
        assert_eq!(varint(&mut Cursor::new(&[0x81, 0])), Some(128));
        assert_eq!(varint(&mut Cursor::new(&[0xff; 9])), Some(u64::MAX));
        assert_eq!(varint(&mut Cursor::new(&[0xff; 8])), None);
    }

    #[test]
    fn a_record_is_all_of_its_bytes() {
        // NULL, 1, -2 in one byte, "ab", x'07'.
        let record = [6, 0, 9, 1, 17, 14, 0xfe, b'a', b'b', 7];
        let expected = [Value::Null, Value::Integer(1), Value::Integer(-2), Value::Text(b"ab"), Value::Blob(&[7])];
        assert_eq!(columns(&record).unwrap(), expected);
        assert_eq!(columns(&record[..9]), None);
        assert_eq!(columns(&[&record[..], &[0]].concat()), None);
    }

    #[test]
    fn long_payloads_leave_the_cell() {
        assert_eq!(local_bytes(4096, 4061, true), 4061);
        assert!(local_bytes(4096, 4062, true) < 4061);
        assert_eq!(local_bytes(4096, 1002, false), 1002);
        assert!(local_bytes(4096, 1003, false) < 1002);
    }
}
