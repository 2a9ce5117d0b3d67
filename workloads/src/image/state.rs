//! The state machine: the database that `state.current` names, every row verified, the state hash recomputed.

use std::path::Path;

use aspen::types::{CommittedLeaderId, LogId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Files;
use super::btree::{Value, scan_index, scan_table};
use super::bytes::{Seed, checksum, unseal};
use super::pages::Pages;
use super::values;

pub const POINTER: &str = "state.current";

/// What the database holds.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub applied: Option<LogId>,
    /// Recomputed from rows, sessions, membership and log time.
    pub hash: u64,
}

/// The state in force. `None` before there is one.
pub fn read(files: &impl Files, dir: &Path, defects: &mut Vec<String>) -> Option<State> {
    let pointer = files.read(&dir.join(POINTER))?.to_vec();
    let generation = match generation(&pointer) {
        Ok(generation) => generation,
        Err(why) => {
            defects.push(format!("{POINTER}: {why}"));
            return None;
        }
    };
    let name = format!("state-{generation}.db");
    let Some(database) = files.read(&dir.join(&name)) else {
        defects.push(format!("{POINTER} names generation {generation}, but there is no {name}"));
        return None;
    };
    let wal = files.read(&dir.join(format!("{name}-wal"))).unwrap_or_default().to_vec();
    // The database was made in this directory before it was named, and has been in write-ahead mode since.
    if files.read(&dir.join(format!("{name}-journal"))).is_some_and(|journal| !journal.is_empty()) {
        defects.push(format!("{name} has a rollback journal, which may undo a part of it"));
    }
    let mut found = Vec::new();
    let state = Pages::open(&database.to_vec(), &wal).and_then(|pages| Tables::find(&pages)?.state(&pages, &mut found));
    defects.extend(found.into_iter().map(|defect| format!("{name}: {defect}")));
    state.map_err(|why| defects.push(format!("{name}: {why}"))).ok()
}

fn generation(pointer: &[u8]) -> Result<u64, String> {
    let mut body = unseal(Seed::StatePointer, pointer)?;
    let generation = body.u64_le().ok_or("it is too short")?;
    body.end().ok_or("it is too long")?;
    Ok(generation)
}

/// The root pages.
#[derive(Debug, Default)]
struct Tables {
    kv: u32,
    kv_by_key: u32,
    session: u32,
    meta: u32,
}

impl Tables {
    /// Looks them up in the schema, which is the table on page 1.
    fn find(pages: &Pages<'_>) -> Result<Tables, String> {
        let mut tables = Tables::default();
        scan_table(pages, 1, |_, row| {
            let [_, name, _, root, _] = row else { return Err("its schema has rows of another shape".to_owned()) };
            let root = root.unsigned().and_then(|root| u32::try_from(root).ok());
            let root = root.ok_or("its schema has a table without a root")?;
            match name.text() {
                Some(b"kv") => tables.kv = root,
                Some(b"sqlite_autoindex_kv_1") => tables.kv_by_key = root,
                Some(b"session") => tables.session = root,
                Some(b"meta") => tables.meta = root,
                _ => return Err(format!("its schema has the unknown {name:?}")),
            }
            Ok(())
        })?;
        let Tables { kv, kv_by_key, session, meta } = tables;
        if [kv, kv_by_key, session, meta].contains(&0) {
            return Err(format!("a table is missing: {tables:?}"));
        }
        Ok(tables)
    }

    fn state(&self, pages: &Pages<'_>, defects: &mut Vec<String>) -> Result<State, String> {
        let meta = self.meta(pages, defects)?;
        let hash = [self.kv(pages, defects)?, self.sessions(pages, defects)?]
            .into_iter()
            .fold(hash_of_scalars(&meta.sealed_membership, meta.log_time_ms), u64::wrapping_add);
        if hash != meta.state_hash {
            defects.push(format!("its state hash is {:016x}, its contents sum up to {hash:016x}", meta.state_hash));
        }
        Ok(State { applied: meta.applied, hash })
    }

    fn meta(&self, pages: &Pages<'_>, defects: &mut Vec<String>) -> Result<Meta, String> {
        let mut found = Vec::new();
        scan_table(pages, self.meta, |id, row| {
            found.push(Meta::of(id, row).ok_or("its meta row has another shape")?);
            Ok(())
        })?;
        let [meta] = <[Meta; 1]>::try_from(found).map_err(|rows| format!("it has {} meta rows", rows.len()))?;
        if meta.checksum != meta.computed_checksum() {
            defects.push("the checksum of its meta row does not match".to_owned());
        }
        match values::stored_membership(&meta.sealed_membership) {
            Err(why) => defects.push(format!("its membership: {why}")),
            Ok((log_id, _)) if log_id > meta.applied => {
                defects.push(format!("its membership is of {log_id:?}, but only {:?} is applied", meta.applied));
            }
            Ok(_) => {}
        }
        Ok(meta)
    }

