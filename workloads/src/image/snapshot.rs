//! Snapshot files: header, rows and hash of the newest one.

use std::path::Path;

use aspen::types::LogId;

use super::Files;
use super::bytes::{Cursor, Seed, checksum};
use super::state::hash_of_scalars;
use super::values;

const MAGIC: &[u8; 8] = b"ASPNSNAP";
const VERSION: u32 = 1;
const TRAILER_BYTES: usize = 32;
/// A chunk's body is not longer.
const CHUNK_BYTES_MAX: usize = 16 << 20;

/// The last entry in the newest snapshot that is intact.
pub fn read(files: &impl Files, dir: &Path, names: &[String], defects: &mut Vec<String>) -> Option<LogId> {
    let is_snapshot = |name: &&String| name.starts_with("snapshot-") && name.ends_with(".snap");
    let mut snapshots: Vec<&String> = names.iter().filter(is_snapshot).collect();
    // The name sorts by index, then term.
    snapshots.sort_unstable();
    for name in snapshots.into_iter().rev() {
        let bytes = files.read(&dir.join(name)).unwrap_or_default().to_vec();
        match verify(&bytes).and_then(|last| check_name(name, last).map(|()| last)) {
            Ok(last) => return last,
            Err(why) => defects.push(format!("{name}: {why}")),
        }
    }
    None
}

fn check_name(name: &str, last: Option<LogId>) -> Result<(), String> {
    let (term, index) = last.map_or((0, 0), |last| (last.leader_id.term, last.index));
    let expected = format!("snapshot-{index:020}-{term:020}.snap");
    if name == expected { Ok(()) } else { Err(format!("what it holds belongs under {expected}")) }
}

/// Checks all of a file and returns the last entry in it.
fn verify(file: &[u8]) -> Result<Option<LogId>, String> {
    let (covered, trailer) = file.split_last_chunk::<TRAILER_BYTES>().ok_or("it is too short")?;
    if blake3::hash(covered).as_bytes() != trailer {
        return Err("its BLAKE3 does not match".to_owned());
    }
    // From here on a defect is one of who wrote it.
    let mut cursor = Cursor::new(covered);
    if cursor.array().as_ref() != Some(MAGIC) {
        return Err("it does not begin as a snapshot".to_owned());
    }
    if cursor.u32_le() != Some(VERSION) {
        return Err(format!("its version is not {VERSION}"));
    }
    let mut header = Cursor::new(cursor.counted().ok_or("its header is cut short")?);
    let (log_time_ms, state_hash) = header.u64_le().zip(header.u64_le()).ok_or("its header is too short")?;
    let meta = values::snapshot_meta(header.rest()).map_err(|why| format!("its metadata: {why}"))?;
    if meta.membership_log_id > meta.last {
        return Err(format!("its membership is of {:?}, it ends with {:?}", meta.membership_log_id, meta.last));
    }
    let rows = Rows::read(&mut cursor)?;
    let hash = hash_of_scalars(&sealed(&meta.membership_encoded), log_time_ms).wrapping_add(rows.sum);
    if hash != state_hash {
        return Err(format!("its state hash is {state_hash:016x}, its contents sum up to {hash:016x}"));
    }
    Ok(meta.last)
}

/// The stored membership as a state keeps it.
fn sealed(membership: &[u8]) -> Vec<u8> {
    let mut sealed = vec![1];
    sealed.extend_from_slice(membership);
    let sum = checksum(Seed::Membership, &sealed);
    sealed.extend_from_slice(&sum.to_le_bytes());
    sealed
}

/// What the chunks hold.
#[derive(Default)]
struct Rows<'a> {
    /// Of the hashes of all rows and sessions.
    sum: u64,
    keys: u64,
    sessions: u64,
    last_key: Option<&'a [u8]>,
    last_session: Option<u64>,
}

impl<'a> Rows<'a> {
    /// Reads all chunks up to the end mark, which must be the last thing there is.
    fn read(cursor: &mut Cursor<'a>) -> Result<Rows<'a>, String> {
        let mut rows = Rows::default();
        loop {
            let tag = cursor.u8().ok_or("it has no end mark")?;
            let body = cursor.counted().filter(|body| body.len() <= CHUNK_BYTES_MAX);
            let mut body = Cursor::new(body.ok_or("a chunk is cut short or too long")?);
            match tag {
                0 => {
                    let counts = body.u64_le().zip(body.u64_le()).ok_or("its end mark is cut short")?;
                    body.end().and_then(|()| cursor.end()).ok_or("bytes follow its end mark")?;
                    let found = (rows.keys, rows.sessions);
                    return if counts == found {
                        Ok(rows)
                    } else {
                        Err(format!("it has {found:?} rows and sessions, its end mark says {counts:?}"))
                    };
                }
                1 => rows.keys(&mut body)?,
                2 => rows.sessions(&mut body)?,
                _ => return Err(format!("it has a chunk of the unknown kind {tag}")),
            }
        }
    }

    fn keys(&mut self, body: &mut Cursor<'a>) -> Result<(), String> {
        while body.end().is_none() {
            let (row, key) = one_key(body).ok_or("a row of it is cut short")?;
            if self.last_key.is_some_and(|last| last >= key) {
                return Err(format!("key {} is out of order", key.escape_ascii()));
            }
            self.last_key = Some(key);
            self.keys += 1;
            self.sum = self.sum.wrapping_add(checksum(Seed::KvRow, row));
        }
        Ok(())
    }

    fn sessions(&mut self, body: &mut Cursor<'a>) -> Result<(), String> {
        while body.end().is_none() {
            let (row, id) = one_session(body).ok_or("a session of it is cut short")?;
            if self.last_session.is_some_and(|last| last >= id) {
                return Err(format!("session {id} is out of order"));
            }
            self.last_session = Some(id);
            self.sessions += 1;
            self.sum = self.sum.wrapping_add(checksum(Seed::SessionRow, row));
        }
        Ok(())
    }
}

/// The next key-value row and the key in it.
fn one_key<'a>(body: &mut Cursor<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let start = body.rest();
    let (key_len, value_len) = (usize::try_from(body.u32_le()?).ok()?, usize::try_from(body.u32_le()?).ok()?);
    body.take(3 * 8)?;
    let key = body.take(key_len)?;
    body.take(value_len)?;
    Some((&start[..start.len() - body.rest().len()], key))
}

/// The next session row and its id.
fn one_session<'a>(body: &mut Cursor<'a>) -> Option<(&'a [u8], u64)> {
    let start = body.rest();
    let id = body.u64_le()?;
    body.take(3 * 8)?;
    body.counted()?;
    Some((&start[..start.len() - body.rest().len()], id))
}
