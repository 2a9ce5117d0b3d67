//! The Raft log: redb opens a copy of its file, the rest is read here.
//!
//! redb's own format is not decoded by hand: the product hands redb bytes and gets them back, so nothing of the product
//! is shared. Opening repairs, as it would on the node, but only the copy.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aspen::observe::EntryMeta;
use aspen::types::{LogId, Vote};
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::Files;
use super::bytes::{Seed, unseal};
use super::values;

pub const FILE: &str = "log.redb";
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// redb's page cache. A small log fits, so that no page is read twice.
const CACHE_BYTES: usize = 4 << 20;

/// What the log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    pub entries: BTreeMap<u64, EntryMeta>,
}

/// The log. `None` when there is no file.
pub fn read(files: &impl Files, dir: &Path, defects: &mut Vec<String>) -> Option<Log> {
    let bytes = files.read(&dir.join(FILE))?;
    let mut log = Log::default();
    if bytes.is_empty() {
        // redb would make a new database of it.
        defects.push(format!("{FILE} is empty"));
        return Some(log);
    }
    let mut found = Vec::new();
    // A panic of redb over damaged bytes says something about the bytes, and the run goes on.
    let decoded = catch_unwind(AssertUnwindSafe(|| log.decode(bytes, &mut found)));
    defects.extend(found.into_iter().map(|defect| format!("{FILE}: {defect}")));
    match decoded {
        Ok(Ok(())) => {}
        Ok(Err(error)) => defects.push(format!("{FILE}: redb says: {error}")),
        Err(_) => defects.push(format!("{FILE}: redb panics over it")),
    }
    Some(log)
}

impl Log {
    fn decode(&mut self, bytes: Vec<u8>, defects: &mut Vec<String>) -> Result<(), redb::Error> {
        let copy = Memory(Mutex::new(bytes));
        let database: Database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(copy)?;
        let transaction = database.begin_read()?;
        for item in transaction.open_table(META)?.iter()? {
            let (name, value) = item?;
            let name = name.value();
            if let Err(why) = self.mark(name, value.value()) {
                defects.push(format!("{name}: {why}"));
            }
        }
        let table = transaction.open_table(ENTRIES)?;
        for item in table.iter()? {
            let (index, value) = item?;
            match values::entry(value.value()) {
                Ok(entry) => {
                    if entry.log_id.index != index.value() {
                        defects.push(format!("entry {} stands under index {}", entry.log_id, index.value()));
                    }
                    self.entries.insert(index.value(), entry);
                }
                Err(why) => defects.push(format!("entry {}: {why}", index.value())),
            }
        }
        if transaction.open_table(META)?.get("format")?.is_none() {
            defects.push("it has no format mark".to_owned());
        }
        Ok(())
    }

    fn mark(&mut self, name: &str, sealed: &[u8]) -> Result<(), String> {
        match name {
            "format" => unseal(Seed::LogFormat, sealed)?.end().ok_or("it has a body")?,
            "vote" => self.vote = Some(values::vote(sealed)?),
            "purged" => self.purged = Some(values::log_id(sealed)?),
            "committed" => self.committed = Some(values::log_id(sealed)?),
            _ => return Err("nothing of this name is known".to_owned()),
        }
        Ok(())
    }

    /// Nothing was ever written to it.
    pub fn is_new(&self) -> bool {
        *self == Log::default()
    }
}

/// A copy of the file, in memory.
struct Memory(Mutex<Vec<u8>>);

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn range(offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
    Ok(start..start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?)
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        u64::try_from(self.bytes().len()).map_err(io::Error::other)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes();
        let found = bytes.get(range(offset, out.len())?).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // Not more than a simulated node's log has: a damaged header must not ask for all memory.
        let len = usize::try_from(len).ok().filter(|len| *len <= COPY_BYTES_MAX);
        self.bytes().resize(len.ok_or(io::ErrorKind::StorageFull)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes();
        let place = bytes.get_mut(range(offset, data.len())?).ok_or(io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(data);
        Ok(())
    }
}

const COPY_BYTES_MAX: usize = 1 << 30;