    /// The sum of the hashes of all key-value rows. The index by key must lead to exactly these rows.
    fn kv(&self, pages: &Pages<'_>, defects: &mut Vec<String>) -> Result<u64, String> {
        let mut sum = 0_u64;
        let mut scratch = Vec::new();
        let (mut rows, mut indexed) = (Places::default(), Places::default());
        scan_table(pages, self.kv, |id, row| {
            let kv = Kv::of(row).ok_or_else(|| format!("row {id} of kv has another shape"))?;
            scratch.clear();
            append_kv(kv.key, kv.value, kv.numbers, &mut scratch);
            let computed = checksum(Seed::KvRow, &scratch);
            if computed != kv.checksum {
                defects.push(format!("the checksum of key {} does not match", kv.key.escape_ascii()));
            }
            sum = sum.wrapping_add(computed);
            rows.add(kv.key, id);
            Ok(())
        })?;
        let mut before: Option<Vec<u8>> = None;
        scan_index(pages, self.kv_by_key, |record| {
            let [Value::Blob(key), Value::Integer(id)] = record else {
                return Err("its index by key has another shape".to_owned());
            };
            if before.as_deref().is_some_and(|before| before >= *key) {
                defects.push(format!("key {} is out of order in the index", key.escape_ascii()));
            }
            indexed.add(key, *id);
            let last = before.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            Ok(())
        })?;
        if rows != indexed {
            defects.push(format!("its index by key leads to other rows than it has: {indexed:?} for {rows:?}"));
        }
        Ok(sum)
    }

    fn sessions(&self, pages: &Pages<'_>, defects: &mut Vec<String>) -> Result<u64, String> {
        let mut sum = 0_u64;
        let mut scratch = Vec::new();
        scan_table(pages, self.session, |id, row| {
            let session = Session::of(id, row).ok_or_else(|| format!("the row of session {id} has another shape"))?;
            if let Err(why) = session.check_reply() {
                defects.push(format!("the reply of session {id}: {why}"));
            }
            scratch.clear();
            append_session(session.numbers, session.reply, &mut scratch);
            let computed = checksum(Seed::SessionRow, &scratch);
            if computed != session.checksum {
                defects.push(format!("the checksum of session {id} does not match"));
            }
            sum = sum.wrapping_add(computed);
            Ok(())
        })?;
        Ok(sum)
    }
}

/// A set of (key, row id), as its size and a sum of hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Places {
    count: u64,
    sum: u64,
}

impl Places {
    fn add(&mut self, key: &[u8], id: i64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(xxh3_64_with_seed(key, id.cast_unsigned()));
    }
}

struct Meta {
    applied: Option<LogId>,
    sealed_membership: Vec<u8>,
    log_time_ms: u64,
    state_hash: u64,
    checksum: u64,
}

impl Meta {
    fn of(id: i64, row: &[Value<'_>]) -> Option<Meta> {
        let [_, Value::Integer(1), term, index, membership, log_time_ms, state_hash, checksum] = row else {
            return None;
        };
        let applied = match (*term, *index) {
            (Value::Null, Value::Null) => None,
            (Value::Integer(term), Value::Integer(index)) => {
                let leader_id = CommittedLeaderId::new(term.cast_unsigned());
                Some(LogId { leader_id, index: index.cast_unsigned() })
            }
            _ => return None,
        };
        (id == 1).then_some(Meta {
            applied,
            sealed_membership: membership.blob()?.to_vec(),
            log_time_ms: log_time_ms.unsigned()?,
            state_hash: state_hash.unsigned()?,
            checksum: checksum.unsigned()?,
        })
    }

    fn computed_checksum(&self) -> u64 {
        let (term, index) = self.applied.map_or((0, 0), |applied| (applied.leader_id.term, applied.index));
        let mut bytes = vec![u8::from(self.applied.is_some())];
        for number in [term, index, self.log_time_ms, self.state_hash] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.sealed_membership);
        checksum(Seed::MetaRow, &bytes)
    }
}

struct Kv<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// Create revision, mod revision, version.
    numbers: [u64; 3],
    checksum: u64,
}

impl<'a> Kv<'a> {
    fn of(row: &[Value<'a>]) -> Option<Kv<'a>> {
        let [_, key, value, create, modify, version, checksum] = row else { return None };
        Some(Kv {
            key: key.blob()?,
            value: value.blob()?,
            numbers: [create.unsigned()?, modify.unsigned()?, version.unsigned()?],
            checksum: checksum.unsigned()?,
        })
    }
}

struct Session<'a> {
    /// Id, last use, time to live, last number.
    numbers: [u64; 4],
    reply: &'a [u8],
    checksum: u64,
}

impl<'a> Session<'a> {
    fn of(id: i64, row: &[Value<'a>]) -> Option<Session<'a>> {
        let [_, last_use_ms, ttl_ms, last_seq, reply, checksum] = row else { return None };
        Some(Session {
            numbers: [id.cast_unsigned(), last_use_ms.unsigned()?, ttl_ms.unsigned()?, last_seq.unsigned()?],
            reply: reply.blob()?,
            checksum: checksum.unsigned()?,
        })
    }

    fn check_reply(&self) -> Result<(), String> {
        match (self.numbers[3], self.reply) {
            (0, []) => Ok(()),
            (0, _) => Err("there is one, but none was given yet".to_owned()),
            (_, sealed) => values::reply(sealed).map(|_| ()),
        }
    }
}

/// What membership and log time add to the state hash.
pub fn hash_of_scalars(sealed_membership: &[u8], log_time_ms: u64) -> u64 {
    let membership = checksum(Seed::Membership, sealed_membership);
    membership.wrapping_add(checksum(Seed::LogTime, &log_time_ms.to_le_bytes()))
}

/// The encoding of a key-value row that its checksum covers.
fn append_kv(key: &[u8], value: &[u8], numbers: [u64; 3], out: &mut Vec<u8>) {
    append_len(key, out);
    append_len(value, out);
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

fn append_session(numbers: [u64; 4], reply: &[u8], out: &mut Vec<u8>) {
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    append_len(reply, out);
    out.extend_from_slice(reply);
}

fn append_len(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("a column of the database is shorter than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}
